"""The engine thread: what it scores together, what once, what never; and that nobody waits for ever."""

from __future__ import annotations

import math
import random
import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from assay.serve.batcher import MANY_FAILURES, Batcher, DeadlinePassed, EngineDown, QueueFull
from serving import Lengths, answer, wait_for


@contextmanager
def running(scorer, **settings):
    batcher = Batcher(scorer, **{"linger_seconds": 0.0, **settings})
    try:
        yield batcher
    finally:
        getattr(scorer, "gate", threading.Event()).set()
        batcher.close(drain=False, timeout=20)


@contextmanager
def busy(**settings):
    """A batcher whose engine is held up by one completion, so that what is submitted has to wait; open the gate to go on."""
    scorer = Lengths(is_open=False)
    with running(scorer, **settings) as batcher:
        first = batcher.submit([answer("x" * 99)])
        assert scorer.has_begun.wait(20)
        yield scorer, batcher, first


def values(future, timeout: float = 20.0) -> list[float | None]:
    return [row["value"] for row in future.result(timeout)]


def test_rewards_come_in_order_with_a_reason_for_what_has_none():
    with running(Lengths()) as batcher:
        rows = batcher.submit([answer("abc"), answer(""), answer("a")]).result(20)
        assert [row["value"] for row in rows] == [3.0, None, 1.0]
        assert rows[1]["error"] == "the scorer returned no finite value"
        assert batcher.submit([]).result(20) == []


def test_answers_to_one_prompt_are_pulled_together_and_the_oldest_prompt_goes_first():
    prompts = ["p" * 400, "q" * 400]  # 100 tokens each, so that a budget of 110 holds one prompt with its answers
    with busy(batch_tokens=110) as (scorer, batcher, _):
        futures = [batcher.submit([answer(f"{i}", prompts[i % 2])]) for i in range(6)]
        scorer.gate.set()
        assert [values(future) for future in futures] == [[1.0]] * 6
    assert scorer.batches[1:] == [["0", "2", "4"], ["1", "3", "5"]]


def test_a_batch_ends_at_the_budget_but_one_completion_is_always_taken():
    with busy(batch_tokens=40) as (scorer, batcher, _):
        futures = [batcher.submit([answer("a" * size, f"prompt {size}")]) for size in (80, 400, 40, 41)]
        scorer.gate.set()
        for future in futures:
            future.result(20)
    assert [[len(text) for text in batch] for batch in scorer.batches[1:]] == [[80], [400], [40, 41]]


def test_the_same_completion_is_scored_once_while_it_waits_and_while_it_is_scored():
    with busy() as (scorer, batcher, first):
        again = batcher.submit([answer("x" * 99)])
        twice = batcher.submit([answer("same"), answer("same")])
        once = batcher.submit([answer("same")])
        assert batcher.num_queued == 1
        scorer.gate.set()
        assert values(first) == values(again) == [99.0]
        assert values(twice) == [4.0, 4.0]
        assert values(once) == [4.0]
        assert batcher.num_coalesced == 3
    assert scorer.batches == [["x" * 99], ["same"]]


def test_what_is_past_its_deadline_or_cancelled_is_never_scored():
    with busy() as (scorer, batcher, _):
        late = batcher.submit([answer("late")], deadline=time.monotonic() - 1)
        gone = batcher.submit([answer("gone"), answer("shared")])
        kept = batcher.submit([answer("shared")])
        assert gone.cancel()
        scorer.gate.set()
        assert values(kept) == [6.0]
        with pytest.raises(DeadlinePassed):
            late.result(20)
        with pytest.raises(CancelledError):
            gone.result(20)
        assert batcher.num_dropped == 2
    assert scorer.batches[1:] == [["shared"]]


def test_a_full_queue_refuses_and_takes_nothing_of_the_request():
    with busy(max_queued=2) as (scorer, batcher, _):
        kept = batcher.submit([answer("one"), answer("three")])
        with pytest.raises(QueueFull, match="2 completions wait, 2 may") as refused:
            batcher.submit([answer("five")])
        assert refused.value.retry_after > 0
        assert values_later(batcher, [answer("three")], scorer, kept) == [5.0]
    assert sorted(scorer.batches[1]) == ["one", "three"]


def values_later(batcher, completions, scorer, kept):
    """An equal completion needs no place of its own."""
    future = batcher.submit(completions)
    scorer.gate.set()
    assert values(kept) == [3.0, 5.0]
    return values(future)


def test_what_nobody_waits_for_gives_its_place_to_others():
    with busy(max_queued=1) as (scorer, batcher, _):
        assert batcher.submit([answer("gone")]).cancel()
        kept = batcher.submit([answer("new")])
        scorer.gate.set()
        assert values(kept) == [3.0]
    assert scorer.batches[1:] == [["new"]]


class Picky(Lengths):
    """Raises when it is given something bad, or always once it is broken."""

    is_broken = False

    def score(self, completions):
        texts = [c.response for c in completions]
        if self.is_broken or any(text.startswith("bad") for text in texts):
            raise RuntimeError("cannot take this")
        return super().score(completions)


def test_an_item_that_the_scorer_raises_on_has_no_reward_and_the_others_have():
    with running(Picky()) as batcher:
        rows = batcher.submit([answer("one"), answer("bad"), answer("three")]).result(20)
        assert [row["value"] for row in rows] == [3.0, None, 5.0]
        assert rows[1]["error"] == "the scorer failed on this item (RuntimeError)"
        many = batcher.submit([answer(f"bad {i}") for i in range(3 * MANY_FAILURES)]).result(20)
        assert [row["value"] for row in many] == [None] * 3 * MANY_FAILURES
        assert batcher.is_alive, "it still scores what it scored before"
        assert values(batcher.submit([answer("four")])) == [4.0]


def test_a_scorer_that_only_raises_ends_its_engine():
    scorer = Picky()
    scorer.is_broken = True
    with running(scorer) as batcher:
        with pytest.raises(EngineDown):
            batcher.submit([answer(f"{i}") for i in range(MANY_FAILURES)]).result(20)
        assert not batcher.is_alive
        assert isinstance(batcher.failure, RuntimeError)


def test_when_the_engine_dies_all_who_wait_hear_of_it_and_nobody_can_ask_any_more():
    scorer = Picky(is_open=False)
    with running(scorer) as batcher:
        held = batcher.submit([answer("held")])
        assert scorer.has_begun.wait(20)
        deadly, waiting = batcher.submit([answer("deadly")]), batcher.submit([answer("waiting")])
        scorer.gate.set()
        assert values(held) == [4.0]
        for future in (deadly, waiting):
            with pytest.raises(EngineDown, match="has failed"):
                future.result(20)
        with pytest.raises(EngineDown, match="has failed"):
            batcher.submit([answer("later")])
        assert not batcher.is_alive


def test_closing_scores_what_waits_unless_it_is_told_not_to():
    with busy() as (scorer, batcher, first):
        waiting = batcher.submit([answer("waiting")])
        closing = threading.Thread(target=batcher.close)
        closing.start()
        while not batcher._is_closing:
            time.sleep(0.001)
        with pytest.raises(EngineDown, match="closing"):
            batcher.submit([answer("later")])
        scorer.gate.set()
        closing.join(20)
        assert values(first) == [99.0]
        assert values(waiting) == [7.0]
    with busy() as (scorer, batcher, first):
        waiting = batcher.submit([answer("waiting")])
        assert not batcher.close(drain=False, timeout=0.01), "a batch that is being scored is not interrupted"
        with pytest.raises(EngineDown):
            waiting.result(20)
        scorer.gate.set()
        assert values(first) == [99.0]


def test_an_idle_engine_does_not_linger_for_callers_that_it_does_not_have():
    with running(Lengths(), linger_seconds=0.5) as batcher:
        batcher.submit([answer("first")]).result(20)
        start = time.monotonic()
        batcher.submit([answer("second")]).result(20)
        assert time.monotonic() - start < 0.4, "one caller was answered last, and one is there"


def test_rewards_from_another_thread_wait_for_places_in_the_queue():
    with running(Lengths(), max_queued=4) as batcher:
        texts = ["a" * (1 + i % 7) for i in range(50)]
        rewards = batcher.score([answer(text, f"prompt {i}") for i, text in enumerate(texts)])
        assert rewards.value.tolist() == [float(len(text)) for text in texts]


@pytest.mark.parametrize("settings", [{"max_queued": 0}, {"batch_tokens": 0}, {"linger_seconds": -1}, {"linger_seconds": math.inf}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        Batcher(Lengths(), **settings)


def test_a_prompt_scoped_scorer_is_refused():
    scorer = Lengths()
    scorer.scope = "prompt"
    with pytest.raises(ValueError, match="prompt-scoped"):
        Batcher(scorer)


def test_many_callers_at_once_get_their_own_rewards():
    """Eight threads, some of which cancel or come too late, on few contents so that many are joined."""

    def call(seed: int) -> int:
        rng, num_right = random.Random(seed), 0
        for _ in range(100):
            texts = ["a" * rng.randint(0, 9) for _ in range(rng.randint(1, 5))]
            deadline = time.monotonic() + rng.choice((math.inf, 1e-4))
            future = batcher.submit([answer(text, str(rng.randint(0, 3))) for text in texts], deadline=deadline)
            if rng.random() < 0.2:
                future.cancel()
                continue
            try:
                given = np.array([math.nan if value is None else value for value in values(future)])
            except DeadlinePassed:
                assert deadline < math.inf
                continue
            np.testing.assert_array_equal(given, [len(text) or math.nan for text in texts])
            num_right += 1
        return num_right

    with running(Lengths(), linger_seconds=0.0005, batch_tokens=30) as batcher, ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(call, range(8))) > 200
        wait_for(lambda: batcher.num_queued == batcher.queued_tokens == 0)


def test_what_waits_for_an_engine_that_is_stuck_hears_of_it():
    scorer = Lengths(is_open=False)
    batcher = Batcher(scorer, linger_seconds=0)
    asked = batcher.submit([answer("abc")])
    assert scorer.has_begun.wait(20)
    assert not batcher.close(timeout=0.01)
    batcher.abandon()
    with pytest.raises(EngineDown):
        asked.result(20)
    scorer.gate.set()  # what comes after all is told nobody
    assert batcher.close(timeout=20)
