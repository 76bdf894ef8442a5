"""Signs of logs: rows of any form, run directories of the loop, and the command over both."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assay.audit.monitors import GroundLost
from assay.audit.watch import TOGETHER, Watch, WatchSettings
from assay.audit.watch_log import read_log, settings_for, watch_log
from assay.cli import main
from assay.errors import DataError
from assay.records import Completion, Rewards
from assay.wire import report_from_json


def rows_of_run(seed: int, *, steps: int = 30, grows: int = 0) -> list[dict]:
    """Eight answers to each of four prompts a step, whose length wanders; from step 15 on they grow."""
    rng = np.random.default_rng(seed)
    rows = []
    for step in range(steps):
        longer = int(rng.integers(0, 4)) + (grows * (step - 14) if step > 14 else 0)
        for i in range(32):
            text = "word " * (10 + longer + int(rng.integers(0, 4)))
            rows.append({"step": step, "prompt": f"q{step} {i // 8}", "response": text, "reward": float(rng.normal()), "std": 0.5})
    return rows


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("healthy")
    logs = [str(written(folder / f"run{seed}.jsonl", rows_of_run(seed))) for seed in range(39)]
    assert main(["audit", "watch", *logs, "--window", "64", "--keep-healthy", str(folder / "healthy.jsonl")]) == 0
    assert len((folder / "healthy.jsonl").read_text().splitlines()) == 39
    return folder / "healthy.jsonl"


def test_a_log_says_what_a_scorer_at_work_would_have_said(tmp_path):
    rows = rows_of_run(3, grows=2)
    settings = WatchSettings(window=64)
    found = watch_log(written(tmp_path / "log.jsonl", rows), settings=settings).watch
    watch = Watch(settings=settings)
    for step in range(30):
        part = [row for row in rows if row["step"] == step]
        completions = [Completion(messages=row["prompt"], response=row["response"]) for row in part]
        rewards = Rewards(value=[row["reward"] for row in part], std=[row["std"] for row in part])
        watch.see(completions, rewards, step=step)
    assert found.saved() == watch.saved()
    assert found.num_looks == 15


def test_the_command_holds_a_log_against_healthy_runs_and_shows_completions(healthy, tmp_path, capsys):
    flags = ["--window", "64", "--healthy", str(healthy)]
    good = written(tmp_path / "good.jsonl", rows_of_run(100))
    assert main(["audit", "watch", str(good), *flags]) == 0
    assert "no sign passed what 39 healthy runs reach" in " ".join(capsys.readouterr().out.split())
    grown = written(tmp_path / "grown.jsonl", rows_of_run(101, grows=2))
    assert main(["audit", "watch", str(grown), *flags]) == 0
    report = report_from_json((tmp_path / "eval" / "watch-grown.json").read_text())
    found = {one.name: one for one in report.findings}
    assert found["sign: longer answers"].level == "warn"
    assert found[TOGETHER].level == "warn"
    (sign,) = (row for row in report.tables[0].rows if row[0] == "longer answers")
    assert sign[3] < sign[1]
    assert sign[4] == "5.0%"  # the second largest of 39
    assert 15 <= sign[5] <= 20
    assert any(one["kind"].startswith("longer answers") and len(str(one["response"])) > 60 for one in report.examples)
    assert (tmp_path / "watch-grown.html").is_file()
    capsys.readouterr()
    assert main(["audit", "watch", str(grown), "--window", "32", "--healthy", str(healthy)]) == 2
    assert "window 64 there, 32 here" in " ".join(capsys.readouterr().err.split())


def test_without_healthy_runs_nothing_is_judged(tmp_path, capsys):
    log = written(tmp_path / "log.jsonl", rows_of_run(1, grows=9))
    assert main(["audit", "watch", str(log), "--window", "64"]) == 0
    assert "without healthy runs signs have no rate" in " ".join(capsys.readouterr().out.split())
    report = report_from_json((tmp_path / "eval" / "watch-log.json").read_text())
    assert {one.level for one in report.findings} == {"warn"}
    assert all(row[3:5] == ("none", "none") for row in report.tables[0].rows)


def test_the_files_of_trl_are_read_once_the_reward_is_named(tmp_path):
    table = pa.table(
        {
            "step": [1, 1],
            "prompt": [[{"role": "user", "content": "why"}], [{"role": "user", "content": "how"}]],
            "completion": [[{"role": "assistant", "content": "so"}], [{"role": "assistant", "content": "thus"}]],
            "my_reward": [0.5, None],
            "advantage": [1.0, -1.0],
        }
    )
    pq.write_table(table, tmp_path / "completions_00001.parquet")
    with pytest.raises(DataError, match="has no reward among step, prompt"):
        list(read_log(tmp_path / "completions_00001.parquet", {}))
    first, second = read_log(tmp_path / "completions_00001.parquet", {"reward": "my_reward"})
    assert (first.step, first.value, first.completion.response) == (1, 0.5, "so")
    assert first.completion.messages[0].content == "why"
    assert math.isnan(second.value)


def test_logs_that_cannot_be_read_name_the_line_and_the_fix(tmp_path, capsys):
    good = {"step": 3, "prompt": "p", "response": "r", "reward": 1}
    for bad, told in (
        ({**good, "reward": "high"}, "line 2 cannot be read"),
        ({"step": 3, "prompt": "p", "response": "r"}, "line 2 has no reward among step, prompt, response"),
        ({"step": 3, "prompt": "p", "reward": 1}, "line 2 cannot be read: a completion is given as"),
        ({**good, "step": 2}, "steps go back from 3 to 2"),
    ):
        with pytest.raises(DataError, match=told):
            watch_log(written(tmp_path / "bad.jsonl", [good, bad]), settings=WatchSettings())
    with pytest.raises(DataError, match="give MEANING=COLUMN"):
        list(read_log(tmp_path / "bad.jsonl", {"gold": "x"}))
    with pytest.raises(DataError, match="has no rows"):
        watch_log(written(tmp_path / "empty.jsonl", []), settings=WatchSettings())
    assert main(["audit", "watch", str(tmp_path / "none.jsonl")]) == 2
    with pytest.raises(SystemExit) as ended:
        main(["audit", "watch", "x.jsonl", "--healthy", "a", "--keep-healthy", "b"])
    assert ended.value.code == 2
    assert "give one of them" in " ".join(capsys.readouterr().err.replace("│", " ").split())


def a_run(path, *, seed: int = 0, lost: bool = False, steps: int = 30):
    """What `assay rl train` leaves: a line a step, comparisons with the past each tenth step, answers that were kept."""
    rng, ground = np.random.default_rng(seed), GroundLost()
    path.mkdir()
    rows, kept = [], []
    for step in range(steps):
        row = {"step": step, "reward": rng.normal(), "reward_std_in_prompt": 1 + 0.1 * rng.random(), "same_reward": 0.0}
        row |= {"scored": 1.0, "kl": 0.1 * step, "tokens": 20 + rng.random(), "finished": 1.0, "entropy": 2.0}
        if step % 10 == 9:
            ground = ground.seen(step, {"the start": list(rng.random(60) < (0.15 if lost else 0.6))})
            row["ground"] = {"wins against the start": 0.5, "evidence": math.exp(min(ground.highest, 700))}
            kept.append(
                {"step": step, "kind": "best", "prompt": [{"role": "user", "content": "q"}], "response": f"r{step}", "reward": 1.0}
            )
        rows.append(row)
    written(path / "metrics.jsonl", rows)
    written(path / "completions.jsonl", kept)
    return path


def test_a_run_directory_has_its_alarm_beside_its_signs_and_a_lost_one_fails(tmp_path, capsys):
    lost, good = a_run(tmp_path / "lost", lost=True), a_run(tmp_path / "good")
    assert main(["audit", "watch", str(lost)]) == 6
    assert main(["audit", "watch", str(good)]) == 0
    capsys.readouterr()
    report = report_from_json((lost / "eval" / f"watch-{lost.name}.json").read_text())
    alarm = report.findings[0]
    assert (alarm.level, alarm.name) == ("fail", "ground lost")
    assert "seen at step 9" in alarm.why
    signs = {row[0]: row for row in report.tables[0].rows}
    assert signs["KL"][1] == pytest.approx(2.9)
    assert signs["KL"][2] == 29
    assert "surface moved" not in signs
    assert {one["response"] for one in report.examples if one["kind"].startswith("KL")} == {"r29"}


def test_healthy_run_directories_are_not_for_rows(tmp_path, healthy):
    path = a_run(tmp_path / "run")
    assert settings_for(path, window=64, start=4).watching == {"of": "steps", "start": 4}
    assert main(["audit", "watch", str(path), "--healthy", str(healthy)]) == 2


def test_watching_a_log_loads_no_torch(tmp_path):
    log = written(tmp_path / "log.jsonl", rows_of_run(0, steps=4))
    script = (
        "import sys\nfrom assay.cli import main\n"
        f"main(['audit', 'watch', {str(log)!r}])\nprint('loaded', sorted({{'torch', 'transformers'}} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300)
    assert done.stdout.splitlines()[-1] == "loaded []", done.stderr
