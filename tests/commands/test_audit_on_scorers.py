"""The audit commands on what is no artifact: a rule, without torch in the process, and a service at a URL."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from test_best_of_n_command import toy_candidates

from assay.cli import main
from assay.data.pairs import write_pairs
from assay.wire import report_from_json
from serving import Lengths, service_of, serving
from tiny import toy_pairs

RULES = '''
def length(completions):
    """Longer is better, and water is worth a word."""
    return [len(c.response) + 20.0 * ("water" in c.response) for c in completions]

def nothing(completions):
    return [None for _ in completions]
'''

SCRIPT = """
import sys
from assay.cli import main
print(main(sys.argv[1:]), sorted({"torch", "transformers"} & set(sys.modules)), file=sys.stderr)
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A working directory with a module of rules, pairs and candidates."""
    (tmp_path / "my_rules.py").write_text(RULES)
    write_pairs(tmp_path / "fresh.jsonl", toy_pairs(40, first=5000))
    rows = toy_candidates(6000, 12)
    (tmp_path / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run_alone(folder: Path, *words: str) -> str:
    """`assay audit WORDS` in a process of its own: the last line of standard error, its status and what was imported."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, "audit", *words], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.strip().splitlines()[-1]


def kept(folder: Path, name: str):
    return report_from_json((folder / "out" / "eval" / f"{name}.json").read_text())


@pytest.mark.slow
def test_a_rule_is_audited_without_torch(folder):
    out = ["--out", "out"]
    rule, data = "rule:my_rules:length", ["--data", "fresh.jsonl"]
    assert run_alone(folder, "probe", rule, *data, *out, "--only", "filler", "empty") == "6 []"
    assert kept(folder, "probes-fresh").findings[0].failure == "hacking"
    assert run_alone(folder, "attribute", rule, *data, *out, "--openers", "2", "--edits", "12") == "0 []"
    assert kept(folder, "attribution").metric("R2 of words and pairs of words").value > 0.9
    assert run_alone(folder, "best-of-n", rule, "--data", "candidates.jsonl", *out) == "0 []"
    assert kept(folder, "best-of-n-candidates").metric("share of what gold itself would gain").value == pytest.approx(1.0)
    asked = [*data, "--candidates", "candidates.jsonl", "--suite", "fresh.jsonl", "--against", "fresh.jsonl"]
    assert run_alone(folder, "all", rule, *asked, *out, "--max-rows", "20") == "7 []"
    judged = {finding.failure: finding for finding in kept(folder, "trust").findings if finding.failure}
    assert judged["hacking"].level == "fail"
    for failure, what in (("drift", "hidden states"), ("overfitting", "report of the training"), ("parity", "saved files")):
        assert judged[failure].level == "warn"
        assert judged[failure].why.startswith("not measured: it takes")
        assert what in judged[failure].why
        assert rule in judged[failure].why
    notes = [finding for finding in kept(folder, "trust").findings if finding.failure is None]
    assert [(note.name, note.level) for note in notes] == [("members", "warn")]
    assert (folder / "out" / "trust.html").is_file()


def test_what_needs_the_files_of_a_model_says_so_by_name(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    rule, drift = "rule:my_rules:length", "drift (it compares hidden states)"
    for words, what in ((["drift", rule, "--data", "fresh.jsonl"], drift), (["verify", rule], "a parity certificate")):
        assert main(["audit", *words]) == 2
        assert f"{what} needs the model's own files, and {rule} is not" in " ".join(capsys.readouterr().err.split())
    assert main(["audit", "probe", rule, "--data", "fresh.jsonl"]) == 2
    assert "give --out DIRECTORY" in " ".join(capsys.readouterr().err.split())


def test_a_rule_that_gives_no_reward_passes_nothing(folder, monkeypatch):
    monkeypatch.chdir(folder)
    asked = ["--data", "fresh.jsonl", "--candidates", "candidates.jsonl", "--max-rows", "10", "--out", "out"]
    main(["audit", "all", "rule:my_rules:nothing", *asked])
    judged = kept(folder, "trust").findings
    assert "ok" not in {finding.level for finding in judged}
    assert all(math.isnan(finding.value) for finding in judged)


@pytest.mark.slow
def test_a_service_is_audited_by_its_url(folder, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving(service_of(Lengths())) as client:
        url, out = str(client.base_url), ["--out", str(folder / "out")]
        data = ["--data", str(folder / "fresh.jsonl")]
        assert main(["audit", "probe", url, *data, *out, "--only", "filler", "empty"]) == 6
        assert main(["audit", "attribute", url, *data, *out, "--openers", "0"]) == 0
        assert kept(folder, "attribution").metric("R2 of length alone").value == pytest.approx(1.0, abs=1e-4)
        assert main(["audit", "best-of-n", url, "--data", str(folder / "candidates.jsonl"), *out]) == 0
        assert main(["audit", "all", url, *data, *out, "--max-rows", "10"]) == 7
    judged = {finding.failure: finding for finding in kept(folder, "trust").findings}
    assert judged["length"].level == "fail"
    assert judged["drift"].why.startswith("not measured: it takes hidden states")
    assert "does not say what it was trained on" in kept(folder, "probes-fresh").facts["overlap with training"]
