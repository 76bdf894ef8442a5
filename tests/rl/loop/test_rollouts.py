"""Log-probabilities of answers: a prompt that runs once for all of its answers gives those of padded rows, and their gradient."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from assay.models.backbone import attention_for
from assay.rl.loop import rollouts as of_rollouts
from assay.rl.loop.rollouts import Rollouts, log_probabilities, parts, prompt_numbers, sharing, states_of
from tiny import tiny_config

LENGTH = 150


def causal(kind: str, attention: str):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config(kind), attn_implementation=attention).eval()


@pytest.fixture(autouse=True)
def groups_are_worth_it_in_a_tiny_model(monkeypatch):
    monkeypatch.setattr(of_rollouts, "LEAST_WORK", 0)


def rollouts() -> Rollouts:
    """Three answers to one prompt, two to another, not side by side, of different lengths; the second prompt is shorter."""
    draw = torch.Generator().manual_seed(1)
    prompts = torch.randint(3, 300, (2, LENGTH), generator=draw)
    which, lengths = torch.tensor([0, 1, 0, 1, 0]), torch.tensor([4, 7, 1, 3, 6])
    shown_PL = torch.ones(2, LENGTH, dtype=torch.bool)
    shown_PL[1, :8] = False
    mask_NT = torch.arange(7)[None] < lengths[:, None]
    answers = torch.randint(3, 300, (5, 7), generator=draw) * mask_NT
    return Rollouts(prompts[which], shown_PL[which], answers, mask_NT, torch.ones(5, dtype=torch.bool))


@pytest.mark.parametrize("kind", ["llama", "qwen", "gemma"])
def test_log_probabilities_and_their_gradient_are_those_of_padded_rows(kind):
    found = []
    for attention in ("sdpa", attention_for(tiny_config(kind))):
        model, drawn = causal(kind, attention), rollouts()
        log_NT = log_probabilities(model, states_of(model, drawn), drawn, 0.7)
        (log_NT * torch.arange(35.0).reshape(5, 7)).sum().backward()
        found.append((sharing(model, drawn) is not None, log_NT.detach(), [one.grad for one in model.parameters()]))
    (padded_is, padded, padded_grads), (shared_is, shared, shared_grads) = found
    assert (padded_is, shared_is) == (False, True)
    assert (padded[~rollouts().mask_NT] == 0).all()
    assert torch.allclose(padded, shared, atol=1e-4)
    assert all(torch.allclose(a, b, atol=1e-3, rtol=1e-3) for a, b in zip(padded_grads, shared_grads, strict=True))


def test_a_shared_prompt_is_computed_once(monkeypatch):
    model, drawn, seen = causal("llama", attention_for(tiny_config("llama"))), rollouts(), []
    backbone = sharing(model, drawn)
    run = backbone.model.forward
    monkeypatch.setattr(backbone.model, "forward", lambda **inputs: seen.append(inputs["input_ids"].numel()) or run(**inputs))
    states_of(model, drawn)
    assert seen == [LENGTH + LENGTH - 8 + int(drawn.mask_NT.sum())]


def test_little_is_not_shared_since_groups_cost_more(monkeypatch):
    model, drawn = causal("llama", attention_for(tiny_config("llama"))), rollouts()
    assert sharing(model, drawn) is not None
    assert sharing(model, drawn.rows(torch.tensor([0, 1]))) is None  # one answer a prompt
    weights = sum(one.numel() for one in model.model.layers.parameters()) + model.model.norm.weight.numel()
    saved = 2 * LENGTH + LENGTH - 8  # tokens: of three answers to one prompt, and of two to another that has 8 less
    monkeypatch.setattr(of_rollouts, "LEAST_WORK", weights * saved / 2)
    assert sharing(model, drawn) is not None
    monkeypatch.setattr(of_rollouts, "LEAST_WORK", weights * saved / 2 + 1)
    assert sharing(model, drawn) is None


def test_a_few_tokens_of_prompt_are_a_small_share_and_not_shared():
    model, drawn = causal("llama", attention_for(tiny_config("llama"))), rollouts()
    some = drawn.rows(torch.tensor([0, 2]))  # answers of 4 and 1 tokens
    short = Rollouts(some.prompt_NL[:, -1:], some.prompt_mask_NL[:, -1:], some.answer_NT, some.mask_NT, some.finished_N)
    assert sharing(model, short) is None  # 1 token of 7 is saved
    assert sharing(model, some) is not None


def test_answers_to_one_prompt_are_in_one_part_where_they_fit():
    drawn = rollouts()
    numbers = prompt_numbers(drawn)
    assert len(set(numbers[[0, 2, 4]])) == len(set(numbers[[1, 3]])) == 1
    (whole,) = parts(drawn, 300, shared=True)
    assert sorted(numbers[whole].tolist()) == numbers[whole].tolist()
    few = list(parts(drawn, 256_000_000 // (4 * 14), shared=True))  # logits of 14 tokens at a time
    assert torch.cat(few).sort().values.tolist() == [0, 1, 2, 3, 4]
    assert len(few) > 1
    assert all(len(part) * int(drawn.mask_NT[part].sum(1).max()) <= 14 for part in few)
