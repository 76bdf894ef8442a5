"""The mistakes that are made with process reward models between training and serving, each tried on an artifact.

A check must hold: plain transformers, given the artifact's files, gives every step the reward that Assay gives it. A measurement
says how far rewards would shift in a reader that makes the mistake. Shapes: N solutions, R steps of all of them, one solution after
another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from assay.audit.parity.traps import DAYS, PLAIN_TRANSFORMERS, largest
from assay.data.tokens.render import LOST
from assay.models.saved.plain import PlainReader
from assay.records import Completion, Finding
from assay.scorers.local import LocalScorer
from assay.stats.metrics import sigmoid

JOINED, CLOSED, SOFTMAX = "steps tokenised one by one", "read at the end of the answer", "a softmax over the labels"


class StepCase(NamedTuple):
    """What the checks run on: N solutions in steps with tokens and the tokens that are read, and the rewards (R,) of their steps.

    Of a solution that was cut only the steps that are left count. tolerance: how far two float32 scorings of a step may differ.
    """

    scorer: LocalScorer
    plain: PlainReader
    completions: tuple[Completion, ...]
    token_ids: tuple[tuple[int, ...], ...]
    reads: tuple[tuple[int, ...], ...]
    is_cut: np.ndarray
    ours: np.ndarray
    tolerance: float


def step_case(scorer: LocalScorer, plain: PlainReader, completions: Sequence[Completion]) -> StepCase | None:
    """The solutions of which a step has a reward; None when none has."""
    rewards = scorer.score(completions)
    assert rewards.steps is not None
    kept = [i for i, steps_S in enumerate(rewards.steps) if np.isfinite(steps_S).any()]
    if not kept:
        return None
    cut = scorer.policy.in_steps([completions[i] for i in kept])
    rendered = scorer.renderer.render(cut)
    return StepCase(
        scorer,
        plain,
        tuple(cut),
        tuple(tuple(item.tokens.tolist()) for item in rendered),
        tuple(tuple(place for place in item.reward_positions.tolist() if place != LOST) for item in rendered),
        np.array([item.is_cut for item in rendered]),
        np.concatenate([rewards.steps[i][np.isfinite(rewards.steps[i])] for i in kept]),
        scorer.step_tolerance,
    )


def run_step_traps(case: StepCase) -> list[Finding]:
    """The findings of all checks."""
    checks: tuple[Callable[[StepCase], Finding], ...] = (
        plain_reading,
        prefixes,
        plain_rendering,
        ends_of_steps,
        padding_right,
        padding_left,
        order,
        alone,
        truncation,
        dated_template,
        one_by_one,
        end_of_answer,
        activation,
    )
    own_text = (dated_template, one_by_one, end_of_answer)  # of artifacts whose steps are a text of their own template
    return [check(case) for check in checks if case.plain.layout is None or check not in own_text]


def plain_reading(case: StepCase) -> Finding:
    theirs_R = case.plain.rewards(case.token_ids, reads=case.reads, one_by_one=True)
    return _equal(PLAIN_TRANSFORMERS, case, theirs_R - case.ours, "the same tokens, one solution at a time")


def prefixes(case: StepCase) -> Finding:
    """What a step is worth must not depend on what stands behind it. Of a solution that was cut only the first step is tried: all
    of its prefixes would cost more than everything else together."""
    wanted = [places[:1] if is_cut else places for places, is_cut in zip(case.reads, case.is_cut, strict=True)]
    rows = [ids[: place + 1] for ids, places in zip(case.token_ids, wanted, strict=True) for place in places]
    ours = np.concatenate([steps_S[: len(places)] for steps_S, places in zip(_split(case), wanted, strict=True)])
    difference_R = case.plain.rewards(rows, one_by_one=True) - ours
    return _equal("a prefix a forward", case, difference_R, "each step without what follows")


def plain_rendering(case: StepCase) -> Finding:
    """Tokens by the files' own template and tokenizer, cut as the tokenizer cuts, against the Renderer's."""
    if case.plain.layout is None:
        theirs = [case.plain.token_ids(case.plain.text(completion), truncation=True) for completion in case.completions]
    else:  # laid out up to the last step that is read
        theirs = [case.plain.ids(one)[: len(ids)] for one, ids in zip(case.completions, case.token_ids, strict=True)]
    changed = sum(tuple(one) != other for one, other in zip(theirs, case.token_ids, strict=True))
    why = "the chat template and tokenizer in the files give the tokens that Assay gives"
    if changed:
        many = f"{changed} of {len(theirs)}"
        why = f"on {many} solutions the files' template and tokenizer give other tokens than Assay's: save it again"
    return Finding("fail" if changed else "ok", "text to tokens", changed, 0, why)


def ends_of_steps(case: StepCase) -> Finding:
    """Where steps end, by the characters of the text, against the Renderer."""
    theirs = [case.plain.reads(completion) for completion in case.completions]
    changed = sum(tuple(one[: len(other)]) != other for one, other in zip(theirs, case.reads, strict=True))
    why = "the last token of each step, by the characters of the files' own rendering, is the one that Assay reads"
    if changed:
        why = f"in {changed} of {len(theirs)} solutions a step ends in another token than the one that Assay reads"
    return Finding("fail" if changed else "ok", "ends of steps", changed, 0, why)


def padding_right(case: StepCase) -> Finding:
    theirs_R = case.plain.rewards(case.token_ids, reads=case.reads)
    return _equal("batch size, padding right", case, theirs_R - case.ours, "all solutions in one batch, padded on the right")


def padding_left(case: StepCase) -> Finding:
    """Learned absolute positions count the padding on the left: no artifact can mend that, so there it is a warning."""
    theirs_R = case.plain.rewards(case.token_ids, reads=case.reads, side="left")
    found = _equal("padding left", case, theirs_R - case.ours, "the same batch, padded on the left")
    if found.level == "fail" and padding_right(case).level == "ok":
        why = "this architecture counts padding on the left as positions, which moves rewards by as much as this: pad on the right"
        return found._replace(level="warn", why=why)
    return found


def order(case: StepCase) -> Finding:
    backwards = _steps_of(case.scorer, case.completions[::-1])[::-1]
    return _equal("order", case, np.concatenate(backwards) - case.ours, "the solutions in reverse order")


def alone(case: StepCase) -> Finding:
    """Questions shared among their solutions, as `ours` was scored, against each solution alone."""
    single = [_steps_of(case.scorer, [completion])[0] for completion in case.completions]
    return _equal("packing", case, np.concatenate(single) - case.ours, "solutions packed behind their question, and each alone")


def truncation(case: StepCase) -> Finding:
    """What is cut off a long solution are its last steps: the first ones must keep the rewards that they have without a limit."""
    places = np.flatnonzero(case.is_cut)
    if not len(places):
        return Finding("ok", "truncation side", np.nan, np.nan, "no solution is cut under this artifact's length policy")
    rows = [case.plain.ids(case.completions[i]) for i in places]
    reads = [case.reads[i] for i in places]
    first_N = np.cumsum([0, *map(len, case.reads)])
    ours_R = np.concatenate([case.ours[first_N[i] : first_N[i + 1]] for i in places])
    whole_R = case.plain.rewards(rows, reads=reads, one_by_one=True)
    return _equal("truncation side", case, whole_R - ours_R, "the steps that are left of a long solution, without the limit")


def dated_template(case: StepCase) -> Finding:
    """The files' template on two days far apart."""
    days = [[case.plain.text(completion, today=day) for completion in case.completions] for day in DAYS]
    changed = sum(one != other for one, other in zip(*days, strict=True))
    why = "the saved template gives the same text on any day"
    if changed:
        why = f"the saved template writes the date into {changed} of {len(case.completions)} texts: rewards change with the day"
    return Finding("fail" if changed else "ok", "dated template", changed, 0, why)


def one_by_one(case: StepCase) -> Finding:
    """Ids of each step for itself, joined: what a reader gives that does not tokenise the whole text."""
    wrong: list[float] = []
    for completion, ours_S, is_cut in zip(case.completions, _split(case), case.is_cut, strict=True):
        text, response = case.plain.text(completion), str(completion.response)
        start = text.rindex(response.strip()) if response.strip() in text else -1
        if is_cut or start < 0 or response != response.strip():
            wrong += [0.0] * len(ours_S)
            continue
        ids, reads = case.plain.token_ids(text[:start]), []
        for step in completion.steps or ():
            ids = [*ids, *case.plain.token_ids(step)]
            reads.append(len(ids) - 1)
        wrong += (case.plain.rewards([ids], reads=[reads]) - ours_S).tolist()
    why = "the whole text is tokenised; a reader that joins the ids of steps, and reads at their last one, moves rewards by as much"
    return Finding("ok", JOINED, largest(np.array(wrong)), np.nan, why)


def end_of_answer(case: StepCase) -> Finding:
    """The last step read where the template closes the answer, as a scalar reward is."""
    whole = np.flatnonzero(~case.is_cut)
    if not len(whole):
        return Finding("ok", CLOSED, np.nan, np.nan, "not measured, as every solution is cut")
    theirs = case.plain.rewards([case.token_ids[i] for i in whole], one_by_one=True)
    last = np.array([_split(case)[i][-1] for i in whole])
    why = "the last step is read at its own end; where the template closes the answer it would have another reward, by as much"
    return Finding("ok", CLOSED, largest(theirs - last), np.nan, why)


def activation(case: StepCase) -> Finding:
    """Engines put a softmax over the labels unless the configuration or the request forbids it."""
    shift = largest(sigmoid(case.ours.astype(np.float64)) - case.ours)
    if getattr(case.plain.model.config, "problem_type", None) == "regression":
        why = "config.json says regression, so that engines leave the logits as they are; a softmax moves them by as much as this"
        return Finding("ok", SOFTMAX, shift, np.nan, why)
    why = 'config.json lacks "problem_type": "regression": engines put a softmax over the labels unless use_activation is false'
    return Finding("warn", SOFTMAX, shift, np.nan, why)


def _steps_of(scorer: LocalScorer, completions: Sequence[Completion]) -> list[np.ndarray]:
    """Rewards of the steps of each completion that were not cut off."""
    found = scorer.score(completions).steps
    assert found is not None
    return [steps_S[np.isfinite(steps_S)] for steps_S in found]


def _split(case: StepCase) -> list[np.ndarray]:
    return np.split(case.ours, np.cumsum([len(places) for places in case.reads])[:-1])


def _equal(name: str, case: StepCase, difference_R: np.ndarray, what: str) -> Finding:
    """A check: rewards of steps that must be `ours` differ from them by no more than the tolerance."""
    difference = largest(difference_R)
    is_equal = difference <= case.tolerance
    differ = "the rewards of steps differ, so the artifact is not read as it was trained"
    why = f"{what}: {'the rewards of all steps are the same' if is_equal else differ}"
    return Finding("ok" if is_equal else "fail", name, difference, case.tolerance, why)
