"""`assay score` with a process reward model: every row has its steps, whole, with what is missing as null."""

from __future__ import annotations

import json

import numpy as np

from assay.cli import main
from step_models import COMPLETIONS, QUESTION, SOLUTIONS, save_step_artifact, saved_scorer


def test_rows_have_the_rewards_of_their_steps(tmp_path):
    path = save_step_artifact(tmp_path / "artifact", max_length=100)
    rows = [{"prompt": QUESTION, "steps": list(steps)} for steps in SOLUTIONS]
    rows.append({"prompt": QUESTION, "response": "".join(SOLUTIONS[0])})
    rows.append({"prompt": QUESTION, "steps": ["It is two. " * 3 + "\n\n"] * 9})
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["score", str(path), "--input", str(source), "--output", str(out), "--dtype", "float32", "--device", "cpu"]) == 1
    found = [json.loads(line) for line in out.read_text().splitlines()]
    expected = saved_scorer(path).score(COMPLETIONS)
    for row, steps, value in zip(found, expected.steps, expected.value, strict=False):
        np.testing.assert_allclose(row["steps"], steps, atol=1e-4)
        np.testing.assert_allclose(row["value"], value, atol=1e-4)
    np.testing.assert_allclose(found[4]["steps"], expected.steps[0], atol=1e-4)
    assert found[5]["value"] is None
    assert len(found[5]["steps"]) == 9
    assert found[5]["steps"][0] is not None
    assert found[5]["steps"][-1] is None
    assert "lie behind the length limit" in found[5]["error"]
