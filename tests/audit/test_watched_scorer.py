"""`Watched`: what comes out is what the inner scorer gave, what is seen can be saved, and healthy runs give it a rate."""

from __future__ import annotations

import json
import math
import threading

import numpy as np
import pytest

from assay.audit.healthy_file import keep_healthy, read_healthy
from assay.audit.watch import TOGETHER, Watch, WatchSettings
from assay.audit.watched import CANARY, Watched
from assay.errors import DataError
from assay.records import Completion, Rewards
from assay.scorers.base import Scorer, capability
from assay.scorers.checks import scorer_laws
from assay.scorers.wrappers.cached import Cached

SMALL = WatchSettings(window=16, start=2, keep=2)


class Columns:
    """A scorer with every column; an empty answer has no reward. `shift` is a model that was swapped."""

    fingerprint, scope, tolerance = "columns", "global", 1e-6
    shift = 0.0

    def score(self, completions):
        values = [len(str(c.response)) % 7 + self.shift if c.response else math.nan for c in completions]
        steps = tuple(np.arange(3.0) for _ in completions)
        return Rewards(value=values, std=np.ones(len(values)), steps=steps, text=tuple("said" for _ in completions))


def answers(seed: int, *, num_prompts: int = 4, longer: int = 0, opener: str = "") -> list[Completion]:
    """Four answers to each prompt, of lengths around 40 + longer."""
    rng = np.random.default_rng(seed)
    return [
        Completion(
            messages=f"question {seed} {i}",
            response=opener + "word " * int(8 + longer / 5 + rng.integers(0, 3)) + str(rng.integers(99)),
        )
        for i in range(num_prompts)
        for _ in range(4)
    ]


ITEMS = [*answers(0), Completion(messages="p", response=""), Completion(text="rendered"), Completion(token_ids=(1, 2))]


@pytest.mark.parametrize("law", scorer_laws(Watched(Columns(), settings=SMALL, canaries=2), ITEMS[:-2]), ids=str)
def test_a_watched_scorer_keeps_every_law(law):
    assert law.check() is None  # it raises AssertionError where the law is broken


def test_what_comes_out_is_the_same_object_and_inputs_are_untouched():
    class Kept(Columns):
        def score(self, completions):
            self.last = super().score(completions)
            return self.last

    inner = Kept()
    watched = Watched(inner, settings=SMALL)
    for part in (ITEMS, [], ITEMS[3:9]):
        assert watched.score(part) is inner.last
    assert isinstance(watched, Scorer)
    assert capability(watched, Kept) is inner
    assert (watched.fingerprint, watched.scope, watched.tolerance) == ("columns", "global", 1e-6)
    assert not watched.problem


def test_a_fault_of_watching_costs_no_reward_and_is_told(monkeypatch):
    watched = Watched(Columns(), settings=SMALL)
    monkeypatch.setattr(watched.watch, "see", lambda *_, **__: 1 / 0)
    assert watched.score(answers(0)).ok.all()
    assert "ZeroDivisionError" in next(one.why for one in watched.findings() if one.name == "watching")


def test_looks_close_with_the_call_that_fills_them_and_long_calls_are_cut_between_prompts():
    watch = Watch(settings=WatchSettings(window=10, start=1))

    def see(num):
        given = answers(num, num_prompts=num)
        return watch.see(given, Columns().score(given))

    assert [see(2), see(1), see(4)] == [0, 1, 1]
    assert [look.num_rows for look, _ in watch.looks] == [12, 16]
    assert see(20) == 6  # 80 rows: 12 to a look, and what is left of at most two windows in the last
    assert [look.num_rows for look, _ in watch.looks][2:] == [12, 12, 12, 12, 12, 20]
    assert watch.num_rows == 108


def test_memory_is_bounded_however_the_rows_come():
    watch = Watch(settings=WatchSettings(window=10, start=1, keep=1, history=5))
    one_prompt = [Completion(messages="p", response="word " * (i % 9)) for i in range(500)]
    watch.see(one_prompt, Columns().score(one_prompt))
    assert max(look.num_rows for look, _ in watch.looks) <= 20
    assert len(watch.looks) == 5
    assert len(watch.rows) < 20
    assert all(len(peak.shown) <= 1 for peak in watch.highest.values())


def test_a_state_that_was_saved_goes_on_bit_for_bit(tmp_path):
    def run(watched, seeds):
        for seed in seeds:
            watched.step = seed
            watched.score(answers(seed, longer=3 * seed))

    whole, first = (Watched(Columns(), settings=SMALL, canaries=3, canary_looks=2) for _ in range(2))
    run(whole, range(9))
    run(first, range(4))
    first.score(ITEMS[:5])
    whole_with = Watched(Columns(), settings=SMALL, canaries=3, canary_looks=2)
    run(whole_with, range(4))
    whole_with.score(ITEMS[:5])  # an open look with NaN in it
    first.save(tmp_path / "state.json")
    second = Watched(Columns(), settings=WatchSettings(window=999))
    second.restore(tmp_path / "state.json")
    for watched in (whole_with, second):
        run(watched, range(4, 9))
        watched.save(tmp_path / f"{id(watched)}.json")
    assert (tmp_path / f"{id(second)}.json").read_bytes() == (tmp_path / f"{id(whole_with)}.json").read_bytes()
    assert second.watch.num_looks == whole_with.watch.num_looks != whole.watch.num_looks + 1


def test_a_state_of_another_scorer_or_version_is_refused(tmp_path):
    path = tmp_path / "state.json"
    Watched(Columns()).save(path)
    other = Columns()
    other.fingerprint = "another"
    with pytest.raises(ValueError, match="watched columns, and this is another"):
        Watched(other).restore(path)
    content = json.loads(path.read_text())
    content["watch"]["version"] = 99
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="version 99"):
        Watched(Columns()).restore(path)


def test_canaries_tell_of_a_model_that_was_swapped_and_are_scored_by_themselves():
    inner = Columns()
    watched = Watched(inner, settings=SMALL, canaries=[ITEMS[0], ITEMS[1]], canary_looks=2)
    for seed in range(4):
        watched.score(answers(seed))
    assert watched.findings()[0][:2] == ("ok", CANARY)
    assert "2 scorings" in watched.findings()[0].why
    inner.shift = 0.01
    for seed in range(2):
        watched.score(answers(seed))
    found = watched.findings()[0]
    assert found[:2] == ("fail", CANARY)
    assert found.value == pytest.approx(0.01, rel=1e-3)
    assert watched.watch.num_rows == 6 * 16


def test_canaries_look_below_a_cache_and_a_lost_reward_is_no_change(tmp_path):
    inner = Columns()
    watched = Watched(Cached(inner, tmp_path / "cache.sqlite"), settings=SMALL, canaries=2, canary_looks=1)
    for _ in range(2):
        watched.score(answers(0))
    inner.shift = math.nan
    watched.score(answers(0))  # all cached
    level, _, _, _, why, *_ = watched.findings()[0]
    assert (level, "2 times one had a reward on one side only" in why) == ("warn", True)
    inner.shift = 1.0
    watched.score(answers(0))
    assert watched.findings()[0].level == "fail"


def test_several_threads_may_score():
    watched = Watched(Columns(), settings=SMALL)
    threads = [threading.Thread(target=lambda i=i: [watched.score(answers(i)) for _ in range(20)]) for i in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert watched.watch.num_rows == 4 * 20 * 16
    assert not watched.problem


def test_without_healthy_runs_no_sign_has_a_rate_and_it_says_so():
    watched = Watched(Columns(), settings=SMALL)
    watched.score(answers(0))
    assert "signs begin after 2 looks" in watched.findings()[0].why
    for seed in range(5):
        watched.score(answers(seed, longer=100 * seed))
    assert [one.name for one in watched.findings()] == [TOGETHER]
    assert "no healthy runs were given" in watched.findings()[0].why
    assert not watched.watch.passed
    assert any(one["kind"].startswith("longer answers") for one in watched.examples())


def healthy_run(seed: int, looks: int = 10, healthy=None) -> Watched:
    """Answers whose length wanders a little."""
    watched, rng = Watched(Columns(), settings=SMALL, healthy=healthy), np.random.default_rng(seed)
    for look in range(looks):
        watched.score(answers(1000 * seed + look, longer=int(rng.normal(0, 10))))
    return watched


@pytest.fixture(scope="module")
def healthy_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("healthy") / "healthy.jsonl"
    for seed in range(40):
        healthy_run(seed).keep_healthy(path)
    return path


def test_thresholds_are_the_kth_largest_of_the_runs_and_the_battery_has_one_rate(healthy_file):
    found = read_healthy(healthy_file, SMALL.watching)
    maxima = sorted(json.loads(line)["highest"]["longer answers"] for line in healthy_file.read_text().splitlines())
    assert found.thresholds["longer answers"].value == maxima[-2]
    assert found.thresholds["longer answers"].rate == 2 / 41
    assert found.together.threshold.rate == 1 / 21
    assert found.looks == 8
    assert "surface explains" in found.thresholds or "surface explains" not in found.missing


def test_a_run_that_grows_long_passes_and_shows_its_completions(healthy_file):
    watched = healthy_run(77, healthy=healthy_file)
    assert [one.level for one in watched.findings()] == ["ok"]
    for look in range(3):
        watched.step = 500 + look
        watched.score(answers(5000 + look, longer=200, opener="Great question! "))
    findings = {one.name: one for one in watched.findings()}
    assert findings[TOGETHER].level == "warn"
    assert "look 11 (500)" in findings["sign: longer answers"].why
    assert (
        "4.9% of 40 healthy runs pass it; but this run has 11 looks and the shortest of those 8"
        in findings["sign: longer answers"].why
    )
    shown = [one["response"] for one in watched.examples() if one["kind"].startswith("new opener")]
    assert len(shown) == 2
    assert all(text.startswith("Great question!") for text in shown)


def test_a_new_healthy_run_passes_at_the_rate_that_is_said(healthy_file):
    passed = sum(bool(healthy_run(seed, healthy=healthy_file).watch.passed.get(TOGETHER)) for seed in range(100, 160))
    assert passed <= 9  # P(10 or more of 60) is 0.1% at 1 in 21


def test_healthy_runs_that_were_watched_otherwise_are_refused_and_other_scorers_are_said(healthy_file, tmp_path):
    with pytest.raises(ValueError, match="window 16 there, 64 here"):
        Watched(Columns(), settings=WatchSettings(window=64, start=2), healthy=healthy_file)
    with pytest.raises(ValueError, match="window 16 there, 64 here"):
        keep_healthy(healthy_file, Watch(settings=WatchSettings(window=64, start=2)).record("x") | {"looks": 3})
    with pytest.raises(ValueError, match="too short"):
        Watched(Columns(), settings=SMALL).keep_healthy(tmp_path / "new.jsonl")
    other = Columns()
    other.fingerprint = "another"
    watched = Watched(other, settings=SMALL, healthy=healthy_file)
    for seed in range(3):
        watched.score(answers(seed))
    assert "other scorers" in watched.findings()[-1].why


def test_a_file_of_healthy_runs_that_cannot_be_used_is_told_apart(tmp_path, healthy_file):
    with pytest.raises(DataError, match=r"is no file"):
        read_healthy(tmp_path / "none.jsonl")
    bad = tmp_path / "bad.jsonl"
    bad.write_text("[1, 2]\n")
    with pytest.raises(DataError, match="line 1 is no healthy run"):
        read_healthy(bad)
    few = tmp_path / "few.jsonl"
    few.write_text("".join(healthy_file.read_text().splitlines(keepends=True)[:10]))
    with pytest.raises(ValueError, match=r"make at least 19 for 0\.05"):
        read_healthy(few)
    between = tmp_path / "between.jsonl"
    between.write_text("".join(healthy_file.read_text().splitlines(keepends=True)[:30]))
    found = read_healthy(between)
    assert found.together is None
    assert "15 healthy runs" in found.missing["all signs together"]
    assert found.thresholds
