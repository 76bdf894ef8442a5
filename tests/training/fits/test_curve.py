"""The learning curve: its law on curves that are known, and the whole command on a tiny base."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
import torch

from assay.stats.power_law import fit_power_law, forecast, lack_of_fit, noise_of
from assay.training.fits.curve import GAIN, CurveConfig, Fits, curve_report, learning_curve, nested_subsets, run_fits
from assay.training.prepare import prepare
from assay.training.run import train
from assay.training.settings import Regularization, TrainConfig
from assay.training.tasks.pairs import pair_figures
from assay.wire import report_from_json, report_to_json
from tiny import toy_pairs
from toy_runs import config_of

SIZES = np.array([100.0, 200, 400, 800, 1600])
quantile = np.vectorize(NormalDist().inv_cdf)

# The law


@pytest.mark.parametrize(("floor", "above", "exponent"), [(0.2, 0.1, 0.5), (0.0, 0.3, 0.15), (0.25, 0.02, 1.0), (0.3, -0.05, 0.3)])
def test_without_noise_the_law_is_found_exactly(floor, above, exponent):
    law = fit_power_law(SIZES, (floor + above * (SIZES / 1600) ** -exponent)[None])
    assert (law.floor[0], law.above[0], law.exponent[0]) == pytest.approx((floor, above, exponent), abs=1e-9)
    assert law.at(3200)[0] == pytest.approx(floor + above * 2**-exponent)


def test_a_floor_is_never_negative():
    falling = 0.5 - 0.12 * np.log2(SIZES / 100)  # a line in log n heads for minus infinity
    law = fit_power_law(SIZES, falling[None])
    assert law.floor[0] == 0
    assert 0 < law.at(1e9)[0] < falling[-1]


def errors_of(error_K: np.ndarray, seed: int, *, num_pairs: int = 400) -> np.ndarray:
    """Simulated errors, 0 or 1, (K, 3, P): hard pairs are hard at every size, and the fits of a size differ by 1.5 points."""
    rng = np.random.default_rng(seed)
    error_KR = error_K[:, None] + 0.015 * rng.standard_normal((len(error_K), 3))
    hardness_KRP = 0.8 * rng.standard_normal(num_pairs) + 0.6 * rng.standard_normal((len(error_K), 3, num_pairs))
    return (hardness_KRP > quantile(1 - error_KR)[:, :, None]).astype(float)


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [lambda n: 0.25 + 2 * n**-0.5, lambda n: 0.2 + 1.2 * n**-0.3, lambda n: 0.9 * n**-0.15, lambda n: 0.35 + 0 * n]
)
def test_the_interval_covers_the_truth_in_most_of_100_trials(error: Callable[[np.ndarray], np.ndarray]):
    """The last one is flat: its truth is 0."""
    truth = float(error(np.array(3200.0)) - error(np.array(1600.0)))
    found = [forecast(SIZES, errors_of(error(SIZES), seed), np.arange(400), seed=seed) for seed in range(100)]
    assert sum(one.low <= truth <= one.high for one in found) >= 90
    assert sum(one.law_low <= truth <= one.law_high for one in found) >= 90
    assert np.mean([one.law_high - one.law_low for one in found]) < 0.04
    assert np.mean([one.high - one.low for one in found]) < 0.06
    assert sum(one.miss_low <= 0 <= one.miss_high for one in found) >= 90


def test_the_backtest_predicts_a_law_and_a_line_predicts_a_line():
    law, line = 0.2 + 2 * SIZES**-0.5, 0.5 - 0.03 * np.log2(SIZES / 100)
    same = lambda values_K: np.repeat(values_K, 3 * 10).reshape(5, 3, 10)  # noqa: E731
    found = forecast(SIZES, same(law), np.arange(10), seed=0)
    assert found.predicted == pytest.approx(law[-1], abs=1e-9)
    assert found.predicted_by_line < law[-1] - 0.01
    assert (found.change, found.law_low, found.law_high) == pytest.approx([2 * 3200**-0.5 - 2 * 1600**-0.5] * 3, abs=1e-9)
    assert found.fit_p == 1
    slope = np.polyfit(np.log2(SIZES), law, 1, w=np.sqrt(SIZES))[0]
    assert (found.low, found.high) == (pytest.approx(slope), 0.0), "a line falls on, a plateau does not fall"
    assert forecast(SIZES, same(line), np.arange(10), seed=0).low == pytest.approx(-0.03)
    assert forecast(SIZES, same(line), np.arange(10), seed=0).predicted_by_line == pytest.approx(line[-1])
    assert np.isnan(forecast(SIZES[:3], same(law)[:3], np.arange(10), seed=0).predicted)


def test_prompts_are_drawn_whole_and_ties_left_out():
    values = np.zeros((3, 2, 40))
    values[:, :, :20] = 1.0  # 2 prompts of 20 pairs: their mean is 0, 1/2 or 1
    values[:, :, 0] = np.nan
    means_SK = noise_of(values, np.repeat([3, 9], 20), seed=0).means_SK
    assert set(np.round(np.unique(means_SK), 6)) == {0, round(19 / 39, 6), 1}
    assert (means_SK[:, :1] == means_SK).all()  # the same draw for all sizes


SHAPES = {
    "saturates at once": lambda s: 0.25 + 0.2 * np.exp(-4 * s),
    "saturates late": lambda s: 0.2 + 0.2 / (1 + np.exp(3 * (np.log2(s) + 1.5))),
    "saturates early": lambda s: 0.3 + 0.15 * np.exp(-12 * s),
    "Michaelis": lambda s: 0.35 - 0.15 * s / (s + 0.15),
    "a line": lambda s: 0.3 - 0.02 * np.log2(s),
    "a law": lambda s: 0.15 + 0.1 * s**-0.3,
    "flat": lambda s: 0.3 + 0 * s,
}


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_the_whole_interval_holds_the_truth_whatever_the_shape(shape: str):
    """Curves that a power law does not describe, over prompts of one pair and of two: 93 of 100 intervals hold the truth."""
    error, share = SHAPES[shape], SIZES / SIZES[-1]
    truth = float(error(np.array(2.0)) - error(np.array(1.0)))
    found = [forecast(SIZES, errors_of(error(share), seed), np.arange(400) // (1 + seed % 2), seed=seed) for seed in range(100)]
    assert sum(one.low <= truth <= one.high for one in found) >= 93


@pytest.mark.slow
def test_the_lack_of_fit_test_keeps_its_level_and_sees_what_is_no_law():
    law = lambda s: 0.2 + 0.08 * s**-0.35  # noqa: E731
    jump = lambda s: np.where(s < 0.4, 0.4, 0.28)  # noqa: E731

    def rejected(error: Callable[[np.ndarray], np.ndarray]) -> int:
        values = [errors_of(error(SIZES / SIZES[-1]), seed) for seed in range(100)]
        noises = [noise_of(each, np.arange(400), seed=seed) for seed, each in enumerate(values)]
        p = [lack_of_fit(SIZES, v.mean(axis=(1, 2)), n, seed=0, num_samples=200) for v, n in zip(values, noises, strict=True)]
        return int(np.sum(np.array(p) <= 0.05))

    assert rejected(law) <= 5 + 2 * 2.2
    assert rejected(jump) >= 60


# The subsets


def test_subsets_are_nested_and_hold_whole_prompts():
    prompts = np.random.default_rng(0).integers(90, size=400)
    rows = np.arange(1000, 1400)
    subsets = nested_subsets(rows, prompts, [50, 100, 200, 400], seed=[0, 0])
    assert [len(subset) for subset in subsets] == pytest.approx([50, 100, 200, 400], abs=3)
    assert subsets[-1].tolist() == rows.tolist()
    for small, large in pairwise(subsets):
        assert set(small) < set(large)
    for subset in subsets:
        inside = set(prompts[subset - 1000])
        assert len(subset) == sum(prompt in inside for prompt in prompts)
    other = nested_subsets(rows, prompts, [50], seed=[0, 1])[0]
    assert set(other) != set(subsets[0])


# The command


def curve_of(folder: Path, **settings) -> CurveConfig:
    pairs = toy_pairs(520, num_prompts=400)
    return CurveConfig(train=config_of(folder, pairs, learning_rate=1e-3, **settings), points=3, repeats=2)


@pytest.mark.slow
def test_the_whole_command(tmp_path, capsys):
    config = curve_of(tmp_path)
    report = learning_curve(config)
    printed = " ".join(capsys.readouterr().err.split())
    assert "6 fits, 2 each on" in printed
    assert "points of accuracy [" in printed
    kept = (config.train.out / "eval" / "curve.json").read_text()
    assert report_to_json(report) == kept
    assert "<svg" in (config.train.out / "curve.html").read_text()
    assert list((config.train.out / "cache").glob("activations.*")) == []
    names = [metric.name for metric in report.metrics]
    assert [name.startswith("accuracy, ") for name in names] == [True, True, True, False, False]
    accuracies, losses, laws = report.tables
    assert len(accuracies.rows) == len(losses.rows) == 4
    for row, metric in zip(accuracies.rows[:3], report.metrics[:3], strict=True):
        assert row[1] == pytest.approx(metric.value)
        assert metric.name == f"accuracy, {row[0]} pairs"
    gain = report.metric(GAIN)
    assert gain.value == pytest.approx(accuracies.rows[3][2] - accuracies.rows[2][2])
    assert gain.low <= gain.value <= gain.high
    names = [finding.name for finding in report.findings]
    assert names == ["forecast", "fit of the law"], "three sizes: nothing to test the forecast on"
    assert laws.rows[0][4] == pytest.approx(1 - accuracies.rows[2][1])
    assert report_to_json(learning_curve(config)) == kept  # a seed is a curve


@pytest.mark.slow
def test_at_the_full_size_the_first_fit_is_the_plain_run_and_the_model_is_left_as_it_was(tmp_path):
    config = curve_of(tmp_path, test=0.0, params="blocks:1").train
    prepared = prepare(config)
    before = {name: value.clone() for name, value in prepared.model.state_dict().items()}
    rows, heldout_rows = prepared.table.rows("train"), prepared.table.rows("calibration")
    fits = run_fits(prepared, [[rows[:60], rows], [rows[:50], rows]], heldout_rows)
    assert all(torch.equal(value, before[name]) for name, value in prepared.model.state_dict().items())
    start = pair_figures(prepared.task.rewards(prepared.model, heldout_rows), prepared.table.preference[heldout_rows])
    assert fits.loss[1, 0].mean() < start.loss
    assert fits.sizes.tolist() == [[60, 50], [len(rows), len(rows)]]
    assert (fits.loss[1, 0] != fits.loss[1, 1]).any()  # another seed
    train(config)
    plain = report_from_json((config.out / "eval" / "training.json").read_text())
    assert fits.right[1, 0].mean() == plain.metric("accuracy on calibration pairs").value
    assert fits.train_right[1, 0] == plain.metric("accuracy on training pairs").value
    last = [row for row in (config.out / "metrics.jsonl").read_text().splitlines() if "heldout_loss" in row][-1]
    assert f'"heldout_loss": {fits.loss[1, 0].mean():.4f}'[:-1] in last


def test_a_curve_that_is_no_power_law_is_said_to_be_none():
    """Error 0.4 until the last size, then 0.1: nothing foresaw it."""
    right = 1 - np.stack([errors_of(np.full(5, 0.4), seed=1), errors_of(np.full(5, 0.1), seed=2)])
    right = np.concatenate([right[0, :4], right[1, 4:]])
    fits = Fits(np.repeat(SIZES[:, None], 3, axis=1).astype(int), right, 1 - right, right.mean(axis=2))
    doubling, fitted, test = curve_report(fits, np.arange(400), seed=0).findings
    assert doubling.level == "ok"
    assert doubling.why.startswith("doubling 1,600 -> 3,200 pairs would bring +")
    assert "conditional on the law" in doubling.why
    assert fitted.level == "warn"
    assert "do not lie around a power law" in fitted.why
    assert test.level == "warn"
    assert "no power law fits this curve" in test.why


def test_a_flat_curve_is_within_noise():
    right = 1 - errors_of(np.full(5, 0.35), seed=3)
    fits = Fits(np.repeat(SIZES[:, None], 3, axis=1).astype(int), right, 1 - right, right.mean(axis=2))
    assert "within noise" in curve_report(fits, np.arange(400), seed=0).findings[0].why


# What is refused


@pytest.mark.parametrize(("settings", "match"), [({"points": 2}, "at least 3 sizes"), ({"repeats": 1}, "at least 2")])
def test_too_few_points_or_repeats_are_refused(tmp_path, settings, match):
    with pytest.raises(ValueError, match=match):
        CurveConfig(train=TrainConfig(data=("x",), base="y", out=tmp_path), **settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pairs", "settings", "match"),
    [
        (toy_pairs(200), {}, "training pairs are too few for a curve, 200 are needed: give more --data"),
        (toy_pairs(600, num_prompts=4), {"calibration": 0.4, "test": 0.0}, "prompts, too few to draw whole ones"),
        (toy_pairs(400), {"test": 0.01}, "20 are needed: raise --test"),
        (
            toy_pairs(400),
            {"test": 0.0, "regularization": Regularization(early_stopping=2)},
            "--early-stopping looks at the calibration split",
        ),
    ],
)
def test_data_that_cannot_bear_a_curve_is_refused(tmp_path, pairs, settings, match):
    with pytest.raises(ValueError, match=match):
        learning_curve(CurveConfig(train=config_of(tmp_path, pairs, **settings)))
