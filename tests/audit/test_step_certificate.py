"""The certificate of a process reward model: every step is replayed, and every way of reading steps wrong is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from assay.audit.parity.against import REMOTE, RemoteEngine
from assay.audit.parity.certificate import ENGINE, GOLDEN, GOLDEN_TOKENS, Certificate, make_certificate
from assay.audit.parity.step_traps import CLOSED, JOINED, SOFTMAX
from assay.cli import main
from assay.errors import ArtifactError
from assay.models.saved.golden import GOLDEN_FILE, read_golden
from assay.report.card import render_card
from assay.run_files import read_description
from assay.scorers.local import LocalScorer
from serving import service_of, serving
from step_models import save_step_artifact, saved_scorer
from tiny import tiny_model, tiny_renderer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    return save_step_artifact(tmp_path_factory.mktemp("steps") / "artifact")


@pytest.fixture
def saved(pristine, tmp_path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "artifact"))


def found(certificate: Certificate, name: str):
    (one,) = [finding for finding in certificate.findings if finding.name == name]
    return one


def failed(certificate: Certificate) -> set[str]:
    return {finding.name for finding in certificate.findings if finding.level == "fail"}


def test_a_sound_artifact_passes_and_every_step_was_compared(saved, capsys):
    assert main(["audit", "verify", str(saved), "--verbose"]) == 0
    assert "ok   a prefix a forward" in capsys.readouterr().out
    certificate = make_certificate(saved)
    assert failed(certificate) == set()
    golden = read_golden(saved)
    num_steps = sum(int(np.isfinite(steps).sum()) for steps in golden.steps)
    assert num_steps > len(golden.completions)
    for name in ("difference from the golden rewards", "difference from plain transformers"):
        assert certificate.page.metric(name).n_scored == num_steps
    for name in (JOINED, CLOSED, SOFTMAX):
        assert found(certificate, name).value > 1e-3, f"{name} was tried and shifts rewards"
    assert found(certificate, "truncation side").value < 1e-4


def test_one_step_that_differs_is_found(saved):
    content = json.loads((saved / GOLDEN_FILE).read_text())
    item = next(item for item in content["items"] if item["id"] == "three steps")
    item["step_rewards"][1] += 0.5
    (saved / GOLDEN_FILE).write_text(json.dumps(content))
    assert failed(make_certificate(saved)) == {GOLDEN}
    assert found(make_certificate(saved), GOLDEN).value == pytest.approx(0.5, abs=1e-3)
    del item["step_rewards"][1]
    (saved / GOLDEN_FILE).write_text(json.dumps(content))
    assert "steps now and had" in found(make_certificate(saved), GOLDEN).why


def test_a_tokenizer_that_was_changed_is_found(saved):
    content = json.loads((saved / "tokenizer.json").read_text())
    content["model"]["merges"] = content["model"]["merges"][:20]
    (saved / "tokenizer.json").write_text(json.dumps(content))
    assert GOLDEN_TOKENS in failed(make_certificate(saved))


def test_a_tokenizer_that_cuts_the_front_is_found(saved):
    tokenizer = AutoTokenizer.from_pretrained(saved)
    tokenizer.truncation_side = tokenizer.init_kwargs["truncation_side"] = "left"
    tokenizer.save_pretrained(saved)
    # the renderer sets it right when the artifact is loaded; plain readers are the ones that would cut the question off
    assert "text to tokens" in failed(make_certificate(saved))


def test_weights_that_were_changed_are_refused(saved):
    weights = load_file(saved / "model.safetensors")
    weights["score.bias"] += 1.0
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="the weights were changed"):
        make_certificate(saved)


def test_an_engine_that_gives_the_rows_of_tokens_is_compared_step_by_step(saved):
    with serving(service_of(saved_scorer(saved))) as client:
        sound = make_certificate(saved, remote=RemoteEngine(url=str(client.base_url).rstrip("/")))
    assert failed(sound) == set()
    assert sound.page.metric(REMOTE).n_scored == sound.page.metric("difference from plain transformers").n_scored
    shifted = saved_scorer(saved)
    with torch.no_grad():
        shifted.model.head.bias.zero_()
    with serving(service_of(shifted)) as client:
        wrong = make_certificate(saved, remote=RemoteEngine(url=str(client.base_url).rstrip("/")))
    assert failed(wrong) == {REMOTE}
    assert "every reward differs by +0.7: the engine has lost the bias" in found(wrong, REMOTE).why
    with serving(service_of(LocalScorer(tiny_model(), tiny_renderer(), identity="scalar"))) as client:
        other = make_certificate(saved, remote=RemoteEngine(url=str(client.base_url).rstrip("/")))
    assert "use classify" in found(other, ENGINE).why


def test_the_card_says_how_steps_are_read(saved):
    card = render_card(read_description(saved), [])
    for line in (
        "AutoModelForTokenClassification",
        "pipeline_tag: token-classification",
        "cut by blank-lines where none are given; P(right) = sigmoid(1 x log-odds +0); reduced by min",
        "gives a number to every step of a solution",
    ):
        assert line in card
    assert "AutoModelForSequenceClassification" not in card


def test_what_the_card_says_to_type_gives_the_rewards_of_the_steps(saved):
    from assay.models.saved.step_card import STEP_CARD
    from assay.records import Completion

    code = (
        STEP_CARD["load_transformers"].removeprefix("```python\n").removesuffix("```").replace("path/to/this/directory", str(saved))
    )
    names: dict = {}
    exec(code, names)
    completion = Completion(messages=names["messages"][:1], steps=tuple(names["steps"]))
    np.testing.assert_allclose(names["log_odds"].numpy(), saved_scorer(saved).score([completion]).steps[0], atol=1e-5)
