"""A run that begins where another one stopped: the same steps as one that never did, or once more from a look."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_train_policy import spoiled

from assay.errors import CheckpointError
from assay.rl.evaluations import read_evaluations
from assay.rl.kl_control import KLSettings
from assay.rl.loop.beginnings import Beginning, steps_kept, weights_at
from assay.rl.loop.train_policy import ALARM, DISTANCE, SCHEDULE, train_policy
from assay.scorers.rules import rule_scorer
from policy_worlds import a_run, bandit_base, payout, prompts

SETTINGS = {"steps": 8, "evaluate_every": 2, "save_every": 3, "kl": KLSettings(control="pi", target=2.0)}


@pytest.fixture(scope="module")
def bandit(tmp_path_factory):
    return bandit_base(tmp_path_factory.mktemp("bandit") / "base")


def plain(rows) -> list[dict]:
    return [{name: one for name, one in row.items() if name != "seconds"} for row in rows]


def test_a_run_that_goes_on_from_another_takes_the_same_steps_bit_for_bit(bandit, tmp_path):
    gold = rule_scorer(payout)
    whole = train_policy(replace(a_run(bandit, tmp_path / "whole", **SETTINGS), gold=gold))
    first = train_policy(replace(a_run(bandit, tmp_path / "first", **SETTINGS), gold=gold, stop_at=4))
    assert (first.steps, first.stopped, len(first.rows)) == (4, SCHEDULE, 4)
    begin = Beginning(run=tmp_path / "first", step=4)
    second = train_policy(replace(a_run(bandit, tmp_path / "second", **SETTINGS), gold=gold, begin=begin))
    assert (second.steps, second.stopped) == (8, None)
    np.testing.assert_equal(plain(second.rows), plain(whole.rows))
    ours, theirs = (load_file(one.policy / "model.safetensors") for one in (second, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert second.ground == whole.ground
    for name in ("evaluations.jsonl", "completions.jsonl"):
        assert (tmp_path / "second" / name).read_text() == (tmp_path / "whole" / name).read_text()


def test_a_run_that_stopped_stays_there_until_that_is_taken_back(bandit, tmp_path):
    run = a_run(bandit, tmp_path / "run", **SETTINGS)
    stops = replace(run, stop_at=4)
    train_policy(stops)
    before = load_file(tmp_path / "run" / "policy" / "model.safetensors")
    again = train_policy(replace(stops, resume=True))
    assert (again.steps, again.stopped) == (4, SCHEDULE)
    on = train_policy(replace(run, resume=True))
    assert (on.steps, on.stopped) == (8, None)
    after = load_file(on.policy / "model.safetensors")
    assert not all(torch.equal(before[name], after[name]) for name in before)  # the policy that is saved is the one that went on


def test_once_more_from_a_look_the_weights_are_those_of_then_and_what_came_after_is_not_there(bandit, tmp_path):
    train_policy(a_run(bandit, tmp_path / "first", **SETTINGS))
    begin = Beginning(run=tmp_path / "first", step=4, whole=False)
    run = replace(a_run(bandit, tmp_path / "second", **{**SETTINGS, "steps": 5}), begin=begin)
    again = train_policy(replace(run, scorer=rule_scorer(spoiled)))
    assert [row["step"] for row in again.rows] == [0, 1, 2, 3, 4]
    assert steps_kept(tmp_path / "second") == [0, 2, 4, 5]
    kept, then = weights_at(tmp_path / "second", 4), weights_at(tmp_path / "first", 4)
    assert all(torch.equal(kept[name], then[name]) for name in then)
    assert read_evaluations(tmp_path / "second").steps.tolist() == [-1, 1, 3, 4]


def test_evidence_that_rang_stays_with_its_run(bandit, tmp_path):
    settings = {"steps": 40, "eval_prompts": 32, "evaluate_every": 5, "kl": KLSettings(beta=0.0)}
    run = replace(a_run(bandit, tmp_path / "bad", **settings), held_out=prompts(*["pull"] * 32), anchor=rule_scorer(spoiled))
    bad = train_policy(replace(run, stop_on_alarm=True))
    assert bad.stopped == ALARM
    assert bad.ground is not None
    assert bad.ground.alarmed
    on = replace(run, out=tmp_path / "on", begin=Beginning(run=tmp_path / "bad", step=bad.steps), stop_at=bad.steps + 1)
    after = train_policy(on).ground
    assert after is not None
    assert sum(one.num for one in after.against.values()) == 2 * 32  # the comparisons of one look, and none of before


def test_a_run_stops_at_the_look_at_which_it_is_far_enough(bandit, tmp_path):
    run = replace(a_run(bandit, tmp_path / "run", **{**SETTINGS, "steps": 30, "kl": KLSettings(beta=0.0)}), stop_kl=0.2)
    stopped = train_policy(replace(run, held_out=prompts(*["pull"] * 16)))
    assert stopped.stopped == DISTANCE
    kl_E = np.nanmean(read_evaluations(tmp_path / "run").kl_EP, axis=1)
    assert (kl_E[:-1] < 0.2).all()
    assert kl_E[-1] >= 0.2


def test_what_is_not_there_to_begin_from_is_refused(bandit, tmp_path):
    train_policy(a_run(bandit, tmp_path / "first", **{**SETTINGS, "steps": 4}))
    for step, whole, message in ((3, True, "last checkpoint at step 4"), (3, False, "no look of .* kept the weights of step 3")):
        begin = Beginning(run=tmp_path / "first", step=step, whole=whole)
        with pytest.raises(CheckpointError, match=message):
            train_policy(replace(a_run(bandit, tmp_path / f"{step}-{whole}", **SETTINGS), begin=begin))
    run = replace(a_run(bandit, tmp_path / "ok", **SETTINGS), begin=Beginning(run=tmp_path / "first", step=4))
    train_policy(run)
    with pytest.raises(CheckpointError, match="begin"):
        train_policy(replace(run, resume=True, begin=None))


def test_a_run_that_was_killed_before_its_first_checkpoint_has_its_first_look_once(bandit, tmp_path):
    run = a_run(bandit, tmp_path / "run", **{**SETTINGS, "steps": 2})
    first = replace(run, scorer=Dies(run.scorer))
    with pytest.raises(KeyboardInterrupt):
        train_policy(first)
    train_policy(replace(run, resume=True))
    assert read_evaluations(tmp_path / "run").steps.tolist() == [-1, 1]


class Dies:
    """Ends the process at its second call: after the first look."""

    def __init__(self, scorer):
        self.scorer, self.calls = scorer, 0
        self.fingerprint, self.scope, self.tolerance = scorer.fingerprint, scorer.scope, scorer.tolerance

    def score(self, completions):
        self.calls += 1
        if self.calls == 2:
            raise KeyboardInterrupt
        return self.scorer.score(completions)
