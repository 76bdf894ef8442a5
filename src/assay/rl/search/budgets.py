"""Accuracy over what is written: a search that steps lead, beside choosing among whole solutions of as many tokens.

A beam of n writes about what n whole solutions cost, and sometimes more: so each point of its curve stands beside the least number
of whole solutions that cost at least as much, a twentieth of a solution apart.

Suffixes: P prompts, N whole solutions of a prompt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from assay.audit.chosen_answers import chosen_answers, share_metrics
from assay.data.prompt_rows import Prompt
from assay.records import Completion, Finding, Metric, Report, Table, extended
from assay.rl.search.final_votes import answer_classes, chosen
from assay.rl.search.growing import Found, SearchSettings, ranked_values
from assay.rl.search.searched import gold_of, right_of, with_lost
from assay.stats.mean_intervals import change_interval
from assay.stats.metrics import mean

LED, LED_BEST = "led by its steps", "best that it found"
OWN = "reward"
TITLE = "a search beside whole solutions of as many tokens"


class Searched(NamedTuple):
    """The searches with one n: what was found for each of P prompts."""

    n: int
    found: Sequence[Found]


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetCurve:
    """A search with several n beside whole solutions. sizes: the values of n. whole: how many whole solutions cost at least as many
    tokens as the search at each. written, whole_written: tokens a prompt, of the search and of so many whole solutions. figures: a
    metric for each n of each way to answer; values: (P, sizes) of each, the chance that a prompt is answered rightly.
    """

    sizes: tuple[int, ...]
    whole: tuple[int, ...]
    written: tuple[float, ...]
    whole_written: tuple[float, ...]
    figures: Mapping[str, tuple[Metric, ...]]
    values: Mapping[str, np.ndarray]

    def table(self) -> Table:
        """A line for each n."""
        rows = tuple(
            (n, self.written[k], self.whole[k], self.whole_written[k], *(metrics[k].value for metrics in self.figures.values()))
            for k, n in enumerate(self.sizes)
        )
        return Table(
            title=TITLE,
            columns=("n", "tokens", "whole solutions", "their tokens", *self.figures),
            rows=rows,
            note="share of prompts answered rightly; tokens: written for a prompt; whole solutions: over all draws of so many, one "
            "that was not finished counts as wrong",
        )

    def ahead(self, rival: str) -> tuple[Finding, ...]:
        """Whether the search is ahead of a way to answer at each n, by the interval of the difference over prompts."""
        found = []
        for k, n in enumerate(self.sizes):
            gain_P = self.values[LED][:, k] - self.values[rival][:, k]
            interval, gain = change_interval(gain_P, np.arange(len(gain_P))), mean(gain_P)
            seen = f"accuracy differs by {100 * gain:+.1f} points [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
            what = f"n = {n}: better than {rival} at as many tokens"
            found.append(Finding("ok" if interval.low > 0 else "warn", what, gain, 0.0, seen))
        return tuple(found)

    def added_to(self, page: Report) -> Report:
        """The page of a search with the curve on it, and what the search is ahead of."""
        rivals = [name for name in self.figures if name.startswith("best of whole")] + ["majority of whole"]
        findings = tuple(one for rival in rivals for one in self.ahead(rival))
        facts = {"whole solutions on the curve": "as many as cost at least the tokens of the search"}
        return extended(replace(page, tables=(self.table(), *page.tables), findings=(*page.findings, *findings)), facts=facts)


def whole_needed(searched: Sequence[Searched], whole: Sequence[Found]) -> tuple[int, ...]:
    """For each search the least number of whole solutions that cost at least as many tokens, but for a twentieth of a solution, by
    the mean cost of those that were written. Raises ValueError where none was."""
    each = _cost(whole)
    if not each > 0:
        raise ValueError("no token of a whole solution was written: the cost of one is not known")
    return tuple(max(1, math.ceil(_written(one.found) / each - 0.05)) for one in searched)


def budget_curve(
    searched: Sequence[Searched],
    whole: Sequence[Found],
    prompts: Sequence[Prompt],
    *,
    beside: Mapping[str, Sequence[np.ndarray]] | None = None,
    seed: int = 0,
) -> BudgetCurve:
    """The curve of searches with several n, beside ways to choose among whole solutions.

    whole: best-of-n of the same prompts, with at least as many solutions begun as `whole_needed` says; their values are the reward
    by which the search chooses too. beside: by the name of another scorer its rewards, (N,) of the finished whole solutions of each
    prompt. Raises ValueError for too few whole solutions, and where no prompt has a ground truth.
    """
    needed, num = whole_needed(searched, whole), min(one.calls for one in whole)
    if max(needed) > num:
        raise ValueError(f"{max(needed)} whole solutions to a prompt cost as much as the search, and only {num} were written")
    gold = gold_of(whole, prompts)
    if gold is None:
        raise ValueError("no prompt has a ground truth, so that nothing can be right")
    rewards = {OWN: [ranked_values(each.candidates) for each in whole], **(beside or {})}
    classes = [answer_classes([one.text for one in each.candidates]) for each in whole]
    lost = [each.calls - len(each.candidates) for each in whole]
    known, columns, kinds = with_lost(gold, rewards, classes, lost)
    pool = chosen_answers(known, columns, kinds, needed, seed=seed)
    ways = {"a random answer": "random whole", "majority": "majority of whole", "oracle": "oracle of whole"}
    ways |= {f"best of n: {name}": f"best of whole by {name}" for name in rewards}
    values = {**_led(searched, prompts), **{ways[name]: rows_PM for name, rows_PM in pool.values.items() if name in ways}}
    sizes, each = tuple(one.n for one in searched), _cost(whole)
    return BudgetCurve(
        sizes=sizes,
        whole=needed,
        written=tuple(_written(one.found) for one in searched),
        whole_written=tuple(m * each for m in needed),
        figures={name: share_metrics([f"n = {n}: {name}" for n in sizes], rows_PM) for name, rows_PM in values.items()},
        values=values,
    )


def curve_of(
    search_with: Callable[[SearchSettings], Sequence[Found]],
    settings: SearchSettings,
    sizes: Sequence[int],
    prompts: Sequence[Prompt],
    rewards_of: Mapping[str, Callable[[Sequence[Completion]], np.ndarray]],
) -> BudgetCurve:
    """Search with each n of `sizes` and write the whole solutions that cost as much; see `budget_curve`.

    search_with: what is found with given settings; one ledger behind it, so that nothing is written twice. The width is that of the
    settings, or n where that is less: at n = 1 a single solution. rewards_of: by the name of another scorer, rewards of whole
    solutions. Raises ValueError for an n that does not go with the settings, and for prompts without a ground truth.
    """
    searched = [Searched(one.n, search_with(one)) for one in settings_of_curve(settings, sizes, prompts)]
    free = replace(settings, method="best-of-n", threshold=None)
    whole = search_with(replace(free, n=max(sizes)))
    needed = max(whole_needed(searched, whole))
    while needed > whole[0].calls:  # the mean cost moves a little as more are written
        whole = search_with(replace(free, n=needed))
        needed = max(whole_needed(searched, whole))
    beside = {name: _rewards(score, whole, prompts) for name, score in rewards_of.items()}
    return budget_curve(searched, whole, prompts, beside=beside, seed=settings.seed)


def settings_of_curve(settings: SearchSettings, sizes: Sequence[int], prompts: Sequence[Prompt]) -> list[SearchSettings]:
    """Those of each n, before anything is asked. Raises ValueError as `curve_of`."""
    if all(one.ground_truth is None for one in prompts):
        raise ValueError("no prompt has a ground truth, so that nothing can be right: give it, or leave the curve out")
    return [replace(settings, n=n, width=min(n, settings.width)) for n in sorted(set(sizes))]


def _rewards(
    score: Callable[[Sequence[Completion]], np.ndarray], whole: Sequence[Found], prompts: Sequence[Prompt]
) -> list[np.ndarray]:
    """Rewards of the finished whole solutions, in one call."""
    solutions = [
        Completion(messages=prompt.messages, steps=one.steps)
        for each, prompt in zip(whole, prompts, strict=True)
        for one in each.candidates
    ]
    cuts = np.cumsum([len(each.candidates) for each in whole])[:-1]
    return np.split(np.asarray(score(solutions), np.float64), cuts)


def _led(searched: Sequence[Searched], prompts: Sequence[Prompt]) -> dict[str, np.ndarray]:
    """(P, sizes): whether what each search chose is right, and whether any solution that it found is."""
    led, best = [], []
    for one in searched:
        gold = gold_of(one.found, prompts)
        assert gold is not None
        picks = [chosen(each.candidates, "best", [0] * len(each.candidates)) for each in one.found]
        led.append(right_of(picks, gold, one.found))
        best.append(np.array([own.max() if len(own) else 0.0 for own in gold]))
    return {LED: np.stack(led, axis=1), LED_BEST: np.stack(best, axis=1)}


def _cost(whole: Sequence[Found]) -> float:
    """Tokens of a whole solution, in the mean over prompts."""
    return mean(np.array([one.written / one.calls for one in whole if one.calls]))


def _written(found: Sequence[Found]) -> float:
    """Tokens written for a prompt."""
    return mean(np.array([float(one.written) for one in found]))
