"""The mistakes that are made with reward models between training and serving, each tried on an artifact.

A check must hold: plain transformers, given the artifact's files, gives the rewards that Assay gives. A measurement says how far
rewards would shift in an engine that makes the mistake; it is a warning where the artifact does not rule it out. Suffix: N texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch

from assay.models.saved.plain import PlainReader
from assay.records import Completion, Finding, Level
from assay.scorers.local import LocalScorer
from assay.stats.metrics import sigmoid

SIGMOID, BF16_HEAD, PAD_IS_EOS = "a sigmoid over the rewards", "rewards rounded to bfloat16", "padding with the eos token"
DOUBLED, UNCLOSED, RIGHT_CUT = "special tokens added twice", "no end token", "long texts cut at the end"
PLAIN_TRANSFORMERS = "plain transformers"  # name of the check
DAYS = ("31 Jan 2001", "5 Dec 2044")


class ParityCase(NamedTuple):
    """What the checks run on: N completions that Assay can score, their token ids and rewards, and both readers.

    tolerance: how far two float32 scorings of one text may differ. num_special_tokens: what the tokenizer added when the
    artifact was saved, None when that is not known.
    """

    scorer: LocalScorer
    plain: PlainReader
    completions: tuple[Completion, ...]
    token_ids: tuple[tuple[int, ...], ...]
    is_cut: np.ndarray
    ours: np.ndarray
    tolerance: float
    num_special_tokens: int | None


class CheckResult(NamedTuple):
    """The finding of a check, and by name of a mistake the rewards (N,) of an engine that makes it, NaN where it was not tried."""

    finding: Finding
    wrong: dict[str, np.ndarray]


def run_traps(case: ParityCase) -> tuple[list[Finding], dict[str, np.ndarray]]:
    """The findings of all checks, and by name of a mistake the rewards of an engine that makes it."""
    everywhere = (plain_reading, plain_rendering, batch_size, order, packing)
    of_decoders = (padding_side, pad_is_eos, double_bos, end_token, truncation_side, dated_template)
    checks: tuple[Callable[[ParityCase], CheckResult], ...] = (
        *everywhere,
        *(() if case.plain.takes_pairs else of_decoders),  # an encoder reads its first token, and has no template
        activation,
        bf16_head,
        *((constant,) if case.plain.constant else ()),
    )
    results = [check(case) for check in checks]
    return [result.finding for result in results], {name: row for result in results for name, row in result.wrong.items()}


def plain_reading(case: ParityCase) -> CheckResult:
    theirs_N = case.plain.rewards(case.token_ids, one_by_one=True)
    return _equal(PLAIN_TRANSFORMERS, case, theirs_N - case.ours, "the same tokens, one text at a time")


def plain_rendering(case: ParityCase) -> CheckResult:
    """Tokens by the files' own template and tokenizer against the Renderer's."""
    pairs = [(case.plain.ids(completion), ids) for completion, ids in _whole(case)]
    changed = sum(tuple(theirs) != ours for theirs, ours in pairs)
    why = "the chat template and tokenizer in the files give the tokens that Assay gives"
    if changed:
        why = f"on {changed} of {len(pairs)} texts the files' template and tokenizer give other tokens than Assay's: save it again"
    return CheckResult(Finding("fail" if changed else "ok", "text to tokens", changed, 0, why), {})


def batch_size(case: ParityCase) -> CheckResult:
    theirs_N = _padded(case, "right")
    return _equal("batch size, padding right", case, theirs_N - case.ours, "all short texts in one batch, padded on the right")


def padding_side(case: ParityCase) -> CheckResult:
    """Learned absolute positions count the padding on the left: no artifact can mend that, so there it is a warning."""
    checked = _equal("padding left", case, _padded(case, "left") - case.ours, "the same batch, padded on the left")
    if checked.finding.level == "fail" and batch_size(case).finding.level == "ok":
        why = "this architecture counts padding on the left as positions, which moves rewards by as much as this: pad on the right"
        return CheckResult(checked.finding._replace(level="warn", why=why), {})
    return checked


def order(case: ParityCase) -> CheckResult:
    """Reversed, through Assay and in a batch through transformers: the larger difference counts."""
    short = [completion for completion, _ in _whole(case)]
    ours = case.scorer.score(short[::-1]).value[::-1] - case.ours[~case.is_cut]
    theirs = (_padded(case, "right", backwards=True) - case.ours)[~case.is_cut]
    return _equal("order", case, np.concatenate([ours, theirs]), "the texts in reverse order, in both readers")


def packing(case: ParityCase) -> CheckResult:
    """Prompts shared among their answers, as `ours` was scored, against each text alone."""
    alone = [case.scorer.score([completion]).value for completion, _ in _whole(case)]
    difference = np.concatenate([*alone, np.empty(0)]) - case.ours[~case.is_cut]
    return _equal("packing", case, difference, "answers packed behind their shared prompt, and each alone")


def pad_is_eos(case: ParityCase) -> CheckResult:
    """Plain transformers reads at the rightmost token that is not padding: a pad id that is also the end is never read."""
    plain, name = case.plain, "pad == eos"
    rewarded = {ids[-1] for ids in case.token_ids}
    theirs, model_pad, eos = plain.tokenizer.pad_token_id, plain.pad_id, plain.tokenizer.eos_token_id
    wrong_N = scatter(case, plain.rewards(_short(case), pad_id=eos)) if eos is not None else _none(case)
    wrong = {PAD_IS_EOS: wrong_N}
    if model_pad is None or theirs != model_pad:
        why = f"the tokenizer pads with {theirs}, the model looks for {model_pad}: make both the id of the same token"
        return CheckResult(Finding("fail", name, max_shift(case, wrong_N), case.tolerance, why), wrong)
    if theirs == eos or theirs in rewarded:
        why = f"the padding id {theirs} is also the token that ends an answer, so that the end is never read: set another pad token"
        return CheckResult(Finding("fail", name, max_shift(case, wrong_N), case.tolerance, why), wrong)
    why = f"padding id {theirs} ends no answer; a reader that sets pad to eos ({eos}) moves rewards by as much as this"
    return CheckResult(Finding("ok", name, max_shift(case, wrong_N), np.nan, why), wrong)


def double_bos(case: ParityCase) -> CheckResult:
    """What add_special_tokens=True, the default of many readers, does to a text that the template has already begun."""
    plain, name = case.plain, "double BOS"
    bos, adds = plain.tokenizer.bos_token_id, plain.tokenizer.num_special_tokens_to_add()
    twice = sum(ids[:2] == (bos, bos) for ids in case.token_ids)
    texts = [plain.text(completion) for completion, _ in _whole(case)]
    added = [plain.token_ids(text, add_special_tokens=True) for text in texts]
    is_exposed = any(more != plain.token_ids(text) for more, text in zip(added, texts, strict=True))
    if not is_exposed:
        added = [[bos, *ids] for _, ids in _whole(case)] if bos is not None else []
    wrong_N = scatter(case, plain.rewards(added, one_by_one=True)) if added else _none(case)
    shift = max_shift(case, wrong_N)
    if twice:
        why = f"{twice} texts begin with two BOS tokens: mend the chat template, then save the artifact again"
        return CheckResult(Finding("fail", name, twice, 0, why), {DOUBLED: wrong_N})
    if case.num_special_tokens not in (None, adds):
        why = f"the tokenizer adds {adds} special tokens to a text, {case.num_special_tokens} when the artifact was saved"
        return CheckResult(Finding("fail", name, shift, case.tolerance, f"{why}: restore its files"), {DOUBLED: wrong_N})
    if is_exposed:
        why = (
            "the tokenizer adds special tokens to rendered text: send token ids, or add_special_tokens=false. Else rewards move by"
        )
        return CheckResult(Finding("warn", name, shift, case.tolerance, f"{why} as much as this"), {DOUBLED: wrong_N})
    why = "neither the Renderer nor the tokenizer adds a second BOS; one put there by hand moves rewards by as much as this"
    return CheckResult(Finding("ok", name, shift, np.nan, why), {DOUBLED: wrong_N})


def end_token(case: ParityCase) -> CheckResult:
    """Every rendering must end in the same closing tokens; without them the reward is read at another place."""
    specials = {*case.plain.tokenizer.all_special_ids, *case.plain.tokenizer.get_added_vocab().values()}
    last = [max((i for i, token in enumerate(ids) if token in specials), default=0) for ids in case.token_ids]
    tails = {ids[i:] for i, ids in zip(last, case.token_ids, strict=True)}
    opened = [ids[: max(i, 1)] for i, ids, is_cut in zip(last, case.token_ids, case.is_cut, strict=True) if not is_cut]
    wrong_N = scatter(case, case.plain.rewards(opened, one_by_one=True))
    why = "every rendered text ends in its closing tokens; read without them rewards move by as much as this"
    if len(tails) > 1:
        why = f"the texts end in {len(tails)} different ways: the chat template does not close an answer"
        level: Level = "fail" if case.scorer.renderer.closes else "warn"  # another's model was trained so
        return CheckResult(Finding(level, "end token", len(tails), 1, why), {UNCLOSED: wrong_N})
    return CheckResult(Finding("ok", "end token", max_shift(case, wrong_N), np.nan, why), {UNCLOSED: wrong_N})


def truncation_side(case: ParityCase) -> CheckResult:
    """Assay keeps the end of a long text, where the answer and its end token are."""
    plain, name, limit = case.plain, "truncation side", case.scorer.renderer.max_length
    places = np.flatnonzero(case.is_cut)
    if not len(places):
        return CheckResult(Finding("ok", name, np.nan, np.nan, "no text is cut under this artifact's length policy"), {})
    texts = [plain.text(case.completions[i]) for i in places]
    wrong_N = case.ours.copy()  # shorter texts are spared
    wrong_N[places] = plain.rewards([plain.token_ids(text)[:limit] for text in texts], one_by_one=True)
    as_cut = [plain.token_ids(text, truncation=True) for text in texts]
    shift = max_shift(case, wrong_N)
    if [tuple(ids) for ids in as_cut] == [case.token_ids[i] for i in places]:
        why = "the end is kept by Assay and by the tokenizer; a reader that cuts the end moves rewards by as much as this"
        return CheckResult(Finding("ok", name, shift, np.nan, why), {RIGHT_CUT: wrong_N})
    if plain.tokenizer.truncation_side != "left":
        why = 'the tokenizer cuts off the end of a long text: set "truncation_side": "left" in tokenizer_config.json'
        return CheckResult(Finding("warn", name, shift, np.nan, f"{why}. Rewards move by as much as this"), {RIGHT_CUT: wrong_N})
    by_files = largest(plain.rewards(as_cut, one_by_one=True) - case.ours[places])
    why = f"the tokenizer's own cut of a long text is not Assay's, which keeps the BOS: {by_files:.2g}. Send token ids."
    return CheckResult(
        Finding("warn", name, shift, np.nan, f"{why} Cut at the end, rewards move by as much as this"), {RIGHT_CUT: wrong_N}
    )


def dated_template(case: ParityCase) -> CheckResult:
    """The files' template on two days far apart."""
    days = [[case.plain.text(completion, today=day) for completion in case.completions] for day in DAYS]
    changed = sum(one != other for one, other in zip(*days, strict=True))
    why = "the saved template gives the same text on any day"
    if changed:
        why = f"the saved template writes the date into {changed} of {len(case.completions)} texts: rewards change with the day"
    return CheckResult(Finding("fail" if changed else "ok", "dated template", changed, 0, why), {})


def activation(case: ParityCase) -> CheckResult:
    """Engines put a sigmoid over a single label unless the configuration or the request forbids it."""
    wrong_N = sigmoid(case.ours.astype(np.float64)).astype(np.float32)
    if getattr(case.plain.model.config, "problem_type", None) == "regression":
        why = "config.json says regression, so that engines leave the reward as it is; a sigmoid moves it by as much as this"
        return CheckResult(Finding("ok", "activation", max_shift(case, wrong_N), np.nan, why), {SIGMOID: wrong_N})
    why = 'config.json lacks "problem_type": "regression": engines put a sigmoid over the reward unless use_activation is false'
    return CheckResult(Finding("warn", "activation", max_shift(case, wrong_N), np.nan, why), {SIGMOID: wrong_N})


def constant(case: ParityCase) -> CheckResult:
    """An adopted head with a bias: plain decoder classes have none."""
    added = case.plain.constant
    why = f"the head adds {added:g} to every reward, and transformers' class has no bias: other programs give rewards less that"
    wrong_N = case.ours - np.float32(added)
    return CheckResult(Finding("warn", "constant", abs(added), np.nan, f"{why}; no comparison changes"), {"no bias": wrong_N})


def bf16_head(case: ParityCase) -> CheckResult:
    """Ties that appear when rewards are rounded to bfloat16, which has 8 bits of precision."""
    wrong_N = torch.from_numpy(case.ours.copy()).to(torch.bfloat16).float().numpy()
    pairs = list(combinations(range(len(wrong_N)), 2))
    ties = num_new_ties(case.ours, wrong_N, pairs)
    why = f"of {len(pairs)} pairs would be ties with a head in bfloat16, which rounds by up to {max_shift(case, wrong_N):.2g};"
    return CheckResult(Finding("ok", "bfloat16 head", ties, np.nan, f"{why} Assay's head is float32"), {BF16_HEAD: wrong_N})


def num_new_ties(ours_N: np.ndarray, theirs_N: np.ndarray, pairs: Sequence[tuple[int, int]]) -> int:
    """Pairs that are apart in `ours` and equal in `theirs`."""
    return sum(bool(ours_N[i] != ours_N[j] and theirs_N[i] == theirs_N[j]) for i, j in pairs)


def largest(differences: np.ndarray) -> float:
    """Largest absolute value, NaN when there is none or one of them is NaN."""
    return float(np.max(np.abs(differences))) if len(differences) else float("nan")


def _equal(name: str, case: ParityCase, difference_N: np.ndarray, what: str) -> CheckResult:
    """A check: rewards that must be `ours` differ from them by no more than the tolerance."""
    difference = largest(difference_N)
    if not len(difference_N):
        return CheckResult(Finding("warn", name, difference, case.tolerance, f"{what}: not measured, as every text is cut"), {})
    is_equal = difference <= case.tolerance
    differ = "the rewards differ, so the artifact is not read as it was trained"
    why = f"{what}: {'the rewards are the same' if is_equal else differ}"
    return CheckResult(Finding("ok" if is_equal else "fail", name, difference, case.tolerance, why), {})


def _padded(case: ParityCase, side: str, *, backwards: bool = False) -> np.ndarray:
    """(N,) rewards by plain transformers of the texts that are not cut, in one padded batch; `ours` for the others."""
    rows = _short(case)
    rewards = case.plain.rewards(rows[::-1] if backwards else rows, side=side)
    return np.where(case.is_cut, case.ours, scatter(case, rewards[::-1] if backwards else rewards))


def _short(case: ParityCase) -> list[tuple[int, ...]]:
    return [ids for _, ids in _whole(case)]


def _whole(case: ParityCase) -> list[tuple[Completion, tuple[int, ...]]]:
    """Completions and ids of the texts that are not cut."""
    rows = zip(case.completions, case.token_ids, case.is_cut, strict=True)
    return [(completion, ids) for completion, ids, is_cut in rows if not is_cut]


def scatter(case: ParityCase, rewards: np.ndarray) -> np.ndarray:
    """(N,) with `rewards` at the texts that are not cut, NaN elsewhere."""
    full_N = _none(case)
    full_N[~case.is_cut] = rewards
    return full_N


def _none(case: ParityCase) -> np.ndarray:
    return np.full(len(case.ours), np.nan, dtype=np.float32)


def max_shift(case: ParityCase, wrong_N: np.ndarray) -> float:
    """Largest movement from `ours`, over the texts that have one."""
    difference_N = wrong_N - case.ours
    return largest(difference_N[~np.isnan(difference_N)])
