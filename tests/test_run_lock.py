"""A run directory is of one run at a time: who holds it is named, and what a killed process left is taken over."""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from assay.commands.train import train_all
from assay.run_files import LOCK, only_run
from step_data import step_config, toy_solutions

HOLDS = "import sys, time; from pathlib import Path; from assay.run_files import only_run\n"
HOLDS += "with only_run(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_a_directory_that_another_process_holds_is_refused_until_that_process_is_gone(tmp_path):
    run = tmp_path / "run"
    other = subprocess.Popen([sys.executable, "-c", HOLDS, str(run)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        wanted = (
            rf"{run} is in use by process {other.pid} on {platform.node()}, since 2.*: give another --out, or wait for it to end"
        )
        with pytest.raises(ValueError, match=wanted), only_run(run):
            pass
        assert (run / LOCK).is_file()
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert json.loads((run / LOCK).read_text())["pid"] == other.pid  # left behind
        with only_run(run):
            assert json.loads((run / LOCK).read_text())["pid"] == os.getpid()
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    assert list(run.iterdir()) == []
    with only_run(tmp_path / "new"):
        assert (tmp_path / "new" / LOCK).is_file()
    assert not (tmp_path / "new").exists(), "nothing was made in it"


def test_of_another_machine_it_cannot_be_known_whether_its_process_lives(tmp_path):
    (tmp_path / LOCK).write_text(json.dumps({"pid": 7, "host": "elsewhere", "since": "yesterday"}))
    wanted = f"process 7 on elsewhere, since yesterday: give another --out, wait for it, or delete {tmp_path / LOCK}"
    with pytest.raises(ValueError, match=wanted), only_run(tmp_path):
        pass
    for rest in ("", "[]", "{"):  # of a process that was killed while it wrote
        (tmp_path / LOCK).write_text(rest)
        with only_run(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("settings", [{}, {"overwrite": True}, {"resume": True}])
def test_no_kind_of_run_begins_where_one_is_in_progress(tmp_path, settings):
    config = step_config(tmp_path, toy_solutions(8), kind="outcome")
    with only_run(config.out), pytest.raises(ValueError, match=f"is in use by process {os.getpid()} on"):
        train_all(replace(config, machine=replace(config.machine, **settings)))
