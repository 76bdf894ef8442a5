"""Rewards of steps in the loop: where they stand, what an update makes of them, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from assay.errors import TrainingError
from assay.models.device import pick_compute
from assay.records import Rewards
from assay.rl.kl_control import KLSettings
from assay.rl.loop.loop_settings import PolicySettings
from assay.rl.loop.policy_model import load_policy
from assay.rl.loop.policy_step import draw, generator_of, step_figures, weigh
from assay.rl.loop.train_policy import train_policy
from assay.training.imitation import fitted, save_base, word_tokenizer
from policy_worlds import ARMS, SMALL, a_run

WANTED = ("blue", "red")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Asked "pull", it says two sentences of one word each, all words about equally often."""
    tokenizer = word_tokenizer(("pull", "!", *ARMS))
    said = [("pull", f"{one} ! {other} !") for one in ARMS for other in ARMS]
    return save_base(fitted(tokenizer, said * 160, SMALL), tokenizer, tmp_path_factory.mktemp("steps") / "base")


class OfSteps:
    """1 for a first sentence that says blue, and for a second one that says red; what is `lost` has no reward."""

    fingerprint, scope, tolerance = "steps", "global", 0.0

    def __init__(self, lost=()):
        self.lost = lost

    def score(self, completions):
        found = [self.of_one(one) for one in completions]
        value = np.array([one.mean() if len(one) else np.nan for one in found], np.float32)
        return Rewards(value=value, steps=tuple(found), error=tuple(None if len(one) else "no step" for one in found))

    def of_one(self, completion):
        steps = completion.steps or ()
        rewards = [float(i < 2 and step.split()[0] == WANTED[i]) for i, step in enumerate(steps)]
        return np.array([np.nan if step.split()[0] in self.lost else one for step, one in zip(steps, rewards, strict=True)])


def steps_run(base, out, scorer=None, **settings):
    usual = {"estimator": "grpo", "step_rewards": "sentences", "samples": 32, "max_tokens": 6, "kl": KLSettings(beta=0.0)}
    return replace(a_run(base, out, **{**usual, **settings}), scorer=scorer or OfSteps())


class OfWholes(OfSteps):
    """1 for an answer that says red, of steps nothing; one that says a `lost` word has no reward."""

    fingerprint = "wholes"

    def score(self, completions):
        words = [one.response.split() for one in completions]
        value = [np.nan if set(said) & set(self.lost) else float("red" in said) for said in words]
        return Rewards(value=np.array(value, np.float32), error=tuple("lost" if np.isnan(one) else None for one in value))


class OfFirst(OfSteps):
    """1 for a first sentence that says blue, and nothing for any other."""

    fingerprint = "first"

    def of_one(self, completion):
        return np.array([float(i == 0 and step.split()[0] == "blue") for i, step in enumerate(completion.steps or ())])


def drawn_and_weighed(run):
    model = load_policy(
        run.policy, params="full", compute=pick_compute("cpu", "float32"), with_values=run.settings.estimator == "ppo"
    )
    drawn = draw(
        model.plain,
        model.tokens,
        run.prompts,
        run.scorer,
        run.settings,
        samples=32,
        generator=generator_of(0),
        outcome=run.outcome,
    )
    return drawn, weigh(model, drawn, run.settings, run.settings.kl.beta)


def test_a_steps_reward_stands_at_its_last_token_and_the_last_at_the_end(base, tmp_path):
    drawn, weighed = drawn_and_weighed(steps_run(base, tmp_path / "run"))
    seen = 0
    for n, one in enumerate(drawn.completions):
        words = one.response.split()
        if len(words) != 4 or words[1] != "!" or words[3] != "!" or not drawn.rollouts.finished_N[n]:
            continue
        seen += 1
        expected = np.full(drawn.step_reward_NT.shape[1], np.nan)
        expected[[1, 4]] = [words[0] == "blue", words[2] == "red"]  # word, stop, word, stop, end
        np.testing.assert_array_equal(drawn.step_reward_NT[n], expected)
        advantage = weighed.advantage[n].numpy()
        assert advantage[0] == advantage[1]
        assert advantage[2] == advantage[4]
        assert (advantage[5:] == 0).all()
    assert seen > 20


def test_an_answer_of_which_one_step_has_no_reward_leaves_its_group(base, tmp_path):
    drawn, weighed = drawn_and_weighed(steps_run(base, tmp_path / "run", OfSteps(lost=("white",))))
    has_white = np.array(["white" in one.response.split() for one in drawn.completions])
    assert 0 < has_white.sum() < 32
    assert np.isnan(drawn.step_reward_NT[has_white]).all()
    assert set(weighed.places.tolist()) == set(np.flatnonzero(~has_white).tolist())


@pytest.mark.parametrize("estimator", ["grpo", "ppo"])
def test_both_steps_are_learnt(base, tmp_path, estimator):
    run = steps_run(base, tmp_path / "run", estimator=estimator, steps=90, learning_rate=0.004)
    rewards = [row["reward"] for row in train_policy(run).rows]
    assert np.mean(rewards[:3]) < 0.5
    assert np.mean(rewards[-5:]) > (0.9 if estimator == "grpo" else 0.75)


@pytest.mark.parametrize("estimator", ["grpo", "ppo"])
def test_an_answer_that_is_cut_off_has_the_reward_that_is_set_at_its_last_token(base, tmp_path, estimator):
    drawn, weighed = drawn_and_weighed(steps_run(base, tmp_path / "run", max_tokens=2, unfinished=-3.0, estimator=estimator))
    is_cut = ~drawn.rollouts.finished_N.numpy() & drawn.rewards.ok
    assert is_cut.any()
    at_last = np.where(np.isnan(drawn.step_reward_NT[is_cut]), 0.0, drawn.step_reward_NT[is_cut])
    np.testing.assert_array_equal(at_last, [[0.0, -3.0]] * int(is_cut.sum()))
    assert (drawn.reward_PK.reshape(-1)[is_cut] == -3.0).all()
    assert len(weighed.places) == drawn.rewards.ok.sum()


def test_an_outcome_has_an_advantage_of_its_own_beside_that_of_the_steps(base, tmp_path):
    run = replace(steps_run(base, tmp_path / "run", OfFirst()), outcome=OfWholes())
    drawn, weighed = drawn_and_weighed(run)
    _, of_steps = drawn_and_weighed(replace(run, outcome=None))
    red = np.array([float("red" in one.response.split()) for one in drawn.completions])
    whole = (red - red.mean()) / (red.std(ddof=1) + 1e-4)
    expected = (of_steps.advantage + torch.from_numpy(whole)[:, None]) * drawn.rollouts.mask_NT
    assert torch.allclose(weighed.advantage, expected.float(), atol=1e-5)
    assert step_figures(drawn, weighed)["outcome"] == pytest.approx(red.mean())


def test_an_answer_without_its_outcome_leaves_its_group_and_both_means(base, tmp_path):
    run = replace(steps_run(base, tmp_path / "run", OfFirst()), outcome=OfWholes(lost=("white",)))
    drawn, weighed = drawn_and_weighed(run)
    has_white = np.array(["white" in one.response.split() for one in drawn.completions])
    assert 0 < has_white.sum() < 32
    assert set(weighed.places.tolist()) == set(np.flatnonzero(~has_white).tolist())
    assert np.isnan(drawn.step_reward_NT[has_white]).all()
    lost = replace(run, scorer=OfSteps(lost=("green",)))
    drawn, _ = drawn_and_weighed(lost)
    without_steps = np.isnan(drawn.value_PK.reshape(-1))
    assert 0 < without_steps.sum() < 32
    assert np.isnan(drawn.outcome_PK.reshape(-1)[without_steps]).all()


@pytest.mark.parametrize("estimator", ["grpo", "ppo"])
def test_steps_and_outcome_are_learnt_together(base, tmp_path, estimator):
    run = steps_run(base, tmp_path / "run", OfFirst(), estimator=estimator, steps=90, learning_rate=0.004)
    rows = train_policy(replace(run, outcome=OfWholes())).rows
    assert np.mean([row["outcome"] for row in rows[:3]]) < 0.8
    assert np.mean([row["outcome"] for row in rows[-5:]]) > 0.9
    assert np.mean([row["reward"] for row in rows[-5:]]) > (0.45 if estimator == "grpo" else 0.35)  # .5: blue, and one more


def test_an_outcome_that_says_nothing_ends_the_run(base, tmp_path):
    run = replace(steps_run(base, tmp_path / "run", steps=5), outcome=OfWholes(lost=ARMS))
    with pytest.raises(TrainingError, match="has an outcome; the last reason: lost"):
        train_policy(run)


@pytest.mark.parametrize("estimator", ["grpo", "ppo"])
def test_an_anchor_of_whole_answers_holds_a_policy_of_steps_against_its_past(base, tmp_path, estimator):
    run = steps_run(base, tmp_path / "run", estimator=estimator, steps=2, evaluate_every=1)
    trained = train_policy(replace(run, gold=OfWholes(), outcome=OfWholes()))
    assert [row["ground"]["evidence"] > 0 for row in trained.rows] == [True, True]
    assert all(0 <= row["eval_gold"] <= 1 for row in trained.rows)


def test_what_cannot_be_is_refused(base, tmp_path):
    with pytest.raises(ValueError, match="rloo weighs an answer as a whole"):
        PolicySettings(step_rewards="lines")
    with pytest.raises(ValueError, match="'words' is no rule for steps: use one of lines"):
        PolicySettings(step_rewards="words", estimator="ppo")
    with pytest.raises(ValueError, match="gives no rewards of steps"):
        train_policy(replace(steps_run(base, tmp_path / "a"), scorer=a_run(base, tmp_path / "a").scorer))
    with pytest.raises(ValueError, match="an outcome goes with rewards of steps"):
        train_policy(replace(a_run(base, tmp_path / "c"), outcome=OfWholes()))
    with pytest.raises(ValueError, match="a shape is of one reward an answer"):
        train_policy(replace(steps_run(base, tmp_path / "b"), shape=lambda rewards: rewards, shape_name="same"))
