"""Checks in processes that can be killed: nothing is lost, nothing waits for ever, and threads may share them."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from assay.scorers.verifiers.pool import CheckFailed, WorkerPool, shared_pool
from assay.scorers.verifiers.worker import reply_to


def matches(text: str, pattern: str = "a+$") -> dict:
    return {"kind": "format", "text": text, "pattern": pattern}


@pytest.fixture
def pool():
    pool = WorkerPool(size=2)
    yield pool
    pool.close()


def test_replies_come_in_order_and_a_killed_check_loses_no_other(pool):
    checks = [matches("aa"), matches("a" * 40 + "!", "(a+)+$"), matches("b"), matches("aaa")]
    replies = pool.run(checks, 0.3)
    assert [replies[0], *replies[2:]] == [{"value": 1.0}, {"value": 0.0}, {"value": 1.0}]
    assert isinstance(replies[1], CheckFailed)
    assert pool.run([], 1) == []


def test_a_worker_that_died_is_replaced(pool):
    assert pool.run([matches("a")], 5) == [{"value": 1.0}]
    worker = pool._idle.get()
    os.killpg(worker._process.pid, 9)
    pool._idle.put(worker)
    (failed,) = pool.run([matches("a")], 5)
    assert str(failed) == "the process of the check has ended"
    assert pool.run([matches("a")], 5) == [{"value": 1.0}]


def test_threads_share_the_workers(pool):
    with ThreadPoolExecutor(8) as threads:
        replies = list(threads.map(lambda n: pool.run([matches("a" * n)], 10)[0], range(1, 40)))
    assert replies == [{"value": 1.0}] * 39


def test_each_process_has_its_own_pool():
    assert shared_pool() is shared_pool()
    assert shared_pool().size <= 8


@pytest.mark.parametrize(
    ("check", "reply"),
    [
        ({"kind": "other"}, {"failed": "the check raised ValueError: there is no check 'other'"}),
        ({"kind": "format", "warm": True}, {}),
        ({"kind": "format", "text": None, "pattern": "a"}, {"failed": "the check raised TypeError: expected string"}),
    ],
)
def test_what_breaks_in_a_check_is_its_reply(check, reply):
    given = reply_to(check)
    assert given.keys() == reply.keys()
    assert all(given[key].startswith(text) for key, text in reply.items())
