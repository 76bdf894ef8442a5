"""Texts of a run are forwarded once: calibration, test and reference take what the run has kept, and get the same rewards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from assay.commands.train import train_all
from assay.run_files import read_description
from assay.scorers.local import load_local
from assay.scorers.packed_reads import PackedReads
from assay.training import run as module
from assay.training.prepare import prepare
from assay.training.run import fit_and_save
from assay.wire import report_from_json
from tiny import toy_pairs
from toy_runs import MACHINE, config_of


def answers_of(config, split):
    return [completion for pair in config.run_data.pairs(split) for completion in pair.completions()]


@pytest.mark.slow
@pytest.mark.parametrize("params", ["head", "head:mean", "blocks:1"])
def test_kept_states_give_the_rewards_and_states_of_the_saved_files_without_a_forward(tmp_path, monkeypatch, params):
    config = config_of(
        tmp_path, toy_pairs(120), params=params, depth="3", learning_rate=3e-3, machine=replace(MACHINE, reference=80)
    )
    saved = fit_and_save(prepare(config))
    forwarded = load_local(saved.path, dtype="float32", device="cpu")
    for split in ("calibration", "test", "train"):
        answers = answers_of(config, split)
        rewards, states = forwarded.score_with_states(answers)
        with monkeypatch.context() as patch:
            patch.setattr(PackedReads, "_batches", lambda *arguments: pytest.fail("a known text was forwarded"))
            kept, kept_states = saved.scorer.score_with_states(answers)
            np.testing.assert_allclose(saved.scorer.score(answers).value, rewards.value, atol=1e-4)
        np.testing.assert_allclose(kept.value, rewards.value, atol=1e-4)
        np.testing.assert_allclose(kept_states, states, atol=1e-3)
    strangers = [completion for pair in toy_pairs(4, first=900) for completion in pair.completions()]
    mixed = [*strangers[:3], *answers[:2], *strangers[3:]]
    np.testing.assert_allclose(saved.scorer.score(mixed).value, forwarded.score(mixed).value, atol=1e-4)


def test_a_whole_run_forwards_each_text_once_after_the_cache_but_for_a_few_checks(tmp_path, monkeypatch):
    """Calibration, test and reference together: no batch is packed for a known text; 16 answers are scored both ways."""
    seen: list[int] = []
    real = PackedReads._batches

    def spy(self, completions, rendered):
        seen.append(len(completions))
        return real(self, completions, rendered)

    monkeypatch.setattr(PackedReads, "_batches", spy)
    config = config_of(tmp_path, toy_pairs(200), params="head", depth="3", machine=replace(MACHINE, reference=80))
    out = train_all(config)
    assert sum(seen) == 2 * module.NUM_CHECKED  # beside plain transformers, and beside the kept states
    assert read_description(out / "artifact")["calibration"]["num_pairs"] > 20
    assert report_from_json((out / "eval" / "test.json").read_text()).metric("accuracy").n > 20
    assert (out / "artifact" / "monitor" / "reference.safetensors").is_file()
    assert not list((out / "cache").glob("activations.*"))


def test_states_that_give_other_rewards_than_the_saved_files_are_not_used(tmp_path, monkeypatch, capsys):
    """A saved model that is not the one that was trained: its texts are forwarded, and it is said."""
    config = config_of(tmp_path, toy_pairs(60), params="head", depth="2")
    prepared = prepare(config)
    prepared.task.source.states_RD = np.array(prepared.task.source.states_RD) + 1.0
    saved = fit_and_save(prepared)
    assert saved.scorer.known is None
    assert "texts are forwarded again" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_what_keeps_no_states_has_none(tmp_path):
    for params in ("full", "lora:2"):
        saved = fit_and_save(prepare(config_of(tmp_path, toy_pairs(40), params=params, out=tmp_path / params[:4])))
        assert saved.scorer.known is None
