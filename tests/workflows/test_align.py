"""The factor between two models keeps its laws, and a model mapped by it is the same model in other units."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from safetensors.torch import load_file
from scipy.stats import spearmanr

import assay
from assay.cli import _FLAGS
from assay.data.pairs import write_pairs
from assay.data.split import prompt_hashes
from assay.errors import DataError
from assay.metrics import Interval, difference_interval
from assay.models.artifact import (
    PROMPTS_FILE,
    read_description,
    save_artifact,
    verify_digest,
    write_description,
)
from assay.models.plain import plain_scores
from assay.models.reward_model import RewardModel
from assay.records import PreferencePair, Report
from assay.scorers.base import margins, prefer, sigmoid
from assay.scorers.calibrate import Calibrated, Calibration, fit_calibration
from assay.scorers.local import load_local
from assay.wire import report_from_json
from assay.workflows.align import (
    AlignConfig,
    align_scale,
    compare_margins,
    paired_interval,
    rank_correlation,
    robust_factor,
    scale_factor,
    scaled_calibration,
)
from assay.workflows.rundir import prompt_file
from assay.workflows.steps import CALIBRATION_PROMPTS_FILE
from tiny import tiny_model, tiny_renderer, toy_pairs

FLOAT32: dict[str, Any] = {"dtype": "float32", "device": "cpu"}
DRAWN = np.random.default_rng(0).normal(size=(2, 60))


# the factor


def test_the_factor_of_a_multiple_is_the_multiple_and_known_exactly():
    old_P = DRAWN[0]
    assert scale_factor(2.5 * old_P, old_P) == pytest.approx(2.5)
    assert robust_factor(2.5 * old_P, old_P) == pytest.approx(2.5)
    interval = paired_interval(scale_factor, 2.5 * old_P, old_P, np.arange(60) // 2, seed=0)
    assert interval == pytest.approx((2.5, 2.5))


def test_there_and_back_is_one_whatever_the_two_models_share():
    assert scale_factor(*DRAWN) * scale_factor(*DRAWN[::-1]) == pytest.approx(1)
    assert robust_factor(*DRAWN) * robust_factor(*DRAWN[::-1]) == pytest.approx(1)
    there, back = (paired_interval(scale_factor, *pair, np.arange(60), seed=0) for pair in (DRAWN, DRAWN[::-1]))
    assert there.low * back.high == pytest.approx(1, abs=1e-3)


def test_which_answer_is_called_chosen_changes_nothing():
    signs_P = np.where(np.arange(60) % 3 == 0, -1.0, 1.0)
    for measure in (scale_factor, robust_factor, rank_correlation):
        assert measure(*(signs_P * DRAWN)) == pytest.approx(measure(*DRAWN))


def test_figures_by_hand():
    old_P, new_P = np.array([3.0, -4.0, 0.0]), np.array([1.0, -2.0, 2.0])
    assert scale_factor(old_P, new_P) == pytest.approx(5 / 3)  # sqrt(9 + 16) / sqrt(1 + 4 + 4)
    assert robust_factor(old_P, new_P) == pytest.approx(3 / 2)
    # signed mid-ranks of |margin| less 1/2: old 1.5, -2.5, 0; new 0.5, -2, 2
    assert rank_correlation(old_P, new_P) == pytest.approx((0.75 + 5) / math.sqrt(8.5 * 8.25))
    assert math.isnan(robust_factor(old_P, np.array([1.0, 0.0, 0.0])))


def test_the_rank_correlation_is_spearman_s_over_both_orders():
    old_P, new_P = DRAWN[0].round(1), (DRAWN[0] + DRAWN[1]).round(1)  # with ties and zeros
    both = [np.concatenate([margins_P, -margins_P]) for margins_P in (old_P, new_P)]
    assert rank_correlation(old_P, new_P) == pytest.approx(float(spearmanr(*both).statistic))


def test_noise_in_either_model_does_not_shrink_the_factor_as_a_regression_would():
    rng = np.random.default_rng(1)
    shared_P = rng.normal(size=20_000)
    old_P, new_P = (shared_P + rng.normal(size=20_000) for _ in range(2))
    assert scale_factor(old_P, new_P) == pytest.approx(1, abs=0.02)
    assert float(old_P @ new_P / (new_P @ new_P)) == pytest.approx(0.5, abs=0.02)


def test_the_interval_covers_the_factor_when_pairs_share_prompts():
    """40 prompts of three pairs whose margins share a size: taking the pairs as independent would cover too rarely."""
    rng, covered = np.random.default_rng(2), 0
    for trial in range(100):
        old_P, new_P = (np.repeat(rng.normal(size=40), 3) + 0.3 * rng.normal(size=120) for _ in range(2))
        low, high = paired_interval(scale_factor, 2 * old_P, new_P, np.repeat(np.arange(40), 3), seed=trial, num_samples=200)
        covered += low <= 2 <= high
    assert covered >= 88


def test_one_prompt_has_no_interval():
    assert np.isnan(paired_interval(scale_factor, *DRAWN, np.zeros(60), seed=0)).all()


# what is reported


def level(report: Report, name: str) -> str:
    (finding,) = [finding for finding in report.findings if finding.name == name]
    return finding.level


def test_ties_and_unscored_pairs_are_counted_and_left_out():
    pairs = toy_pairs(26)
    old_P, new_P = np.ones(26), np.ones(26)
    old_P[0], new_P[1], new_P[2] = np.nan, np.inf, -1
    old_P[3] = old_P[4] = new_P[4] = new_P[5] = new_P[6] = 0
    report = compare_margins(old_P, new_P, pairs)
    agreement, ties, factor = (report.metric(name) for name in ("agreement", "tied pairs", "factor"))
    assert (agreement.value, agreement.n_scored, agreement.n) == (pytest.approx(19 / 20), 20, 26)
    assert (ties.value, ties.n_scored, ties.n) == (4, 24, 26)
    assert ties.note == "margin 0: old alone 1, new alone 2, both 1"
    assert (factor.value, factor.n_scored) == (pytest.approx(math.sqrt(22 / 21)), 24)
    assert level(report, "unscored pairs") == "warn"
    accuracies = [report.metric(f"accuracy: {name}").value for name in ("old", "new", "new minus old")]
    assert accuracies == pytest.approx([22 / 24, 20 / 24, -2 / 24])


def test_a_set_of_ties_has_no_accuracy_and_all_else():
    report = compare_margins(*DRAWN, [replace(pair, preference=0.5) for pair in toy_pairs(60)])
    assert [metric.name for metric in report.metrics][-1] == "rank correlation of margins"
    assert report.metric("factor").n_scored == 60


def test_the_difference_in_accuracy_is_paired():
    """Two models that differ on three pairs of sixty: their own intervals, taken as independent, would say far less."""
    new_P = np.where(np.arange(60) < 3, -np.abs(DRAWN[0]), DRAWN[0])
    report = compare_margins(DRAWN[0], new_P, toy_pairs(60))
    old, new, paired = (report.metric(f"accuracy: {name}") for name in ("old", "new", "new minus old"))
    assert paired.value == pytest.approx(new.value - old.value)
    apart = difference_interval(new.value, Interval(new.low, new.high), old.value, Interval(old.low, old.high))
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)


def test_what_casts_doubt_on_the_factor_is_warned_of():
    pairs, same_P = toy_pairs(60), DRAWN[0]
    names = ("certainty of the factor", "one factor for all", "agreement", "unscored pairs")
    fine = compare_margins(2 * same_P, same_P, pairs)
    assert [finding.name for finding in fine.findings] == list(names)
    assert {finding.level for finding in fine.findings} == {"ok"}
    unrelated = compare_margins(*DRAWN, pairs)
    assert (level(unrelated, names[0]), level(unrelated, names[2])) == ("warn", "warn")
    tails_P = same_P.copy()
    tails_P[:3] *= 20
    assert level(compare_margins(tails_P, same_P, pairs), names[1]) == "warn"
    one_prompt = compare_margins(2 * same_P, same_P, toy_pairs(60, num_prompts=1))
    assert level(one_prompt, names[0]) == "warn"
    assert math.isnan(one_prompt.metric("factor").low)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (np.full(60, np.nan), DRAWN[0], "0 of 60 pairs were scored by both"),
        (np.zeros(60), DRAWN[0], "OLD gives equal rewards"),
        (DRAWN[0], np.zeros(60), "NEW gives equal rewards"),
    ],
)
def test_what_has_no_scale_is_refused(old, new, message):
    with pytest.raises(ValueError, match=message):
        compare_margins(old, new, toy_pairs(60))


def test_a_mapped_calibration_gives_mapped_margins_the_same_probabilities():
    calibration = fit_calibration(DRAWN[0], preference_P=(DRAWN[0] + DRAWN[1] > 0).astype(float), split="by hand", scorer="other")
    mapped = scaled_calibration(calibration, 0.3)
    for method in ("temperature", "monotone"):
        expected_P = calibration.probability(DRAWN[1], method)
        np.testing.assert_allclose(mapped.probability(0.3 * DRAWN[1], method), expected_P, rtol=1e-12)
    assert mapped.temperature_se / mapped.temperature == pytest.approx(calibration.temperature_se / calibration.temperature)
    assert mapped.scorer == ""


# the command


@pytest.fixture
def reference(tmp_path) -> Path:
    write_pairs(tmp_path / "reference.jsonl", toy_pairs(40, num_prompts=30))
    return tmp_path / "reference.jsonl"


@pytest.fixture
def old(tmp_path) -> Path:
    save_artifact(tiny_model(), tiny_renderer(), tmp_path / "old" / "artifact", {"title": "old"})
    return tmp_path / "old"


def save_new(folder: Path, model: RewardModel, dtype: torch.dtype = torch.float32) -> Path:
    """A run directory with a calibrated artifact that knows its training and calibration prompts."""
    path = folder / "new" / "artifact"
    seen = toy_pairs(40, first=900)
    save_artifact(model, tiny_renderer(), path, {"title": "new"}, dtype=dtype, train_prompts=prompt_hashes(seen[:20]))
    np.save(path / CALIBRATION_PROMPTS_FILE, prompt_hashes(seen[20:]))
    calibration = fit_calibration(margins(load_local(path, **FLOAT32), seen), split="by hand")
    write_description(path, {**read_description(path), "calibration": calibration.to_json()})
    return folder / "new"


@pytest.fixture
def new(tmp_path) -> Path:
    return save_new(tmp_path, tiny_model(seed=1))


def raw_margins(model: Path, pairs: list[PreferencePair]) -> np.ndarray:
    return margins(load_local(model, **FLOAT32), pairs)


def test_the_report_is_made_of_raw_margins_and_kept_with_the_new_model(old, new, reference):
    report = align_scale(AlignConfig(old=old, new=new, reference=str(reference), **FLOAT32))
    old_P, new_P = (raw_margins(model / "artifact", toy_pairs(40, num_prompts=30)) for model in (old, new))
    factor = report.metric("factor")
    assert factor.value == pytest.approx(scale_factor(old_P, new_P), rel=1e-4)
    assert factor.low < factor.value < factor.high
    assert (factor.n_scored, factor.n, report.facts["prompts"]) == (40, 40, "30")
    assert report.metric("agreement").value == pytest.approx(np.mean(old_P * new_P > 0))
    kept = report_from_json((new / "eval" / "align-reference.json").read_text())
    assert kept.metric("factor") == factor
    assert kept.facts["model"] == read_description(new / "artifact")["fingerprint"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mapped_model_is_the_new_one_in_units_of_the_old(old, reference, tmp_path, dtype):
    new, out = save_new(tmp_path, tiny_model(seed=1), dtype), tmp_path / "deep" / "mapped"
    report = align_scale(AlignConfig(old=old, new=new, reference=str(reference), out=out, **FLOAT32))
    factor, pairs = report.metric("factor"), toy_pairs(8, first=400)
    completions = [completion for pair in pairs for completion in pair.completions()]
    before, after = (assay.load(path, **FLOAT32) for path in (new, out))
    expected = factor.value * before.score(completions).value
    np.testing.assert_allclose(after.score(completions).value, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(plain_scores(out, completions), expected, rtol=1e-4, atol=1e-4)
    assert isinstance(after, Calibrated)
    np.testing.assert_allclose(prefer(after, pairs), prefer(before, pairs), atol=1e-6)
    assert np.abs(prefer(after, pairs) - sigmoid(margins(after, pairs))).max() > 0.01  # the calibration does something
    verify_digest(out)
    weights, kept = load_file(out / "model.safetensors"), load_file(new / "artifact" / "model.safetensors")
    assert weights.keys() == kept.keys()
    assert all(torch.equal(weights[name], kept[name]) for name in kept if name != "score.weight")
    again = align_scale(AlignConfig(old=old, new=out, reference=str(reference), **FLOAT32))
    assert again.metric("factor").value == pytest.approx(1, abs=1e-4)


def test_the_mapped_model_keeps_its_record_and_says_how_it_was_mapped(old, new, reference, tmp_path):
    out = tmp_path / "mapped"
    out.mkdir()  # an empty directory will do
    factor = align_scale(AlignConfig(old=old, new=new, reference=str(reference), out=out, **FLOAT32)).metric("factor")
    record, before = read_description(out), read_description(new / "artifact")
    assert record["scale"] == {
        "aligned_to": read_description(old / "artifact")["fingerprint"],
        "model": before["fingerprint"],
        "reference": {"name": "reference.jsonl", "num_pairs": 40},
        "factor": factor.value,
        "low": factor.low,
        "high": factor.high,
    }
    assert record["title"] == "new"
    assert record["fingerprint"] != before["fingerprint"]
    assert Calibration.from_json(record["calibration"]).num_pairs == 40
    for name in (PROMPTS_FILE, CALIBRATION_PROMPTS_FILE):
        np.testing.assert_array_equal(prompt_file(out, name), prompt_file(new / "artifact", name))
    assert "rank correlation of margins" in (out / "README.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"old", "new", "mapped", "reference.jsonl"}


def test_a_model_against_itself_needs_no_factor(old, reference):
    report = align_scale(AlignConfig(old=old, new=old, reference=str(reference), **FLOAT32))
    assert report.metric("factor")[1:4] == (1, 1, 1)
    assert report.metric("agreement").value == 1
    assert {finding.level for finding in report.findings} == {"ok"}


def test_an_uncalibrated_model_is_mapped_too(old, reference, tmp_path):
    align_scale(AlignConfig(old=old, new=old, reference=str(reference), out=tmp_path / "mapped", **FLOAT32))
    assert json.loads((tmp_path / "mapped" / "reward.json").read_text())["calibration"] is None
    assert prompt_file(tmp_path / "mapped", PROMPTS_FILE) is None


def test_what_cannot_be_mapped_is_refused_and_leaves_nothing(old, new, reference, tmp_path):
    config = AlignConfig(old=old, new=new, reference=str(reference), out=tmp_path / "mapped", **FLOAT32)
    with pytest.raises(ValueError, match="19 of 19 pairs were scored by both: give a --reference of at least 20"):
        align_scale(replace(config, limit=19))
    with pytest.raises(ValueError, match=r"--out .*old exists and is not an empty directory"):
        align_scale(replace(config, out=old))
    write_pairs(tmp_path / "seen.jsonl", toy_pairs(30, first=890))
    with pytest.raises(DataError, match=r"20 of the 30 prompts of .*seen.jsonl are also in the training set of .*new"):
        align_scale(replace(config, reference=str(tmp_path / "seen.jsonl")))
    assert not (tmp_path / "mapped").exists()
    assert not (new / "eval").exists()


def test_the_two_models_are_named_by_their_place():
    flags: Any = {"args": ["a", "b", "--reference", "pairs.jsonl", "--out", "c"], "config": _FLAGS}
    config = tyro.cli(AlignConfig, **flags)
    assert config == AlignConfig(old=Path("a"), new=Path("b"), reference="pairs.jsonl", out=Path("c"))
