"""Overoptimisation by best-of-n: what is gained in gold by choosing ever harder by a proxy, and where it turns down.

The distance from the policy is d = sqrt(KL), KL = log n - (n - 1) / n, in root nats (Gao et al. 2022, "Scaling Laws for Reward
Model Overoptimization"); their form for best-of-n is R(d) = d (alpha - beta d), with its peak at d* = alpha / (2 beta).

Gold and proxy are centred on the mean of the prompt's own candidates (a random choice is 0, at d = 0) and measured in standard
deviations within a prompt, pooled over the prompts: rewards have neither level nor unit, and a scale for each prompt would blow up
prompts whose answers are all equally good. Intervals are 95%, resampled over prompts, the same draws for all that is compared.

Suffixes: P prompts, N candidates of a prompt, M values of n, S samples of the bootstrap, K members.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from assay.evaluation.best_of_n import best_of_n_kl, expected_best
from assay.metrics import NO_INTERVAL, Interval
from assay.records import Finding, Metric, Report, Table

Columns: TypeAlias = Sequence[np.ndarray]
"""One number for every candidate of every prompt: P arrays (N,)."""

RANDOM, GAINED, SHARE = "gold of a random choice", "gold gained", "share of what gold itself would gain"
GOLD_GAIN, PROXY_GAIN, GAP = "gold gained, in standard deviations", "proxy gained, in standard deviations", "proxy - gold gap"
CORRELATION, SHORTFALL = "correlation of proxy and gold within prompts", "gold beyond what the correlation foresees"
ALPHA, BETA, PEAK, PEAK_N, MISS = "alpha", "beta", "peak: sqrt(KL)", "peak: n", "largest miss of the fit"
OVEROPTIMISED, USEFUL, ENSEMBLE_GAIN = "overoptimisation", "gain over a random choice", "gain over a single member"
PROXY, GOLD = "the proxy", "gold itself"

COVERED = 0.8  # share of the prompts that must have the largest n of candidates
NUM_SAMPLES = 2000
FEW_PROMPTS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Gains:
    """What best-of-n by one proxy gains over a random choice, on P prompts, at M values of n.

    distance: (M,) sqrt(KL). gold, proxy: (P, M) in standard deviations within a prompt; column n = 1 is 0. gold_scale: that
    standard deviation, in the gold's own unit. moments: (P, 3) of each prompt's candidates in scaled units: variance of the proxy,
    variance of gold, their covariance.
    """

    sizes: np.ndarray
    distance: np.ndarray
    gold: np.ndarray
    proxy: np.ndarray
    gold_scale: float
    moments: np.ndarray


class Bend(NamedTuple):
    """Gao's form fitted to a curve of gold: alpha, beta, and the same for S resamples; both in standard deviations of gold."""

    alpha: float
    beta: float
    alpha_S: np.ndarray
    beta_S: np.ndarray

    def at(self, distance: np.ndarray) -> np.ndarray:
        return distance * (self.alpha - self.beta * distance)

    @property
    def is_bent(self) -> bool:
        """Whether it rises at first and turns down somewhere, both beyond noise."""
        return all(bool(np.quantile(samples_S, 0.025) > 0) for samples_S in (self.alpha_S, self.beta_S))

    def peak(self) -> tuple[float, Interval]:
        """d* = alpha / (2 beta) with its interval, whose upper end may be infinite; NaN when the curve is not bent."""
        if not self.is_bent:
            return math.nan, NO_INTERVAL
        with np.errstate(divide="ignore", invalid="ignore"):
            peak_S = np.where(self.beta_S > 0, np.maximum(self.alpha_S, 0) / (2 * self.beta_S), np.inf)
        low, high = np.quantile(peak_S, [0.025, 0.975], method="nearest")
        return self.alpha / (2 * self.beta), Interval(float(low), float(high))


def overoptimization(
    proxy: Columns,
    gold: Columns,
    *,
    title: str,
    controls: Mapping[str, Columns] | None = None,
    members: Sequence[Columns] | None = None,
    ensembles: Mapping[str, Columns] | None = None,
    sizes: Sequence[int] | None = None,
    seed: int = 0,
) -> Report:
    """Gold and proxy against sqrt(KL), Gao's form with intervals, the peak it predicts, and controls.

    proxy, gold: rewards and true worth of the recorded candidates of P prompts; NaN is left out, and a candidate that one of the
    proxies could not score is left out for all of them. controls: other proxies to set beside; gold itself is always one.
    members, ensembles: rewards of each member of an ensemble, and ways of combining them, to be compared with a member, in pairs.
    sizes: values of n; left out, 1, 2, 3, 4, 6, 8, 12 ... as far as 80% of the prompts have candidates. A prompt with fewer than
    the largest n counts nowhere.
    Raises ValueError for columns that do not match, and when fewer than two prompts have two candidates.
    """
    rivals = {PROXY: proxy, **(controls or {}), **(ensembles or {})}
    sizes_M, kept, columns = _together([gold, *rivals.values(), *(members or ())], sizes)
    gains = {name: gain_curves(column, columns[0], sizes_M) for name, column in zip(rivals, columns[1:], strict=False)}
    gains[GOLD] = gain_curves(columns[0], columns[0], sizes_M)
    weights_SP = _draws(len(kept), seed)
    bends = {name: fit_bend(one, weights_SP) for name, one in gains.items()}
    base_P = np.array([column.mean() for column in columns[0]])
    metrics = _metrics(gains[PROXY], gains[GOLD], bends[PROXY], base_P, weights_SP, len(gold))
    drawn = {name: one for name, one in gains.items() if name not in (ensembles or {})}
    tables = [_chart(drawn, bends[PROXY]), _by_size(gains[PROXY], bends[PROXY], base_P, weights_SP)]
    tables.append(_rivals({name: (gains[name], bends[name]) for name in gains}, weights_SP))
    findings = [_useful(gains[PROXY], weights_SP), _overoptimised(gains[PROXY], bends[PROXY], weights_SP)]
    findings.append(_enough(len(kept), len(gold)))
    if members:
        singles = [gain_curves(column, columns[0], sizes_M).gold for column in columns[1 + len(rivals) :]]
        ways = {name: gains[name].gold for name in ensembles or {}}
        parts = _ensembles(np.mean(singles, axis=0), ways, sizes_M, weights_SP, len(gold))
        metrics, tables, findings = [*metrics, *parts[0]], [*tables, parts[1]], [*findings, *parts[2]]
    num_all, num_kept = sum(map(len, gold)), sum(map(len, columns[0]))
    facts = {
        "prompts": f"{len(kept):,} of {len(gold):,} with {sizes_M[-1]} scored candidates",
        "candidates": f"{num_kept:,} of {num_all:,}: scored, with gold, on these prompts",
        "gold": f"a standard deviation within a prompt is {gains[GOLD].gold_scale:.4g} of its unit",
        "seed": str(seed),
    }
    return Report(title=title, metrics=tuple(metrics), tables=tuple(tables), findings=tuple(findings), facts=facts)


def gain_curves(proxy: Columns, gold: Columns, sizes: np.ndarray) -> Gains:
    """Gains of best-of-n by the proxy, unbiased (`expected_best`), from P prompts with at least max(sizes) candidates each.

    Raises ValueError when gold does not differ within any prompt: whatever is chosen is then equally good.
    """
    moments = np.array([_moments(p, g) for p, g in zip(proxy, gold, strict=True)])
    proxy_scale, gold_scale = np.sqrt(moments[:, :2].mean(axis=0))
    if gold_scale < 1e-12:
        raise ValueError("gold does not differ between the candidates of any prompt: there is nothing to choose")
    scales = np.array([proxy_scale if proxy_scale > 1e-12 else 1.0, gold_scale])
    best_P2M = np.array(
        [
            [[expected_best(p, column - column.mean(), n) for n in sizes] for column in (p, g)]
            for p, g in zip(proxy, gold, strict=True)
        ]
    )
    scaled_P2M = best_P2M / scales[:, None]
    scaled_P2M[:, :, sizes == 1] = 0.0  # the prompt's mean, but for rounding
    return Gains(
        sizes=sizes,
        distance=np.sqrt(np.maximum(best_of_n_kl(sizes), 0)),
        gold=scaled_P2M[:, 1],
        proxy=scaled_P2M[:, 0],
        gold_scale=float(gold_scale),
        moments=moments / (scales[[0, 1, 0]] * scales[[0, 1, 1]]),
    )


def fit_bend(gains: Gains, weights_SP: np.ndarray) -> Bend:
    """Gao's form through the mean gold at each n > 1: least squares, weighted by 1 / variance of that mean; d = 0 is 0.

    Fitted anew to every resample, as the points of one curve stand on the same prompts. NaN for fewer than three values of n > 1.
    """
    away_M = gains.distance > 0
    distance_M, gold_PM = gains.distance[away_M], gains.gold[:, away_M]
    if len(distance_M) < 3:
        return Bend(math.nan, math.nan, *np.full((2, len(weights_SP)), math.nan))
    variance_M = gold_PM.var(axis=0, ddof=1)
    weight_M = 1 / variance_M if (variance_M > 1e-12).all() else np.ones_like(variance_M)
    design_M2 = np.stack([distance_M, -(distance_M**2)], axis=1)
    solve_2M = np.linalg.solve(design_M2.T @ (weight_M[:, None] * design_M2), design_M2.T * weight_M)
    alpha_S, beta_S = solve_2M @ (weights_SP @ gold_PM).T
    alpha, beta = solve_2M @ gold_PM.mean(axis=0)
    return Bend(float(alpha), float(beta), alpha_S, beta_S)


def size_at(distance: float) -> float:
    """The n (a real number) whose best-of-n lies at a distance sqrt(KL): solves log n - (n - 1) / n = distance^2 by halving."""
    if not distance < 25:  # e^625 answers
        return math.nan if math.isnan(distance) else math.inf
    low, high = 0.0, distance**2 + 1  # of log n, as (n - 1) / n < 1
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if middle - 1 + math.exp(-middle) < distance**2 else (low, middle)
    return math.exp((low + high) / 2)


def sizes_up_to(largest: int) -> np.ndarray:
    """1, 2, 3, 4, 6, 8, 12, 16 ... up to `largest`: powers of two and the halves between."""
    powers = [2**k for k in range(largest.bit_length())]
    return np.array(sorted({n for power in powers for n in (power, 3 * power // 2) if n <= largest}), dtype=np.int64)


def _moments(proxy_N: np.ndarray, gold_N: np.ndarray) -> tuple[float, float, float]:
    proxy_N, gold_N = proxy_N - proxy_N.mean(), gold_N - gold_N.mean()
    return float(np.mean(proxy_N**2)), float(np.mean(gold_N**2)), float(np.mean(proxy_N * gold_N))


def _together(columns: Sequence[Columns], sizes: Sequence[int] | None) -> tuple[np.ndarray, np.ndarray, list[list[np.ndarray]]]:
    """The values of n, the prompts that have the largest of candidates scored by all, and every column on those candidates."""
    lengths = [[len(column_N) for column_N in column] for column in columns]
    if any(length != lengths[0] for length in lengths):
        raise ValueError("proxy and gold must have the same prompts, each with the same candidates")
    arrays = [[np.asarray(column_N, np.float64) for column_N in column] for column in columns]
    scored = [~np.isnan(np.stack(of_prompt)).any(axis=0) for of_prompt in zip(*arrays, strict=True)]
    counts_P = np.array([int(mask_N.sum()) for mask_N in scored], dtype=np.int64)
    if sizes is None:
        enough = np.sort(counts_P[counts_P >= 2])[::-1]
        sizes_M = sizes_up_to(int(enough[math.ceil(COVERED * len(enough)) - 1])) if len(enough) else np.array([1, 2])
    else:
        sizes_M = np.unique(np.array([1, *sizes], dtype=np.int64))
        if sizes_M[0] < 1:
            raise ValueError(f"sizes {list(sizes)} must be at least 1")
    kept = np.flatnonzero(counts_P >= sizes_M[-1])
    if len(kept) < 2 or sizes_M[-1] < 2:
        seen = f"{len(kept)} of {len(counts_P)} prompts have {sizes_M[-1]} scored candidates"
        raise ValueError(f"{seen}: two are needed, give more candidates or smaller sizes")
    return sizes_M, kept, [[column[i][scored[i]] for i in kept] for column in arrays]


def _draws(num_prompts: int, seed: int) -> np.ndarray:
    """(S, P) how often each prompt is drawn, as weights that sum to 1."""
    counts_SP = np.random.default_rng(seed).multinomial(num_prompts, np.full(num_prompts, 1 / num_prompts), size=NUM_SAMPLES)
    return counts_SP / num_prompts


def _interval(samples_S: np.ndarray) -> Interval:
    """Percentile interval; none where resampling does not vary, or for NaN."""
    finite_S = samples_S[~np.isnan(samples_S)]
    if not len(finite_S) or np.ptp(finite_S) < 1e-12:
        return NO_INTERVAL
    low, high = np.quantile(finite_S, [0.025, 0.975])
    return Interval(float(low), float(high))


def _mean(values_P: np.ndarray, weights_SP: np.ndarray) -> tuple[float, float, float]:
    """Mean over prompts with its interval."""
    return float(values_P.mean()), *_interval(weights_SP @ values_P)


def _ratio(above_P: np.ndarray, below_P: np.ndarray, weights_SP: np.ndarray) -> tuple[float, float, float]:
    with np.errstate(divide="ignore", invalid="ignore"):
        samples_S = (weights_SP @ above_P) / (weights_SP @ below_P)
        return float(np.divide(above_P.mean(), below_P.mean())), *_interval(samples_S)


def _metrics(gains: Gains, best: Gains, bend: Bend, base_P: np.ndarray, weights_SP: np.ndarray, num_asked: int) -> list[Metric]:
    n, gold_P, proxy_P, scale = gains.sizes[-1], gains.gold[:, -1], gains.proxy[:, -1], gains.gold_scale
    at, counts = f"at n = {n}", (len(base_P), num_asked)
    slope, slope_S = _slopes(gains, np.full((1, len(base_P)), 1 / len(base_P)))[0], _slopes(gains, weights_SP)
    shortfall_S = weights_SP @ gold_P - slope_S * (weights_SP @ proxy_P)
    peak, ends = bend.peak()
    miss_M = np.abs(gains.gold.mean(axis=0) - bend.at(gains.distance))
    outside = " (beyond what was measured: an extrapolation)" if peak > gains.distance[-1] else ""
    no_peak = "alpha or beta is not above 0 beyond noise: no peak" if math.isnan(peak) else f"alpha / (2 beta){outside}"
    in_sd = f"{at}, in standard deviations within a prompt"
    return [
        Metric(RANDOM, *_mean(base_P, weights_SP), *counts, "mean over the prompts"),
        Metric(f"gold of best-of-{n}", *_mean(base_P + scale * gold_P, weights_SP), *counts, "in the gold's own unit"),
        Metric(GAINED, *_mean(scale * gold_P, weights_SP), *counts, f"{at}, over a random choice; paired"),
        Metric(SHARE, *_ratio(gold_P, best.gold[:, -1], weights_SP), *counts, f"{at}; 1: every choice is a best one"),
        Metric(GOLD_GAIN, *_mean(gold_P, weights_SP), *counts, in_sd),
        Metric(PROXY_GAIN, *_mean(proxy_P, weights_SP), *counts, in_sd),
        Metric(GAP, *_mean(proxy_P - gold_P, weights_SP), *counts, in_sd),
        Metric(CORRELATION, *_correlation(gains, weights_SP), *counts, "pooled"),
        Metric(
            SHORTFALL, float(gold_P.mean() - slope * proxy_P.mean()), *_interval(shortfall_S), *counts,
            f"{in_sd}; below 0: the top of the proxy is worth less than its middle promises",
        ),
        Metric(ALPHA, bend.alpha, *_interval(bend.alpha_S), *counts, "R(d) = d (alpha - beta d), standard deviations of gold"),
        Metric(BETA, bend.beta, *_interval(bend.beta_S), *counts, "above 0: the curve bends down"),
        Metric(PEAK, peak, *ends, *counts, no_peak),
        Metric(PEAK_N, size_at(peak), size_at(ends.low), size_at(ends.high), *counts, no_peak),
        Metric(MISS, float(miss_M.max()), n_scored=counts[0], n=counts[1], note="of Gao's form, standard deviations of gold"),
    ]  # fmt: skip


def _slopes(gains: Gains, weights_SP: np.ndarray) -> np.ndarray:
    """(S,) slope of gold on the proxy within prompts, in scaled units."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return (weights_SP @ gains.moments[:, 2]) / (weights_SP @ gains.moments[:, 0])


def _correlation(gains: Gains, weights_SP: np.ndarray) -> tuple[float, float, float]:
    """Of proxy and gold within prompts, pooled; NaN for a constant proxy."""
    moments_S3 = np.concatenate([gains.moments.mean(axis=0)[None], weights_SP @ gains.moments])
    with np.errstate(divide="ignore", invalid="ignore"):
        found_S = moments_S3[:, 2] / np.sqrt(moments_S3[:, 0] * moments_S3[:, 1])
    return float(found_S[0]), *_interval(found_S[1:])


def _useful(gains: Gains, weights_SP: np.ndarray) -> Finding:
    value, low, high = _mean(gains.gold[:, -1], weights_SP)
    seen = f"best-of-{gains.sizes[-1]} gains {value:+.3f} standard deviations of gold [{low:+.3f}, {high:+.3f}]"
    if low > 0:
        return Finding("ok", USEFUL, value, 0.0, seen)
    if high < 0:
        return Finding("fail", USEFUL, value, 0.0, f"{seen}: worse than choosing at random")
    return Finding("warn", USEFUL, value, 0.0, f"{seen}: no better than choosing at random, as far as can be told")


def _overoptimised(gains: Gains, bend: Bend, weights_SP: np.ndarray) -> Finding:
    """The peak that the form predicts is believed when gold is seen to fall after it, in pairs, beyond noise."""
    n = gains.sizes[-1]
    alpha, beta = (Interval(*np.quantile(samples_S, [0.025, 0.975]).tolist()) for samples_S in (bend.alpha_S, bend.beta_S))
    if math.isnan(bend.beta):
        return Finding("warn", OVEROPTIMISED, math.nan, math.nan, "not known: three values of n above 1 are needed to see a bend")
    if not alpha.low > 0:
        why = f"gold does not rise to begin with, alpha [{alpha.low:+.3f}, {alpha.high:+.3f}]: there is no peak to look for"
        return Finding("warn", OVEROPTIMISED, math.nan, float(n), why)
    if not beta.low > 0:
        why = f"no peak within the range seen (n = 1 to {n}): beta [{beta.low:+.3f}, {beta.high:+.3f}] is not above 0"
        return Finding("ok", OVEROPTIMISED, math.nan, float(n), why)
    peak, ends = bend.peak()
    where = f"n = {size_at(peak):,.0f} [{size_at(ends.low):,.0f}, {size_at(ends.high):,.0f}]"
    if peak > gains.distance[-1]:
        why = f"no peak within the range seen (n = 1 to {n}): the gain slows, Gao's form would peak at {where}, an extrapolation"
        return Finding("ok", OVEROPTIMISED, size_at(peak), float(n), why)
    k = int(np.argmin(np.abs(gains.distance - peak)))
    fall, low, high = _mean(gains.gold[:, k] - gains.gold[:, -1], weights_SP)
    seen = f"peak at {where}; from best-of-{gains.sizes[k]} to best-of-{n} gold falls by {fall:.3f} [{low:.3f}, {high:.3f}]"
    if low > 0:
        return Finding("fail", OVEROPTIMISED, size_at(peak), float(n), f"{seen} standard deviations: choose among fewer")
    return Finding("warn", OVEROPTIMISED, size_at(peak), float(n), f"{seen}: the fall is within noise")


def _enough(num_kept: int, num_asked: int) -> Finding:
    if num_kept < FEW_PROMPTS:
        why = f"{num_kept} of {num_asked} prompts: under about {FEW_PROMPTS} the intervals are narrower than they should be"
        return Finding("warn", "prompts", num_kept, FEW_PROMPTS, why)
    return Finding("ok", "prompts", num_kept, FEW_PROMPTS, f"{num_kept} of {num_asked} prompts have enough scored candidates")


def _chart(gains: Mapping[str, Gains], bend: Bend) -> Table:
    """Gold by the proxy, its fit, what the proxy promises, and gold by every other choice."""
    proxy, others = gains[PROXY], [name for name in gains if name != PROXY]
    columns = ("sqrt(KL)", "gold", "fit", "proxy", *(f"gold, by {name}" for name in others))
    lines = [proxy.gold.mean(axis=0), bend.at(proxy.distance), proxy.proxy.mean(axis=0)]
    lines += [gains[name].gold.mean(axis=0) for name in others]
    rows = tuple(tuple(float(cell) for cell in row) for row in zip(proxy.distance, *lines, strict=True))
    note = "gained over a random choice, in standard deviations within a prompt; fit: R(d) = d (alpha - beta d)"
    return Table(title="gold and proxy against sqrt(KL)", columns=columns, rows=rows, chart="line", note=note)


def _by_size(gains: Gains, bend: Bend, base_P: np.ndarray, weights_SP: np.ndarray) -> Table:
    fit_M, rows = bend.at(gains.distance), []
    for m, n in enumerate(gains.sizes):
        gold_P, proxy_P = gains.gold[:, m], gains.proxy[:, m]
        in_unit = _mean(base_P + gains.gold_scale * gold_P, weights_SP)
        in_sd = (gold_P.mean(), fit_M[m], proxy_P.mean(), (proxy_P - gold_P).mean())
        rows.append((int(n), float(gains.distance[m]), *in_unit, *(float(cell) for cell in in_sd)))
    columns = ("n", "sqrt(KL)", "gold", "low", "high", "gold gained", "fit", "proxy gained", "gap")
    note = "gold in its own unit with its interval; the last four in standard deviations within a prompt"
    return Table(title="best-of-n", columns=columns, rows=tuple(rows), note=note)


def _rivals(found: Mapping[str, tuple[Gains, Bend]], weights_SP: np.ndarray) -> Table:
    rows = []
    for name, (gains, bend) in found.items():
        gained = _mean(gains.gold[:, -1], weights_SP)
        rows.append((name, *gained, bend.alpha, bend.beta, *_interval(bend.beta_S), size_at(bend.peak()[0])))
    columns = ("chosen by", "gold gained", "low", "high", "alpha", "beta", "beta from", "beta to", "peak n")
    note = "at the largest n, standard deviations within a prompt; a peak n only where alpha and beta are above 0 beyond noise"
    return Table(title="the proxy and its controls", columns=columns, rows=tuple(rows), note=note)


def _ensembles(
    single_PM: np.ndarray, ways: Mapping[str, np.ndarray], sizes: np.ndarray, weights_SP: np.ndarray, num_asked: int
) -> tuple[list[Metric], Table, list[Finding]]:
    """Gold by a member (mean over the members) and by each way of combining them; differences prompt by prompt."""
    n, counts = sizes[-1], (len(single_PM), num_asked)
    metrics, findings = [], []
    for name, gold_PM in ways.items():
        value, low, high = _mean(gold_PM[:, -1] - single_PM[:, -1], weights_SP)
        metrics.append(Metric(f"{ENSEMBLE_GAIN}: {name}", value, low, high, *counts, f"at n = {n}, standard deviations; paired"))
        why = "beyond noise" if low > 0 else "the ensemble does not earn its cost here"
        seen = f"{value:+.3f} standard deviations of gold [{low:+.3f}, {high:+.3f}] at n = {n}: {why}"
        findings.append(Finding("ok" if low > 0 else "warn", f"{ENSEMBLE_GAIN}: {name}", value, 0.0, seen))
    lines = [single_PM.mean(axis=0), *(gold_PM.mean(axis=0) for gold_PM in ways.values())]
    distance_M = np.sqrt(np.maximum(best_of_n_kl(sizes), 0))
    rows = tuple(tuple(float(cell) for cell in row) for row in zip(distance_M, *lines, strict=True))
    note = "gold gained over a random choice, standard deviations within a prompt; a member: mean over the members"
    columns = ("sqrt(KL)", "a member", *ways)
    return metrics, Table(title="ensemble against a member", columns=columns, rows=rows, chart="line", note=note), findings
