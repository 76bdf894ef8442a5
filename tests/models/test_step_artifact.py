"""The artifact of a process reward model: a plain token-classification checkpoint whose every step is read as Assay reads it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification, pipeline

from assay.errors import ArtifactError
from assay.evaluation.rescale import save_rescaled
from assay.evaluation.scale import measure_scale
from assay.models.base_checks import form_of
from assay.models.heads import PROCESS, head_named
from assay.models.saved.artifact import load_artifact, save_artifact
from assay.models.saved.artifact_renderer import renderer_of
from assay.models.saved.golden import read_golden
from assay.models.saved.plain import plain_scores
from assay.models.saved.step_policy import StepPolicy
from assay.run_files import fingerprint, read_description, write_description
from step_models import COMPLETIONS, prefix_oracle, save_step_artifact, saved_scorer, step_model
from tiny import tiny_config, tiny_renderer, toy_pairs


@pytest.mark.parametrize("kind", ["llama", "qwen"])
def test_plain_transformers_gives_the_reward_of_every_step(kind, tmp_path):
    path = save_step_artifact(tmp_path / "a", kind)
    rewards = saved_scorer(path).score(COMPLETIONS)
    ours = np.concatenate(rewards.steps)
    for batch_size in (1, 4):
        np.testing.assert_allclose(plain_scores(path, COMPLETIONS, batch_size=batch_size), ours, atol=1e-5)
    for completion, steps in zip(COMPLETIONS, rewards.steps, strict=True):
        np.testing.assert_allclose(prefix_oracle(path, completion), steps, atol=1e-5)
    assert np.ptp(ours) > 0.1
    plain = AutoModelForTokenClassification.from_pretrained(path)
    assert plain.config.id2label == {0: "wrong", 1: "right"}
    np.testing.assert_allclose(plain.score.bias.detach(), [0.3, -0.4])


def test_it_is_what_the_pipeline_of_transformers_takes(tmp_path):
    path = save_step_artifact(tmp_path / "a")
    found = pipeline("token-classification", model=str(path))("It is four.")
    assert {entry["entity"] for entry in found} <= {"wrong", "right"}


def test_a_head_without_a_bias_gets_one_of_zeros(tmp_path):
    save_artifact(step_model(bias=False), tiny_renderer(overlong="keep_start"), tmp_path / "a", {})
    loaded = load_artifact(tmp_path / "a")
    assert loaded.model.outputs == "steps"
    assert torch.equal(loaded.model.head.bias, torch.zeros(2))


def test_what_transformers_has_no_class_for_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="no token-classification class for Gemma3TextConfig: choose another base"):
        save_artifact(step_model("gemma"), tiny_renderer(), tmp_path / "a", {})
    assert form_of(tiny_config("gemma"), PROCESS) is None
    assert form_of(tiny_config("llama"), PROCESS).name == "LlamaForTokenClassification"


def test_how_steps_are_read_is_saved_and_part_of_the_fingerprint(tmp_path):
    policy = StepPolicy(rule="lines", reduction="product", scale=0.5, shift=-1.0)
    path = save_step_artifact(tmp_path / "a", description={"steps": policy.entry()})
    description = read_description(path)
    assert StepPolicy.from_description(description) == policy
    assert fingerprint({**description, "steps": {**description["steps"], "reduction": "min"}}) != description["fingerprint"]
    scorer = saved_scorer(path)
    (steps,) = scorer.score(COMPLETIONS[:1]).steps
    log_right = -np.logaddexp(0, -(0.5 * steps.astype(np.float64) - 1.0))
    np.testing.assert_allclose(scorer.score(COMPLETIONS[:1]).value, [log_right.sum()], rtol=1e-5)
    write_description(path, {**description, "steps": {**description["steps"], "rule": "by taste"}})
    with pytest.raises(ValueError, match="the rule for steps 'by taste' is not known"):
        saved_scorer(path)


def test_a_kind_of_a_later_version_is_refused():
    with pytest.raises(ArtifactError, match="of kind 'thoughts' is not known to this version, which knows scalar, process"):
        head_named("thoughts")


def test_its_golden_vectors_hold_every_step(tmp_path):
    path = save_step_artifact(tmp_path / "a")
    golden = read_golden(path)
    names = [completion.id for completion in golden.completions]
    assert {"one step", "a step with blank lines of its own", "steps that no white space parts"} <= set(names)
    rewards = saved_scorer(path).score(golden.completions)
    for name, completion, saved, now in zip(names, golden.completions, golden.steps, rewards.steps, strict=True):
        if name == "empty answer":
            continue
        assert len(saved) == len(completion.steps) == len(now), name
        np.testing.assert_allclose(now, saved, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(rewards.value, golden.rewards, atol=1e-5)
    long = names.index("longer than max_length")
    assert np.isnan(golden.steps[long]).any()
    assert np.isfinite(golden.steps[long][0])
    assert "cuts off steps" in golden.errors[long]
    items = json.loads((path / "golden.json").read_text())["items"]
    assert all("".join(item["steps"]) == item["response"] for item in items if item["steps"])


def test_an_engine_is_not_asked_for_one_reward_of_a_text(tmp_path):
    path = save_step_artifact(tmp_path / "a")
    with pytest.raises(
        ArtifactError,
        match=r"this engine is asked for one reward of a text: serve it with vLLM \(--runner pooling\) or assay serve",
    ):
        renderer_of(path)


def test_it_is_not_brought_to_another_scale(tmp_path):
    path = save_step_artifact(tmp_path / "a")
    result = measure_scale(np.arange(30.0), np.arange(30.0) * 2, toy_pairs(30), title="scale", seed=0)
    with pytest.raises(ValueError, match="its probabilities: it is not rescaled"):
        save_rescaled(path, tmp_path / "out", result)
