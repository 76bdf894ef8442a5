"""A rubric whose weights are learned from preferences: Bradley-Terry on the values of its criteria, kept only where they help.

The log-odds that an answer is preferred are taken as the sum of weights times the difference of values. A criterion helps when the
log loss of pairs under prompts that the fit did not see falls by more than 1.645 standard errors (by prompt; one-sided 5%) where
it is there; those that do not help are dropped one by one, the least useful first. A criterion that somebody proposes is taken on
the same terms, except that pairs which were shown to the proposer do not count, and that the 5% are those of all proposals together
(Bonferroni). Figures are of a part of the prompts that neither proposals nor fit nor choice have seen.

Suffixes: P pairs, C criteria.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy.stats import norm

from assay.records import Completion, Finding, Metric, PreferencePair, Report, Table
from assay.rubrics.rubric import NOT_APPLICABLE, Criterion, Rubric, Value
from assay.stats.linear import bradley_terry_weights, cross_fitted
from assay.stats.mean_intervals import change_interval, share_interval
from assay.stats.metrics import cluster_folds, is_right, log_losses
from assay.stats.significance import clustered_error

Values: TypeAlias = Mapping[str, Value]
"""The values of the criteria for one answer, by name: in [0, 1], or NOT_APPLICABLE; NaN or absent where there is no verdict."""

Judge: TypeAlias = Callable[[Sequence[Criterion], Sequence[Completion]], Sequence[Values]]
"""The values of criteria for answers, from a judge or rules."""

Propose: TypeAlias = Callable[[Rubric, Sequence[PreferencePair]], Sequence[Criterion]]
"""Criteria that might be added to a rubric, made by looking at pairs."""

MIN_PROMPTS = 20
SHOWN_SHARE = 0.3  # of the prompts to fit on: shown to a proposer
_MOST_PROMPTS = 100_000  # that anybody is told to bring
_LEVEL = 0.05
_STANDARD_ERRORS = 1.645
_FOLDS = 5
_PENALTIES = (0.1, 1.0, 10.0, 100.0)


class Gain(NamedTuple):
    """How much the held-out log loss of a pair falls where a criterion is there, its standard error, and whether that helps."""

    value: float
    error: float

    @property
    def helps(self) -> bool:
        return self.value > _STANDARD_ERRORS * self.error


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnedRubric:
    """A rubric with fitted weights, and what it is worth on prompts that it was not made from.

    rubric: the criteria that help, formula "sum": its margins are log-odds of the preference. dropped, refused: names of criteria
    of the old rubric and of proposed ones that do not help. gains: of each criterion that was tried, at the moment it was decided.
    accuracy, old_accuracy: on the held-out pairs; change: the difference, with its interval. n_fit, n_test, n_incomplete: pairs.
    """

    rubric: Rubric
    dropped: tuple[str, ...]
    accepted: tuple[str, ...]
    refused: tuple[str, ...]
    gains: Mapping[str, Gain]
    accuracy: Metric
    old_accuracy: Metric
    change: Metric
    n_fit: int
    n_test: int
    n_incomplete: int

    def decision(self, name: str) -> str:
        """What became of a criterion that was tried, in words, with its weight where it is kept."""
        if name in (*self.dropped, *self.refused):
            return "dropped" if name in self.dropped else "proposed and refused"
        was = "proposed and kept, " if name in self.accepted else ""
        return f"{was}weight {self.rubric.criterion(name).weight:+.3f}"

    @property
    def findings(self) -> tuple[Finding, ...]:
        worse = self.change.high < 0
        why = "held-out accuracy of the fitted weights less that of the old ones"
        return (Finding("fail" if worse else "ok", "fitted weights", self.change.value, 0.0, why),)

    def report(self) -> Report:
        """The figures and a row for each criterion."""
        kept = {criterion.name: criterion.weight for criterion in self.rubric.criteria}
        decided = {**dict.fromkeys(self.dropped, "dropped"), **dict.fromkeys(self.refused, "refused")}
        decided |= dict.fromkeys(self.accepted, "accepted")
        rows = tuple(
            (name, kept.get(name, math.nan), gain.value, gain.error, decided.get(name, "kept")) for name, gain in self.gains.items()
        )
        table = Table(title="criteria", columns=("criterion", "weight", "gain", "standard error", "decision"), rows=rows)
        facts = {
            "pairs fitted": f"{self.n_fit:,}",
            "pairs held out": f"{self.n_test:,}",
            "without all verdicts": f"{self.n_incomplete:,}",
        }
        metrics = (self.accuracy, self.old_accuracy, self.change)
        title = f"weights of {self.rubric.name or 'a rubric'}"
        return Report(title=title, metrics=metrics, tables=(table,), findings=self.findings, facts=facts)


def learn_rubric(
    rubric: Rubric,
    pairs: Sequence[PreferencePair],
    judge: Judge,
    *,
    propose: Propose | None = None,
    test_share: float = 0.3,
    seed: int = 0,
) -> LearnedRubric:
    """Fit the weights of a rubric's criteria to preferences, drop those that do not help, and take on proposed ones that do.

    judge: gives the values of criteria, and is asked once for all answers. propose: sees three in ten of the prompts to fit on,
    and its criteria are chosen by the others. test_share: of the prompts, held out from all of it. Gates and needs are left out:
    the fit is of the values themselves. A pair with a missing verdict is left out and counted; a criterion that does not apply to
    one of the answers says nothing of the pair.
    Raises ValueError for a rubric per row, for too few prompts (see `refuse_too_few`), for a proposed name that is taken,
    and where nothing helps.
    """
    if not rubric.criteria:
        raise ValueError("the rubric has no criteria of its own, and weights are fitted for criteria: name them in the rubric")
    refuse_too_few(pairs, proposes=propose is not None, test_share=test_share, seed=seed)
    is_test_P, is_shown_P = _parts(pairs, propose is not None, test_share, seed)
    shown = [pair for pair, is_shown in zip(pairs, is_shown_P, strict=True) if is_shown]
    proposed = list(propose(rubric, shown)) if propose else []
    wider = replace(rubric, criteria=(*rubric.criteria, *proposed))  # refuses a name that is taken
    table = _judged(wider, pairs, judge)
    fitting, tested = table.rows(~is_test_P), table.rows(is_test_P)
    for part, what in ((fitting, "to fit on"), (tested, "held out")):
        if (num_prompts := len(np.unique(part.prompts_P))) < MIN_PROMPTS:
            raise ValueError(
                f"{num_prompts} prompts {what} have all verdicts, and {MIN_PROMPTS} are needed: "
                f"{_division(pairs, is_test_P, is_shown_P)}; {_would_do(propose is not None, test_share)} with all verdicts"
            )
    unseen_P = ~is_shown_P[~is_test_P & table.is_complete_P]
    kept, gains = _chosen(fitting, [c.name for c in rubric.criteria], [c.name for c in proposed], unseen_P, seed)
    weights_C = fitting.fit(kept, _penalty(fitting, kept, seed))
    accuracy, old_accuracy, change = _figures(tested, tested.differences_PC[:, tested.columns(kept)] @ weights_C, rubric)
    return LearnedRubric(
        rubric=_weighted(rubric, [wider.criterion(name) for name in kept], weights_C),
        dropped=tuple(criterion.name for criterion in rubric.criteria if criterion.name not in kept),
        accepted=tuple(criterion.name for criterion in proposed if criterion.name in kept),
        refused=tuple(criterion.name for criterion in proposed if criterion.name not in kept),
        gains=gains,
        accuracy=accuracy,
        old_accuracy=old_accuracy,
        change=change,
        n_fit=len(fitting.prompts_P),
        n_test=len(tested.prompts_P),
        n_incomplete=len(pairs) - len(fitting.prompts_P) - len(tested.prompts_P),
    )


def refuse_too_few(pairs: Sequence[PreferencePair], *, proposes: bool, test_share: float = 0.3, seed: int = 0) -> None:
    """Raises ValueError where `learn_rubric` could never do with these pairs, whatever a judge says. proposes: whether criteria are
    proposed, by looking at prompts that do not choose then."""
    if not 0 < test_share < 1:
        raise ValueError(f"test_share {test_share} must lie between 0 and 1")
    is_test_P, is_shown_P = _parts(pairs, proposes, test_share, seed)
    if min(_num_prompts(pairs, is_test_P), _num_prompts(pairs, ~is_test_P & ~is_shown_P)) < MIN_PROMPTS:
        raise ValueError(
            f"the pairs have too few prompts: {_division(pairs, is_test_P, is_shown_P)}; {MIN_PROMPTS} are needed held out, and "
            f"{MIN_PROMPTS} to fit on: {_would_do(proposes, test_share)}"
        )


def _parts(pairs: Sequence[PreferencePair], proposes: bool, test_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Which pairs are held out, and which of the others a proposer is shown."""
    is_test_P = _is_drawn(pairs, test_share, seed)
    return is_test_P, _is_drawn(pairs, SHOWN_SHARE, seed + 1) & ~is_test_P & proposes


def _num_prompts(pairs: Sequence[PreferencePair], mask_P: np.ndarray) -> int:
    return len({pair.prompt_key for pair, is_in in zip(pairs, mask_P, strict=True) if is_in})


def _division(pairs: Sequence[PreferencePair], is_test_P: np.ndarray, is_shown_P: np.ndarray) -> str:
    """How the prompts are shared out, in words."""
    of_all = _num_prompts(pairs, np.ones(len(pairs), bool))
    shown = f" and {_num_prompts(pairs, is_shown_P):,} shown to the proposer" if is_shown_P.any() else ""
    left = _num_prompts(pairs, ~is_test_P & ~is_shown_P)
    return f"of {of_all:,}, {_num_prompts(pairs, is_test_P):,} are held out{shown} first, which leaves {left:,}"


def _would_do(proposes: bool, test_share: float) -> str:
    """How many prompts would be enough, however they are drawn."""
    enough = next(
        n
        for n in itertools.count(2 * MIN_PROMPTS)
        if min(round(test_share * n), n - round(test_share * n) - round(SHOWN_SHARE * n) * proposes) >= MIN_PROMPTS
        or n > _MOST_PROMPTS
    )
    if enough > _MOST_PROMPTS:
        return f"hold out another share than {test_share:g}"
    return f"give pairs of {enough:,} prompts or more"


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """Pairs with their verdicts: differences_PC of the values, chosen less rejected, 0 where a criterion does not apply."""

    names: tuple[str, ...]
    differences_PC: np.ndarray
    preference_P: np.ndarray
    weight_P: np.ndarray
    prompts_P: np.ndarray
    is_complete_P: np.ndarray
    values: tuple[tuple[Values, Values], ...]

    def rows(self, mask_P: np.ndarray) -> _Judged:
        """The complete pairs of a mask."""
        taken_P = np.flatnonzero(mask_P & self.is_complete_P)
        return _Judged(
            self.names,
            self.differences_PC[taken_P],
            self.preference_P[taken_P],
            self.weight_P[taken_P],
            self.prompts_P[taken_P],
            self.is_complete_P[taken_P],
            tuple(self.values[i] for i in taken_P),
        )

    def columns(self, names: Sequence[str]) -> list[int]:
        return [self.names.index(name) for name in names]

    def fit(self, names: Sequence[str], l2: float, mask_P: np.ndarray | slice = slice(None)) -> np.ndarray:
        """The weights of some criteria, fitted on the pairs of a mask."""
        differences_PC = self.differences_PC[mask_P][:, self.columns(names)]
        return bradley_terry_weights(differences_PC, self.preference_P[mask_P], self.weight_P[mask_P], l2=l2)

    def held_out(self, names: Sequence[str], l2: float, seed: int) -> np.ndarray:
        """(P,) log losses, each by a fit on other prompts."""
        folds_P = cluster_folds(self.prompts_P, _FOLDS, seed=seed)
        columns = self.columns(names)

        def predict(fit_P: np.ndarray, held_P: np.ndarray) -> np.ndarray:
            return self.differences_PC[held_P][:, columns] @ self.fit(names, l2, fit_P)

        return log_losses(cross_fitted(predict, folds_P), self.preference_P)


def _judged(rubric: Rubric, pairs: Sequence[PreferencePair], judge: Judge) -> _Judged:
    """What a judge says of both answers of each pair."""
    given = judge(rubric.criteria, [completion for pair in pairs for completion in pair.completions()])
    if len(given) != 2 * len(pairs):
        raise ValueError(f"the judge gave values for {len(given)} answers, and there are {2 * len(pairs)}: one mapping each")
    values = tuple(zip(given[::2], given[1::2], strict=True))
    names = tuple(criterion.name for criterion in rubric.criteria)
    differences_PC = np.array([[_difference(a.get(name), b.get(name)) for name in names] for a, b in values]).reshape(
        -1, len(names)
    )
    return _Judged(
        names,
        differences_PC,
        np.array([pair.preference for pair in pairs]),
        np.array([pair.weight for pair in pairs]),
        np.array([pair.prompt_key for pair in pairs]),
        ~np.isnan(differences_PC).any(axis=1),
        values,
    )


def _difference(a: Value | None, b: Value | None) -> float:
    if a == NOT_APPLICABLE or b == NOT_APPLICABLE:
        return 0.0
    return math.nan if a is None or b is None or isinstance(a, str) or isinstance(b, str) else float(a) - float(b)


def _is_drawn(pairs: Sequence[PreferencePair], share: float, seed: int) -> np.ndarray:
    """Which pairs are of a share of the prompts, drawn at random."""
    unique, index_P = np.unique([pair.prompt_key for pair in pairs], return_inverse=True)
    drawn = np.random.default_rng(seed).permutation(len(unique))[: round(share * len(unique))]
    return np.isin(index_P, drawn)


def _penalty(table: _Judged, names: Sequence[str], seed: int) -> float:
    """The penalty on the weights of least held-out log loss."""
    return min(_PENALTIES, key=lambda l2: float(table.held_out(names, l2, seed).mean()))


def _chosen(
    table: _Judged, own: Sequence[str], proposed: Sequence[str], unseen_P: np.ndarray, seed: int
) -> tuple[list[str], dict[str, Gain]]:
    """The criteria that help, and the gain of each that was tried. unseen_P: pairs that no proposal was made from.

    Raises ValueError where none helps.
    """
    gains: dict[str, Gain] = {}
    kept, l2 = list(own), _penalty(table, own, seed)
    while kept:
        with_all_P = table.held_out(kept, l2, seed)
        without = {name: _gain(table, table.held_out([one for one in kept if one != name], l2, seed) - with_all_P) for name in kept}
        gains |= without
        useless = [name for name in kept if not without[name].helps]
        if not useless:
            break
        kept.remove(min(useless, key=lambda name: without[name].value))
    unseen, most = table.rows(unseen_P), float(norm.isf(_LEVEL / max(len(proposed), 1)))
    for name in proposed:
        falls_P = table.held_out(kept, l2, seed) - table.held_out([*kept, name], l2, seed)
        gains[name] = gain = _gain(unseen, falls_P[unseen_P])
        if gain.value > most * gain.error:
            kept.append(name)
    if not kept:
        said = ", ".join(f"{name} {gain.value:+.4f} +- {gain.error:.4f}" for name, gain in gains.items())
        raise ValueError(f"no criterion lowers the log loss of pairs under held-out prompts, nothing is learned: {said}")
    return kept, gains


def _gain(table: _Judged, falls_P: np.ndarray) -> Gain:
    return Gain(float(falls_P.mean()), clustered_error(falls_P, table.prompts_P))


def _weighted(rubric: Rubric, criteria: Sequence[Criterion], weights_C: np.ndarray) -> Rubric:
    """The criteria with their weights, as a sum."""
    weighted = zip(criteria, weights_C, strict=True)
    learned = tuple(replace(criterion, weight=float(weight), gate=None, needs="") for criterion, weight in weighted)
    return replace(rubric, criteria=learned, formula="sum")


def _figures(tested: _Judged, margins_P: np.ndarray, old: Rubric) -> tuple[Metric, Metric, Metric]:
    """Accuracy of the fitted weights, of the old ones, and the change, on held-out pairs; ties of a margin count half."""
    names = {criterion.name for criterion in old.criteria}
    sides = [[old.combine({name: v for name, v in side.items() if name in names}).value for side in both] for both in tested.values]
    old_P2 = np.array(sides).reshape(-1, 2)
    right_P = is_right(margins_P, tested.preference_P)
    old_right_P = is_right(old_P2[:, 0] - old_P2[:, 1], tested.preference_P)
    figures = []
    for name, values_P in (("accuracy", right_P), ("accuracy of the old weights", old_right_P)):
        scored_P = ~np.isnan(values_P)
        low, high = share_interval(values_P, tested.prompts_P)
        value = float(values_P[scored_P].mean()) if scored_P.any() else math.nan
        figures.append(Metric(name, value, low, high, int(scored_P.sum()), len(values_P)))
    both_P = right_P - old_right_P
    low, high = change_interval(both_P, tested.prompts_P)
    scored_P = ~np.isnan(both_P)
    value = float(both_P[scored_P].mean()) if scored_P.any() else math.nan
    return figures[0], figures[1], Metric("change", value, low, high, int(scored_P.sum()), len(both_P))
