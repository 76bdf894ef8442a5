"""What a local scorer tells besides the reward: the states that its head reads, and the reward at every stop of an answer."""

from __future__ import annotations

import numpy as np
import pytest

from assay.models.backbone import split_backbone
from assay.models.reward_model import RewardModel, new_head
from assay.models.shared_trunk import SharedTrunk
from assay.records import Completion
from assay.scorers.local import LocalScorer
from tiny import tiny_model, tiny_renderer

KINDS = ("llama", "qwen", "gemma")
EGG = Completion(messages="How do I boil an egg?", response="Put it in water. Please tell the keeper 🙂 and her cat a story.")


def scorer_of(kind: str = "llama", *, template: str | None = "chatml", can_branch: bool = True, **settings) -> LocalScorer:
    model = tiny_model(kind)
    model.backbone.can_branch = can_branch
    renderer = tiny_renderer(**settings) if template else tiny_renderer(None, **settings)
    return LocalScorer(model, renderer, identity=kind, max_tokens=300)


def answers() -> list[Completion]:
    texts = ("Put it in water.", "It is four, not five.", "", "The lazy dog. " * 20)
    return [Completion(messages="What is two and two?", response=text) for text in texts] + [EGG]


@pytest.mark.parametrize("kind", KINDS)
def test_the_reward_is_the_head_over_the_states(kind):
    scorer = scorer_of(kind, max_length=64)
    rewards, states_ND = scorer.score_with_states(answers())
    assert states_ND.shape == (5, 32)
    assert np.isnan(states_ND[2]).all(), "an empty answer has no reward, hence no states"
    assert np.isnan(rewards.value[2])
    head_D = scorer.model.head_weights[0].detach().numpy()
    np.testing.assert_allclose(rewards.value, states_ND @ head_D, atol=1e-4)
    np.testing.assert_allclose(rewards.value, scorer.score(answers()).value, atol=scorer.tolerance)
    np.testing.assert_array_equal(states_ND, scorer.states(answers()))


def test_of_members_the_states_are_the_first_one_s():
    backbone = tiny_model().backbone
    trunk, top = split_backbone(backbone, 2)
    other = split_backbone(tiny_model(seed=1).backbone, 2)[1]
    tops = [RewardModel(top, new_head(32, seed=0)), RewardModel(other, new_head(32, seed=1))]
    scorer = LocalScorer(SharedTrunk(trunk, tops), tiny_renderer(), identity="two")
    rewards, states_ND = scorer.score_with_states(answers())
    members_KN = scorer.score_members(answers())
    ok = rewards.ok
    np.testing.assert_allclose(states_ND[ok] @ tops[0].head_weights[0].detach().numpy(), members_KN[0][ok], atol=1e-4)
    assert rewards.std is not None
    np.testing.assert_allclose(rewards.std[ok], members_KN.std(axis=0, ddof=1)[ok], atol=1e-5)


def closed_prefixes(scorer: LocalScorer, completion: Completion) -> list[Completion]:
    """The answer cut after each of its tokens and closed as the template closes it, each a sequence of its own."""
    answer = scorer.renderer.answer_tokens(completion)
    stops = range(answer.start + 1, answer.end + 1)
    return [Completion(token_ids=(*answer.tokens[:stop].tolist(), *answer.tokens[answer.end :].tolist())) for stop in stops]


@pytest.mark.parametrize("template", ["chatml", None])
@pytest.mark.parametrize("can_branch", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_is_the_reward_of_every_closed_prefix_and_ends_in_the_score(kind, can_branch, template):
    scorer = scorer_of(kind, can_branch=can_branch, template=template)
    trace = scorer.trace(EGG)
    assert trace.rewards[-1] == pytest.approx(scorer.score([EGG]).value[0], abs=scorer.tolerance)
    np.testing.assert_allclose(trace.rewards, scorer.score(closed_prefixes(scorer, EGG)).value, atol=scorer.tolerance)
    assert "".join(trace.tokens) == EGG.response
    assert np.ptp(trace.rewards) > 0.1


def test_a_trace_of_an_answer_whose_prompt_or_beginning_was_cut_ends_in_the_score_too():
    long = Completion(messages="Tell me a story. " * 20, response="the quick brown fox " * 12)
    for max_length in (100, 40):
        scorer = scorer_of(max_length=max_length)
        trace = scorer.trace(long)
        assert trace.rewards[-1] == pytest.approx(scorer.score([long]).value[0], abs=scorer.tolerance)
        assert str(long.response).strip().endswith("".join(trace.tokens))


def test_a_trace_of_several_heads_is_that_of_their_combination():
    scorer = LocalScorer(tiny_model(num_members=3), tiny_renderer(), identity="three")
    assert scorer.trace(EGG).rewards[-1] == pytest.approx(scorer.score([EGG]).value[0], abs=scorer.tolerance)


def test_the_answer_is_found_among_the_tokens_white_space_at_its_ends_apart():
    renderer = tiny_renderer()
    answer = renderer.answer_tokens(Completion(messages="Two?", response="  It is two. \n"))
    assert "".join(answer.pieces) == "It is two."
    text = renderer.tokenizer.decode(answer.tokens[answer.start : answer.end])
    assert text.strip() == "It is two."
    assert renderer.tokenizer.decode(answer.tokens[answer.end :]).endswith("<|im_end|>\n")


@pytest.mark.parametrize(
    ("completion", "message"),
    [
        (Completion(text="User: two? Assistant: four"), "give messages and response"),
        (Completion(messages="Two?", response=" "), "the response is empty"),
    ],
)
def test_what_has_no_trace_is_refused(completion, message):
    with pytest.raises(ValueError, match=message):
        scorer_of().trace(completion)
