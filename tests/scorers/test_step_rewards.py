"""Rewards of steps: all in one forward, each what the prefix up to its end has alone, whole lists, reasons for what is missing."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from assay.models.saved.step_policy import StepPolicy
from assay.records import Completion
from assay.scorers.checks import check_scorer
from assay.scorers.local import LocalScorer
from step_models import COMPLETIONS, QUESTION, SOLUTIONS, step_scorer
from tiny import tiny_model, tiny_renderer

MIXED = [*COMPLETIONS, Completion(messages=QUESTION, response="It is\n\nfour."), Completion(messages=QUESTION, response=" ")]
LONG = Completion(messages=QUESTION, steps=tuple(f"Step {n}: it is two and {n}.\n\n" for n in range(12)))


@pytest.mark.parametrize("reduction", ["min", "product", "last", "mean"])
@pytest.mark.parametrize("prompt_bytes", [0, 1 << 20])
def test_the_laws_of_a_scorer_hold_with_steps(reduction, prompt_bytes):
    scorer = step_scorer(policy=StepPolicy(reduction=reduction, scale=0.8, shift=0.1), prompt_bytes=prompt_bytes, max_length=160)
    check_scorer(scorer, [*MIXED, LONG])


@pytest.mark.parametrize("kind", ["llama", "qwen", "gemma"])
def test_a_step_has_the_reward_that_its_prefix_has_alone(kind):
    scorer = step_scorer(kind)
    together = scorer.score(COMPLETIONS)
    for completion, steps in zip(COMPLETIONS, together.steps, strict=True):
        for n in range(1, len(steps) + 1):
            (alone,) = scorer.score([Completion(messages=QUESTION, steps=completion.steps[:n])]).steps
            np.testing.assert_allclose(alone, steps[:n], atol=1e-4)
    assert np.ptp(np.concatenate(together.steps)) > 0.1


def test_a_response_without_steps_is_cut_by_the_rule():
    (cut,) = step_scorer().score([Completion(messages=QUESTION, response="".join(SOLUTIONS[0]))]).steps
    (given,) = step_scorer().score(COMPLETIONS[:1]).steps
    np.testing.assert_array_equal(cut, given)
    lines = step_scorer(policy=StepPolicy(rule="lines"))
    assert [len(steps) for steps in lines.score([Completion(messages=QUESTION, response="a fox\nan egg\n\n a dog")]).steps] == [3]


@pytest.mark.parametrize("prompt_bytes", [0, 1 << 20])
def test_steps_behind_the_length_limit_have_no_reward_and_the_others_keep_theirs(prompt_bytes):
    whole = step_scorer(max_length=512).score([LONG])
    cut = step_scorer(max_length=160, prompt_bytes=prompt_bytes).score([LONG])
    (all_S,), (cut_S,) = whole.steps, cut.steps
    num_left = int(np.isfinite(cut_S).sum())
    assert 0 < num_left < len(cut_S) == len(all_S) == 12
    np.testing.assert_allclose(cut_S[:num_left], all_S[:num_left], atol=1e-4)
    assert np.isnan(cut_S[num_left:]).all()
    assert np.isnan(cut.value[0])
    assert cut.error[0].startswith(f"{12 - num_left} of 12 steps lie behind the length limit")
    assert np.isfinite(whole.value).all()
    nothing = step_scorer(max_length=16).score([LONG])
    assert "nothing that is rewarded ends before" in nothing.error[0]
    assert len(nothing.steps[0]) == 12
    assert np.isnan(nothing.steps[0]).all()


def test_what_has_no_steps_that_can_be_read_is_nan_with_the_reason():
    cases = {
        "a rendered text does not say where": Completion(
            text="<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>"
        ),
        "does not say where they are": Completion(token_ids=(1, 5, 6, 7)),
        "the steps, joined, are not the response": Completion(messages=QUESTION, steps=("It is",), response="It is four."),
        "the response is empty": Completion(messages=QUESTION, response="\n"),
    }
    rewards = step_scorer().score([*cases.values(), COMPLETIONS[0]])
    for number, reason in enumerate(cases):
        assert np.isnan(rewards.value[number])
        assert reason in rewards.error[number]
        assert np.isnan(rewards.steps[number]).all()
    assert len(rewards.steps[2]) == 1, "as many as steps, although none can be read"
    assert np.isfinite(rewards.value[-1])


def test_a_weight_that_is_not_finite_spoils_no_other_solution():
    scorer = step_scorer()
    fine = scorer.score(COMPLETIONS)
    embeddings = scorer.model.backbone.model.get_input_embeddings().weight
    (item,) = scorer.renderer.render([COMPLETIONS[3]])
    others = {int(token) for other in scorer.renderer.render(COMPLETIONS[:3]) for token in other.tokens}
    embeddings.data[next(int(token) for token in item.tokens if int(token) not in others)] = np.nan
    spoilt = scorer.score(COMPLETIONS)
    np.testing.assert_allclose(spoilt.value[:3], fine.value[:3], atol=1e-5)
    assert np.isnan(spoilt.value[3])
    num_fine = int(np.isfinite(spoilt.steps[3]).sum())
    assert spoilt.error[3] == f"the model gave a reward that is not finite, from step {num_fine + 1} on"
    np.testing.assert_allclose(spoilt.steps[3][:num_fine], fine.steps[3][:num_fine], atol=1e-5)


@pytest.mark.parametrize("prompt_bytes", [0, 1 << 20])
def test_steps_before_one_that_the_model_cannot_read_keep_their_rewards(prompt_bytes):
    """0 times NaN is NaN: a forward with the fourth step in it spoils the three before it, and what is kept of the prompt."""
    scorer = step_scorer(prompt_bytes=prompt_bytes, max_length=512)
    begun = Completion(messages=QUESTION, steps=LONG.steps[:6])
    broken = Completion(messages=QUESTION, steps=(*LONG.steps[:3], "~ it is.\n\n", *LONG.steps[4:6]))
    (clean_S,) = scorer.score([begun]).steps
    scorer = step_scorer(prompt_bytes=prompt_bytes, max_length=512)
    (token,) = scorer.renderer.tokenizer("~", add_special_tokens=False)["input_ids"]
    scorer.model.backbone.model.get_input_embeddings().weight.data[token] = np.nan
    for together in ([broken], [broken, begun], [begun, broken]):
        rewards = scorer.score(together)
        for item, steps_S, error in zip(together, rewards.steps, rewards.error, strict=True):
            expected = clean_S if item is begun else [*clean_S[:3], np.nan, np.nan, np.nan]
            np.testing.assert_allclose(steps_S, expected, atol=1e-4)
            assert error == (None if item is begun else "the model gave a reward that is not finite, from step 4 on")
    np.testing.assert_allclose(scorer.score([begun]).steps[0], clean_S, atol=1e-4)


def test_an_empty_step_has_no_reward_and_the_others_keep_theirs():
    steps = ("It is two.\n\n", "\n\n", "four.")
    scorer = step_scorer()
    rewards = scorer.score([Completion(messages=QUESTION, steps=steps)])
    (joined,) = scorer.score([Completion(messages=QUESTION, steps=("It is two.\n\n\n\n", "four."))]).steps
    np.testing.assert_allclose(rewards.steps[0], [joined[0], np.nan, joined[1]], atol=1e-5)
    assert np.isnan(rewards.value[0])
    assert rewards.error[0] == "step 2 is empty and has no reward: join empty or tiny steps"


def test_a_trace_ends_each_step_with_its_reward():
    scorer = step_scorer()
    trace = scorer.trace(COMPLETIONS[0])
    (steps,) = scorer.score(COMPLETIONS[:1]).steps
    assert "".join(trace.tokens) == "".join(SOLUTIONS[0])
    np.testing.assert_allclose(trace.rewards[-1], steps[-1], atol=1e-4)


def test_a_trace_of_a_solution_that_was_cut_ends_at_the_limit():
    scorer = step_scorer(max_length=160)
    trace, (steps,) = scorer.trace(LONG), scorer.score([LONG]).steps
    whole = step_scorer(max_length=512).trace(LONG)
    assert "".join(LONG.steps).startswith("".join(trace.tokens))
    np.testing.assert_allclose(trace.rewards, whole.rewards[: len(trace.rewards)], atol=1e-4)
    assert np.isfinite(steps).sum() < 12


def test_states_are_those_of_the_last_step():
    scorer = step_scorer()
    rewards, states_ND = scorer.score_with_states(MIXED)
    head = scorer.model.head
    log_odds = states_ND @ (head.weight[1] - head.weight[0]).detach().numpy() + float((head.bias[1] - head.bias[0]).detach())
    last = np.array([steps[-1] if len(steps) else np.nan for steps in rewards.steps])
    np.testing.assert_allclose(log_odds[rewards.ok], last[rewards.ok], atol=1e-4)
    assert np.isnan(states_ND[~rewards.ok]).all()


def test_probabilities_are_calibrated_and_the_steps_stay_raw():
    raw, calibrated = step_scorer(), step_scorer(policy=StepPolicy(scale=0.5, shift=1.0))
    one, other = raw.score(COMPLETIONS), calibrated.score(COMPLETIONS)
    for raw_S, same_S in zip(one.steps, other.steps, strict=True):
        np.testing.assert_array_equal(raw_S, same_S)
        np.testing.assert_allclose(calibrated.step_probability(raw_S), expit(0.5 * raw_S + 1.0), rtol=1e-6)
    assert not np.allclose(one.value, other.value)
    assert raw.fingerprint != calibrated.fingerprint
    assert (raw.step_threshold, calibrated.step_threshold) == (0.0, -2.0)
    np.testing.assert_allclose(calibrated.step_probability(np.array([-2.0])), [0.5])
    scalar = LocalScorer(tiny_model(), tiny_renderer(), identity="scalar")
    assert np.isnan(scalar.step_threshold)
    assert scalar.token_labels == ()
