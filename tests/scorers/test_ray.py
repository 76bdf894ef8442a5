"""A scorer spread over processes: the same rewards as in one, in order, whoever dies on the way.

One local cluster for all tests, with CPU slots for two actors of each kind; it takes work from this machine alone.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import assay
from assay.bulk.chunks import CHUNK
from assay.bulk.score_ray import Cluster, score_on_ray
from assay.cli import main
from assay.errors import AssayError
from assay.records import Completion, PreferencePair, Rewards
from assay.scorers.base import prefer
from assay.scorers.checks import check_scorer
from assay.scorers.ray import ATTEMPTS, RayScorer, _jobs, connect
from assay.scorers.wrappers.calibrated import Calibrated

pytestmark = pytest.mark.slow

FLOAT32: dict[str, Any] = {"dtype": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def cluster():
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    connect(4)  # CPU slots, not processes
    yield ray
    ray.shutdown()


def completions(num_prompts: int) -> list[Completion]:
    """Three answers to each prompt, not side by side; one of them blank; and three that are rendered already."""
    texts = ("It is water.", "It is lazy over the dog.", "")
    answers = [Completion(messages=f"egg {i}", response=text, id=f"{i}") for text in texts for i in range(num_prompts)]
    return [*answers, Completion(text="User: egg"), Completion(token_ids=(1, 60, 2)), Completion(token_ids=(1, 999_999))]


def deadly(folder: Path, *, num_deaths: int) -> Any:
    """A scorer of lengths whose process is killed when it meets the answer "poison", so many times."""

    class Deadly:
        fingerprint, scope, tolerance = "deadly", "global", 0.0

        def score(self, answers):
            for answer in answers:
                if answer.response == "poison" and len(list(folder.iterdir())) < num_deaths:
                    (folder / f"{os.getpid()}").touch()
                    os.kill(os.getpid(), signal.SIGKILL)
            return Rewards(value=[len(answer.response) or math.nan for answer in answers])

    return Deadly


@pytest.fixture(scope="module")
def scorer(cluster, trained_run):
    with RayScorer(trained_run.path, **FLOAT32) as scorer:
        yield scorer


def test_the_laws_hold_and_the_rewards_are_those_of_one_process(scorer, trained_run):
    plain, items = assay.load(trained_run.path, **FLOAT32), completions(6)
    assert (scorer.fingerprint, scorer.scope, scorer.tolerance) == (plain.fingerprint, plain.scope, plain.tolerance)
    check_scorer(scorer, items[::4])
    expected, found = plain.score(items), scorer.score(items)
    np.testing.assert_array_equal(found.ok, expected.ok)
    np.testing.assert_allclose(found.value, expected.value, atol=plain.tolerance)
    assert found.error == expected.error


def test_what_is_preferred_is_as_calibrated_as_on_the_far_side(scorer, trained_run):
    plain = assay.load(trained_run.path, **FLOAT32)
    assert isinstance(plain, Calibrated)
    pairs = [PreferencePair(prompt=f"egg {i}", chosen="It is water.", rejected="lazy" if i else "") for i in range(7)]
    np.testing.assert_allclose(prefer(scorer, pairs), prefer(plain, pairs), atol=1e-3)
    assert math.isnan(prefer(scorer, pairs)[0])


def pid_of(actor):
    """A reference to the number of the actor's process."""
    return actor.__ray_call__.remote(lambda _: os.getpid())


def test_an_actor_that_is_killed_is_replaced_and_nothing_is_lost(cluster, scorer, trained_run):
    items, plain = completions(40), assay.load(trained_run.path, **FLOAT32)
    before = cluster.get([pid_of(actor) for actor in scorer._actors])
    killer = threading.Timer(0.05, os.kill, (before[0], signal.SIGKILL))
    killer.start()
    found = scorer.score(items * 3)
    killer.join()
    expected = plain.score(items)
    assert found.error == expected.error * 3
    np.testing.assert_allclose(found.value, np.tile(expected.value, 3), atol=plain.tolerance)
    scorer.score(items)  # finds out, if the kill came too late for the first
    after = cluster.get([pid_of(scorer._actor(slot)) for slot in range(2)])
    assert len({*before, *after}) == 3


@pytest.fixture
def two_attempts(monkeypatch):
    """Every death costs the start of a process."""
    monkeypatch.setattr("assay.scorers.ray.ATTEMPTS", 2)
    monkeypatch.setattr("assay.bulk.score_ray.ATTEMPTS", 1)


def test_what_kills_every_actor_has_no_reward_and_the_reason_and_the_others_have_theirs(cluster, tmp_path, two_attempts):
    items = [Completion(messages=f"p{i // 2}", response="poison" if i == 8 else "x" * (1 + i)) for i in range(20)]
    with RayScorer(deadly(tmp_path, num_deaths=99), num_actors=1) as scorer:
        found = scorer.score(items)
    assert len(list(tmp_path.iterdir())) == 2
    assert found.ok.tolist() == [i not in (8, 9) for i in range(20)]  # its prompt
    assert found.value[10:].tolist() == [float(i) for i in range(11, 21)]
    assert "the worker died 2 times while scoring this" in found.error[8]


def test_a_job_whose_worker_dies_is_tried_whole_then_by_prompt_then_not_again():
    (job,) = _jobs(["a", "b", "a"], [1, 1, 1], 1)
    (whole,) = job.again()
    assert whole.items == [0, 1, 2]
    alone = whole.again()
    assert [part.items for part in alone] == [[0, 2], [1]]
    assert [part.again() for part in alone] == [[], []]
    assert [part.attempts for part in alone] == [ATTEMPTS - 1] * 2


def test_mistakes_are_told_as_they_would_be_without_ray(cluster, tmp_path, trained_run):
    with pytest.raises(ValueError, match="neither an artifact"):
        RayScorer(tmp_path, num_actors=1, **FLOAT32)
    with pytest.raises(ValueError, match="0 actors: give at least 1"):
        RayScorer(trained_run.path, num_actors=0)
    with pytest.raises(ValueError, match="50 actors and a reader need 51: use fewer"):
        RayScorer(trained_run.path, num_actors=50)


def test_actors_that_differ_are_refused(cluster):
    class Different:
        scope, tolerance = "global", 0.0

        def __init__(self):
            self.fingerprint = str(os.getpid())

    with pytest.raises(AssayError, match="loaded different scorers"):
        RayScorer(Different)


def test_a_cluster_of_our_own_listens_on_this_machine_alone(cluster):
    assert [node["NodeManagerAddress"] for node in cluster.nodes()] == ["127.0.0.1"]


def test_jobs_keep_prompts_whole_and_are_of_nearly_equal_size():
    sizes = [50, 1, 30, 20, 1, 40, 9, 60]
    jobs = _jobs(["a", "b", "a", "c", "b", "d", "e", "f"], sizes, 3)
    groups = {group for job in jobs for group in job.groups}
    assert groups == {(0, 2), (1, 4), (3,), (5,), (6,), (7,)}
    assert [sum(sizes[i] for i in job.items) for job in jobs] == [80, 69, 62]
    assert _jobs([], [], 3) == []


# assay score --ray


def write_rows(path: Path, num_rows: int, *, poison: int | None = None) -> Path:
    """Lines of a file to score; every 100th is no JSON."""
    rows = [{"prompt": f"egg {i // 4}", "response": "water " * (i % 5), "id": f"id-{i}"} for i in range(num_rows)]
    if poison is not None:
        rows[poison]["response"] = "poison"
    path.write_text("".join("broken\n" if i % 100 == 99 else json.dumps(row) + "\n" for i, row in enumerate(rows)))
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_scored_on_a_cluster_has_the_rows_of_one_process(cluster, tmp_path, trained_run, capsys):
    source, cache = write_rows(tmp_path / "in.jsonl", 2 * CHUNK + 7), str(tmp_path / "cache.db")
    arguments = ["score", str(trained_run.path), "--input", str(source), "--dtype", "float32", "--device", "cpu"]
    assert main([*arguments, "--output", str(tmp_path / "one.jsonl")]) == 1
    assert main([*arguments, "--output", str(tmp_path / "ray.jsonl"), "--ray", "2", "--cache", cache]) == 1
    expected, found = read_rows(tmp_path / "one.jsonl"), read_rows(tmp_path / "ray.jsonl")
    same = [{name: cell for name, cell in row.items() if name != "value"} for row in expected]
    assert [{name: cell for name, cell in row.items() if name != "value"} for row in found] == same
    values = [np.array([row["value"] for row in rows], dtype=np.float32) for rows in (expected, found)]
    np.testing.assert_allclose(values[1], values[0], atol=assay.load(trained_run.path, **FLOAT32).tolerance)
    assert "rewards were known" in capsys.readouterr().err
    assert main([*arguments, "--output", str(tmp_path / "x.jsonl"), "--ray", "2", "--input", str(tmp_path / "none.jsonl")]) == 2


def scored(cluster_of: Cluster, source: Path, num_done: int = 0) -> list[dict[str, Any]]:
    chunks = score_on_ray(cluster_of, str(source), num_done, num_done, note=print)
    return [row for chunk in chunks for row in chunk.rows]


def test_a_worker_that_dies_while_a_file_is_scored_costs_no_row(cluster, tmp_path):
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    source = write_rows(tmp_path / "in.jsonl", 4 * CHUNK, poison=CHUNK + 10)
    factory = deadly(deaths, num_deaths=1)
    rows = scored(Cluster(factory=factory, fingerprint="deadly", num_actors=2, device="cpu"), source, CHUNK)
    assert len(list(deaths.iterdir())) == 1
    assert [row["row"] for row in rows] == list(range(CHUNK + 1, 4 * CHUNK + 1))
    for row in rows:
        i = row["row"] - 1
        expected = None if i % 100 == 99 or i % 5 == 0 else 6.0 * (i % 5)
        assert row["value"] == (6.0 if i == CHUNK + 10 else expected), row


def test_a_row_that_kills_every_worker_costs_its_prompt_and_not_the_file(cluster, tmp_path, two_attempts):
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    source = write_rows(tmp_path / "in.jsonl", 2 * CHUNK, poison=10)
    factory = deadly(deaths, num_deaths=10**6)
    rows = scored(Cluster(factory=factory, fingerprint="deadly", num_actors=1, device="cpu"), source)
    assert [row["row"] for row in rows] == list(range(1, 2 * CHUNK + 1))
    killed = [row["row"] - 1 for row in rows if "the worker died" in row.get("error", "")]
    assert killed == [8, 9, 10, 11]  # its prompt


def test_a_damaged_file_and_another_model_are_told_as_they_are(cluster, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps({"question": "a"}) + "\n")
    good = Cluster(factory=deadly(tmp_path, num_deaths=0), fingerprint="deadly", num_actors=1, device="cpu")
    with pytest.raises(ValueError, match="there is no completion in the columns question"):
        scored(good, source)
    other = Cluster(factory=deadly(tmp_path, num_deaths=0), fingerprint="other", num_actors=1, device="cpu")
    with pytest.raises(AssayError, match="loaded another scorer"):
        scored(other, write_rows(source, 5))


def test_an_error_that_a_scorer_should_not_have_raised_stops_the_file(cluster, tmp_path):
    class Broken:
        fingerprint, scope, tolerance = "broken", "global", 0.0

        def score(self, answers):
            raise RuntimeError("no memory left on the device")

    broken = Cluster(factory=Broken, fingerprint="broken", num_actors=1, device="cpu")
    with pytest.raises(AssayError, match=r"(?s)scoring failed on a worker.*no memory left on the device"):
        scored(broken, write_rows(tmp_path / "in.jsonl", 5))


def test_without_ray_the_fix_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"Ray is not installed: pip install '\.\[ray\]' in Assay's clone"):
        RayScorer(tmp_path)
