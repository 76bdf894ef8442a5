"""Published process models in the commands: they are scorers, and nothing else is said of them than their name."""

from __future__ import annotations

import json

import numpy as np
import pytest

import assay
from assay.cli import main
from assay.data.pairs import write_pairs
from assay.records import PreferencePair
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
    assert "the publisher" in report.read_text() or "as the publisher's" in report.read_text()
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
    assert "#trll is no known form of process models: use one of math-shepherd, rlhflow" in capsys.readouterr().err
