"""Two scorers on the same pairs: which is better, is that more than chance, where, and how small a difference would have been seen.

Every figure is of the pairs that both could score. Intervals are 95%, paired, resampled by prompt; p-values are of `sign_flip`.
Suffixes: P pairs, H hypotheses (one for each slice).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from assay.evaluation.slices import EQUAL_LENGTH, LENGTH_CONTROLLED, Columns, Slicing, columns_of, right_at_length, slicings
from assay.records import Finding, Metric, PageResult, PreferencePair, Report, Table
from assay.stats.calibration_error import ece
from assay.stats.length import equally_long
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import CHANGE, mcnemar, mean, squared_error
from assay.stats.significance import clustered_error, false_discovery, pairs_needed, sign_flip, smallest_detectable

ACCURACY, BRIER, ECE, AGREEMENT = "accuracy", "Brier", "ECE", "same answer preferred"
SMALLEST = "smallest detectable difference in accuracy"
NEEDED = "pairs to detect one point"
OVERALL, SLICES = "regression", "regression in a slice"
MINUS = "B minus A"
ONE_POINT = 0.01


class Side(NamedTuple):
    """One of the two: margins (P,), NaN unscored, and P(chosen beats rejected) (P,) when it is calibrated."""

    margins_P: np.ndarray
    probabilities_P: np.ndarray | None = None


class Paired(NamedTuple):
    """B minus A over the pairs that both scored: accuracies, their difference with interval and p-value, and what could be seen.

    smallest: difference found in 80% of cases at the 5% level; needed: pairs to find one point in as many. NaN when the two never
    differ. mcnemar: NaN when prompts have several pairs, as it assumes that pairs are independent.
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    smallest: float
    needed: float
    mcnemar: float
    n_scored: int
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonResult(PageResult):
    """B against A. whole: over all pairs; is_worse: whether there is a significant regression, on all pairs or in a slice."""

    whole: Paired
    is_worse: bool


def rule(fdr: float, drop: float) -> str:
    """What counts as a significant regression, in words, for the page."""
    least = f" and by {100 * drop:g} points or more" if drop else ""
    return (
        f"B is worse overall (p <= {fdr:g}) or in a slice (q <= {fdr:g}, false discoveries controlled over all slices){least}; "
        "p by flipping signs of whole prompts, two-sided"
    )


def paired(right_a_P: np.ndarray, right_b_P: np.ndarray, clusters_P: np.ndarray, *, seed: int = 0, n: int | None = None) -> Paired:
    """Compare two columns of `is_right` on the same P pairs; clusters_P: prompts. n: pairs with a label, P when left out.

    Source of the pairing, and of intervals by cluster: Miller (2024), "Adding error bars to evals".
    """
    difference_P = np.asarray(right_b_P, dtype=np.float64) - np.asarray(right_a_P, dtype=np.float64)
    both_P = ~np.isnan(difference_P)
    a_P, b_P, prompts_P = np.asarray(right_a_P)[both_P], np.asarray(right_b_P)[both_P], np.asarray(clusters_P)[both_P]
    difference_P, scored = difference_P[both_P], int(both_P.sum())
    alone = len(np.unique(prompts_P)) == scored
    error = clustered_error(difference_P, prompts_P)
    interval = mean_interval(difference_P, prompts_P, seed=seed, support=CHANGE)
    return Paired(
        a=mean(a_P),
        b=mean(b_P),
        difference=mean(difference_P),
        low=interval.low,
        high=interval.high,
        p=sign_flip(difference_P, prompts_P),
        smallest=smallest_detectable(error),
        needed=pairs_needed(ONE_POINT, error, scored),
        mcnemar=mcnemar(a_P, b_P) if alone and scored else math.nan,
        n_scored=scored,
        n=len(both_P) if n is None else n,
    )


def compare_margins(
    a: Side,
    b: Side,
    pairs: Sequence[PreferencePair],
    *,
    title: str,
    fdr: float = 0.05,
    drop: float = 0.0,
    seed: int = 0,
    num_examples: int = 6,
) -> ComparisonResult:
    """B against A, on P pairs with the margins of both.

    A significant regression is: B's accuracy is lower with p <= fdr on all pairs, or with q <= fdr in a slice (Benjamini-Hochberg
    over every slice of every table), and lower by at least `drop`. The tests are two-sided and only losses count: where two models
    are equal, the whole speaks of a regression in at most fdr / 2 of comparisons, and the slices in about as many. Brier score, ECE
    and length-controlled accuracy are shown and are no part of the rule.
    Raises ValueError for an empty list of pairs, columns of another length, or `fdr` or `drop` outside [0, 1].
    """
    for name, value in (("fdr", fdr), ("drop", drop)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} {value:g} lies outside [0, 1]: it is a share, such as 0.05")
    both = _on_common_pairs(a, b, pairs, seed)
    whole = paired(both.a.right_P, both.b.right_P, both.a.prompts_P, seed=seed, n=int(np.sum(both.a.preference_P != 0.5)))
    figures = _figures(both, whole)
    tables, found = _slice_tables(both, fdr, drop)
    findings = (_overall(whole, fdr, drop), *found, _unscored(a, b), *_brier_finding(figures))
    page = Report(
        title=title,
        metrics=(*(metric for three in figures for metric in three), *_powers(whole), _agreement(both)),
        tables=(_side_by_side(figures), _outcomes(both), *tables),
        examples=_examples(both, num_examples),
        findings=findings,
        facts={
            "pairs": str(len(both.a.pairs)),
            "prompts": str(both.a.num_prompts),
            "seed": str(seed),
            "significant regression": rule(fdr, drop),
        },
        lead=_lead(whole, findings),
        key={
            f"{ACCURACY}: {MINUS}": (f"{ACCURACY}: A", f"{ACCURACY}: B"),
            f"{LENGTH_CONTROLLED}: {MINUS}": (f"{LENGTH_CONTROLLED}: A", f"{LENGTH_CONTROLLED}: B"),
            SMALLEST: ("found in 80% of cases",),
            AGREEMENT: (),
        },
    )
    return ComparisonResult(whole=whole, is_worse=any(finding.level == "fail" for finding in findings), page=page)


def _lead(whole: Paired, findings: Sequence[Finding]) -> str:
    """Whether B is worse, and by how much accuracy changes."""
    if not whole.n_scored:
        return "Nothing was compared: no labelled pair was scored by both."
    change = f"{100 * whole.difference:+.1f} points of accuracy [{100 * whole.low:+.1f}, {100 * whole.high:+.1f}]"
    failed = [finding for finding in findings if finding.level == "fail"]
    if not failed:
        return f"B is not found to be worse than A: {change} on {whole.n_scored:,} pairs."
    where = "" if any(finding.name == OVERALL for finding in failed) else f" in {len(failed)} slice{'s' if len(failed) > 1 else ''}"
    return f"B is worse than A{where}: {change} on {whole.n_scored:,} pairs."


class _Both(NamedTuple):
    a: Columns
    b: Columns
    is_calibrated: bool


def _on_common_pairs(a: Side, b: Side, pairs: Sequence[PreferencePair], seed: int) -> _Both:
    if np.shape(a.margins_P) != np.shape(b.margins_P):
        raise ValueError(f"{len(a.margins_P)} margins of A and {len(b.margins_P)} of B: score the same pairs with both")
    missing_P = np.isnan(a.margins_P) | np.isnan(b.margins_P)

    def columns(side: Side) -> Columns:
        probabilities_P = None if side.probabilities_P is None else np.where(missing_P, np.nan, side.probabilities_P)
        return columns_of(np.where(missing_P, np.nan, side.margins_P), pairs, probabilities_P, seed)

    return _Both(columns(a), columns(b), a.probabilities_P is not None and b.probabilities_P is not None)


def _figures(both: _Both, whole: Paired) -> list[tuple[Metric, Metric, Metric]]:
    """Accuracy, at equal lengths too, and when both are calibrated Brier and ECE: of A, of B, and B minus A."""
    a, b = both.a, both.b
    if whole.n_scored == 0:
        about = "no pair was scored by both and has a label that is not a tie"
    elif math.isnan(whole.mcnemar):
        about = f"p = {whole.p:.3g}, by whole prompts; McNemar's test does not hold, as prompts have several pairs"
    else:
        about = f"p = {whole.p:.3g}, exact; McNemar's test is the same, as every prompt has one pair"
    near_P = equally_long(a.lengths_P2)
    figures = [
        _three(ACCURACY, a.right_P, b.right_P, both, about=about),
        _three(
            LENGTH_CONTROLLED,
            right_at_length(a),
            right_at_length(b),
            both,
            about="what length explains is taken out",
            missing="too few scored pairs or prompts to measure what length explains",
        ),
        _three(
            EQUAL_LENGTH,
            np.where(near_P, a.right_P, np.nan),
            np.where(near_P, b.right_P, np.nan),
            both,
            about="pairs whose lengths differ by a tenth at most",
            among_P=near_P,
            missing="no pair of about equal lengths was scored by both",
        ),
    ]
    if both.is_calibrated:
        errors_a_P, errors_b_P = (squared_error(side.probabilities_P, side.preference_P) for side in (a, b))
        figures += [_three(BRIER, errors_a_P, errors_b_P, both, about="lower is better", with_ties=True), _three_eces(both)]
    return figures


def _three(
    name: str,
    a_P: np.ndarray,
    b_P: np.ndarray,
    both: _Both,
    *,
    about: str,
    among_P: np.ndarray | None = None,
    with_ties: bool = False,
    missing: str = "nothing was scored by both",
) -> tuple[Metric, Metric, Metric]:
    """Means of a column of A, of B, and of their difference. with_ties: label ties count too; missing: the note of no mean."""
    counted_P = (both.a.preference_P != 0.5) | with_ties
    n = int(np.sum(counted_P if among_P is None else counted_P & among_P))
    scored = int(np.sum(~np.isnan(b_P - a_P)))
    note = about if scored else missing
    return (
        Metric(f"{name}: A", mean(a_P), *both.a.interval(a_P), scored, n, "" if scored else note),
        Metric(f"{name}: B", mean(b_P), *both.b.interval(b_P), scored, n, "" if scored else note),
        Metric(f"{name}: {MINUS}", mean(b_P - a_P), *both.a.interval(b_P - a_P, support=CHANGE), scored, n, note),
    )


def _three_eces(both: _Both) -> tuple[Metric, Metric, Metric]:
    a, b = (ece(*side.confidence) for side in (both.a, both.b))
    scored, n = int(np.sum(~np.isnan(both.a.probabilities_P))), len(both.a.pairs)
    note = "10 bins of equal mass, lower is better; biased up by the same chance in both, no interval"
    return (
        Metric(f"{ECE}: A", a, n_scored=scored, n=n, note=note),
        Metric(f"{ECE}: B", b, n_scored=scored, n=n, note=note),
        Metric(f"{ECE}: {MINUS}", b - a, n_scored=scored, n=n, note=note),
    )


def _powers(whole: Paired) -> tuple[Metric, Metric]:
    known = not math.isnan(whole.smallest)
    note = "found in 80% of cases by a 5% test" if known else "A and B are right on the same pairs: nothing says how much they vary"
    more = "with as many pairs a prompt as here, 80% of cases, 5% test" if known else note
    return (
        Metric(SMALLEST, whole.smallest, n_scored=whole.n_scored, n=whole.n, note=note),
        Metric(NEEDED, whole.needed, n_scored=whole.n_scored, n=whole.n, note=more),
    )


def _agreement(both: _Both) -> Metric:
    """Share of all scored pairs, label ties included, on which the two prefer the same answer."""
    missing_P = np.isnan(both.a.margins_P) | np.isnan(both.b.margins_P)
    same_P = np.where(missing_P, np.nan, np.sign(both.a.margins_P) == np.sign(both.b.margins_P))
    scored = int(np.sum(~missing_P))
    note = "label ties included" if scored else "nothing was scored by both"
    return Metric(AGREEMENT, mean(same_P), *both.a.interval(same_P), scored, len(same_P), note)


def _side_by_side(figures: list[tuple[Metric, Metric, Metric]]) -> Table:
    rows = tuple(
        (a.name.removesuffix(": A"), a.value, b.value, change.value, change.low, change.high, change.n_scored, change.n)
        for a, b, change in figures
    )
    heads = ("figure", "A", "B", MINUS, "low", "high", "n scored", "n")
    return Table(title="side by side", columns=heads, rows=rows, note="on the pairs that both scored; intervals are paired")


def _outcomes(both: _Both) -> Table:
    a_P, b_P = both.a.right_P, both.b.right_P
    counts = [int(np.sum((a_P == a) & (b_P == b))) for a, b in ((1, 1), (1, 0), (0, 1), (0, 0))]
    rows = tuple(zip(("both right", "only A right", "only B right", "both wrong"), counts, strict=True))
    return Table(title="who is right", columns=("outcome", "pairs"), rows=rows, note="pairs scored by both, label ties apart")


def _slice_tables(both: _Both, fdr: float, drop: float) -> tuple[tuple[Table, ...], tuple[Finding, ...]]:
    """A table for each slicing with the paired difference and its q, and a finding for each slice in which B is worse."""
    found: list[tuple[Slicing, list[Paired]]] = []
    for cut in slicings(both.a):
        found.append((cut, [_in_slice(both, cut.slice_P == i) for i in range(len(cut.names))]))
    q_H = false_discovery(np.array([row.p for _, rows in found for row in rows]))
    q_values, tables, worse = iter(q_H.tolist()), [], []
    for cut, rows in found:
        cells = []
        for name, row in zip(cut.names, rows, strict=True):
            q = next(q_values)
            cells.append((name, row.n, row.n_scored, row.a, row.b, row.difference, row.low, row.high, q))
            if q <= fdr and row.difference < 0 and row.difference <= -drop:
                seen = f"{cut.title}: {name}, A {row.a:.3f}, B {row.b:.3f} on {row.n_scored:,} pairs, q {q:.2g}"
                worse.append(Finding("fail", SLICES, row.difference, -drop, seen))
        heads = ("slice", "n", "n scored", "A", "B", MINUS, "low", "high", "q")
        about = f"q: A and B differ here, false discoveries controlled over {len(q_H)} slices"
        note = f"{cut.note}; {about}" if cut.note else about
        tables.append(Table(title=cut.title, columns=heads, rows=tuple(cells), note=note))
    worse.sort(key=lambda finding: finding.value)
    tested = int(np.sum(~np.isnan(q_H)))
    none = Finding("ok", SLICES, 0, -drop, f"in none of {tested} slices is B worse beyond chance and by the least loss")
    if not tested:
        none = Finding("warn", SLICES, math.nan, -drop, "not measured: no slice has pairs that both scored and that have a label")
    return tuple(tables), tuple(worse) or (none,)


def _in_slice(both: _Both, group_P: np.ndarray) -> Paired:
    labelled = int(np.sum(group_P & (both.a.preference_P != 0.5)))
    return paired(both.a.right_P[group_P], both.b.right_P[group_P], both.a.prompts_P[group_P], seed=both.a.seed, n=labelled)


def _overall(whole: Paired, fdr: float, drop: float) -> Finding:
    if whole.n_scored == 0:
        return Finding("warn", OVERALL, math.nan, -drop, "nothing was scored by both and has a label: nothing was compared")
    seen = f"accuracy {whole.difference:+.3f} [{whole.low:+.3f}, {whole.high:+.3f}], p {whole.p:.2g}"
    if whole.p <= fdr and whole.difference < 0 and whole.difference <= -drop:
        return Finding("fail", OVERALL, whole.difference, -drop, f"{seen}: B is worse than A")
    said = "B is better than A" if whole.p <= fdr and whole.difference > 0 else "not worse beyond chance"
    said = f"worse, by less than {drop:g}" if whole.p <= fdr and whole.difference < 0 else said
    limit = "" if math.isnan(whole.smallest) else f"; a difference under {whole.smallest:.3f} would often be missed"
    return Finding("ok", OVERALL, whole.difference, -drop, f"{seen}: {said}{limit}")


def _unscored(a: Side, b: Side) -> Finding:
    missing_a, missing_b = np.isnan(a.margins_P), np.isnan(b.margins_P)
    only_a, only_b = int(np.sum(missing_b & ~missing_a)), int(np.sum(missing_a & ~missing_b))
    why = f"{only_a} pairs were scored by A alone, {only_b} by B alone, {int(np.sum(missing_a & missing_b))} by neither"
    return Finding("warn" if only_a or only_b else "ok", "pairs that both scored", only_a + only_b, 0, f"{why}: in no figure")


def _brier_finding(figures: list[tuple[Metric, Metric, Metric]]) -> tuple[Finding, ...]:
    """Whether B's probabilities are worse: no regression by the rule, but to be looked at."""
    for _, _, change in figures:
        if change.name.startswith(BRIER) and not math.isnan(change.low):
            seen = f"Brier score {change.value:+.4f} [{change.low:+.4f}, {change.high:+.4f}]"
            worse = change.low > 0
            why = f"{seen}: B's probabilities are worse" if worse else f"{seen}: B's probabilities are not worse beyond chance"
            return (Finding("warn" if worse else "ok", "probabilities", change.value, 0, why),)
    return ()


def _examples(both: _Both, num_examples: int) -> tuple[Mapping[str, object], ...]:
    """Pairs on which one is right and the other wrong, those first on which they are furthest apart, each in its own scale."""
    scaled = [c.margins_P / (math.sqrt(mean(np.square(c.margins_P))) or 1.0) for c in (both.a, both.b)]
    order = np.argsort(-np.abs(scaled[1] - scaled[0]), kind="stable")
    change_P = both.b.right_P - both.a.right_P
    shown = []
    for kind, sign in (("only A is right", -1), ("only B is right", 1)):
        for i in [int(i) for i in order if change_P[i] == sign][:num_examples]:
            pair = both.a.pairs[i]
            shown.append(
                {
                    "kind": kind,
                    "prompt": [message.as_dict() for message in pair.prompt],
                    "chosen": pair.chosen,
                    "rejected": pair.rejected,
                    "preference": pair.preference,
                    "margin of A": float(both.a.margins_P[i]),
                    "margin of B": float(both.b.margins_P[i]),
                    "source": pair.source,
                    "id": pair.id,
                }
            )
    return tuple(shown)
