"""Published process models in the commands: they are scorers, and nothing else is said of them than their name."""

from __future__ import annotations

import json

import numpy as np
import pytest

import assay
from assay.cli import main
from assay.data.pairs import write_pairs
from assay.data.steps.labelled_steps import LabelledSteps
from assay.evaluation.steps.step_scores import score_steps
from assay.records import PreferencePair
from assay.serve.build import make_service
from assay.serve.serve_config import ServeConfig
from process_models import PARAGRAPHS, QUESTION, save_qwen_math_prm, save_token_labels
from serving import service_of, serving

FLAGS = ["--device", "cpu", "--dtype", "float32"]
RIGHT, WRONG = "".join(PARAGRAPHS), "".join([*PARAGRAPHS[:2], "So it is 7."])


@pytest.fixture
def model(tmp_path) -> str:
    return f"{save_token_labels(tmp_path / 'theirs')}#trl"


def test_score_writes_a_value_for_each_step(model, tmp_path, capsys):
    rows = [
        {"prompt": QUESTION, "response": RIGHT},
        {"prompt": QUESTION, "response": RIGHT, "steps": list(PARAGRAPHS)},
        {"prompt": QUESTION, "response": " "},
    ]
    source, out = tmp_path / "solutions.jsonl", tmp_path / "rewards.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["score", model, "--input", str(source), "--output", str(out), *FLAGS]) == 1
    found = [json.loads(line) for line in out.read_text().splitlines()]
    expected = assay.load(model, dtype="float32", device="cpu").score([assay.Completion(messages=QUESTION, steps=PARAGRAPHS)])
    for row in found[:2]:
        np.testing.assert_allclose(row["steps"], expected.steps[0], atol=1e-6)
        assert row["value"] == pytest.approx(min(row["steps"]))
    assert found[2]["value"] is None
    assert found[2]["error"] == "there are no steps: the response is empty"
    assert "read at '\\n' behind each step" in capsys.readouterr().err


def test_evaluate_and_best_of_n_take_them(tmp_path, capsys):
    model = str(save_qwen_math_prm(tmp_path / "theirs"))
    pairs = [PreferencePair(prompt=f"{QUESTION} ({i})", chosen=RIGHT, rejected=WRONG, id=str(i)) for i in range(12)]
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    out = ["--out", str(tmp_path / "out")]
    assert main(["evaluate", model, "--data", str(tmp_path / "pairs.jsonl"), *out, *FLAGS]) in (0, 1)
    (report,) = (tmp_path / "out" / "eval").glob("*.json")
    assert "the default of #qwen-math-prm" in report.read_text()
    rows = [{"prompt": f"{QUESTION} ({i})", "candidates": [RIGHT, WRONG], "gold": [1.0, 0.0]} for i in range(12)]
    data = tmp_path / "candidates.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["audit", "best-of-n", model, "--data", str(data), *out, *FLAGS]) in (0, 1)
    capsys.readouterr()


def test_the_service_gives_their_steps_and_a_remote_scorer_reads_them(model):
    scorer = assay.load(model, dtype="float32", device="cpu")
    solution = assay.Completion(messages=QUESTION, steps=PARAGRAPHS)
    expected = scorer.score([solution])
    with serving(service_of(scorer, names=("prm",))) as client:
        remote = assay.load(str(client.base_url))
        found = remote.score([solution])
    np.testing.assert_allclose(found.steps[0], expected.steps[0], atol=1e-6)
    np.testing.assert_allclose(found.value, expected.value, atol=1e-6)


def test_a_wrong_form_is_said_before_any_data_are_read(tmp_path, capsys):
    path = save_token_labels(tmp_path / "theirs")
    words = ["score", f"{path}#trll", "--input", str(tmp_path / "none.jsonl"), "--output", str(tmp_path / "out.jsonl")]
    (tmp_path / "none.jsonl").write_text("{}\n")
    assert main(words) == 2
    assert "#trll is no known form: process models have math-shepherd, rlhflow" in capsys.readouterr().err


@pytest.mark.parametrize("is_adopted", [False, True])
def test_a_client_of_an_engine_gets_the_logits_of_every_token(is_adopted, model, tmp_path, capsys):
    """As vLLM's token_classify: the client lays the steps out and takes the rows at their ends."""
    scorer = assay.load(model, dtype="float32", device="cpu")
    (item,) = scorer.tokens.render([assay.Completion(messages=QUESTION, steps=PARAGRAPHS)])
    expected = scorer.score([assay.Completion(messages=QUESTION, steps=PARAGRAPHS)]).steps[0]
    if is_adopted:
        assert main(["model", "adopt", model, "--out", str(tmp_path / "ours")]) == 0
        scorer = assay.load(tmp_path / "ours", dtype="float32", device="cpu")
    with serving(service_of(scorer, names=("prm",))) as client:
        body = {"model": "prm", "input": item.tokens.tolist(), "task": "token_classify"}
        reply = client.post("/pooling", json=body)
        assert reply.status_code == 200, reply.text
        logits = np.array(reply.json()["data"][0]["data"])
    assert logits.shape == (len(item.tokens), 2)
    odds = (logits[:, 1] - logits[:, 0])[item.reads]
    np.testing.assert_allclose(1 / (1 + np.exp(-odds)), expected, atol=1e-5)


def test_steps_are_evaluated_by_the_publishers_threshold(tmp_path):
    scorer = assay.load(f"{save_token_labels(tmp_path / 'theirs')}#pure", dtype="float32", device="cpu")
    solutions = [assay.Completion(messages=f"{QUESTION} ({i})", steps=PARAGRAPHS, id=str(i)) for i in range(4)]
    items = [LabelledSteps(completion=one, right=(1.0, 0.0, None), id=one.id) for one in solutions]
    scores = score_steps(scorer, items)
    assert scores.threshold == 0.0
    for own, probability in zip(scores.scores, scores.probabilities, strict=True):
        np.testing.assert_allclose(probability, (own + 1) / 2)


def test_the_command_serves_them_under_a_name(model, capsys):
    service = make_service(ServeConfig(models=(f"prm={model}",), device="cpu", dtype="float32"))
    solution = assay.Completion(messages=QUESTION, steps=PARAGRAPHS)
    expected = assay.load(model, dtype="float32", device="cpu")
    assert service.models["prm"].current.fingerprint == expected.fingerprint
    with serving(service) as client:
        found = assay.load(str(client.base_url)).score([solution])
    np.testing.assert_allclose(found.steps[0], expected.score([solution]).steps[0], atol=1e-6)
    with pytest.raises(ValueError, match="cannot be a model's name: give one as NAME="):
        make_service(ServeConfig(models=(model,), device="cpu", dtype="float32"))
