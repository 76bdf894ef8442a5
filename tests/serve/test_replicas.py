"""Replicas on Ray Serve: the same answers as from one process, and none is lost when a replica is killed under load."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx2
import numpy as np
import pytest

import assay
from assay.records import Completion
from assay.scorers.http.remote import RemoteScorer
from assay.serve.build import serve
from assay.serve.serve_config import ServeConfig
from served_process import Process, process
from serving import wait_for

pytestmark = pytest.mark.slow

TOKEN = "a-token-of-those-who-ask"
CALLERS, EACH = 8, 40


@pytest.fixture(scope="module")
def replicas(trained_run) -> Iterator[Process]:
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed")
    command = [sys.executable, "-m", "assay.cli", "serve", f"rm={trained_run.path}", "--port", "0", "--ray", "2"]
    with process([*command, "--device", "cpu", "--dtype", "float32"], patience=240, ASSAY_TOKENS=TOKEN) as service:
        yield service
        service.popen.send_signal(signal.SIGTERM)
        assert service.end(60) == 0
        assert any(line.startswith("stopped") for line in service.errors)
        wait_for(lambda: not pids_of(service), 30)


def pids_of(service: Process) -> set[int]:
    """Processes of the replicas: those under the service's own."""
    lines = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [(int(pid), int(parent), name) for pid, parent, name in (line.split(None, 2) for line in lines)]
    family = {service.popen.pid}
    for _ in range(3):  # the service, its raylet, the replicas
        family |= {pid for pid, parent, _ in rows if parent in family}
    return {pid for pid, _, name in rows if pid in family and name.startswith("ray::ServeReplica")}


def test_the_contracts_and_the_door_are_those_of_one_process(replicas):
    body = {"items": [{"prompt": "egg", "response": text} for text in ("It is water.", "")]}
    assert replicas.post("/v1/score", body).status_code == 401
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    found, empty = replicas.post("/v1/score", body, headers=bearer).json()["rewards"]
    assert isinstance(found["value"], float)
    assert empty["value"] is None
    assert empty["error"]
    assert replicas.post("/get_reward", {"query": [""]}, headers=bearer).status_code == 422
    assert replicas.post(f"/t/{TOKEN}/m/rm/get_reward", {"query": ["User: egg"]}).status_code == 200
    assert replicas.post("/v1/score", {"items": "none"}, headers=bearer).status_code == 422
    assert httpx2.get(f"{replicas.url}/readyz", trust_env=False).status_code == 200


def test_a_replica_killed_under_load_loses_nothing_and_is_replaced(replicas, trained_run):
    here = assay.load(trained_run.path, dtype="float32", device="cpu")
    items = [Completion(messages=f"egg {i}", response="It is water." * (1 + i % 3)) for i in range(CALLERS * EACH)]
    found: dict[int, float] = {}
    begun = threading.Event()

    def call(first: int) -> None:
        scorer = RemoteScorer(replicas.url, token=TOKEN, attempts=20)
        for i in range(first, len(items), CALLERS):
            found[i] = float(scorer.score([items[i]]).value[0])
            if len(found) > len(items) // 4:
                begun.set()

    before = pids_of(replicas)
    assert len(before) == 2
    callers = [threading.Thread(target=call, args=(first,)) for first in range(CALLERS)]
    for caller in callers:
        caller.start()
    assert begun.wait(120)
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    for caller in callers:
        caller.join(120)
    values = np.array([found[i] for i in range(len(items))])
    np.testing.assert_allclose(values, here.score(items).value, atol=here.tolerance)
    wait_for(lambda: len(pids_of(replicas)) == 2, 120)
    assert killed not in pids_of(replicas)


def test_what_would_reach_one_replica_alone_is_refused(trained_run):
    with pytest.raises(ValueError, match="--models-dir goes without --ray"):
        serve(ServeConfig(models=(str(trained_run.path),), ray=2, models_dir=trained_run.path))
    with pytest.raises(ValueError, match="--ray -1"):
        serve(ServeConfig(models=(str(trained_run.path),), ray=-1))
