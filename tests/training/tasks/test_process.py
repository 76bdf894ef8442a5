"""Training on labelled steps: what is learnt, what is saved, and that plain transformers gives every step the reward it was
given."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from assay.audit.parity.certificate import make_certificate
from assay.commands.train import train_all
from assay.data.steps.labelled_steps import LabelledSteps
from assay.errors import DataError
from assay.models.saved.plain import plain_scores
from assay.models.saved.step_policy import StepPolicy
from assay.records import Completion
from assay.run_files import CALIBRATION_PROMPTS_FILE, STEP_CALIBRATION, read_description
from assay.scorers.load import load
from assay.stats.metrics import auroc
from assay.training.loop import fit
from assay.training.losses import step_losses
from assay.training.prepare import prepare
from assay.training.rows.solution_rows import solutions
from assay.training.run import fit_and_save, train, train_and_keep
from assay.training.tasks.process import asked, measure
from assay.wire import report_from_json
from step_data import MACHINE, step_config, toy_solutions
from step_models import prefix_oracle


def labelled_scores(scorer, items):
    rewards = scorer.score([item.completion for item in items])
    log_odds = np.concatenate(rewards.steps)
    labels = np.array([np.nan if label is None else label for item in items for label in item.right])
    return log_odds, labels


@pytest.mark.slow
@pytest.mark.parametrize("params", ["head", "head:mean", "blocks:2", "full"])
def test_a_whole_run_learns_calibrates_saves_and_verifies(tmp_path, params, capsys):
    epochs = 8 if params.startswith("head") else 3
    config = step_config(tmp_path, toy_solutions(240), params=params, epochs=epochs, kind="process:product")
    out = train_all(config)
    scorer = load(out, dtype="float32", device="cpu")
    test = list(solutions(config, "test"))
    log_odds, labels = labelled_scores(scorer, test)
    least = 0.6 if params.startswith("head") else 0.95  # a head alone, on random layers
    assert auroc(log_odds, np.where(labels > 0.5, 1.0, np.where(labels < 0.5, 0.0, np.nan))) > least
    completions = [item.completion for item in test[:6]]
    np.testing.assert_allclose(
        plain_scores(out / "artifact", completions), np.concatenate(scorer.score(completions).steps), atol=1e-5
    )
    for completion in completions[:2]:
        np.testing.assert_allclose(prefix_oracle(out / "artifact", completion), scorer.score([completion]).steps[0], atol=1e-5)
    description = read_description(out / "artifact")
    assert description["kind"] == "process"
    policy = StepPolicy.from_description(description)
    assert policy.reduction == "product"
    assert (policy.scale, policy.shift) == (description[STEP_CALIBRATION]["scale"], description[STEP_CALIBRATION]["shift"])
    assert policy.scale > 0
    assert policy.scale != 1.0
    assert (out / "artifact" / CALIBRATION_PROMPTS_FILE).is_file()
    report = report_from_json((out / "eval" / "steps.json").read_text())
    assert report.metric("step AUROC").value > least
    if not params.startswith("head"):
        assert report.metric("PRMScore").value > report.metric("PRMScore: all right").value
    training = report_from_json((out / "eval" / "training.json").read_text())
    assert training.metric("reload check: largest difference").value < 1e-4
    assert training.metric("AUROC of calibration steps").value > least
    assert "calibrated" in capsys.readouterr().err
    if params.startswith("head"):
        certificate = make_certificate(out / "artifact")
        assert {finding.name for finding in certificate.findings if finding.level == "fail"} == set()


def test_the_loss_is_a_mean_over_the_labelled_steps_of_each_solution(tmp_path):
    items = toy_solutions(60, soft=True)
    prepared = prepare(step_config(tmp_path, items))
    rows = prepared.train_rows[:7]
    log_odds, labels = prepared.task.rewards(prepared.model, rows), prepared.task.labels(rows)
    sizes = prepared.table.num_reward_positions[rows]
    expected = []
    for x, y in zip(np.split(log_odds, np.cumsum(sizes)[:-1]), np.split(labels, np.cumsum(sizes)[:-1]), strict=True):
        known = ~np.isnan(y)
        expected.append(float(binary_cross_entropy_with_logits(torch.from_numpy(x[known]), torch.from_numpy(y[known]))))
    assert np.isnan(labels).any()
    assert prepared.task.evaluate(prepared.model, rows)["loss"] == pytest.approx(np.mean(expected), rel=1e-5)
    loss = sum(float(prepared.task.loss(prepared.model, batch).total.detach()) for batch in prepared.task.batches(rows))
    assert loss == pytest.approx(np.sum(expected), rel=1e-5)


def test_steps_without_a_label_have_no_gradient_and_balanced_classes_weigh_alike():
    log_odds = torch.tensor([0.5, -1.0, 2.0], requires_grad=True)
    step_losses(log_odds, torch.tensor([1.0, float("nan"), 0.25]), torch.ones(2)).sum().backward()
    np.testing.assert_allclose(log_odds.grad, [1 / (1 + np.exp(-0.5)) - 1, 0, 1 / (1 + np.exp(-2.0)) - 0.25], rtol=1e-5)
    right = torch.tensor([1.0, 1.0, 1.0, 0.0])
    weighted = step_losses(torch.zeros(4), right, torch.tensor([0.5 / 0.25, 0.5 / 0.75]))
    assert float(weighted[:3].sum()) == pytest.approx(float(weighted[3]))
    with pytest.raises(ValueError, match=r"log-odds \(3,\) and labels \(2,\)"):
        step_losses(torch.zeros(3), torch.zeros(2), torch.ones(2))


def test_balanced_weights_are_those_of_the_training_labels(tmp_path):
    prepared = prepare(step_config(tmp_path, toy_solutions(60), kind="process:balanced"))
    task, rows = prepared.task, prepared.table.rows("train")
    wrong, right = task.weight_2
    assert 1 / wrong + 1 / right == pytest.approx(2)
    assert wrong > right
    plain = replace(task, weight_2=(1.0, 1.0)).evaluate(prepared.model, rows)
    assert task.evaluate(prepared.model, rows)["accuracy"] == plain["accuracy"]
    assert "wrong and right ones count alike" in prepared.reasons["weight_wrong"]


def test_what_stands_behind_the_colon(tmp_path):
    config = step_config(tmp_path, toy_solutions(8), kind="process:lines, balanced,last")
    found = asked(config)
    assert (found.policy.rule, found.policy.reduction, found.is_balanced) == ("lines", "last", True)
    for kind, why in (
        ("process:min,last", "'last' stands beside another"),
        ("process:best", "'best' is none; words are min, product"),
    ):
        with pytest.raises(ValueError, match=why):
            asked(replace(config, kind=kind))


@pytest.mark.slow
def test_the_reduction_may_be_learned_from_outcomes(tmp_path, capsys):
    config = step_config(tmp_path, toy_solutions(200), kind="process:learned", params="blocks:2", epochs=3)
    path = train(config)
    policy = StepPolicy.from_description(read_description(path))
    assert policy.reduction == "learned"
    test = list(solutions(config, "test"))
    value = load(path, dtype="float32", device="cpu").score([item.completion for item in test]).value
    assert auroc(value, np.array([item.outcome for item in test])) > 0.9
    unknown = [replace(item, outcome=None) for item in toy_solutions(60)]
    path = train(step_config(tmp_path, unknown, kind="process:learned", out=tmp_path / "other", epochs=1))
    assert StepPolicy.from_description(read_description(path)).reduction == "min"
    assert "no reduction is learned from 0 solutions" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_was_interrupted_goes_on_to_the_same_model_and_starts_another(tmp_path):
    items = toy_solutions(120, num_problems=50)  # two or three to a problem, which share its question
    whole = step_config(tmp_path, items, params="blocks:2", epochs=2, batch_pairs=10)
    rewards = load(train(whole), dtype="float32", device="cpu").score([item.completion for item in items[:5]])
    cut = replace(whole, out=tmp_path / "cut")
    prepared = prepare(cut)

    class Stop(Exception):
        pass

    def stop(row):
        if row["step"] >= 4:
            raise Stop

    with pytest.raises(Stop):
        fit(
            prepared.model,
            prepared.task,
            prepared.train_rows,
            prepared.derived.loop,
            run_dir=cut.out,
            identity=prepared.identity,
            on_row=stop,
        )
    path = train(replace(cut, machine=replace(MACHINE, resume=True)))
    again = load(path, dtype="float32", device="cpu").score([item.completion for item in items[:5]])
    for one, other in zip(rewards.steps, again.steps, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    more = step_config(tmp_path, items, base=None, init_from=path, out=tmp_path / "more", depth=None, params="head", epochs=1)
    started = prepare(more)
    np.testing.assert_allclose(
        started.model.head.bias.detach(), load(path, device="cpu", dtype="float32").model.head.bias.detach(), atol=1e-6
    )


def test_solutions_that_cannot_be_trained_on_are_counted_or_refused(tmp_path, capsys):
    unknown = [
        LabelledSteps(completion=Completion(messages=f"q{i}", steps=("It is.",)), right=(None,), outcome=1.0) for i in range(3)
    ]
    prepare(step_config(tmp_path, [*toy_solutions(30), *unknown]))
    assert "3 solutions: no step is labelled" in capsys.readouterr().err
    all_right = [item for item in toy_solutions(60) if item.outcome == 1.0]
    with pytest.raises(ValueError, match="every labelled training step is right"):
        prepare(step_config(tmp_path, all_right))
    with pytest.raises(DataError, match="not trained on: 3 solutions: no step is labelled"):
        prepare(step_config(tmp_path, unknown))


def test_a_mean_that_serves_all_steps_is_saved_as_a_plain_model(tmp_path):
    """Kept states, the saved files in one forward, plain transformers, a forward a prefix, and solutions that grow give one reward;
    the golden vectors hold it."""
    config = step_config(tmp_path, toy_solutions(40), params="head:mean", depth="2", epochs=2)
    saved = train_and_keep(config)
    described = json.loads((saved.path / "config.json").read_text())
    assert (described["num_hidden_layers"], described["architectures"]) == (3, ["LlamaForTokenClassification"])
    items = [item.completion for item in solutions(config, "test")][:5]
    scorer = load(saved.path, dtype="float32", device="cpu")
    rewards = scorer.score(items)
    flat = np.concatenate(rewards.steps)
    np.testing.assert_allclose(np.concatenate(saved.scorer.score(items).steps), flat, atol=1e-4)
    assert saved.scorer.known is not None
    np.testing.assert_allclose(plain_scores(saved.path, items), flat, atol=1e-5)
    np.testing.assert_allclose(np.concatenate([prefix_oracle(saved.path, item) for item in items]), flat, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(scorer.grow(items).steps), flat, atol=1e-4)
    assert {one.name for one in make_certificate(saved.path).findings if one.level == "fail"} == set()
    page = measure(config, saved.scorer).result.report()
    entry = read_description(saved.path)[STEP_CALIBRATION]
    few = next(one for one in page.findings if one.name == "problems calibrated on (steps)")
    assert few.value == entry["problems_of_rarer"] < few.threshold
    assert entry["scale_se"] > 0


def test_steps_behind_the_limit_are_not_trained_on(tmp_path, capsys):
    prepared = prepare(step_config(tmp_path, toy_solutions(40), max_length=90))
    assert "steps out" in capsys.readouterr().err
    assert prepared.renderer.overlong == "keep_start"
    assert len(prepared.table.values) < sum(len(item.right) for item in toy_solutions(40))


@pytest.mark.slow
def test_the_depth_is_probed_by_right_and_wrong_steps_of_one_solution(tmp_path):
    prepared = prepare(step_config(tmp_path, toy_solutions(160), depth="auto"))
    assert prepared.probe is not None
    assert np.nanmax(prepared.probe.accuracies_LR) > 0.8
    saved = fit_and_save(prepared)
    layers = json.loads((saved.path / "config.json").read_text())["num_hidden_layers"]
    assert layers == prepared.probe.depth
