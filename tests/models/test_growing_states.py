"""Solutions that grow: the same states as computed whole, no token computed twice, memory under its bound."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.models.growing_states import GrowingStates
from assay.records import Completion
from step_models import QUESTION, step_scorer
from tiny import tiny_backbone

TOKENS = np.random.default_rng(0).integers(5, 390, 90).astype(np.int32)
STEPS = tuple(f"Step {n} is two and {n}.\n\n" for n in range(5))


def whole(backbone, tokens: np.ndarray, reads) -> torch.Tensor:
    return backbone.model(input_ids=torch.from_numpy(tokens.astype(np.int64))[None]).last_hidden_state[0, list(reads)]


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["llama", "qwen"])
def test_the_states_are_those_of_the_whole_sequence_however_it_grew(kind):
    backbone = tiny_backbone(kind)
    growing = GrowingStates(backbone, 1 << 24)
    branched = np.concatenate([TOKENS[:60], TOKENS[:20]])
    asked = [(TOKENS[:50], [30, 49]), (TOKENS[:71], [30, 49, 70]), (TOKENS[:90], [30, 49, 70, 89]), (branched, [30, 49, 79])]
    asked += [(TOKENS[:71], [30, 49, 70]), (TOKENS[:71], [40, 70]), (TOKENS[::-1][:40], [39])]
    for tokens, reads in asked:
        found = growing.states_at("egg", tokens, np.array(reads))
        torch.testing.assert_close(found, whole(backbone, tokens, reads), atol=2e-5, rtol=1e-4)
    # 50 of the first, 71 of the second, 60 of the branch; all 71 again; up to the read that nobody had read before
    assert growing.num_reused == 50 + 71 + 60 + 71 + 40
    growing.states_at("another question", TOKENS[:50], np.array([49]))
    assert growing.num_reused == 50 + 71 + 60 + 71 + 40


@torch.inference_mode()
def test_the_memory_stays_under_its_bound():
    backbone = tiny_backbone()
    a_token = 2 * 4 * 2 * 8 * 4
    growing = GrowingStates(backbone, 100 * a_token)
    for start in range(5):
        growing.states_at("egg", TOKENS[start : start + 45], np.array([44]))
        assert growing.num_bytes <= 100 * a_token
    assert growing.num_bytes == 90 * a_token


@pytest.mark.parametrize("prompt_bytes", [0, 1 << 22])
def test_growing_scores_as_scoring_does(prompt_bytes):
    plain, growing = step_scorer(), step_scorer(prompt_bytes=prompt_bytes)
    solutions = [Completion(messages=QUESTION, steps=STEPS[:n]) for n in range(1, 6)]
    solutions += [Completion(messages=QUESTION, steps=(*STEPS[:2], "So it is four.")), Completion(messages=QUESTION, response=" ")]
    expected = plain.score(solutions)
    for found in (growing.grow(solutions), growing.grow(solutions[::-1]).take(range(len(solutions))[::-1])):
        np.testing.assert_allclose(found.value, expected.value, atol=1e-4)
        for one, other in zip(found.steps, expected.steps, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)
        assert found.error == expected.error
    if prompt_bytes:
        assert growing.prompts.num_reused > 300


def test_a_scorer_without_states_or_steps_scores():
    assert step_scorer("gemma", prompt_bytes=1 << 22).grow([]).value.shape == (0,)
