"""The last words of every command that measures: at most twelve lines of 100 characters, with the report and what to type next."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from test_audit_on_scorers import RULES
from test_best_of_n_command import toy_candidates

from assay import cli
from assay.data.pairs import write_pairs
from tiny import toy_pairs

RULE = "rule:my_rules:length"
DATA = ("--data", "fresh.jsonl")
OUT = ("--out", "out")
COMMANDS = {
    "evaluate": (("evaluate", RULE, *DATA, *OUT), "out/fresh.html"),
    "evaluate on suites": (("evaluate", RULE, "--suite", "fresh.jsonl", "--suite", "more.jsonl", *OUT), "out/suites.html"),
    "compare": (("compare", RULE, "rule:my_rules:nothing", RULE, *DATA, *OUT), "out/report.html"),
    "probe": (("audit", "probe", RULE, *DATA, *OUT, "--only", "filler", "empty"), "out/probes-fresh.html"),
    "attribute": (("audit", "attribute", RULE, *DATA, *OUT, "--openers", "0"), "out/attribution.html"),
    "best-of-n": (("audit", "best-of-n", RULE, "--data", "candidates.jsonl", *OUT), "out/best-of-n-candidates.html"),
    "all": (("audit", "all", RULE, *DATA, *OUT, "--max-rows", "10"), "out/trust.html"),
    "check": (("data", "check", "fresh.jsonl", *OUT), "out/data-check.html"),
}


def is_a_summary(printed: str) -> bool:
    """Whether what was printed is twelve lines of 100 characters at most, and says what to type next."""
    lines = printed.splitlines()
    return 3 <= len(lines) <= 12 and all(len(line) <= 100 for line in lines) and any(line.startswith("next ") for line in lines)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory, with a module of rules, pairs and candidates."""
    (tmp_path / "my_rules.py").write_text(RULES)
    for name, first in (("fresh", 5000), ("more", 6000)):
        write_pairs(tmp_path / f"{name}.jsonl", toy_pairs(30, first=first))
    (tmp_path / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toy_candidates(6000, 6)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_ends_in_a_summary_that_names_its_report(name, folder, capsys):
    arguments, page = COMMANDS[name]
    cli.main(arguments)
    printed = capsys.readouterr().out
    assert is_a_summary(printed), printed
    assert f"report      {page}" in printed
    assert (folder / page).is_file()
    (then,) = [line.removeprefix("next").strip() for line in printed.splitlines() if line.startswith("next ")]
    program, *typed = shlex.split(then)
    assert program == "assay"
    group = typed.pop(0) if typed[0] in cli.COMMANDS and typed[0] else ""
    assert typed[0] in cli.COMMANDS[group], then
    proposed = (group, typed[0]) if group else (typed[0],)
    assert arguments[: len(proposed)] != proposed, "not what was just run"


def test_what_audit_all_proposes_is_what_it_could_not_measure(folder, capsys):
    more = ["--candidates", "candidates.jsonl"]
    for given, then in (([], f"assay audit best-of-n {RULE} --data CANDIDATES --out out"), (more, f"assay serve {RULE}")):
        cli.main(["audit", "all", RULE, *DATA, *OUT, "--max-rows", "10", *given])
        assert f"next        {then}\n" in capsys.readouterr().out, "a rule has no states: no drift of it can be measured"


def test_verbose_adds_every_figure_with_its_note(folder, capsys):
    cli.main(["evaluate", RULE, *DATA, *OUT])
    short = capsys.readouterr().out
    cli.main(["evaluate", RULE, *DATA, *OUT, "--verbose"])
    long = capsys.readouterr().out
    assert "ECE if perfectly" not in short
    assert "ECE if perfectly" in long
    assert long.splitlines()[: len(short.splitlines()) - 2] == short.splitlines()[:-2]


def test_training_ends_in_a_summary(trained_run):
    assert is_a_summary(trained_run.printed), trained_run.printed
    assert f"next        assay audit all {trained_run.path}"[:60] in trained_run.printed or "…" in trained_run.printed
    assert "accuracy on training pairs" in trained_run.printed
