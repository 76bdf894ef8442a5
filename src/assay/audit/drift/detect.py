"""Test new text for distribution shift from what a reward model was trained on, and find the signal that detects it best.

Every test compares new answers with the held-out rows of the reference by exchanging whole prompts between the two: if nothing has
changed, every such exchange is as likely as what was seen, so that the false alarm rate holds for any number of answers and of
dimensions, however alike the answers to one prompt are. One level, 5%, is kept for all tests of a set together.

Suffixes: N answers (held and new), S exchanges (the first is none), C prompts, K tests, P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from assay.audit.drift.reference import Gaussian, Observed, Reference, fit_gaussian, mahalanobis, neighbour_distance
from assay.records import Finding, Metric, PageResult, PreferencePair, Report, Table
from assay.stats.auroc_intervals import auroc_interval
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import auroc, is_right
from assay.stats.two_sample import DriftTest, adjusted, auroc_exchanged, decile_edges, ks_exchanged, mmd_exchanged, psi_exchanged

MAHALANOBIS, NEIGHBOURS = "Mahalanobis distance", "neighbour distance"
SCORE, LENGTH, STD, SMALL_MARGIN = "score", "length", "ensemble std", "small margin"
LEVEL = 0.05
FAR_OUT = "far out: "  # begins the name of the share of a set's answers beyond 99% of the held-out ones
OUTSIDE = 0.99
NUM_PERMUTATIONS = 999


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NewSet:
    """Answers to compare with a reference. pairs: where they are labelled; chosen and rejected are then observed in turn."""

    name: str
    observed: Observed
    pairs: Sequence[PreferencePair] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Detector:
    """A reference ready to measure with. centres: median and spread (median absolute deviation) of the held-out rows."""

    reference: Reference
    gaussian: Gaussian
    centres: Mapping[str, tuple[float, float]]

    def signals(self, observed: Observed, *, standardised: bool = False) -> dict[str, np.ndarray]:
        """How unusual each of N answers is, by signal: (N,) float64, larger is more unusual, NaN where it was not scored.

        Mahalanobis and neighbour distance: see `reference`. score, length: distance from the median of the held-out rows in median
        absolute deviations, the length as log(1 + characters). ensemble std: as it is, only of models that have one.
        """
        ok_N = observed.ok
        states_ND = observed.states[ok_N]
        states_ND = states_ND if standardised else self.reference.standardised(states_ND)
        found = {
            MAHALANOBIS: _placed(mahalanobis(self.gaussian, states_ND), ok_N),
            NEIGHBOURS: _placed(neighbour_distance(self.reference.bank.states, states_ND), ok_N),
        }
        for name, values_N in ((SCORE, observed.score), (LENGTH, np.log1p(observed.length))):
            centre, spread = self.centres[name]
            found[name] = np.where(ok_N, np.abs(values_N - centre) / spread, np.nan)
        if np.isfinite(observed.std[ok_N]).any():
            found[STD] = np.where(ok_N, observed.std, np.nan)
        return found


def make_detector(reference: Reference) -> Detector:
    """Fit what the signals need to the bank and the held-out rows."""
    centres = {}
    for name, values_H in ((SCORE, reference.held.score), (LENGTH, np.log1p(reference.held.length))):
        centre = float(np.median(values_H))
        spread = float(np.median(np.abs(values_H - centre))) or float(values_H.std()) or 1.0
        centres[name] = (centre, spread)
    return Detector(reference=reference, gaussian=fit_gaussian(reference.bank.states), centres=centres)


def drift_tests(
    detector: Detector, new: Observed, *, seed: int, num_permutations: int = NUM_PERMUTATIONS, level: float = LEVEL
) -> tuple[DriftTest, ...]:
    """All tests of one new set; the chance that any of them alarms (p <= level) on data like the held-out rows is at most `level`.

    MMD^2 of the states; Kolmogorov-Smirnov distance and population stability index of score and length (see `exchange`); for the
    distances and the ensemble's std the chance that a new answer lies farther out than a held-out one.
    Raises ValueError for a set of fewer than two prompts that could be scored.
    """
    held, new = detector.reference.held, new.distinct()
    held_N, new_N = (np.unique(sample.prompt, return_inverse=True)[1] for sample in (held, new))
    num_held, num_new = int(held_N.max()) + 1, int(new_N.max(initial=-1)) + 1
    if num_new < 2:
        raise ValueError(f"{num_new} prompts of the new set could be scored, at least 2 are needed, better 100")
    prompt_N, is_new_C = np.concatenate([held_N, new_N + num_held]), np.repeat([False, True], [num_held, num_new])
    rng = np.random.default_rng(seed)
    assign_SC = np.stack([is_new_C, *(rng.permutation(is_new_C) for _ in range(num_permutations))])
    is_new_SN = assign_SC[:, prompt_N].astype(np.float32)
    states_ND = np.concatenate([held.states, detector.reference.standardised(new.states)])
    values: dict[str, np.ndarray] = {"MMD of the states": mmd_exchanged(states_ND, prompt_N, assign_SC)}
    for name in (SCORE, LENGTH):
        bank, mine, theirs = (getattr(sample, name) for sample in (detector.reference.bank, held, new))
        pooled_N = np.concatenate([mine, theirs])
        values[f"KS of the {name}"] = ks_exchanged(pooled_N, is_new_SN)
        values[f"PSI of the {name}"] = psi_exchanged(pooled_N, is_new_SN, decile_edges(bank))
    ours, fresh = detector.signals(held, standardised=True), detector.signals(new)
    for name in (MAHALANOBIS, NEIGHBOURS, STD):
        if name in ours and name in fresh:
            values[f"farther out: {name}"] = auroc_exchanged(np.concatenate([ours[name], fresh[name]]), is_new_SN)
    return adjusted(values, level)


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftResult(PageResult):
    """New sets of text compared with a reference.

    tests: of each set that could be measured, its tests. The findings decide "drift".
    """

    tests: Mapping[str, tuple[DriftTest, ...]]

    @property
    def shifted(self) -> tuple[str, ...]:
        """The sets that differ from the reference by at least one test."""
        return tuple(name for name, tests in self.tests.items() if any(test.p <= LEVEL for test in tests))


def measure_drift(reference: Reference, sets: Sequence[NewSet], *, seed: int = 0, title: str = "Drift") -> DriftResult:
    """Each set against the reference: tests, how far out its answers lie, how well each signal detects the set and its wrong pairs.

    One finding a set (warn when any of its tests alarms), one on whether any signal detects the wrong pairs of all sets together.
    Intervals are 95%, resampled by prompt. Raises ValueError without a set.
    """
    if not sets:
        raise ValueError("no set to compare with the reference: give at least one")
    detector = make_detector(reference)
    held = detector.signals(reference.held, standardised=True)
    rows: list[tuple[object, ...]] = []
    aurocs: list[tuple[object, ...]] = []
    metrics: list[Metric] = []
    findings: list[Finding] = []
    wrong: list[_Pairs] = []
    tests_of: dict[str, tuple[DriftTest, ...]] = {}
    for new in sets:
        distinct = new.observed.distinct()
        if len(np.unique(distinct.prompt)) < 2:
            why = "not known: answers to fewer than two of its prompts could be scored"
            findings.append(Finding("warn", f"drift: {new.name}", math.nan, LEVEL, why, "drift"))
            continue
        fresh, tests = detector.signals(distinct), drift_tests(detector, distinct, seed=seed)
        tests_of[new.name] = tests
        rows += [(new.name, test.name, test.value, test.threshold, test.p, "alarm" if test.p <= LEVEL else "") for test in tests]
        findings.append(_set_finding(new.name, tests))
        metrics.append(_outside(new, distinct, held[MAHALANOBIS], fresh[MAHALANOBIS], seed))
        aurocs += [_auroc_row(new.name, name, distinct, held[name], fresh[name], reference) for name in fresh if name in held]
        if new.pairs is not None:
            wrong.append(_pair_signals(new, detector.signals(new.observed)))
            metrics.append(_accuracy(new.name, wrong[-1], seed))
    wrong = [*wrong, _joined(wrong)] if len(wrong) > 1 else wrong
    errors = [row for part in wrong for row in _error_rows(part)]
    findings += [*_watch_finding(aurocs), *(_wrong_finding(part) for part in wrong[-1:])]
    page = Report(
        title=title,
        metrics=tuple(metrics),
        tables=_tables(rows, aurocs, errors),
        findings=tuple(findings),
        facts={
            **reference.facts,
            "bank": _size(reference.bank),
            "held out": _size(reference.held),
            "shrinkage of the covariance": f"{detector.gaussian.shrinkage:.3f}",
            "seed": str(seed),
        },
        lead=_lead(tests_of),
        key={metric.name: ("1% expected",) for metric in metrics if metric.name.startswith(FAR_OUT)},
    )
    return DriftResult(tests=tests_of, page=page)


def _lead(tests_of: Mapping[str, Sequence[DriftTest]]) -> str:
    """Which sets differ from the training data."""
    found = [name for name, tests in tests_of.items() if any(test.p <= LEVEL for test in tests)]
    if not tests_of:
        return "Nothing is known: too little of the new text could be scored."
    if not found:
        return f"No test finds a difference from the training data in {len(tests_of)} set{'s' if len(tests_of) > 1 else ''}."
    return f"Unlike the training data: {', '.join(found[:4])}{', ...' if len(found) > 4 else ''}."


class _Pairs(NamedTuple):
    """P labelled pairs of a set: right (1, 0, NaN), prompts, and how unusual their answers are by signal."""

    name: str
    right_P: np.ndarray
    prompts_P: np.ndarray
    signals: dict[str, np.ndarray]


def _placed(values: np.ndarray, ok_N: np.ndarray) -> np.ndarray:
    placed_N = np.full(len(ok_N), np.nan)
    placed_N[ok_N] = values
    return placed_N


def _set_finding(name: str, tests: Sequence[DriftTest]) -> Finding:
    alarms = sorted((test for test in tests if test.p <= LEVEL), key=lambda test: test.p)
    least = min(test.p for test in tests)
    if not alarms:
        return Finding("ok", f"drift: {name}", least, LEVEL, f"none of {len(tests)} tests finds a difference", "drift")
    seen = "; ".join(f"{test.name} {test.value:.3g}, alarm from {test.threshold:.3g}" for test in alarms)
    why = f"{len(alarms)} of {len(tests)} tests find a difference ({seen}): look at the rewards there before trusting them"
    return Finding("warn", f"drift: {name}", least, LEVEL, why, "drift")


def _outside(new: NewSet, distinct: Observed, held_N: np.ndarray, distance_N: np.ndarray, seed: int) -> Metric:
    """Share of answers that lie farther out than 99% of the held-out rows."""
    limit = float(np.quantile(held_N, OUTSIDE, method="higher"))
    outside_N = (distance_N > limit).astype(np.float64)
    interval = mean_interval(outside_N, distinct.prompt, seed=seed)
    note = f"{MAHALANOBIS} over {limit:.3g}, beyond 99% of the held-out answers; each text once"
    num_texts = len(np.unique(new.observed.key))
    return Metric(f"{FAR_OUT}{new.name}", float(outside_N.mean()), *interval, len(distinct), num_texts, note)


def _accuracy(name: str, pairs: _Pairs, seed: int) -> Metric:
    scored = int(np.isfinite(pairs.right_P).sum())
    if not scored:
        return Metric(f"accuracy: {name}", math.nan, n=len(pairs.right_P), note="no pair has a label and a reward")
    interval = mean_interval(pairs.right_P, pairs.prompts_P, seed=seed)
    return Metric(f"accuracy: {name}", float(np.nanmean(pairs.right_P)), *interval, scored, len(pairs.right_P))


def _auroc_row(
    name: str, signal: str, distinct: Observed, held_N: np.ndarray, fresh_N: np.ndarray, reference: Reference
) -> tuple[object, ...]:
    """A row: AUROC of a signal in separating new answers from held-out ones."""
    values_N = np.concatenate([held_N, fresh_N])
    is_new_N = np.repeat([0.0, 1.0], [len(held_N), len(fresh_N)])
    prompts_N = np.concatenate([reference.held.prompt, distinct.prompt])
    figures = auroc(values_N, is_new_N), *auroc_interval(values_N, is_new_N, prompts_N)
    return (name, signal, *figures, len(fresh_N))


def _pair_signals(new: NewSet, signals: Mapping[str, np.ndarray]) -> _Pairs:
    """A pair is as unusual as its two answers on average; and, for comparison, as its margin is small."""
    assert new.pairs is not None
    assert len(new.observed) == 2 * len(new.pairs), "chosen and rejected in turn"
    score_P2 = new.observed.score.reshape(-1, 2)
    margins_P = score_P2[:, 0] - score_P2[:, 1]
    right_P = is_right(margins_P, np.array([pair.preference for pair in new.pairs]))
    of_pairs = {name: values_N.reshape(-1, 2).mean(axis=1) for name, values_N in signals.items()}
    return _Pairs(new.name, right_P, new.observed.prompt[::2], {**of_pairs, SMALL_MARGIN: -np.abs(margins_P)})


def _joined(parts: Sequence[_Pairs]) -> _Pairs:
    shared = [name for name in parts[0].signals if all(name in part.signals for part in parts)]
    return _Pairs(
        "all sets together",
        np.concatenate([part.right_P for part in parts]),
        np.concatenate([part.prompts_P for part in parts]),
        {name: np.concatenate([part.signals[name] for part in parts]) for name in shared},
    )


def _error_rows(pairs: _Pairs) -> list[tuple[object, ...]]:
    """A row for each signal: AUROC in separating the wrongly from the rightly ranked pairs of one set."""
    rows: list[tuple[object, ...]] = []
    for name, values_P in pairs.signals.items():
        kept_P = np.isfinite(values_P) & np.isfinite(pairs.right_P)
        values, wrong, prompts = values_P[kept_P], 1 - pairs.right_P[kept_P], pairs.prompts_P[kept_P]
        figures = auroc(values, wrong), *auroc_interval(values, wrong, prompts)
        rows.append((pairs.name, name, *figures, int(wrong.sum()), int(kept_P.sum()), len(kept_P)))
    return rows


def _watch_finding(aurocs: Sequence[Sequence[object]]) -> list[Finding]:
    """Which signal detects the sets best, on average over them."""
    by_signal: dict[str, list[float]] = {}
    for row in aurocs:
        by_signal.setdefault(str(row[1]), []).append(float(row[2]))  # type: ignore[arg-type]
    if not by_signal:
        return []
    best = max(by_signal, key=lambda name: float(np.mean(by_signal[name])))
    means = ", ".join(f"{name} {np.mean(found):.2f}" for name, found in by_signal.items())
    value = float(np.mean(by_signal[best]))
    return [Finding("ok", "signal to watch", value, 0.5, f"{best} detects the sets best; AUROC, mean over sets: {means}")]


def _wrong_finding(pairs: _Pairs) -> Finding:
    """Whether the best signal detects wrong pairs beyond chance; its interval is widened, as it is the best of several."""
    name, level = "a signal that detects wrong pairs", 1 - LEVEL / max(1, len(pairs.signals) - 1)
    figures = {}
    for signal, values_P in pairs.signals.items():
        kept_P = np.isfinite(values_P) & np.isfinite(pairs.right_P)
        values, wrong = values_P[kept_P], 1 - pairs.right_P[kept_P]
        interval = auroc_interval(values, wrong, pairs.prompts_P[kept_P], level=level)
        if signal != SMALL_MARGIN and math.isfinite(interval.low):
            figures[signal] = (auroc(values, wrong), interval)
    if not figures:
        why = f"not known: the scored pairs of {pairs.name} are none, of one prompt, all right or all wrong"
        return Finding("warn", name, math.nan, 0.5, why)
    best = max(figures, key=lambda signal: figures[signal][1].low)
    value, interval = figures[best]
    seen = f"{best} on {pairs.name}: AUROC {value:.2f} [{interval.low:.2f}, {interval.high:.2f}], the best of {len(figures)}"
    if interval.low > 0.5:
        return Finding("ok", name, value, 0.5, seen)
    return Finding("warn", name, value, 0.5, f"{seen}: drift says nothing about which pairs are ranked wrong")


def _tables(
    rows: Sequence[tuple[object, ...]], aurocs: Sequence[tuple[object, ...]], errors: Sequence[tuple[object, ...]]
) -> tuple[Table, ...]:
    tables = [
        Table(
            title="which signal detects each set",
            columns=("set", "signal", "AUROC", "low", "high", "n"),
            rows=tuple(aurocs),
            note="chance that a new answer is more unusual than a held-out one; 0.5: the signal sees no difference",
        ),
        Table(
            title="which signal detects wrong pairs",
            columns=("set", "signal", "AUROC", "low", "high", "n wrong", "n scored", "n"),
            rows=tuple(errors),
            note="within labelled pairs; a pair is as unusual as its two answers on average. Small margin: what needs no reference",
        ),
        Table(
            title="tests against the reference",
            columns=("set", "test", "value", "threshold", "p", "verdict"),
            rows=tuple(rows),
            note=f"prompts exchanged between set and held-out answers; p adjusted for all tests of a set; alarm at {LEVEL}",
        ),
    ]
    return tuple(table for table in tables if table.rows)


def _size(sample: Observed) -> str:
    return f"{len(sample):,} answers to {len(np.unique(sample.prompt)):,} prompts"
