"""The loop: known optima, the same steps after a kill, what is refused, and nothing invented."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from assay.cli import main
from assay.errors import CheckpointError, TrainingError
from assay.models.device import pick_compute
from assay.records import Rewards
from assay.rl.evaluations import read_evaluations
from assay.rl.kl_control import KLSettings
from assay.rl.loop.loop_settings import PolicySettings
from assay.rl.loop.policy_model import load_policy
from assay.rl.loop.policy_result import policy_result
from assay.rl.loop.policy_step import draw, generator_of
from assay.rl.loop.train_policy import prompts_of_step, read_metrics, train_policy
from assay.scorers.rules import rule_scorer
from assay.wire import report_from_json
from policy_worlds import ARMS, a_run, bandit_base, copied, copy_base, payout, prompts


@pytest.fixture(scope="module")
def bandit(tmp_path_factory):
    return bandit_base(tmp_path_factory.mktemp("bandit") / "base")


@pytest.fixture(scope="module")
def copying(tmp_path_factory):
    return copy_base(tmp_path_factory.mktemp("copy") / "base")


@pytest.mark.parametrize("estimator", ["rloo", "grpo", "ppo"])
def test_a_bandit_comes_to_its_best_arm(bandit, tmp_path, estimator):
    settings = {"estimator": estimator, "steps": 70, "samples": 32, "learning_rate": 0.002}
    trained = train_policy(a_run(bandit, tmp_path / "run", **settings, kl=KLSettings(beta=0.0)))
    rewards = [row["reward"] for row in trained.rows]
    assert np.mean(rewards[:3]) < 0.6
    assert np.mean(rewards[-5:]) > 0.8


@pytest.mark.parametrize("estimator", ["rloo", "grpo", "ppo"])
def test_copying_is_learnt_for_each_prompt(copying, tmp_path, estimator):
    run = a_run(
        copying, tmp_path / "run", copied, ARMS, estimator=estimator, steps=120, prompts=4, samples=8, kl=KLSettings(beta=0.0)
    )
    trained = train_policy(run)
    assert trained.rows[0]["reward"] < 0.75
    assert np.mean([row["reward"] for row in trained.rows[-10:]]) > (0.7 if estimator == "ppo" else 0.95)


def test_the_kl_optimum_of_a_bandit_is_the_tilted_policy(bandit, tmp_path):
    """max E[r] - beta KL is reached at p(x) ~ p0(x) exp(r(x) / beta), with p0 the shares of the base's answers."""
    run = a_run(bandit, tmp_path / "run", steps=160, samples=64, learning_rate=0.002, kl=KLSettings(beta=0.5))
    trained = train_policy(run)
    model = load_policy(str(bandit), params="full", compute=pick_compute("cpu", "float32"))
    settings, asked = run.settings, prompts("pull")
    base_N = draw(model.plain, model.tokens, asked, run.scorer, settings, samples=2000, generator=generator_of(1)).value_PK[0]
    expected = float((base_N * np.exp(base_N / 0.5)).sum() / np.exp(base_N / 0.5).sum())
    assert np.mean(base_N) < expected - 0.15
    assert np.mean([row["reward"] for row in trained.rows[-80:]]) == pytest.approx(expected, abs=0.04)


def test_a_run_that_was_killed_goes_on_bit_for_bit(bandit, tmp_path):
    settings = {"steps": 20, "save_every": 7, "evaluate_every": 5, "kl": KLSettings(control="pi", target=2.0)}
    whole = train_policy(replace(a_run(bandit, tmp_path / "whole", **settings), gold=rule_scorer(payout), keep_answers=True))
    out = tmp_path / "killed"
    run = replace(a_run(bandit, out, **settings), gold=rule_scorer(payout), keep_answers=True)
    dies = replace(run, scorer=DiesAfter(run.scorer, 12))
    with pytest.raises(KeyboardInterrupt):
        train_policy(dies)
    (out / "metrics.jsonl").open("a").write('{"step": 99, "rew')  # what a kill leaves
    resumed = train_policy(replace(run, resume=True))
    shown = [{name: one for name, one in row.items() if name != "seconds"} for row in resumed.rows]
    assert shown == [{name: one for name, one in row.items() if name != "seconds"} for row in whole.rows]
    for kept in ("completions.jsonl", "answers.jsonl"):
        assert (out / kept).read_text() == (tmp_path / "whole" / kept).read_text()
    ours, theirs = (load_file(path / "model.safetensors") for path in (resumed.policy, whole.policy))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.ground == whole.ground


def test_a_run_with_other_settings_or_another_scorer_does_not_go_on(bandit, tmp_path):
    run = a_run(bandit, tmp_path / "run", steps=4, save_every=2)
    train_policy(run)
    with pytest.raises(CheckpointError, match="settings"):
        train_policy(replace(run, resume=True, settings=replace(run.settings, learning_rate=0.5)))
    with pytest.raises(CheckpointError, match="fingerprint"):
        train_policy(replace(run, resume=True, scorer=rule_scorer(copied)))
    with pytest.raises(ValueError, match="not empty"):
        train_policy(run)
    with pytest.raises(ValueError, match="no run to go on with"):
        train_policy(replace(run, resume=True, out=tmp_path / "nothing"))


def test_a_step_whose_answers_are_all_unscored_changes_nothing_and_three_end_the_run(bandit, tmp_path):
    with pytest.raises(TrainingError, match=r"three steps in a row.*the judge is away"):
        train_policy(replace(a_run(bandit, tmp_path / "run", steps=9), scorer=Silent()))
    rows = read_metrics(tmp_path / "run")
    assert [row["scored"] for row in rows] == [0.0, 0.0]
    assert all(np.isnan(row["reward"]) for row in rows)


def test_answers_without_a_reward_leave_their_group(bandit, tmp_path):
    """One in three has no reward; the policy still finds the best arm, and no number was made up for them."""
    trained = train_policy(replace(a_run(bandit, tmp_path / "run", steps=60, kl=KLSettings(beta=0.0)), scorer=Spotty()))
    assert 0.5 < np.mean([row["scored"] for row in trained.rows]) < 0.85
    assert np.nanmean([row["reward"] for row in trained.rows[-5:]]) > 0.95
    assert {row["why_unscored"] for row in trained.rows} == {"lost"}
    page = policy_result(tmp_path / "run", title="", facts={}, ground=None, anchor="", seed=0)
    told = next(one.why for one in page.findings if one.name == "answers without a reward")
    assert "most often: lost" in told


def test_the_command_watches_every_answer_that_it_trains_on(bandit, tmp_path, capsys):
    asked = tmp_path / "prompts.jsonl"
    asked.write_text("".join(json.dumps({"prompt": f"pull {one} {other}"}) + "\n" for one in ARMS for other in ARMS))
    out = tmp_path / "run"
    words = ["rl", "train", str(bandit), "rule:length?max_words=5", str(asked), "--out", str(out), "--watch", "--steps", "6"]
    words += ["--prompts-per-step", "8", "--samples", "32", "--max-tokens", "4", "--evaluate-every", "6", "--held-out", "2"]
    assert main(words) == 0
    assert "next        assay audit watch" in capsys.readouterr().out
    rows = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [step for step in range(6) for _ in range(8 * 32)]
    steps = read_metrics(out)
    for step in (0, 5):  # the log's rewards are those that the step was trained on
        given = [row["reward"] for row in rows if row["step"] == step and row["reward"] is not None]
        assert np.mean(given) == pytest.approx(steps[step]["reward"])
    signs = report_from_json((out / "eval" / "signs.json").read_text())
    measured = {row[0]: row[2] for row in signs.tables[0].rows}
    assert {"longer answers", "new opener", "repeated text"} <= measured.keys()
    assert set(measured.values()) <= {4, 5}, "the first four looks are the start"


def test_an_unfinished_answer_gets_the_reward_that_is_set_for_it(bandit, tmp_path):
    run = a_run(bandit, tmp_path / "run", steps=1, max_tokens=1, unfinished=-3.0, estimator="rloo")
    trained = train_policy(run)  # a word and its end are two tokens: every answer is cut off
    assert trained.rows[0]["finished"] < 0.3
    assert trained.rows[0]["reward"] > 0  # what the scorer gave is still in the records
    drawn = draw_once(run)
    assert (drawn.reward_PK[~drawn.rollouts.finished_N.numpy().reshape(1, -1)] == -3.0).all()


def test_an_answer_without_text_gets_the_reward_that_is_set_for_it_and_keeps_none_in_the_records(bandit, tmp_path):
    run = replace(a_run(bandit, tmp_path / "run", samples=64, temperature=50.0), scorer=Strict())  # any token, an end at once too
    drawn, fined = draw_once(run), draw_once(replace(run, settings=replace(run.settings, empty=-2.0)))
    empty = np.array([one.response == "" for one in drawn.completions]).reshape(1, -1)
    assert empty.any()
    assert np.isnan(drawn.reward_PK[empty]).all()
    assert (fined.reward_PK[empty] == -2.0).all()
    assert (fined.reward_PK[~empty] == drawn.reward_PK[~empty]).all()
    assert np.isnan(fined.value_PK[empty]).all()


def test_best_and_worst_answers_are_kept_with_gold(bandit, tmp_path):
    run = a_run(bandit, tmp_path / "run", steps=10, keep=2, eval_prompts=8)
    train_policy(replace(run, held_out=prompts(*["pull"] * 8), gold=rule_scorer(payout)))
    rows = [json.loads(line) for line in (tmp_path / "run" / "completions.jsonl").read_text().splitlines()]
    assert {row["kind"] for row in rows} == {"best", "worst"}
    assert all(row["reward"] == row["gold"] for row in rows)
    by_kind = {kind: [row["reward"] for row in rows if row["kind"] == kind] for kind in ("best", "worst")}
    assert min(by_kind["best"]) >= max(by_kind["worst"])


def test_a_policy_that_spoils_what_the_anchor_wants_alarms_and_one_that_learns_it_does_not(bandit, tmp_path):
    against = rule_scorer(spoiled)
    held_out = prompts(*["pull"] * 32)
    settings = {"steps": 60, "eval_prompts": 32, "evaluate_every": 5, "kl": KLSettings(beta=0.0)}
    bad = train_policy(replace(a_run(bandit, tmp_path / "bad", **settings), held_out=held_out, anchor=against))
    good = train_policy(replace(a_run(bandit, tmp_path / "good", **settings), held_out=held_out, anchor=rule_scorer(payout)))
    assert bad.ground is not None
    assert bad.ground.alarmed
    page = policy_result(bad.policy.parent, title="t", facts={}, ground=bad.ground, anchor="gold", seed=0).page
    table = next(one for one in page.tables if one.title == "against its own past")
    assert table.columns == ("step", "wins against the start", "wins against halfway")
    assert [row[0] for row in table.rows] == list(range(4, 60, 5))
    assert np.mean([row[1] for row in table.rows]) < 0.45
    assert good.ground is not None
    assert not good.ground.alarmed
    stops = replace(a_run(bandit, tmp_path / "stops", **settings), held_out=held_out, anchor=against, stop_on_alarm=True)
    assert len(train_policy(stops).rows) < 60


@pytest.mark.parametrize("params", ["blocks:1", "lora:4"])
def test_a_part_of_the_policy_is_trained_and_the_rest_stays(copying, tmp_path, params):
    settings = {"params": params, "steps": 90, "prompts": 4, "samples": 16, "learning_rate": 0.01}
    trained = train_policy(a_run(copying, tmp_path / "run", payout, ARMS, **settings, kl=KLSettings(beta=0.0)))
    assert np.mean([row["reward"] for row in trained.rows[:3]]) < 0.5
    assert np.mean([row["reward"] for row in trained.rows[-5:]]) > 0.7
    before, after = load_file(copying / "model.safetensors"), load_file(trained.policy / "model.safetensors")
    assert before.keys() == after.keys()
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert not torch.equal(before["model.layers.0.self_attn.q_proj.weight"], after["model.layers.0.self_attn.q_proj.weight"])


def draw_once(run):
    model = load_policy(run.policy, params="full", compute=pick_compute("cpu", "float32"))
    settings = run.settings
    return draw(model.plain, model.tokens, run.prompts, run.scorer, settings, samples=settings.samples, generator=generator_of(0))


def test_prompts_come_in_epochs_each_once():
    settings = PolicySettings(prompts=3)
    asked = prompts(*"abcdefg")
    seen = [prompt.id for step in range(7) for prompt in prompts_of_step(asked, settings, step)]
    for epoch in range(3):
        assert sorted(seen[7 * epoch : 7 * (epoch + 1)]) == sorted(prompt.id for prompt in asked)
    assert seen[:7] != seen[7:14]


def test_settings_and_data_that_cannot_be_are_refused(bandit, tmp_path):
    with pytest.raises(ValueError, match="at least 2; ppo takes 1"):
        PolicySettings(samples=1)
    assert PolicySettings(samples=1, estimator="ppo").samples == 1
    with pytest.raises(ValueError, match="full, blocks:K or lora:R"):
        PolicySettings(params="head")
    with pytest.raises(ValueError, match="rloo, grpo, ppo"):
        PolicySettings(estimator="dpo")
    with pytest.raises(ValueError, match="only 64 answers"):
        PolicySettings(minibatches=65)
    with pytest.raises(ValueError, match="there are 1"):
        train_policy(a_run(bandit, tmp_path / "a", prompts=2))
    with pytest.raises(ValueError, match="the policy has 1 blocks"):
        train_policy(a_run(bandit, tmp_path / "b", params="blocks:2"))
    with pytest.raises(ValueError, match="use rloo or grpo"):
        train_policy(replace(a_run(bandit, tmp_path / "c", estimator="ppo"), scorer=OfAPrompt()))


def spoiled(completions) -> list[float]:
    """The anchor wants what pays nothing."""
    return [float(one.response in ("red", "white")) for one in completions]


class Silent:
    fingerprint, scope, tolerance = "silent", "global", 0.0

    def score(self, completions):
        return Rewards(value=np.full(len(completions), np.nan, np.float32), error=("the judge is away",) * len(completions))


class Spotty:
    fingerprint, scope, tolerance = "spotty", "global", 0.0

    def __init__(self):
        self.rng = np.random.default_rng(0)

    def score(self, completions):
        missing = self.rng.random(len(completions)) < 1 / 3
        value = np.where(missing, np.nan, payout(completions)).astype(np.float32)
        return Rewards(value=value, error=tuple("lost" if one else None for one in missing))


class Strict:
    """A reward of 1, and none for an answer without text."""

    fingerprint, scope, tolerance = "strict", "global", 0.0

    def score(self, completions):
        value = np.array([1.0 if one.response else np.nan for one in completions])
        return Rewards(value=value, error=tuple(None if one.response else "the response is empty" for one in completions))


class OfAPrompt(Silent):
    scope = "prompt"


class DiesAfter:
    """A scorer that is killed at a call."""

    def __init__(self, scorer, calls):
        self.scorer, self.calls = scorer, calls
        self.fingerprint, self.scope, self.tolerance = scorer.fingerprint, scorer.scope, scorer.tolerance

    def score(self, completions):
        self.calls -= 1
        if self.calls < 0:
            raise KeyboardInterrupt
        return self.scorer.score(completions)


def test_the_directory_of_a_killed_run_can_be_moved(bandit, tmp_path):
    run = a_run(bandit, tmp_path / "run", steps=4, save_every=2)
    train_policy(run)
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")
    again = train_policy(replace(run, out=tmp_path / "elsewhere", resume=True))
    assert len(again.rows) == 4


def test_a_run_that_is_not_held_against_its_past_has_gold_and_no_evidence(bandit, tmp_path):
    watched = a_run(bandit, tmp_path / "watched", steps=2, evaluate_every=1)
    watched = replace(watched, gold=watched.scorer)
    plain = replace(watched, out=tmp_path / "plain", against_past=False)
    assert train_policy(watched).ground is not None
    assert train_policy(plain).ground is None
    both = [read_evaluations(one.out) for one in (watched, plain)]
    assert both[0].gold_EP.tolist() == both[1].gold_EP.tolist()  # the same policy, and its gold is looked at
