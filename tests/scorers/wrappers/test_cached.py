"""The cache: what it gives is what the inner scorer gave, once; failures and other identities never meet a row."""

from __future__ import annotations

import math
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from assay.errors import CacheError
from assay.models.reward_model import RewardModel
from assay.records import Completion, Rewards
from assay.scorers.checks import check_scorer
from assay.scorers.local import LocalScorer
from assay.scorers.wrappers.cached import Cached
from assay.scorers.wrappers.calibrated import Calibrated, Calibration
from assay.scorers.wrappers.scaled import Scaled
from tiny import tiny_model, tiny_renderer


class Counting:
    """Length with std, steps and text; an empty answer cannot be scored. Remembers what it was asked."""

    scope, tolerance = "global", 0.0

    def __init__(self, fingerprint: str = "one") -> None:
        self.fingerprint = fingerprint
        self.asked: list[str] = []

    def score(self, completions):
        self.asked += [c.response for c in completions]
        sizes = [len(c.response) for c in completions]
        return Rewards(
            value=[size / 3 or math.nan for size in sizes],
            std=[size / 7 for size in sizes],
            steps=tuple(np.array([0.1 * size, 0.2]) for size in sizes),
            text=tuple(f"größe {size}" for size in sizes),
            error=tuple(None if size else "empty" for size in sizes),
        )


def answers(*texts: str) -> list[Completion]:
    return [Completion(messages="question", response=text, id=str(i)) for i, text in enumerate(texts)]


def assert_equal(found: Rewards, expected: Rewards) -> None:
    np.testing.assert_array_equal(found.value, expected.value)
    np.testing.assert_array_equal(found.std, expected.std)
    assert [s.tolist() for s in found.steps] == [s.tolist() for s in expected.steps]
    assert found.text == expected.text
    assert found.error == expected.error


def test_whole_rows_come_back_bit_by_bit_and_nothing_is_scored_twice(tmp_path):
    inner = Counting()
    cached, items = Cached(inner, tmp_path / "c.db"), answers("a", "bbb", "a", "", "cc", "")
    first = cached.score(items)
    assert inner.asked == ["a", "bbb", "", "cc"]
    assert_equal(first, Counting().score(items))
    assert_equal(cached.score(items[::-1]), Counting().score(items[::-1]))
    assert inner.asked[4:] == [""]  # the failure is asked for again, once
    assert (cached.num_hits, cached.num_misses) == (2 + 5, 4 + 1)
    cached.close()
    again = Cached(Counting(), tmp_path / "c.db")
    assert_equal(again.score(items[:3]), first.take([0, 1, 2]))
    assert again.scorer.asked == []


class Exact:
    """1 where the answer is the ground truth's, 0 elsewhere; without one there is no reward."""

    scope, tolerance, fingerprint, reads_ground_truth = "global", 0.0, "exact", True

    def __init__(self) -> None:
        self.num_asked = 0

    def score(self, completions):
        self.num_asked += len(completions)
        return Rewards(value=[math.nan if c.ground_truth is None else c.ground_truth["answer"] == c.response for c in completions])


def test_a_scorer_that_reads_the_ground_truth_is_cached_by_it_and_others_are_not(tmp_path):
    items = [Completion(messages="q", response="4", ground_truth=truth) for truth in ({"answer": "4"}, {"answer": "5"}, None)]
    cached = Cached(Exact(), tmp_path / "exact.db")
    check_scorer(cached, items)
    assert cached.score([items[0], items[1], items[0]]).value.tolist() == [1.0, 0.0, 1.0]
    again = Cached(Scaled(scorer=Exact(), factor=2.0), tmp_path / "scaled.db")
    assert again.score(items[:2]).value.tolist() == again.score(items[:2]).value.tolist() == [2.0, 0.0]
    assert again.scorer.scorer.num_asked == 2
    blind = Cached(Counting(), tmp_path / "blind.db")
    blind.score(items)
    assert blind.scorer.asked == ["4"]


def test_another_fingerprint_is_another_cache(tmp_path):
    asked = []
    for fingerprint in ("one", "two", "one"):
        cached = Cached(Counting(fingerprint), tmp_path / "c.db")
        cached.score(answers("a"))
        asked.append(len(cached.scorer.asked))
    assert asked == [1, 1, 0]


def test_the_laws_hold_around_a_real_model_and_a_changed_model_is_another(tmp_path):
    items = [*answers("one", "two and more", "", "one"), Completion(text="rendered already"), Completion(token_ids=(5, 6, 7))]
    model = tiny_model("llama")
    scorer = LocalScorer(model, tiny_renderer(), identity="w1")
    plain = scorer.score(items)
    cached = Cached(scorer, tmp_path / "c.db")
    check_scorer(cached, items)
    np.testing.assert_array_equal(cached.score(items).ok, plain.ok)
    np.testing.assert_allclose(cached.score(items).value, plain.value, atol=scorer.tolerance)
    other = Cached(LocalScorer(RewardModel(model.backbone, model.head), tiny_renderer(), identity="w2"), tmp_path / "c.db")
    other.score(items[:2])
    assert (other.num_hits, other.num_misses) == (0, 2)


def test_the_file_is_for_its_owner_alone(tmp_path):
    before = os.umask(0)
    try:
        cached = Cached(Counting(), tmp_path / "c.db")
        cached.score(answers("a"))
        for file in tmp_path.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file.name
    finally:
        os.umask(before)


def test_the_rows_used_longest_ago_go_first(tmp_path):
    cached = Cached(Counting(), tmp_path / "c.db", max_rows=40)
    for i in range(40):
        cached.score(answers("x" * (i + 1)))
    cached.score(answers("x"))  # the first is used again
    for i in range(40, 45):
        cached.score(answers("x" * (i + 1)))
    count = sqlite3.connect(tmp_path / "c.db").execute("SELECT count(*) FROM rewards").fetchone()[0]
    assert 36 <= count <= 42
    asked = len(cached.scorer.asked)
    cached.score(answers("x", "x" * 45))
    assert len(cached.scorer.asked) == asked
    cached.score(answers("xx"))
    assert len(cached.scorer.asked) == asked + 1


@pytest.mark.slow
def test_several_processes_and_threads_share_a_file(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_cached import Counting, answers\nfrom assay.scorers.wrappers.cached import Cached\n"
        "cached = Cached(Counting(), sys.argv[2])\n"
        "for i in range(60): assert cached.score(answers('x' * (i % 30 + 1))).value[0] > 0\n"
        "assert cached.problem is None\n"
    )
    arguments = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "c.db")]
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    cached, wrong = Cached(Counting(), tmp_path / "c.db"), []

    def work() -> None:
        for i in range(30):
            if cached.score(answers("x" * (i + 1))).value[0] != np.float32((i + 1) / 3):
                wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert wrong == []
    assert sqlite3.connect(tmp_path / "c.db").execute("SELECT count(*) FROM rewards").fetchone()[0] == 30


def test_a_write_that_fails_loses_the_row_and_not_the_reward(tmp_path):
    cached = Cached(Counting(), tmp_path / "c.db")
    blocker = sqlite3.connect(tmp_path / "c.db", isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    cached._database.execute("PRAGMA busy_timeout = 10")
    assert cached.score(answers("abc")).value[0] == 1.0
    assert "locked" in cached.problem
    blocker.execute("ROLLBACK")
    cached.score(answers("abc"))
    assert cached.num_misses == 2
    assert cached.score(answers("abc")).value[0] == 1.0
    assert cached.num_misses == 2


def test_what_cannot_be_cached_is_refused(tmp_path):
    inner = Counting()
    inner.scope = "prompt"
    with pytest.raises(ValueError, match="prompt-scoped"):
        Cached(inner, tmp_path / "c.db")
    calibration = Calibration(
        temperature=2.0,
        temperature_se=0.1,
        knot_margins=(0.0,),
        knot_probabilities=(0.5,),
        num_pairs=30,
        num_unscored=0,
        split="x",
    )
    with pytest.raises(ValueError, match="put the cache inside"):
        Cached(Calibrated(scorer=Counting(), calibration=calibration), tmp_path / "c.db")
    with pytest.raises(ValueError, match="max_rows 0"):
        Cached(Counting(), tmp_path / "c.db", max_rows=0)
    (tmp_path / "broken.db").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(CacheError, match="delete it, it is filled again"):
        Cached(Counting(), tmp_path / "broken.db")
