"""An engine that serves a process artifact gives the steps of the artifact in this process: of our own and of adopted models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import assay
from assay.cli import main
from assay.models.saved.artifact_renderer import renderer_of
from assay.records import Completion
from assay.rl.search.growing import values_of
from assay.scorers.base import step_reader
from assay.scorers.checks import check_scorer
from assay.scorers.http.remote import RemoteScorer
from fake_engine import fake_engine
from process_models import QUESTION as ASKED
from process_models import SAVED, steps_of
from serving import service_of, serving
from step_models import COMPLETIONS, QUESTION, save_step_artifact, saved_scorer

LONG = Completion(messages=QUESTION, steps=tuple(f"Step {n}: it is two and {n}.\n\n" for n in range(12)))
MIXED = [
    *COMPLETIONS,
    Completion(messages=QUESTION, response="It is\n\nfour."),
    LONG,
    Completion(messages=QUESTION, steps=("It is two.\n\n", "\n\n", "four.")),
    Completion(messages=QUESTION, steps=("It is two.\n\n", "four.\n\n", " ")),
    Completion(messages=QUESTION, response=" "),
    Completion(text="<|im_start|>user\nhi<|im_end|>"),
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    description = {"steps": {"rule": "blank-lines", "reduction": "product", "scale": 0.7, "shift": 0.2}}
    return save_step_artifact(tmp_path_factory.mktemp("served") / "artifact", description=description, max_length=160)


@pytest.fixture(scope="module")
def url(path):
    with serving(service_of(saved_scorer(path))) as client:
        yield str(client.base_url)


def equal(theirs, ours) -> None:
    np.testing.assert_allclose(theirs.value, ours.value, atol=1e-4)
    for one, other in zip(theirs.steps, ours.steps, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert theirs.error == ours.error


def test_an_engine_gives_the_rewards_of_the_artifact_that_it_serves(path, url):
    engine, ours = assay.load(f"vllm+{url}/v1#{path}"), saved_scorer(path)
    assert isinstance(engine, RemoteScorer)
    assert engine.address == f"{url}/pooling"
    equal(engine.score(MIXED), ours.score(MIXED))
    assert engine.step_threshold == pytest.approx(ours.step_threshold)
    np.testing.assert_allclose(engine.step_probability([1.0, math.nan]), ours.step_probability([1.0, math.nan]))
    assert engine.score([]).value.shape == (0,)


def test_the_laws_of_scorers_hold(path, url):
    check_scorer(RemoteScorer(url, engine="vllm", artifact=path, chunk=2), MIXED)


@pytest.mark.parametrize("form", ["math-shepherd", "rlhflow", "skywork-o1", "trl"])
def test_an_adopted_model_is_laid_out_here_and_asked_for_by_its_ids(form, tmp_path):
    theirs = SAVED[form](tmp_path / "theirs")
    assert main(["model", "adopt", f"{theirs}#{form}", "--out", str(tmp_path / "ours")]) == 0
    items = [Completion(messages=ASKED, steps=steps_of(form)[:num]) for num in (3, 1)]
    items.append(Completion(messages=ASKED, steps=(steps_of(form)[0], "  \n", "Six.")))
    ours = assay.load(tmp_path / "ours", dtype="float32")
    with serving(service_of(ours)) as client:
        found = assay.load(f"vllm+{client.base_url}", artifact=tmp_path / "ours").score(items)
    equal(found, ours.score(items))
    assert "step 2 is empty" in found.error[2]
    np.testing.assert_allclose(found.steps[2], [found.steps[1][0], math.nan, math.nan], atol=1e-4)


@pytest.mark.parametrize("engine", ["sglang", "tei", "openrlhf"])
def test_engines_without_labels_of_tokens_are_refused_with_the_way_out(engine, path):
    with pytest.raises(ValueError, match=r"rewards steps\. .*: serve it with vLLM .*assay serve"):
        RemoteScorer("http://127.0.0.1:1", engine=engine, artifact=path)
    with pytest.raises(assay.errors.ArtifactError, match="this engine is asked for one reward of a text"):
        renderer_of(path)


def test_without_the_artifact_steps_are_refused_with_its_name(url):
    (error,) = RemoteScorer(url, engine="vllm").score(COMPLETIONS[:1]).error
    assert "name the artifact that vLLM serves" in error


def labels(ids: list[int]) -> list[list[Any]]:
    """A number for each token that tells it from the others; NaN for a token behind the thirtieth."""
    return [[0.0, float(token) if place < 30 else math.nan] for place, token in enumerate(ids)]


def test_rows_are_taken_at_the_ends_of_steps_and_one_that_is_not_finite_leaves_the_steps_before_it(path):
    asked: list[dict[str, Any]] = []

    def answer(where: str, body: dict[str, Any]) -> tuple[int, Any]:
        asked.append(body)
        return 200, {"data": [{"index": i, "data": labels(ids)} for i, ids in reversed(list(enumerate(body["input"])))]}

    with fake_engine(answer) as url:
        engine = RemoteScorer(url, engine="vllm", artifact=path, model="prm", attempts=1, client=None)
        rewards = engine.score(COMPLETIONS[:2])
    rendered = saved_scorer(path).renderer.render(COMPLETIONS[:2])
    for item, steps_S, error in zip(rendered, rewards.steps, rewards.error, strict=True):
        ends = item.reward_positions
        np.testing.assert_allclose(steps_S, np.where(ends < 30, item.tokens[ends], np.nan))
        first = int((ends >= 30).argmax()) + 1
        assert error == f"the model gave a reward that is not finite, from step {first} on"
    assert asked[0]["task"] == "token_classify"
    assert (asked[0]["model"], asked[0]["use_activation"], asked[0]["add_special_tokens"]) == ("prm", False, False)
    assert [len(ids) for ids in asked[0]["input"]] == [item.reward_positions[-1] + 1 for item in rendered]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (lambda ids: [1.0] * len(ids), "the rows of all tokens"),
        (lambda ids: [[0.0, 1.0]], "the rows of all tokens"),
        (lambda ids: [[0.0, 1.0], [2.0]], "the rows of all tokens"),
        (lambda ids: [[0.0, 1.0, 2.0]] * len(ids), "gives 3 numbers a token"),
    ],
)
def test_an_engine_that_answers_something_else_is_a_reason_not_a_reward(reply, reason, path):
    with fake_engine(lambda where, body: (200, {"data": [{"data": reply(ids)} for ids in body["input"]]})) as url:
        rewards = RemoteScorer(url, engine="vllm", artifact=path, attempts=1).score(COMPLETIONS[:2])
    assert np.isnan(rewards.value).all()
    assert [len(steps) for steps in rewards.steps] == [3, 3]
    assert all(reason in error for error in rewards.error)


def test_a_remote_service_says_what_its_rewards_of_steps_mean(path, url):
    """So that a search and an evaluation over HTTP have the figures of the artifact in this process."""
    remote, ours = RemoteScorer(url), saved_scorer(path)
    reads = step_reader(remote)
    assert reads is not None
    assert reads.step_threshold == pytest.approx(ours.step_threshold)
    rewards = remote.score(COMPLETIONS)
    expected = values_of(ours.score(COMPLETIONS), "product", ours.step_probability)
    np.testing.assert_allclose(values_of(rewards, "product", reads.step_probability), expected, atol=1e-4)
