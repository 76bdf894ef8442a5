"""A search over many prompts, and what it is worth: the chosen solutions beside a vote, a random one and the best that was there.

Suffixes: P prompts, N solutions of a prompt.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np

from assay.audit.best_of_n import sizes_up_to
from assay.audit.chosen_answers import chosen_answers
from assay.data.prompt_rows import Prompt
from assay.records import Completion, Finding, Metric, PageResult, Report, Table
from assay.rl.search.final_votes import CHOICES, NO_ANSWER, Choice, answer_classes, chosen
from assay.rl.search.growing import UNSCORED, Found, SearchSettings, ranked_values
from assay.scorers.verifiers.built_in import built_in_rule
from assay.stats.mean_intervals import change_interval, share_interval
from assay.stats.metrics import mean

NAMES: Mapping[Choice, str] = {"best": "chosen by reward", "weighted": "weighted vote", "majority": "majority"}
BEST, RANDOM, ORACLE = "accuracy: chosen by reward", "accuracy: a random solution", "accuracy: oracle"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult(PageResult):
    """What was found for P prompts. picks: by way to choose, the number of the chosen solution of each prompt, None without one.
    gold: (N,) of each prompt, 1 for a right solution, NaN where it could not be told. figures: accuracies, where there is gold."""

    found: tuple[Found, ...]
    picks: Mapping[Choice, tuple[int | None, ...]]
    gold: tuple[np.ndarray, ...] | None
    figures: tuple[Metric, ...]


def summarised(
    found: Sequence[Found], prompts: Sequence[Prompt], settings: SearchSettings, *, title: str, seed: int = 0
) -> SearchResult:
    """What a search found: solutions chosen in each way, and how often each way is right where the prompts have a ground truth.

    A prompt without a solution is answered wrongly; one whose ground truth cannot be read, or whose solutions could not be checked,
    is in no figure.
    """
    classes = [answer_classes([one.text for one in each.candidates]) for each in found]
    picks, why_not = _picks(found, classes)
    gold = gold_of(found, prompts)
    figures = _figures(found, picks, gold)
    tables = [_outcomes(found)]
    if gold is not None and settings.method == "best-of-n" and settings.n > 1 and figures:
        tables = [_curves(found, gold, classes, settings.n, seed), *tables]
    page = Report(
        title=title,
        metrics=(*figures, *_counts(found)),
        tables=tuple(tables),
        findings=tuple(_findings(found, figures, picks, gold)),
        facts=_facts(found, settings, why_not),
        lead=_lead(found, figures),
        key={BEST: ("accuracy: majority", RANDOM, ORACLE)},
    )
    return SearchResult(found=tuple(found), picks=picks, gold=gold, figures=figures, page=page)


def _picks(found: Sequence[Found], classes: Sequence[Sequence[int]]) -> tuple[dict[Choice, tuple[int | None, ...]], str]:
    """The chosen solutions in each way; and why there is no weighted vote."""
    picks: dict[Choice, tuple[int | None, ...]] = {}
    why_not = ""
    for how in CHOICES:
        try:
            picks[how] = tuple(chosen(each.candidates, how, own) for each, own in zip(found, classes, strict=True))
        except ValueError as reason:
            why_not = str(reason)
    return picks, why_not


def gold_of(found: Sequence[Found], prompts: Sequence[Prompt]) -> tuple[np.ndarray, ...] | None:
    """Whether each solution is right, by math-verify where it is installed and the truth is an expression, else as a text; None
    where no prompt says what is."""
    if all(one.ground_truth is None for one in prompts):
        return None
    checks = [
        Completion(messages=prompt.messages, response=one.text, ground_truth=prompt.ground_truth)
        for each, prompt in zip(found, prompts, strict=True)
        for one in each.candidates
    ]
    values = built_in_rule("exact", {"final": True}).score(checks).value.astype(np.float64)
    is_math_N = np.repeat(_are_expressions(prompts), [len(each.candidates) for each in found])
    if is_math_N.any():
        maths = [check for check, is_math in zip(checks, is_math_N, strict=True) if is_math]
        values[is_math_N] = built_in_rule("answer").score(maths).value
    return tuple(np.split(values, np.cumsum([len(each.candidates) for each in found])[:-1]))


def _are_expressions(prompts: Sequence[Prompt]) -> np.ndarray:
    """(P,): whether math-verify, where it is installed, can read the ground truth: a name it cannot."""
    if find_spec("math_verify") is None:
        return np.zeros(len(prompts), bool)
    truths = [Completion(response="The answer is 0.", ground_truth=prompt.ground_truth) for prompt in prompts]
    return ~np.isnan(built_in_rule("answer").score(truths).value)


def right_of(picks: Sequence[int | None], gold: Sequence[np.ndarray], found: Sequence[Found]) -> np.ndarray:
    """(P,): 1 where the chosen one is right, 0 where it is wrong or there is no solution; NaN where there are some and none could
    be chosen, or the chosen one could not be checked."""
    return np.array(
        [
            (math.nan if each.candidates else 0.0) if pick is None else float(own[pick])
            for pick, own, each in zip(picks, gold, found, strict=True)
        ]
    )


def _columns(
    found: Sequence[Found], picks: Mapping[Choice, Sequence[int | None]], gold: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """(P,) of each way to choose."""
    known = [own[~np.isnan(own)] for own in gold]
    empty = [math.nan if len(own) else 0.0 for own in gold]
    return {
        **{f"accuracy: {NAMES[how]}": right_of(picks[how], gold, found) for how in CHOICES if how in picks},
        RANDOM: np.array([mean(own) if len(own) else none for own, none in zip(known, empty, strict=True)]),
        ORACLE: np.array([own.max() if len(own) else none for own, none in zip(known, empty, strict=True)]),
    }


def _figures(
    found: Sequence[Found], picks: Mapping[Choice, Sequence[int | None]], gold: Sequence[np.ndarray] | None
) -> tuple[Metric, ...]:
    if gold is None:
        return ()
    prompts_P = np.arange(len(found))
    return tuple(
        Metric(name, mean(column_P), *share_interval(column_P, prompts_P), int((~np.isnan(column_P)).sum()), len(column_P))
        for name, column_P in _columns(found, picks, gold).items()
    )


def _curves(found: Sequence[Found], gold: Sequence[np.ndarray], classes: Sequence[Sequence[int]], n: int, seed: int) -> Table:
    """The ways to choose over n, of all prompts at every n: the last line holds the figures above it."""
    values = [ranked_values(each.candidates) for each in found]
    known, rewards, columns = with_lost(gold, {"reward": values}, classes, [n - len(own) for own in values])
    curves = chosen_answers(known, rewards, columns, sizes_up_to(n).tolist(), seed=seed)
    note = "share of prompts answered rightly, over all draws of n solutions; one that was not finished counts as wrong"
    return replace(curves.table("choosing among n"), note=note)


def with_lost(
    gold: Sequence[np.ndarray],
    rewards: Mapping[str, Sequence[np.ndarray]],
    classes: Sequence[Sequence[int]],
    lost: Sequence[int],
) -> tuple[list[np.ndarray], dict[str, list[np.ndarray]], list[np.ndarray]]:
    """Gold, rewards and classes of finished solutions with those that came to no end behind them: wrong ones without an answer,
    that are never chosen before one with an end. lost: their number, of each prompt."""
    known = [np.append(np.where(np.isnan(own), 0.0, own), np.zeros(num)) for own, num in zip(gold, lost, strict=True)]
    columns = [np.append(own, np.full(num, NO_ANSWER)).astype(np.int64) for own, num in zip(classes, lost, strict=True)]
    padded = {}
    for name, column in rewards.items():
        lowest = min((float(np.nanmin(own)) for own in column if not np.isnan(own).all()), default=0.0)
        last = 0.0 if lowest >= 0 else lowest - 1.0
        padded[name] = [np.append(own, np.full(num, last)) for own, num in zip(column, lost, strict=True)]
    return known, padded, columns


def _outcomes(found: Sequence[Found]) -> Table:
    """What became of the solutions that were begun."""
    counts = Counter({"finished": sum(len(each.candidates) for each in found)})
    for each in found:
        counts.update(each.left_out)
    rows = tuple((why, number) for why, number in counts.items())
    return Table(
        title="what became of solutions", columns=("outcome", "solutions"), rows=rows, note=f"{UNSCORED!r} ones are never chosen"
    )


def _counts(found: Sequence[Found]) -> tuple[Metric, ...]:
    num = len(found)
    return (
        Metric(
            "share of prompts with a solution", mean(np.array([float(bool(one.candidates)) for one in found])), n_scored=num, n=num
        ),
        Metric("tokens written for a prompt", mean(np.array([float(one.written) for one in found])), n_scored=num, n=num),
        Metric("calls for a prompt", mean(np.array([float(one.calls) for one in found])), n_scored=num, n=num),
    )


def _findings(
    found: Sequence[Found],
    figures: Sequence[Metric],
    picks: Mapping[Choice, Sequence[int | None]],
    gold: Sequence[np.ndarray] | None,
) -> Iterable[Finding]:
    if figures and gold is not None:
        columns, prompts_P = _columns(found, picks, gold), np.arange(len(found))
        for name in ("accuracy: majority", RANDOM):
            gain_P = columns[BEST] - columns[name]
            interval, gain = change_interval(gain_P, prompts_P), mean(gain_P)
            what = f"better than {name.removeprefix('accuracy: ')}"
            if math.isnan(gain):
                yield Finding("warn", what, math.nan, 0.0, "not measured: no prompt has both")
                continue
            seen = f"accuracy differs by {100 * gain:+.1f} points [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
            yield Finding("ok" if interval.low > 0 else "warn", what, gain, 0.0, seen)
    unscored = sum(each.left_out.get(UNSCORED, 0) for each in found)
    yield Finding("warn" if unscored else "ok", "solutions without a reward", unscored, 0, f"{unscored:,} were never chosen")


def _facts(found: Sequence[Found], settings: SearchSettings, why_not: str) -> dict[str, str]:
    by_steps = settings.method != "best-of-n"
    written, read, calls = (sum(getattr(one, name) for one in found) for name in ("written", "read", "calls"))
    facts = {
        "prompts": f"{len(found):,}",
        "method": f"{settings.method}, n {settings.n}"
        + (f", width {settings.width}" if settings.method in ("beam", "dvts") else ""),
        "value of a solution": "the scorer's own reward" if settings.reduce == "own" else f"{settings.reduce} of its steps",
        "tokens": f"{written:,} written, {read:,} read, in {calls:,} calls",
        "seed": str(settings.seed),
    }
    facts |= {"rounds": f"up to {settings.rounds}, a step ends with {' or '.join(map(repr, settings.stop))}"} if by_steps else {}
    return facts | ({"no weighted vote": why_not} if why_not else {})


def _lead(found: Sequence[Found], figures: Sequence[Metric]) -> str:
    values = {one.name: one for one in figures}
    if BEST not in values or math.isnan(values[BEST].value):
        done = sum(bool(one.candidates) for one in found)
        return f"{done:,} of {len(found):,} prompts have a solution; without a ground truth it is not known how many are right."
    best, random, oracle = (values[name].value for name in (BEST, RANDOM, ORACLE))
    return f"The chosen solution is right for {best:.1%} of the prompts; a random one for {random:.1%}, the best for {oracle:.1%}."


def answer_rows(result: SearchResult, prompts: Sequence[Prompt]) -> Iterable[dict[str, Any]]:
    """A row of JSON for each prompt: the chosen solution with its steps and rewards, and all others."""
    for p, (each, prompt) in enumerate(zip(result.found, prompts, strict=True)):
        best = result.picks["best"][p]
        one = None if best is None else each.candidates[best]
        yield {
            "id": prompt.id,
            "prompt": [turn.as_dict() for turn in prompt.messages],
            "response": None if one is None else one.text,
            "reward": None if one is None else one.value,
            "steps": [] if one is None else list(one.steps),
            "step_rewards": [] if one is None else [None if math.isnan(reward) else reward for reward in one.rewards],
            "chosen": {how: picks[p] for how, picks in result.picks.items()},
            "candidates": [
                {
                    "response": candidate.text,
                    "reward": None if math.isnan(candidate.value) else candidate.value,
                    **({} if result.gold is None or math.isnan(result.gold[p][k]) else {"right": bool(result.gold[p][k] > 0.5)}),
                    **({"error": candidate.error} if candidate.error else {}),
                }
                for k, candidate in enumerate(each.candidates)
            ],
            "left_out": each.left_out,
            "tokens_written": each.written,
        }
