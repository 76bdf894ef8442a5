"""`assay model rescale`: a model mapped by the factor is the same model in other units."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import assay
from assay.commands.model import rescale
from assay.commands.shared import Pairs, Where
from assay.data.pairs import write_pairs
from assay.data.raw.rows import slug
from assay.data.split import prompt_hashes
from assay.errors import DataError
from assay.evaluation.equal_kl import equal_kl_factor
from assay.evaluation.rescale import scaled_calibration
from assay.evaluation.scale import scale_factor
from assay.models.reward_model import RewardModel
from assay.models.saved.artifact import save_artifact, verify_digest
from assay.models.saved.plain import plain_scores
from assay.records import PreferencePair, Report
from assay.run_files import CALIBRATION_PROMPTS_FILE, PROMPTS_FILE, prompt_file, read_description, read_report, write_description
from assay.scorers.base import margins, prefer
from assay.scorers.local import load_local
from assay.scorers.wrappers.calibrated import Calibrated, Calibration, fit_calibration
from assay.stats.metrics import sigmoid
from tiny import tiny_model, tiny_renderer, toy_pairs

FLOAT32: dict[str, Any] = {"dtype": "float32", "device": "cpu"}
DRAWN = np.random.default_rng(0).normal(size=(2, 60))


def test_a_mapped_calibration_gives_mapped_margins_the_same_probabilities():
    calibration = fit_calibration(DRAWN[0], preference_P=(DRAWN[0] + DRAWN[1] > 0).astype(float), split="by hand", scorer="other")
    mapped = scaled_calibration(calibration, 0.3)
    for method in ("temperature", "monotone"):
        expected_P = calibration.probability(DRAWN[1], method)
        np.testing.assert_allclose(mapped.probability(0.3 * DRAWN[1], method), expected_P, rtol=1e-12)
    assert mapped.temperature_se / mapped.temperature == pytest.approx(calibration.temperature_se / calibration.temperature)
    assert mapped.scorer == ""


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


def rescaled(old: Path, new: Path, data: Path, *, out: Path | None = None, limit: int | None = None) -> Report:
    """By the command, and the report that it kept with the new model."""
    pairs, where = Pairs(data=(str(data),), limit=limit), Where(out=out, **FLOAT32)
    assert rescale.run(rescale.Config(old=str(old), new=str(new), pairs=pairs, where=where)) == 0
    report = read_report(new, f"rescale-{slug(str(data))}")
    assert report is not None
    return report


def raw_margins(model: Path, pairs: list[PreferencePair]) -> np.ndarray:
    return margins(load_local(model, **FLOAT32), pairs)


def test_the_report_is_made_of_raw_margins_and_kept_with_the_new_model(old, new, reference):
    report = rescaled(old, new, reference)
    old_P, new_P = (raw_margins(model / "artifact", toy_pairs(40, num_prompts=30)) for model in (old, new))
    factor = report.metric("factor")
    assert factor.value == pytest.approx(scale_factor(old_P, new_P), rel=1e-4)
    assert factor.low < factor.value < factor.high
    assert (factor.n_scored, factor.n, report.facts["prompts"]) == (40, 40, "30")
    assert report.metric("agreement").value == pytest.approx(np.mean(old_P * new_P > 0))
    assert report.facts["model"] == read_description(new / "artifact")["fingerprint"]


def test_with_candidates_the_factor_is_solved_for_an_equal_pull(old, new, reference, tmp_path):
    words = "so it is a thing that one can say of a pond and a road".split()  # noqa: SIM905
    rng = np.random.default_rng(0)
    groups = [[" ".join(rng.choice(words, 6)) for _ in range(8)] for _ in range(25)]
    rows = [{"prompt": f"tell me {i}", "candidates": group, "gold": [None] * 8} for i, group in enumerate(groups)]
    (tmp_path / "rollouts.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    completions = [assay.Completion(messages=f"tell me {i}", response=text) for i, group in enumerate(groups) for text in group]
    rewards = [load_local(m / "artifact", **FLOAT32).score(completions).value.astype(float).reshape(25, 8) for m in (old, new)]
    beta = float(rewards[0].std())
    pairs, where, out = Pairs(data=(str(reference),)), Where(out=tmp_path / "mapped", **FLOAT32), tmp_path / "mapped"
    asked = {"candidates": str(tmp_path / "rollouts.jsonl"), "beta": beta}
    assert rescale.run(rescale.Config(old=str(old), new=str(new), pairs=pairs, where=where, **asked)) == 0
    report = read_report(new, f"rescale-{slug(str(reference))}")
    solved = equal_kl_factor(list(rewards[0]), list(rewards[1]), beta)
    assert report.metric("factor").value == pytest.approx(solved.factor, rel=1e-3)
    assert report.metric("factor by the spread of the margins").value != report.metric("factor").value
    assert read_description(out)["scale"]["factor"] == report.metric("factor").value
    assert read_description(out)["scale"]["reference"]["num_pairs"] == 40


def test_a_coefficient_goes_with_candidates_and_not_alone(old, new, reference):
    pairs = Pairs(data=(str(reference),))
    with pytest.raises(ValueError, match="--beta alone says nothing: give --candidates FILE too"):
        rescale.Config(old=str(old), new=str(new), pairs=pairs, beta=0.1)
    with pytest.raises(ValueError, match="--candidates alone says nothing: give --beta COEFFICIENT too"):
        rescale.Config(old=str(old), new=str(new), pairs=pairs, candidates="x.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mapped_model_is_the_new_one_in_units_of_the_old(old, reference, tmp_path, dtype):
    new, out = save_new(tmp_path, tiny_model(seed=1), dtype), tmp_path / "deep" / "mapped"
    report = rescaled(old, new, reference, out=out)
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
    again = rescaled(old, out, reference)
    assert again.metric("factor").value == pytest.approx(1, abs=1e-4)


def test_the_mapped_model_keeps_its_record_and_says_how_it_was_mapped(old, new, reference, tmp_path):
    out = tmp_path / "mapped"
    out.mkdir()  # an empty directory will do
    factor = rescaled(old, new, reference, out=out).metric("factor")
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
    report = rescaled(old, old, reference)
    assert report.metric("factor")[1:4] == (1, 1, 1)
    assert report.metric("agreement").value == 1
    assert {finding.level for finding in report.findings} == {"ok"}


def test_an_uncalibrated_model_is_mapped_too(old, reference, tmp_path):
    rescaled(old, old, reference, out=tmp_path / "mapped")
    assert json.loads((tmp_path / "mapped" / "reward.json").read_text())["calibration"] is None
    assert prompt_file(tmp_path / "mapped", PROMPTS_FILE) is None


def test_what_cannot_be_mapped_is_refused_and_leaves_nothing(old, new, reference, tmp_path):
    out = tmp_path / "mapped"
    with pytest.raises(ValueError, match="19 of 19 pairs were scored by both: give --data of at least 20"):
        rescaled(old, new, reference, out=out, limit=19)
    with pytest.raises(ValueError, match=r"--out .*old exists and is not an empty directory"):
        rescaled(old, new, reference, out=old)
    write_pairs(tmp_path / "seen.jsonl", toy_pairs(30, first=890))
    with pytest.raises(DataError, match=r"20 of the 30 prompts of seen.jsonl are also in the training set of .*new"):
        rescaled(old, new, tmp_path / "seen.jsonl", out=out)
    assert not (tmp_path / "mapped").exists()
    assert not (new / "eval").exists()
