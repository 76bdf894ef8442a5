"""The ledger: a key for all that decides a reply, one row an attempt, and what it comes to."""

import sqlite3
import threading
import time

import pytest

from assay.errors import CacheError
from assay.generation.ledger import Bill, Ledger
from assay.generation.replies import Ask, Reply, Sampling, TokenChoices
from assay.messages import Message

ASK = Ask(messages=(Message("user", "hi"),), sampling=Sampling(), rubric="r", order="first", sample=0)


def test_a_key_covers_all_that_decides_a_reply():
    def changed(**fields):
        given = {name: getattr(ASK, name) for name in ("messages", "sampling", "rubric", "order", "sample", "shared")}
        return Ask(**{**given, **fields}).key("model")

    base = changed()
    others = [
        changed(messages=(Message("user", "ho"),)),
        changed(messages=(Message("system", "hi"),)),
        changed(rubric="s"),
        changed(order="second"),
        changed(sample=1),
        *(
            changed(sampling=Sampling(**one))
            for one in ({"temperature": 1.0}, {"seed": 1}, {"max_tokens": 7}, {"choices": ("a",)}, {"schema": "{}"})
        ),
        ASK.key("another model"),
    ]
    assert len({base, *others}) == len(others) + 1
    assert changed(shared="anything") == base


def test_what_was_recorded_is_found_again_bit_by_bit(tmp_path):
    tokens = (TokenChoices("yes", (("yes", -0.1234567890123), ("no", -2.5))),)
    reply = Reply("Verdict: yes", "stop", 10, 2, 0.25, 0.001, None, tokens)
    ledger = Ledger(tmp_path / "deep" / "ledger.sqlite")
    key = ASK.key("m")
    ledger.record(ASK, key, "m", Reply(None, error="timed out", may_pass=True), None, "timed out")
    ledger.record(ASK, key, "m", reply, {"value": 0.5}, None)
    ledger.close()
    failed, good = Ledger(tmp_path / "deep" / "ledger.sqlite").attempts([key, "unknown"])[key]
    assert (failed.error, failed.reply.may_pass, failed.reply.text) == ("timed out", True, None)
    assert good.reply == reply
    assert good.verdict == {"value": 0.5}
    (row, other) = Ledger(tmp_path / "deep" / "ledger.sqlite").rows()
    assert (other["model"], other["rubric"], other["shown_first"], other["sample"]) == ("m", "r", "first", 0)
    assert row["error"] == "timed out"


def test_a_bill_counts_failures_and_does_not_take_an_unknown_price_for_none(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    replies = [Reply("a", "stop", 10, 2, 0.5, 0.25), Reply(None, error="x", seconds=1.0), Reply("b", "stop", 5, 1, 0.5, 0.5)]
    bill = Bill()
    for reply in replies:
        ledger.record(ASK, "k", "m", reply, None, reply.error)
        bill = bill.with_call(reply, reply.error)
    assert bill == ledger.bill() == Bill(3, 1, 15, 3, 2.0, 0.75, 1)
    assert bill.summary() == "3 calls, 1 of them failed; 15 tokens read, 3 written; $0.7500 and 1 calls of unknown price"
    assert Bill().with_call(Reply("a", "stop"), None).summary() == "1 call; 0 tokens read, 0 written; price unknown"


def test_another_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "other.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE mine (x)")
    with pytest.raises(CacheError, match="another program's database"):
        Ledger(path)
    (tmp_path / "text.sqlite").write_text("not a database, but long enough to look like one " * 40)
    with pytest.raises(CacheError, match="not a ledger"):
        Ledger(tmp_path / "text.sqlite")


def test_threads_share_a_ledger_and_hits_are_fast(tmp_path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    asks = [Ask(messages=(Message("user", f"question {i}"),), sampling=Sampling()) for i in range(400)]
    keys = [ask.key("m") for ask in asks]

    def write(start):
        for i in range(start, 400, 4):
            ledger.record(asks[i], keys[i], "m", Reply("yes", "stop", 1, 1), 1.0, None)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    began = time.process_time()
    found = ledger.attempts(keys)
    assert len(found) == 400
    assert time.process_time() - began < 0.2  # at least 2,000 a second on a busy machine
