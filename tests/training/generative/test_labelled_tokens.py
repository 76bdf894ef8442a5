"""The loss at learnt tokens alone is that of the whole model's logits."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from assay.models.backbone import Backbone, attention_for
from assay.training.generative.labelled_tokens import IGNORED, Packed, learn_labelled_alone, reply_log_probs
from tiny import tiny_config


def tiny_causal(kind="llama"):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config(kind)).eval()


def batch():
    torch.manual_seed(1)
    ids = torch.randint(3, 400, (2, 9))
    labels = ids.clone()
    labels[:, :5] = IGNORED
    labels[1, 7:] = IGNORED
    return ids, labels


def expected(causal, ids, labels):
    logits = causal(input_ids=ids).logits[:, :-1].log_softmax(dim=-1)
    found = logits.gather(-1, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
    return torch.where(labels[:, 1:] == IGNORED, 0.0, found)


@pytest.mark.parametrize("kind", ["llama", "qwen", "gemma"])
def test_log_probabilities_and_gradients_are_those_of_all_logits(kind):
    causal, (ids, labels) = tiny_causal(kind), batch()
    plain = expected(causal, ids, labels)
    plain.sum().backward()
    grads = [p.grad.clone() for p in causal.parameters()]
    causal.zero_grad()
    learn_labelled_alone(causal)
    found = causal(input_ids=ids, labels=labels, fused_lm_head=True)
    assert torch.allclose(found.log_probs, plain, atol=1e-5)
    assert found.label_mask.sum() == 4 + 2
    found.log_probs.sum().backward()
    assert all(torch.allclose(a, p.grad, atol=1e-4) for a, p in zip(grads, causal.parameters(), strict=True))


def test_weights_scale_tokens():
    causal, (ids, labels) = tiny_causal(), batch()
    plain = expected(causal, ids, labels)
    learn_labelled_alone(causal)
    weights = torch.arange(16.0).reshape(2, 8)
    found = causal(input_ids=ids, labels=labels, weights=weights, fused_lm_head=True)
    assert torch.allclose(found.log_probs, plain * weights, atol=1e-5)


def test_every_other_call_goes_to_the_model():
    causal, (ids, _) = tiny_causal(), batch()
    logits = causal(input_ids=ids).logits
    learn_labelled_alone(causal)
    assert torch.equal(causal(input_ids=ids).logits, logits)


def test_rows_without_a_label_give_nothing_and_do_not_break():
    causal, (ids, labels) = tiny_causal(), batch()
    learn_labelled_alone(causal)
    found = causal(input_ids=ids, labels=torch.full_like(labels, IGNORED), fused_lm_head=True)
    assert found.log_probs.sum() == 0


def test_replies_are_summed_over_their_tokens():
    causal, (ids, labels) = tiny_causal(), batch()
    plain = expected(causal, ids, labels)
    found = reply_log_probs(causal, [ids[0, :5].tolist(), ids[1, :5].tolist()], [ids[0, 5:].tolist(), ids[1, 5:7].tolist()])
    assert found == pytest.approx([float(plain[0].sum()), float(plain[1].sum())], abs=1e-4)


def conversations(seed=2):
    """Rows of three prompts: four conversations about the first, of which two have one question; one about each of the others."""
    draw = np.random.default_rng(seed)
    first, asked, other, lone = (draw.integers(3, 400, size=size).tolist() for size in (24, 5, 30, 9))
    prompts = [first + asked, first + asked, first + asked[:2], other, first, lone]
    replies = [draw.integers(3, 400, size=size).tolist() for size in (4, 6, 3, 5, 1, 2)]
    rows = zip(prompts, replies, [1.0, 0.5, 2.0, 1.0, 1.0, 3.0], strict=True)
    return [{"input_ids": p + r, "labels": [IGNORED] * len(p) + r, "weights": [weight] * len(r)} for p, r, weight in rows]


@pytest.mark.parametrize("kind", ["llama", "qwen", "gemma"])
def test_packed_conversations_give_the_loss_and_gradient_of_rows_one_by_one(kind):
    torch.manual_seed(0)
    config = tiny_config(kind)
    causal = AutoModelForCausalLM.from_config(config, attn_implementation=attention_for(config)).eval()
    rows = conversations()
    plain = []
    for row in rows:
        labels = torch.tensor([row["labels"]])
        plain.append(row["weights"][0] * expected(causal, torch.tensor([row["input_ids"]]), labels).sum())
    sum(plain).backward()
    grads = [p.grad.clone() for p in causal.parameters()]
    causal.zero_grad()

    backbone = Backbone(causal.base_model)
    batch = Packed(backbone, 0)(rows)
    assert int(batch["attention_mask"].sum()) == sum(len(row["input_ids"]) for row in rows) - 29  # one prompt stands once
    learn_labelled_alone(causal, backbone)
    found = causal(**batch, fused_lm_head=True)
    assert found.label_mask.sum() == sum(len(row["labels"]) - row["labels"].count(IGNORED) for row in rows)
    assert float(found.log_probs.sum()) == pytest.approx(float(sum(plain)), rel=1e-5)
    found.log_probs.sum().backward()
    assert all(torch.allclose(a, p.grad, atol=1e-4) for a, p in zip(grads, causal.parameters(), strict=True))


def test_a_backbone_that_cannot_branch_takes_padded_rows():
    causal, rows = tiny_causal(), conversations()
    backbone = Backbone(causal.base_model)
    backbone.can_branch = False
    batch = Packed(backbone, 0)(rows)
    assert batch["packed"].is_plain
    assert batch["input_ids"].shape == (6, 35)
    learn_labelled_alone(causal, backbone)
    found = causal(**batch, fused_lm_head=True)
    plain = [
        row["weights"][0] * expected(causal, torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])).sum() for row in rows
    ]
    assert float(found.log_probs.sum().detach()) == pytest.approx(float(sum(plain).detach()), rel=1e-5)
