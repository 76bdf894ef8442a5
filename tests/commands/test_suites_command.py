"""`assay evaluate --suite`: reports that are kept, prompts that were trained on, and mistakes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from assay import cli
from assay.commands import evaluate
from assay.commands.shared import Pairs, Where
from assay.data.pairs import write_pairs
from assay.data.run_data import run_data
from assay.data.split import split_of
from assay.errors import DataError
from assay.records import Completion, Report, Rewards
from assay.report.run_page import write_run_page
from assay.run_files import read_report
from assay.scorers.baselines import LengthScorer
from assay.scorers.wrappers.counted import Counted
from tiny import toy_pairs

FLOAT32: dict[str, Any] = {"dtype": "float32", "device": "cpu"}


@pytest.fixture
def run(trained_run, tmp_path) -> Path:
    return Path(shutil.copytree(trained_run.path, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "cache")))


@pytest.fixture
def fresh(tmp_path) -> Path:
    write_pairs(tmp_path / "fresh.jsonl", toy_pairs(30, first=500))
    return tmp_path / "fresh.jsonl"


@pytest.fixture
def lists(tmp_path) -> Path:
    rows = [
        {"prompt": p.prompt[0].content, "candidates": [p.rejected, p.chosen, "no"], "correct": 1} for p in toy_pairs(8, first=700)
    ]
    (tmp_path / "lists.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "lists.jsonl"


def evaluated(model: Path, *suites: Path) -> list[Report]:
    """By the command, and the reports that it kept."""
    assert evaluate.run(evaluate.Config(model=str(model), suite=tuple(map(str, suites)), where=Where(**FLOAT32))) == 0
    reports = [read_report(model, f"suite-{suite.stem}") for suite in suites]
    return [report for report in reports if report is not None]


def test_each_suite_has_a_report_that_is_kept_and_shown_on_the_page(run, fresh, lists):
    reports = evaluated(run, fresh, lists)
    pairs = reports[0].metric("fresh: overall")
    assert pairs.value > 0.8, "the toy pairs can be learnt"
    assert (pairs.n_scored, pairs.n) == (30, 30)
    assert reports[1].metric("lists: overall").n == 8
    assert reports[1].facts["model"] == json.loads((run / "artifact" / "reward.json").read_text())["fingerprint"]
    assert "lists: overall" in write_run_page(run).read_text()


def test_prompts_of_the_training_set_are_in_no_figure(run, trained_run, tmp_path):
    """The run's own data: what is in its training split is not scored, what is not is."""
    config = run_data(trained_run.path)
    splits = [split_of(pair.prompt, seed=config.seed, calibration=0.2, test=0.2) for pair in toy_pairs(240)]
    (report,) = evaluated(run, trained_run.data)
    overall = report.metric("toy: overall")
    assert (overall.n_scored, overall.n) == (240 - splits.count("train"), 240)
    assert {f.name: f.value for f in report.findings}["cases that it was trained on"] == splits.count("train")
    write_pairs(tmp_path / "seen.jsonl", [pair for pair, split in zip(toy_pairs(240), splits, strict=True) if split == "train"])
    with pytest.raises(DataError, match="prompts of seen are also in the training set"):
        evaluated(run, tmp_path / "seen.jsonl")


def test_flags_that_do_not_go_together_are_refused(run, fresh):
    with pytest.raises(ValueError, match="--suite goes without --data"):
        evaluate.Config(model=str(run), suite=(str(fresh),), pairs=Pairs(data=str(fresh)))
    with pytest.raises(ValueError, match="--name x is one name for 2 suites"):
        evaluate.Config(model=str(run), suite=(str(fresh), "rmb"), name="x")


def test_the_command_takes_suites_again_and_again_and_a_folder(run, fresh, lists, capsys, monkeypatch):
    monkeypatch.delenv("ASSAY_DATA", raising=False)
    common = ["evaluate", str(run), "--dtype", "float32", "--device", "cpu", "--limit", "5"]
    assert cli.main([*common, "--suite", str(fresh), "--suite", str(lists), "--verbose"]) == 0
    out = capsys.readouterr().out
    assert "fresh: overall" in out
    assert "lists: overall" in out
    assert re.search(r"fresh: overall +│ +[01](\.\d+)? \[0\.\d\d, 1\.00\]", out), "with its interval"
    assert cli.main([*common, "--suite", "rmb", "--suite-folder", str(run)]) == 2
    assert "rmb/pairs.jsonl.gz" in " ".join(capsys.readouterr().err.split())


def test_the_answers_to_a_prompt_are_scored_in_one_call(monkeypatch):
    monkeypatch.setattr("assay.scorers.wrappers.counted.AT_ONCE", 4)
    sizes: list[int] = []
    scorer = Counted(scorer=LengthScorer(), advance=sizes.append)
    completions = [Completion(messages=f"p{i // 3}", response="x" * i) for i in range(12)]
    rewards = scorer.score(completions)
    assert sizes == [6, 6]
    assert rewards.value.tolist() == list(range(12))
    assert isinstance(scorer.score([]), Rewards)
    sizes.clear()
    scorer.score([Completion(text=str(i)) for i in range(10)])
    assert sizes == [4, 4, 2]
