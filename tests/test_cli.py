"""The command: help that fits a screen, exit statuses, and mistakes told in one message without a traceback."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys

import pytest

from assay.cli import COMMANDS, main
from assay.commands import train
from assay.data.pairs import write_pairs
from assay.errors import TrainingError
from tiny import save_tiny_base, toy_pairs

WORDS = [[*([group] if group else []), name] for group, commands in COMMANDS.items() for name in commands]


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    """What went to standard error, on one line, without the frames of boxes."""
    return " ".join(capsys.readouterr().err.replace("│", " ").split())


def help_of(*arguments: str) -> str:
    """A fresh process, as its width is read from the environment when it starts."""
    ran = subprocess.run(
        [sys.executable, "-m", "assay.cli", *arguments, "--help"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def in_process_help(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_help_of_the_command_names_every_word_on_one_screen():
    text = help_of()
    lines = text.splitlines()
    assert len(lines) <= 42
    assert max(map(len, lines)) <= 100
    for words in WORDS:
        assert any(line.split()[: len(words)] == words for line in lines), words
    assert help_of("audit").splitlines()[2] == "audit: can it be trusted"


def test_help_and_the_swap_command_load_no_torch():
    for arguments in (["--help"], ["audit", "--help"], ["swap", "--help"], ["score", "--help"], ["serve", "--help"]):
        script = (
            f"import sys\nfrom assay.cli import main\n"
            f"try:\n    main({arguments})\nexcept SystemExit:\n    pass\n"
            "print('loaded', sorted({'torch', 'transformers'} & sys.modules.keys()))"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300)
        assert done.stdout.splitlines()[-1:] == ["loaded []"], (arguments, done.stderr)


def test_help_takes_under_a_second_of_processor_time():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    help_of()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


@pytest.mark.parametrize("arguments", [["--help"], ["data", "check", "--help"], ["data", "check", "missing.jsonl"]], ids=" ".join)
def test_a_reader_that_leaves_early_ends_the_command_without_a_word(arguments):
    """As `| head` does: both streams lead into a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "assay.cli", *arguments]
    with subprocess.Popen(command, stdout=writing, stderr=subprocess.PIPE, text=True) as alone:
        assert alone.stderr is not None
        told = alone.stderr.read()
    both = subprocess.run(command, stdout=writing, stderr=writing, timeout=120, check=False)
    os.close(writing)
    if arguments[-1] == "--help":
        assert (alone.returncode, told) == (141, "")
    assert both.returncode == 141


def test_a_word_that_is_none_exits_with_2_and_says_where_they_stand(capsys):
    assert main(["trust", "runs/x"]) == 2
    assert "there is no command 'trust': see assay --help" in printed(capsys)
    assert main(["audit", "everything"]) == 2
    assert "there is no command 'audit everything': see assay audit --help" in printed(capsys)


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_the_help_of_each_command_fits_a_screen(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = in_process_help(capsys, *words)
    lines = text.splitlines()
    for box in text.split("╭─")[1:]:  # the flags stand in named groups
        assert len(box.splitlines()) <= 50, f"{len(box.splitlines())} lines in {box.splitlines()[0]}"
    most = {"data curve": 104, "rl refresh": 124}.get(" ".join(words), 94)  # those of train, and its own
    assert len(lines) <= most, f"{len(lines)} lines"
    assert max(map(len, lines)) <= 100
    assert f"usage: assay {' '.join(words)}" in text
    assert "None|" not in text.replace("{None}", "None")


def test_switches_are_given_by_name_alone(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = in_process_help(capsys, "train")
    for flag in ("--resume ", "--strict ", "--use-margin "):
        assert flag in text
    assert "{True,False}" not in text


MISTAKES = [
    (["--params", "lora"], "--params 'lora': use auto, full, head, head:mean, blocks:K with K >= 1, or lora:R with R >= 1"),
    (["--epochs", "0"], "--epochs 0 must be at least 1"),
    (["--checkpoint-every", "0"], "--checkpoint-every 0 must be at least 1"),
    (["--calibration", "1.5"], "--calibration 1.5"),
    (["--epochs", "many"], "many"),
    (["--overlong", "drop"], "keep_end"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_flag_that_makes_no_sense_exits_with_2_and_names_it(arguments, message, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as ended:
        main(["train", "--data", "x.jsonl", "--base", "org/name", "--out", "run", *arguments])
    assert ended.value.code == 2
    told = printed(capsys)
    assert message in told
    assert "Traceback" not in told


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return str(save_tiny_base(tmp_path_factory.mktemp("cli") / "base"))


def test_files_and_bases_that_cannot_be_used_exit_with_2_and_a_fix(tmp_path, base, capsys):
    good, odd = tmp_path / "good.jsonl", tmp_path / "odd [x].jsonl"
    write_pairs(good, toy_pairs(30))
    odd.write_text(json.dumps({"question": "a", "better": "b"}) + "\n")
    (tmp_path / "empty.jsonl").write_text("")
    for data, its_base, message in (
        (str(tmp_path / "missing.jsonl"), base, "missing.jsonl does not exist"),
        (str(odd), base, "odd [x].jsonl has the columns question, better: no form of preference pairs that is accepted. The row:"),
        (str(tmp_path / "empty.jsonl"), base, "no pair is left to train on"),
        (str(good), str(tmp_path / "nowhere"), "there is no such directory; a hub id looks like org/name"),
        (str(good), str(tmp_path), "is a directory without config.json"),
    ):
        assert main(["train", "--data", data, "--base", its_base, "--out", str(tmp_path / "run"), "--device", "cpu"]) == 2
        told = printed(capsys)
        assert "error " in told
        assert message in told
        assert "Traceback" not in told


def test_blocks_that_the_base_does_not_have_exit_with_2(tmp_path, base, capsys):
    write_pairs(tmp_path / "good.jsonl", toy_pairs(30))
    arguments = ["--data", str(tmp_path / "good.jsonl"), "--base", base, "--out", str(tmp_path / "run"), "--dtype", "float32"]
    assert main(["train", *arguments, "--params", "blocks:9"]) == 2
    assert "blocks:9 is not in 1..3: this base has 4 blocks (use --params full for all)" in printed(capsys)
    assert main(["train", *arguments, "--depth", "9"]) == 2
    assert "depth 9 is not in 1..4" in printed(capsys)


def test_a_model_that_is_none_exits_with_2(tmp_path, capsys):
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "neither an artifact" in printed(capsys)
    assert main(["report", str(tmp_path)]) == 2
    assert "run assay train or assay evaluate first" in printed(capsys)


def test_score_exits_with_0_when_all_rows_have_a_reward_and_with_1_otherwise(tmp_path, trained_run, capsys):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    arguments = ["score", str(trained_run.path), "--input", str(source), "--output", str(output), "--dtype", "float32"]
    good = json.dumps({"prompt": "egg", "response": "water"}) + "\n"
    source.write_text(good * 3)
    assert main(arguments) == 0
    assert "3 rows, 0 without a reward" in printed(capsys)
    source.write_text(good + "{broken\n" + good)
    assert main(arguments) == 1
    assert "3 rows, 1 without a reward" in printed(capsys)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["row"] for row in rows] == [1, 2, 3]
    assert [row["value"] is None for row in rows] == [False, True, False]
    assert rows[1]["error"] == "line 2: not JSON"


def test_evaluating_on_training_data_exits_with_2_and_shows_a_prompt(trained_run, capsys):
    assert main(["evaluate", str(trained_run.path), "--data", str(trained_run.data), "--dtype", "float32"]) == 2
    told = printed(capsys)
    assert "are also in the training set of" in told
    assert "'Tell me about egg" in told


def test_evaluate_prints_its_figures_on_standard_output(trained_run, tmp_path, capsys):
    write_pairs(tmp_path / "fresh.jsonl", toy_pairs(30, first=500))
    model = shutil.copytree(trained_run.path / "artifact", tmp_path / "alone")
    assert main(["evaluate", str(model), "--data", str(tmp_path / "fresh.jsonl"), "--verbose"]) == 0
    out = capsys.readouterr().out
    assert "accuracy" in out
    assert "30 of 30" in out


def test_a_failure_that_is_nobody_s_mistake_exits_with_3(monkeypatch, capsys):
    def fail(config):
        raise TrainingError("the disk is full [half] of it")

    monkeypatch.setattr(train, "train_all", fail)
    assert main(["train", "--data", "x.jsonl", "--base", "b", "--out", "run"]) == 3
    assert "failed the disk is full [half] of it" in printed(capsys)
