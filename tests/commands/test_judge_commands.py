"""The commands with a judge in the model's place: what rules and models can be asked, a rubric can be asked too."""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from pathlib import Path

import pytest
from test_best_of_n_command import toy_candidates

from assay.cli import main
from assay.data.pairs import write_pairs
from assay.generation.ledger import Ledger
from assay.scorers.judges.open_judge import open_judge
from assay.scorers.judges.options import JudgeOptions
from assay.wire import report_from_json
from fake_chat import Request, fake_chat, said
from serving import service_of, serving
from tiny import toy_pairs

TOML = '[[criterion]]\nname = "long"\ntext = "Is it long?"\n'


def likes_length(request: Request):
    """Yes with a probability that grows with the answer; B or A for the longer of two."""
    if "Answer B:" in request.text:
        one, other = (part.split("[text ")[1] for part in request.text.split("Answer A:")[1].split("Answer B:"))
        p = 1 / (1 + math.exp((len(other) - len(one)) / 9))
        names = ("A", "B")
    else:
        p = 1 / (1 + math.exp(1 - len(request.text.split("The answer to grade:")[1]) / 300))
        names = ("yes", "no")
    p = min(max(p, 1e-4), 1 - 1e-4)
    return said(names[0], tokens=[(names[0], {names[0]: math.log(p), names[1]: math.log(1 - p)})])


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "long.toml").write_text(TOML)
    (tmp_path / "judge_rules.py").write_text("def length(items):\n    return [len(item.response) for item in items]\n")
    write_pairs(tmp_path / "fresh.jsonl", toy_pairs(30, first=5000))
    (tmp_path / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in toy_candidates(6000, 8)))
    return tmp_path


def kept(name: str):
    return report_from_json((Path("out") / "eval" / f"{name}.json").read_text())


def test_a_file_of_answers_is_judged_and_resumed_without_a_second_call(folder, capsys):
    rows = [{"prompt": f"Question {i}?", "response": "word " * i} for i in range(1, 21)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with fake_chat(likes_length, ("logprobs",)) as chat:
        flags = ["--judge-url", chat.url, "--judge-model", "m"]
        assert main(["score", "long.toml", "--input", "in.jsonl", "--output", "out.jsonl", *flags]) == 0
        first = Path("out.jsonl").read_bytes()
        assert len(chat.requests) == 20
        assert (
            main(
                [
                    "score",
                    "long.toml",
                    "--input",
                    "in.jsonl",
                    "--output",
                    "again.jsonl",
                    *flags,
                    "--ledger",
                    "out.jsonl.ledger.sqlite",
                ]
            )
            == 0
        )
        assert Path("again.jsonl").read_bytes() == first
        assert len(chat.requests) == 20
    printed = capsys.readouterr().err
    assert re.search(r"1 call an answer with [1-9]\d+ tokens", printed)
    assert "20 calls and 1 to find out what the endpoint knows; 210 tokens read" in printed
    assert "0 calls, 20 replies from the ledger; 0 tokens read" in printed
    values = [json.loads(line)["value"] for line in first.decode().splitlines()]
    assert values == sorted(values)
    assert Ledger("out.jsonl.ledger.sqlite").bill().num_calls == 21
    assert (Path("out.jsonl.ledger.sqlite").stat().st_mode & 0o777) == 0o600


@pytest.mark.slow
def test_what_a_file_would_cost_is_said_and_nothing_is_asked(folder, trained_run, capsys):
    rows = [{"prompt": f"Question {i}?", "response": "word " * i} for i in range(1, 21)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with fake_chat(likes_length, ("logprobs",)) as chat:
        flags = ["--input", "in.jsonl", "--output", "out.jsonl", "--judge-url", chat.url, "--judge-model", "m"]
        assert main(["score", "long.toml", *flags, "--dry-run"]) == 0
        assert len(chat.requests) == 0
        printed = " ".join(capsys.readouterr().err.split())
        assert "20 calls to make; about" in printed
        assert "20 rows; nothing was scored" in printed
        assert not Path("out.jsonl").exists()
        assert main(["score", "long.toml", *flags]) == 0
        capsys.readouterr()
        assert main(["score", "long.toml", *flags, "--dry-run"]) == 0
        assert "0 calls to make, 20 known from the ledger" in " ".join(capsys.readouterr().err.split())
    assert main(["score", str(trained_run.path), "--input", "in.jsonl", "--output", "mine.jsonl", "--dry-run"]) == 0
    assert re.search(r"[1-9][\d,]* to read at most.* 0 answers are cut", " ".join(capsys.readouterr().err.split()))
    assert not Path("mine.jsonl").exists()


def test_every_command_that_measures_takes_a_judge(folder):
    out, data = ["--out", "out"], ["--data", "fresh.jsonl"]
    with fake_chat(likes_length, ("logprobs",)) as chat:
        flags = ["--judge-url", chat.url, "--judge-model", "m"]
        assert main(["evaluate", "long.toml", *data, *out, *flags]) == 0
        report = kept("fresh")
        assert "calls" in report.facts["bill"]
        assert main(["evaluate", "long.toml", *data, *out, *flags, "--judge-mode", "pairwise", "--name", "both"]) == 0
        assert "both orders agreed on" in kept("both").facts["bill"]
        assert main(["evaluate", "long.toml", "--suite", "fresh.jsonl", *out, *flags]) == 0
        assert main(["compare", "long.toml", "rule:judge_rules:length", *data, *out, *flags]) in (0, 5)
        assert main(["audit", "probe", "long.toml", *data, *out, *flags, "--only", "filler", "empty", "--max-rows", "12"]) == 6
        assert kept("probes-fresh").findings[0].failure == "hacking"
        assert main(["audit", "best-of-n", "long.toml", "--data", "candidates.jsonl", *out, *flags]) == 0
        assert main(["audit", "all", "long.toml", *data, *out, *flags, "--max-rows", "12"]) == 7
        num_calls = len(chat.requests)
        assert main(["evaluate", "long.toml", *data, *out, *flags]) == 0  # all of it is in the ledger
        assert len(chat.requests) == num_calls
    assert Ledger("out/ledger.sqlite").bill().num_calls >= num_calls


def test_a_mistake_in_a_rubric_or_a_flag_is_reported_before_anything_is_asked(folder, capsys):
    for words, why in (
        (["score", "long.toml", "--input", "candidates.jsonl", "--output", "out.jsonl"], "no model is named"),
        (["evaluate", "long.toml", "--data", "fresh.jsonl", "--out", "out"], "no model is named"),
        (["evaluate", "rule:length", "--data", "fresh.jsonl", "--out", "out", "--judge-model", "m"], "is no rubric"),
        (["evaluate", "none.toml", "--data", "fresh.jsonl", "--out", "out"], "does not exist"),
        (["evaluate", "long.toml", "--data", "fresh.jsonl", "--out", "out", "--key-env", "K"], "goes with --judge-url"),
    ):
        with suppress(SystemExit):  # of the parser, which reports what a group of flags refuses
            assert main(words) in (2, 3)
        assert re.search(why, " ".join(capsys.readouterr().err.split())), words


def test_a_service_and_a_trainer_take_a_judge(folder):
    from assay.rl.trl import trl_reward

    with fake_chat(likes_length, ("logprobs",)) as chat:
        judge = open_judge("long.toml", JudgeOptions(judge_url=chat.url, judge_model="m"))
        prompts = [[{"role": "user", "content": "Tell me"}]] * 2
        answers = [[{"role": "assistant", "content": text}] for text in ("short", "long " * 90)]
        short, long = trl_reward(judge)(prompts, answers)
        assert 0 < short < long < 1
        with serving(service_of(judge, names=("judge",))) as client:
            rows = [{"prompt": "Tell me", "response": "short"}, {"text": "rendered"}]
            reply = client.post("/v1/score", json={"items": rows}).json()
            assert reply["rewards"][0]["value"] == pytest.approx(short, abs=1e-6)
            assert reply["rewards"][1]["value"] is None
            assert "a judge needs messages and response" in reply["rewards"][1]["error"]
        pairwise = open_judge("long.toml", JudgeOptions(judge_url=chat.url, judge_model="m", judge_mode="pairwise"))
        with pytest.raises(ValueError, match="prompt-scoped scorer cannot be served"):
            service_of(pairwise)
