"""The learning curve: accuracy on growing shares of the training pairs, and what doubling them would bring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from assay.console import progress, say
from assay.records import Finding, Metric, Report, Table
from assay.report.html import write_html
from assay.run_files import write_report
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import accuracy, is_right, log_losses
from assay.stats.power_law import MIN_SIZES, Forecast, forecast
from assay.training.checkpoint import trained_weights
from assay.training.loop import fit
from assay.training.prepare import Prepared, prepare
from assay.training.settings import TrainConfig, derive

SMALLEST = 50  # training pairs of the smallest size
MIN_HELDOUT = 20
SAMPLED = 2000  # training pairs of a fit whose accuracy is measured
LACK_OF_FIT = 0.05  # p-value at or below which the power law is not believed
GAIN, LOSS_CHANGE = "accuracy gained by doubling", "change of log loss by doubling"


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveConfig:
    """Train on growing shares of the data: what would doubling it bring?"""

    train: TrainConfig
    points: int = 5
    """Number of sizes, each half of the next, none below 50 pairs."""
    repeats: int = 3
    """Fits at each size, on other prompts or another seed."""

    def __post_init__(self) -> None:
        if self.points < MIN_SIZES:
            raise ValueError(f"--points {self.points}: a curve needs at least {MIN_SIZES} sizes")
        if self.repeats < 2:
            raise ValueError(f"--repeats {self.repeats}: the noise of a fit is seen from at least 2")
        if self.train.kind != "pairs":
            raise ValueError(f"--kind {self.train.kind}: a curve is of pairs, leave it out")
        if self.train.members.ensemble > 1:
            raise ValueError(f"--ensemble {self.train.members.ensemble}: a curve is of single models, leave it out")
        if self.train.machine.resume or self.train.machine.track:
            raise ValueError("--resume and --track do nothing here: a curve keeps no checkpoints and no log of its fits")


class Fits(NamedTuple):
    """K sizes, R repeats, P held-out pairs. sizes: (K, R) training pairs of each fit. right (NaN for label ties), loss: (K, R, P).
    train_right: (K, R) accuracy on a sample of the training pairs."""

    sizes: np.ndarray
    right: np.ndarray
    loss: np.ndarray
    train_right: np.ndarray


def learning_curve(config: CurveConfig) -> Report:
    """Fit every size and repeat from the same start; the report is written to eval/curve.json and curve.html in --out.

    Data are read and frozen layers run once for all fits: they never see a label. Raises ValueError for fewer than 200 training
    pairs, fewer than 20 held-out ones, and too few prompts.
    """
    if config.train.regularization.augment is not None:
        raise ValueError(f"--augment {config.train.regularization.augment}: a curve is of the pairs that there are, leave it out")
    prepared = prepare(config.train)
    split, heldout_rows = _heldout(prepared)
    subsets = _subsets(prepared, config)
    sizes, num_pairs = [len(rows) for rows in subsets[0]], sum(len(rows) for nested in subsets for rows in nested)
    runs = f"{num_pairs / sizes[-1]:.1f} times the training of one run on all"
    say("cost", f"{config.repeats * len(sizes)} fits, {config.repeats} each on {', '.join(f'{n:,}' for n in sizes)} pairs: {runs}")
    fits = run_fits(prepared, subsets, heldout_rows)
    facts = {
        "held out": f"{len(heldout_rows):,} pairs of the {split} split",
        "fits": f"{config.repeats} a size, settings derived for each size",
        "params": config.train.params,
        "base": prepared.base.name,
    }
    report = replace(curve_report(fits, prepared.table.prompt[heldout_rows], seed=config.train.seed), facts=facts)
    write_report(config.train.out, "curve", report)
    write_html(config.train.out / "curve.html", [report], f"Learning curve of {prepared.base.name}")
    for stale in (config.train.out / "cache").glob("activations.*"):
        stale.unlink()
    for finding in report.findings:
        say(finding.name, finding.why)
    say("report", str(config.train.out / "curve.html"))
    return report


def run_fits(prepared: Prepared, subsets: Sequence[Sequence[np.ndarray]], heldout_rows: np.ndarray) -> Fits:
    """Train on the rows of each repeat and size, each time from the same start. The model is left as it was."""
    config, model, table = prepared.config, prepared.model, prepared.table
    start = trained_weights(model)
    evaluated = prepared.heldout_rows if config.regularization.early_stopping else None
    sizes = np.array([[len(rows) for rows in nested] for nested in subsets]).T
    right, loss = np.empty((2, *sizes.shape, len(heldout_rows)))
    train_right = np.empty(sizes.shape)

    def margins(rows: np.ndarray) -> np.ndarray:
        rewards_P2 = prepared.task.rewards(model, rows).astype(np.float64)
        return rewards_P2[:, 0] - rewards_P2[:, 1]

    with progress("fits", int(sizes.sum()), "pairs") as advance:
        for k, repeat in np.ndindex(sizes.shape):
            rows = subsets[repeat][k]
            loop = derive(config, len(rows), prepared.trained.whole.backbone.hidden_size, prepared.compute.device).loop
            loop = replace(loop, seed=config.seed + repeat, weight_decay=prepared.derived.loop.weight_decay)  # that of all pairs
            torch.manual_seed(loop.seed)  # of dropout
            fit(model, prepared.task, rows, loop, heldout_rows=evaluated)
            margins_P, preference_P = margins(heldout_rows), table.preference[heldout_rows].astype(np.float64)
            right[k, repeat] = is_right(margins_P, preference_P)
            loss[k, repeat] = log_losses(margins_P, preference_P)
            sample = np.random.default_rng(loop.seed).permutation(rows)[:SAMPLED]
            train_right[k, repeat] = accuracy(margins(sample), table.preference[sample]).value
            model.load_state_dict(start, strict=False)
            advance(len(rows))
    return Fits(sizes, right, loss, train_right)


def nested_subsets(rows: np.ndarray, prompts: np.ndarray, sizes: Sequence[int], *, seed: Sequence[int]) -> list[np.ndarray]:
    """For each size the rows of the first prompts in a random order, as many whole prompts as come nearest to the size."""
    unique, index = np.unique(prompts, return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(unique))[index]
    reached = np.bincount(place).cumsum()
    return [rows[place <= np.abs(reached - size).argmin()] for size in sizes]


def curve_report(fits: Fits, prompts_P: np.ndarray, *, seed: int) -> Report:
    """Accuracy by size, power laws of error and log loss, the gain from doubling, and a backtest on the last size."""
    sizes_K, full = fits.sizes.mean(axis=1), fits.sizes[-1, 0]
    error, loss = (forecast(sizes_K, values_KRP, prompts_P, seed=seed) for values_KRP in (1 - fits.right, fits.loss))
    metrics = []
    for size, right_RP, train_R in zip(sizes_K, fits.right, fits.train_right, strict=True):
        each_R, right_P = np.nanmean(right_RP, axis=1), right_RP.mean(axis=0)
        note = f"mean of fits from {each_R.min():.3f} to {each_R.max():.3f}; {train_R.mean():.3f} on their training pairs"
        interval, num_labelled = mean_interval(right_P, prompts_P, seed=seed), int(np.sum(~np.isnan(right_P)))
        metrics.append(Metric(f"accuracy, {size:,.0f} pairs", float(each_R.mean()), *interval, num_labelled, len(right_P), note))
    doubling, num_heldout = f"{full:,} -> {2 * full:,} pairs", len(prompts_P)
    points, losses = _doubling(error, -100, ".1f", " points of accuracy"), _doubling(loss, 1, ".3f", " of log loss")
    gain = (-error.change, -error.high, -error.low)
    metrics.append(Metric(GAIN, *gain, metrics[-1].n_scored, num_heldout, f"{doubling}: {points.conditional}"))
    metrics.append(Metric(LOSS_CHANGE, *loss[:3], num_heldout, num_heldout, f"{doubling}: {losses.conditional}"))
    bring = f"doubling {doubling} would bring {points.whole}, and {losses.whole}"
    findings = [Finding("ok", "forecast", 100 * gain[0], 0.0, bring), _law_fits(error, loss)]
    if not math.isnan(error.predicted):
        seen = float(np.nanmean(fits.right[-1]))
        why = f"from the smaller sizes the law predicts {1 - error.predicted:.3f} at {full:,} pairs, seen is {seen:.3f}"
        is_near = error.miss_low <= 0 <= error.miss_high
        how = "within noise" if is_near else "no power law fits this curve; do not trust the forecast"
        findings.append(Finding("ok" if is_near else "warn", "backtest", 100 * (1 - error.predicted - seen), 0.0, f"{why}: {how}"))
    key = {metrics[-3].name: (metrics[-4].name,) if len(metrics) > 3 else (), GAIN: (), LOSS_CHANGE: ()}
    tables, lead = _tables(fits, error, loss), f"{bring[0].upper()}{bring[1:]}."
    return Report(title="Learning curve", metrics=tuple(metrics), tables=tables, findings=tuple(findings), lead=lead, key=key)


class _Doubling(NamedTuple):
    """What doubling brings, in words: whole, and the part that is conditional on the law."""

    whole: str
    conditional: str


def _doubling(found: Forecast, factor: float, digits: str, unit: str) -> _Doubling:
    value = factor * found.change
    low, high = sorted(factor * end for end in (found.law_low, found.law_high))
    wide_low, wide_high = sorted(factor * end for end in (found.low, found.high))
    noise = ", within noise" if low <= 0 <= high else ""
    conditional = f"[{low:+{digits}}, {high:+{digits}}{noise}] conditional on the law"
    wide = f"[{wide_low:+{digits}}, {wide_high:+{digits}}] if the curve may also go flat or on as a line in log n"
    return _Doubling(f"{value:+{digits}}{unit} {conditional}, {wide}", conditional)


def _law_fits(error: Forecast, loss: Forecast) -> Finding:
    """Whether a power law lies within the noise of all points, of both figures (Bonferroni)."""
    p, name = min((min(1.0, 2 * found.fit_p), name) for found, name in ((error, "accuracy"), (loss, "log loss")))
    if p > LACK_OF_FIT:
        return Finding("ok", "fit of the law", p, LACK_OF_FIT, f"all points lie around a power law, within noise (p {p:.2g})")
    why = f"the points of {name} do not lie around a power law (p {p:.2g}): do not trust what is conditional on it"
    return Finding("warn", "fit of the law", p, LACK_OF_FIT, why)


def _tables(fits: Fits, error: Forecast, loss: Forecast) -> tuple[Table, ...]:
    sizes_K, right_K, loss_K = fits.sizes.mean(axis=1), np.nanmean(fits.right, axis=(1, 2)), fits.loss.mean(axis=(1, 2))
    accuracies, losses = [], []
    for size, right, nll, train_right in zip(
        [*sizes_K, 2 * sizes_K[-1]],
        [*right_K, math.nan],
        [*loss_K, math.nan],
        [*fits.train_right.mean(axis=1), math.nan],
        strict=True,
    ):
        label = f"{size:,.0f}"  # as words they stand evenly, which for halvings is a logarithmic axis
        accuracies.append((label, float(right), 1 - float(error.law.at(size)[0]), float(train_right)))
        losses.append((label, float(nll), float(loss.law.at(size)[0])))
    laws = [
        (name, *(float(part[0]) for part in law.law[:3]), float(seen), law.predicted, law.predicted_by_line)
        for name, law, seen in (("error", error, 1 - right_K[-1]), ("log loss", loss, loss_K[-1]))
    ]
    columns, last = ("training pairs", "held out", "power law"), "the last point is the forecast, conditional on the law"
    doubt = "the points hardly separate floor and exponent: the intervals of the forecast include that uncertainty"
    law_columns = ("figure", "floor", "above", "exponent", "seen at N", "predicted by the law", "by a line in log n")
    on_training = (*columns, "on the training pairs")
    title = "floor + above (n / N)^-exponent, and its backtest: N from the smaller sizes"
    return (
        Table(title="accuracy by training pairs", columns=on_training, rows=tuple(accuracies), chart="line", note=last),
        Table(title="log loss by training pairs", columns=columns, rows=tuple(losses), chart="line", note=last),
        Table(title=title, columns=law_columns, rows=tuple(laws), note=doubt),
    )


def _heldout(prepared: Prepared) -> tuple[str, np.ndarray]:
    """Name and rows of the split to measure on: test, or calibration when that is empty."""
    config, split = prepared.config, "test" if len(prepared.table.rows("test")) else "calibration"
    if split == "calibration":
        why = "no pair is in the test split" if config.eval_data is None else f"{config.eval_data} is kept for assay evaluate"
        say("held out", f"the calibration split: {why}")
        if config.regularization.early_stopping:
            raise ValueError(
                "--early-stopping looks at the calibration split, all there is to measure on: give --test, no --eval-data"
            )
    rows = prepared.table.rows(split)
    num_labelled = int((prepared.table.preference[rows] != 0.5).sum())
    if num_labelled < MIN_HELDOUT:
        raise ValueError(
            f"the {split} split has {num_labelled} pairs with a preferred answer, {MIN_HELDOUT} are needed: raise --{split}"
        )
    return split, rows


def _subsets(prepared: Prepared, config: CurveConfig) -> list[list[np.ndarray]]:
    """Training rows for each repeat and size, ascending; within a repeat each set holds the smaller ones."""
    rows, least = prepared.table.rows("train"), SMALLEST * 2 ** (MIN_SIZES - 1)
    if len(rows) < least:
        raise ValueError(f"{len(rows)} training pairs are too few for a curve, {least} are needed: give more --data")
    prompts = prepared.table.prompt[rows]
    sizes = [len(rows) >> k for k in reversed(range(config.points)) if len(rows) >> k >= SMALLEST]
    subsets = [nested_subsets(rows, prompts, sizes, seed=[config.train.seed, repeat]) for repeat in range(config.repeats)]
    if any(len(small) == len(large) for nested in subsets for small, large in pairwise(nested)):
        shared = f"{len(rows)} training pairs share {len(np.unique(prompts))} prompts"
        raise ValueError(f"{shared}, too few to draw whole ones for {len(sizes)} sizes: lower --points, or give more --data")
    return subsets
