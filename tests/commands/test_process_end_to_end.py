"""A process model through the commands: trained on labelled steps, evaluated on its own test split, leading a policy."""

from __future__ import annotations

import json

import pytest

from assay.cli import main
from assay.commands.train import train_all
from assay.training.run import train
from step_data import step_config, toy_solutions


@pytest.mark.slow
def test_a_trained_process_model_is_evaluated_and_leads_a_search(tmp_path, capsys):
    run = train_all(step_config(tmp_path, toy_solutions(240), params="blocks:2", epochs=3))
    capsys.readouterr()
    flags = ["--device", "cpu", "--dtype", "float32"]
    assert main(["evaluate", str(run), *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Steps of the test split"
    assert len(lines) <= 12
    report = json.loads((run / "eval" / "steps-test.json").read_text(encoding="utf-8"))
    figures = {metric["name"]: metric for metric in report["metrics"]}
    assert figures["step AUROC"]["value"] > 0.9
    assert "own threshold" in report["facts"]["threshold"]
    assert report["facts"]["overlap with training"] == "none"

    trained_on = str(tmp_path / "toy.jsonl")
    assert main(["evaluate", str(run), "--data", trained_on, *flags]) == 2
    assert "are also in the training set" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "How do I boil an egg?"}\n{"prompt": "And a cat?"}\n', encoding="utf-8")

    answers = tmp_path / "answers.jsonl"
    words = ["search", str(run), str(tmp_path / "prompts.jsonl"), "--policy", str(tmp_path / "base"), "--answers", str(answers)]
    words += ["--method", "beam", "--n", "4", "--width", "2", "--rounds", "2", "--max-tokens", "12", "--step-end", "e", *flags]
    first = main(words), answers.read_text(encoding="utf-8")
    again = main(words), answers.read_text(encoding="utf-8")
    assert first == again
    rows = [json.loads(line) for line in first[1].splitlines()]
    assert len(rows) == 2
    for row in rows:
        ended = len(row["candidates"]) + sum(row["left_out"].values())
        assert ended >= 4
        assert all(0 <= one["reward"] <= 1 for one in row["candidates"] if one["reward"] is not None)
        assert "".join(row["steps"]) == (row["response"] or "")


def test_an_outcome_model_and_a_process_model_are_evaluated_and_chosen_by_on_one_file(tmp_path, capsys):
    """Neither knows anything; what is read, printed and kept is what counts here."""
    flags = ["--device", "cpu", "--dtype", "float32"]
    world = ["data", "world", "tools", "--lengths", "1", "2", "--solutions", "3"]
    test = str(tmp_path / "test.jsonl")
    assert main([*world, "--problems", "6", "--names", "second", "--out", test]) == 0
    runs = {}
    for kind in ("process", "outcome"):
        config = step_config(tmp_path, toy_solutions(24), kind=kind, epochs=1, depth="1", out=tmp_path / kind)
        runs[kind] = str(train(config).parent)
    capsys.readouterr()
    assert main(["evaluate", runs["outcome"], "--data", test, *flags]) == 0
    assert capsys.readouterr().out.startswith("Outcomes of test.jsonl\n")
    assert list((tmp_path / "outcome" / "eval").glob("outcomes-*test.json"))
    assert main(["evaluate", runs["outcome"], "--data", test, "--threshold", "0.5", *flags]) == 2
    assert "--threshold and --threshold-data are of steps" in " ".join(capsys.readouterr().err.split())
    choose = ["audit", "best-of-n", runs["process"], "--data", test, "--beside", runs["outcome"], "--prompts", "5", *flags]
    assert main(choose) == 0
    assert capsys.readouterr().out.startswith("Best of n on test.jsonl\n")
    (kept,) = (tmp_path / "process" / "eval").glob("best-of-n-*test*.json")
    report = json.loads(kept.read_text(encoding="utf-8"))
    assert report["facts"]["problems"] == "5"
    columns = report["tables"][0]["columns"]
    assert {"majority", "oracle", "a random answer", "best of n: min", "best of n: the model beside it"} <= set(columns)
    assert [row[0] for row in report["tables"][0]["rows"]] == [1, 2, 3]
