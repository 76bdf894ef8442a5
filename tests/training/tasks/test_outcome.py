"""Training on outcomes: the baseline of process rewards on the same problems, saved as a plain model of one reward."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from torch import from_numpy
from torch.nn.functional import binary_cross_entropy_with_logits

from assay.commands.train import train_all
from assay.errors import DataError
from assay.models.saved.plain import plain_scores
from assay.run_files import STEP_CALIBRATION, read_description
from assay.scorers.load import load
from assay.stats.metrics import auroc
from assay.training.prepare import prepare
from assay.training.rows.solution_rows import solutions
from assay.training.tasks.outcome import outcome_of
from assay.wire import report_from_json
from step_data import step_config, toy_solutions


@pytest.mark.slow
def test_a_whole_run_learns_calibrates_and_saves_a_plain_model(tmp_path):
    config = step_config(
        tmp_path, toy_solutions(240, num_problems=60), kind="outcome", params="blocks:2", epochs=6, learning_rate=3e-3
    )
    out = train_all(config)
    scorer = load(out, dtype="float32", device="cpu")
    test = list(solutions(config, "test"))
    completions = [replace(item.completion, steps=None) for item in test]
    rewards = scorer.score(completions)
    assert rewards.steps is None
    assert auroc(rewards.value, np.array([item.outcome for item in test])) > 0.6
    np.testing.assert_allclose(plain_scores(out / "artifact", completions[:5]), rewards.value[:5], atol=1e-5)
    description = read_description(out / "artifact")
    assert description["kind"] == "scalar"
    assert description[STEP_CALIBRATION]["scale"] > 0
    report = report_from_json((out / "eval" / "outcomes.json").read_text())
    assert report.metric("outcome AUROC").value == pytest.approx(
        auroc(rewards.value, np.array([i.outcome for i in test])), abs=1e-3
    )
    assert report.metric("right above wrong solution").n > 0


def test_the_loss_is_that_of_the_reward_and_the_share_of_right_answers(tmp_path):
    prepared = prepare(step_config(tmp_path, toy_solutions(60, soft=True), kind="outcome"))
    rows = prepared.table.rows("train")
    labels = prepared.task.labels(rows)
    offset = np.log(labels.mean() / (1 - labels.mean()))
    logits = from_numpy(prepared.task.rewards(prepared.model, rows) + offset.astype(np.float32))
    expected = float(binary_cross_entropy_with_logits(logits, from_numpy(labels)))
    assert prepared.task.evaluate(prepared.model, rows)["loss"] == pytest.approx(expected, rel=1e-5)
    assert prepared.task.offset == pytest.approx(offset, abs=1e-6)


def test_outcomes_may_be_those_of_the_steps(tmp_path):
    unknown = [replace(item, outcome=None) for item in toy_solutions(40)]
    config = step_config(tmp_path, unknown, kind="outcome:all-steps")
    assert [outcome_of(config, item) for item in unknown] == [item.outcome for item in toy_solutions(40)]
    open_end = replace(unknown[0], right=(1.0, *[None] * (len(unknown[0].right) - 1)))
    assert outcome_of(config, open_end) is None
    with pytest.raises(DataError, match="--kind outcome:all-steps takes the steps for it"):
        prepare(step_config(tmp_path, unknown, kind="outcome"))
    with pytest.raises(ValueError, match="behind outcome stands nothing, or all-steps"):
        prepare(step_config(tmp_path, unknown, kind="outcome:steps"))
    with pytest.raises(ValueError, match="every training solution is right"):
        prepare(step_config(tmp_path, [item for item in toy_solutions(60) if item.outcome], kind="outcome"))


def test_the_depth_is_probed_by_right_and_wrong_solutions_of_one_problem(tmp_path):
    prepared = prepare(step_config(tmp_path, toy_solutions(120, num_problems=40), kind="outcome", depth="auto"))
    assert prepared.probe is not None
    assert np.nanmax(prepared.probe.accuracies_LR) > 0.6
