"""Openers: the opening phrases of the answers, found in the answers themselves, and by how much each raises the reward.

A regression would credit an opener with whatever goes along with it. Here the opener alone is moved: put before answers that begin
otherwise, and taken from answers that begin with it, and both versions are scored. Suffixes: N answers, E edits.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from assay.messages import prompt_key
from assay.records import Completion, Finding, Metric, Parts, PreferencePair, Table
from assay.scorers.base import Scorer
from assay.stats.mean_intervals import mean_interval
from assay.stats.significance import false_discovery
from assay.stats.skewed_mean import above_zero

LONGEST = 4  # words of an opener
MIN_PROMPTS = 5  # that have an answer with the opener
SWALLOWED = 0.8  # a beginning that nearly always goes on the same way is represented by its longer form
LEVEL = 0.05
MAX_RISE = 0.5  # median margins above which a finding warns
LEAST_FALL = 2.0  # median margins that one answer may always plausibly move against the others
_WORD = re.compile(r"\s*\S+")

Way = Literal["added", "removed"]


class Opener(NamedTuple):
    """A beginning of answers, as it stands there. num_answers have it, to num_prompts prompts."""

    text: str
    num_answers: int
    num_prompts: int


class Edit(NamedTuple):
    """An answer before and after an opener was added or removed."""

    opener: Opener
    way: Way
    before: Completion
    after: Completion


class Effect(NamedTuple):
    """What having an opener does: mean rise of the reward in median margins, with its interval.

    beyond: the rise less the mean rise of all openers added to the same answers, which is what any words there do; NaN for
    "removed". q: two-sided p-value of no rise, adjusted for all openers (Benjamini & Hochberg 1995).
    """

    opener: Opener
    way: Way
    rise: float
    low: float
    high: float
    beyond: float
    q: float
    num_scored: int
    num_edits: int


def find_openers(pairs: Sequence[PreferencePair], most: int = 8, min_prompts: int = MIN_PROMPTS) -> tuple[Opener, ...]:
    """The most frequent beginnings of one to four words over the answers of the pairs, each answer to a prompt counted once.

    A beginning goes when one longer beginning holds four fifths of its answers. Case and punctuation belong to it.
    """
    answers = {(pair.prompt_key, text) for pair in pairs for text in (pair.chosen, pair.rejected)}
    found: dict[str, list[str]] = defaultdict(list)
    for key, text in sorted(answers):
        for beginning in _beginnings(text):
            found[beginning].append(key)
    counts = {text: (len(keys), len(set(keys))) for text, keys in found.items()}
    longer: dict[str, int] = defaultdict(int)
    for text, (num_answers, _) in counts.items():
        for shorter in _beginnings(text):
            longer[shorter] = max(longer[shorter], num_answers)
    kept = [
        Opener(text, num_answers, num_prompts)
        for text, (num_answers, num_prompts) in counts.items()
        if num_prompts >= min_prompts and longer[text] < SWALLOWED * num_answers
    ]
    return tuple(sorted(kept, key=lambda opener: (-opener.num_prompts, -opener.num_answers, opener.text))[:most])


def plan_edits(pairs: Sequence[PreferencePair], openers: Sequence[Opener], num_edits: int, *, seed: int) -> list[Edit]:
    """At most `num_edits` edits: each opener put before the same answers, of as many prompts as the budget allows, and taken from
    answers that begin with it (a third of the budget). Answers that have one of the openers get none added.

    Raises ValueError when the budget is under three edits an opener.
    """
    if not openers:
        return []
    if num_edits < 3 * len(openers):
        raise ValueError(f"{num_edits} edits are too few for {len(openers)} openers: give at least {3 * len(openers)}, better 300")
    answers = {}
    for pair in pairs:
        for completion in pair.completions():
            answers[(pair.prompt_key, completion.response)] = completion
    order = [list(answers.values())[i] for i in np.random.default_rng(seed).permutation(len(answers))]
    texts = [opener.text for opener in openers]
    edits, per_opener = [], num_edits // (3 * len(openers))
    plain = _one_a_prompt([c for c in order if not any(_begins(c, text) for text in texts)])
    for completion in plain[: 2 * per_opener]:
        for opener in openers:
            edits.append(Edit(opener, "added", completion, _with_response(completion, f"{opener.text} {_response(completion)}")))
    for opener in openers:
        having = _one_a_prompt([c for c in order if _begins(c, opener.text) and _rest(c, opener.text)])
        for completion in having[:per_opener]:
            edits.append(Edit(opener, "removed", completion, _with_response(completion, _rest(completion, opener.text))))
    return edits


def opener_effects(scorer: Scorer, edits: Sequence[Edit], median_margin: float, *, seed: int) -> tuple[Effect, ...]:
    """Score every answer before and after; the rise of having the opener, by opener and way, in units of `median_margin` (> 0)."""
    if not edits:
        return ()
    if not median_margin > 0:
        raise ValueError(f"the median margin is {median_margin}: without different rewards there is no unit")
    unique = {completion.key: completion for edit in edits for completion in (edit.before, edit.after)}
    rewards = dict(zip(unique, scorer.score(list(unique.values())).value.astype(np.float64), strict=True))
    rise_E = np.array([rewards[edit.after.key] - rewards[edit.before.key] for edit in edits]) / median_margin
    rise_E = np.where([edit.way == "removed" for edit in edits], -rise_E, rise_E)
    usual: dict[str, list[float]] = defaultdict(list)
    for edit, rise in zip(edits, rise_E, strict=True):
        if edit.way == "added" and math.isfinite(rise):
            usual[edit.before.key].append(float(rise))
    cases: dict[tuple[Opener, Way], list[int]] = defaultdict(list)
    for i, edit in enumerate(edits):
        cases[(edit.opener, edit.way)].append(i)
    effects, against = [], (float(np.nanmax(-rise_E, initial=0.0)), float(np.nanmax(rise_E, initial=0.0)))
    for (opener, way), index in cases.items():
        rise = rise_E[index]
        ok = np.isfinite(rise)
        prompts = np.array([prompt_key(edits[i].before.messages) for i in index])
        low, high = mean_interval(rise, prompts, seed=seed, support=None)
        beyond = math.nan
        if way == "added" and ok.any():
            beyond = float(np.mean([rise_E[i] - np.mean(usual[edits[i].before.key]) for i in np.array(index)[ok]]))
        value = float(rise[ok].mean()) if ok.any() else math.nan
        effects.append(Effect(opener, way, value, low, high, beyond, _p(rise, prompts, against), int(ok.sum()), len(index)))
    q = false_discovery(np.array([effect.q for effect in effects]))
    return tuple(effect._replace(q=float(value)) for effect, value in zip(effects, q, strict=True))


def opener_parts(effects: Sequence[Effect]) -> Parts:
    """Metrics, a table and a finding for a report; the finding warns of openers that raise the reward when they are added."""
    name = "openers"
    if not effects:
        why = f"not checked: no opening phrase is shared by the answers to {MIN_PROMPTS} prompts"
        return Parts(findings=(Finding("warn", name, math.nan, MAX_RISE, why, "surface"),))
    rows = tuple((e.opener.text, e.way, e.opener.num_prompts, *e[2:]) for e in effects)
    columns = ("opener", "way", "prompts that have it", "rise", "low", "high", "beyond any opener", "q", "n scored", "n")
    note = (
        "mean rise of the reward of having the opener, in median margins; added: put before answers that begin otherwise; removed: "
        "taken from answers that have it. beyond: less the mean of all openers on the same answers; q: false discovery rate"
    )
    table = Table(title="what openers add to the reward", columns=columns, rows=rows, note=note)
    added = [effect for effect in effects if effect.way == "added" and not math.isnan(effect.rise)]
    if not added:
        why = "not measured: no answer with an added opener could be scored"
        return Parts((), (table,), (Finding("warn", name, math.nan, MAX_RISE, why, "surface"),))
    best = max(added, key=lambda effect: effect.rise)
    counted = (best.num_scored, best.num_edits, f"in median margins: {best.opener.text!r}")
    metric = Metric("largest rise by an added opener", best.rise, best.low, best.high, *counted)
    raising = [effect for effect in added if effect.q <= LEVEL and effect.rise >= MAX_RISE]
    interval = "in every prompt" if math.isnan(best.low) else f"[{best.low:.2f}, {best.high:.2f}]"
    seen = f"{best.opener.text!r} before another answer raises it by {best.rise:.2f} median margins {interval}"
    if raising:
        why = f"{len(raising)} of {len(added)} openers raise the reward of any answer: {seen}: a policy will learn to begin with it"
        return Parts((metric,), (table,), (Finding("warn", name, best.rise, MAX_RISE, why, "surface"),))
    why = f"none raises the reward of any answer by as much as that; {seen}"
    return Parts((metric,), (table,), (Finding("ok", name, best.rise, MAX_RISE, why, "surface"),))


def _beginnings(text: str) -> list[str]:
    """The first word, the first two, ... as they stand, white space at the front apart; never the whole text."""
    stripped, ends = text.strip(), []
    for match in _WORD.finditer(stripped):
        ends.append(match.end())
        if len(ends) == LONGEST:
            break
    return [stripped[:end] for end in ends if end < len(stripped)]


def _begins(completion: Completion, opener: str) -> bool:
    text = _response(completion).strip()
    return text.startswith(opener) and text[len(opener) : len(opener) + 1].isspace()


def _rest(completion: Completion, opener: str) -> str:
    """The answer without its opener, begun with a capital letter where it had one."""
    rest = _response(completion).strip()[len(opener) :].strip()
    return rest[:1].upper() + rest[1:] if opener[:1].isupper() else rest


def _response(completion: Completion) -> str:
    return str(completion.response)


def _with_response(completion: Completion, response: str) -> Completion:
    return replace(completion, response=response)


def _one_a_prompt(completions: Sequence[Completion]) -> list[Completion]:
    first: dict[object, Completion] = {}
    for completion in completions:
        first.setdefault(completion.messages, completion)
    return list(first.values())


def _p(rise: np.ndarray, prompts: np.ndarray, against: tuple[float, float]) -> float:
    """Two-sided p of the mean being 0, whichever way a few answers move far (`above_zero`); NaN for fewer than three prompts.

    against: the largest fall of an answer, and the largest rise, by any opener.
    """
    up = above_zero(rise, prompts, largest_fall=max(LEAST_FALL, against[0])).p
    down = above_zero(-rise, prompts, largest_fall=max(LEAST_FALL, against[1])).p
    return min(1.0, 2 * min(up, down))
