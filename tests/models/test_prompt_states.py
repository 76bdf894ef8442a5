"""Prompts kept between calls: the same states, no prompt computed twice, memory under its bound."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.models.prompt_states import PromptStates
from assay.records import Completion
from assay.scorers.local import LocalScorer
from tiny import tiny_backbone, tiny_model, tiny_renderer

PROMPT = np.arange(5, 45, dtype=np.int32)


def sequence(*answer: int, prompt: np.ndarray = PROMPT) -> np.ndarray:
    return np.concatenate([prompt, np.array(answer, np.int32)])


def whole(backbone, tokens: np.ndarray) -> torch.Tensor:
    return backbone.model(input_ids=torch.from_numpy(tokens.astype(np.int64))[None]).last_hidden_state[:, -1]


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["llama", "qwen"])
def test_the_states_are_those_of_the_whole_sequence(kind):
    backbone = tiny_backbone(kind)
    prompts = PromptStates(backbone, 1 << 20)
    answers = [(100, 101, 102), (100, 200), (7,), (100, 101, 102, 103, 104), ()]
    for number, answer in enumerate(answers):
        tokens = sequence(*answer)
        torch.testing.assert_close(prompts.last_state("egg", tokens), whole(backbone, tokens), atol=1e-5, rtol=1e-4)
        if number == 1:
            assert prompts.num_reused == 41, "the prompt and the token that both answers begin with"
    # then the forty of the prompt three times, but for the last token of a sequence that is nothing but the prompt
    assert prompts.num_reused == 41 + 40 + 40 + 39


@torch.inference_mode()
def test_another_prompt_under_the_same_name_is_computed_anew():
    backbone = tiny_backbone()
    prompts = PromptStates(backbone, 1 << 20)
    prompts.last_state("egg", sequence(100))
    other = sequence(100, prompt=PROMPT[::-1])
    torch.testing.assert_close(prompts.last_state("egg", other), whole(backbone, other), atol=1e-5, rtol=1e-4)
    assert prompts.num_reused == 0


@torch.inference_mode()
def test_the_memory_stays_under_its_bound_and_the_oldest_goes():
    backbone = tiny_backbone()
    a_token = 2 * 4 * 2 * 8 * 4  # keys and values of 4 layers, 2 heads of size 8, in float32
    prompts = PromptStates(backbone, 100 * a_token)
    for name in ("first", "second", "third"):
        prompts.last_state(name, sequence(100))  # 41 tokens each: two fit
        assert prompts.num_bytes <= 100 * a_token
    assert prompts.num_bytes == 82 * a_token
    prompts.last_state("first", sequence(100))
    assert prompts.num_reused == 0, "it was dropped"
    prompts.last_state("third", sequence(101))
    assert prompts.num_reused == 40


def test_a_sliding_window_is_left_alone():
    assert not PromptStates.suits(tiny_backbone("gemma"))
    assert PromptStates.suits(tiny_backbone("llama"))
    assert LocalScorer(tiny_model("gemma"), tiny_renderer(), identity="x").prompts is None
    assert LocalScorer(tiny_model(), tiny_renderer(), identity="x", prompt_bytes=0).prompts is None


@pytest.mark.parametrize("num_members", [1, 3])
def test_answers_one_by_one_score_as_together(num_members):
    scorer = LocalScorer(tiny_model(num_members=num_members), tiny_renderer(), identity="x")
    prompt = "How do I boil an egg? Please tell me, it is not two. " * 2
    completions = [Completion(messages=prompt, response=text) for text in ("Put it in water.", "Put it", "the lazy dog", "")]
    together = scorer.score(completions)
    alone = [scorer.score([completion]) for completion in completions]
    np.testing.assert_allclose([rewards.value[0] for rewards in alone], together.value, atol=1e-4)
    assert alone[3].error == together.error[3:]
    assert scorer.prompts is not None
    assert scorer.prompts.num_reused > 40
