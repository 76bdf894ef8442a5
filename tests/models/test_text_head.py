"""The language model's head on last states: values and gradients equal those of the whole logits, in any number of parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Gemma2Config

from assay.models import text_head
from assay.models.backbone import load_backbone
from assay.models.text_head import TextHead, load_text_head
from tiny import save_tiny_base, save_tiny_published, tiny_config

T, D, V = 37, 8, 50


def written_out(states_TD, weight_VD, bias_V, targets_T, cap):
    logits_TV = states_TD @ weight_VD.T + (0 if bias_V is None else bias_V)
    logits_TV = logits_TV if cap is None else cap * torch.tanh(logits_TV / cap)
    return logits_TV.log_softmax(1).gather(1, targets_T[:, None])[:, 0]


@pytest.mark.parametrize("rows_at_once", [1, 7, 1000])
@pytest.mark.parametrize(("with_bias", "cap"), [(False, None), (True, None), (True, 3.0)])
def test_log_probabilities_and_all_gradients_are_those_of_the_whole_logits(monkeypatch, rows_at_once, with_bias, cap):
    monkeypatch.setattr(text_head, "LOGITS_AT_ONCE", rows_at_once * V)
    torch.manual_seed(0)
    parts = [torch.randn(T, D), torch.randn(V, D), *([torch.randn(V)] if with_bias else [])]
    targets_T, outer_T = torch.randint(V, (T,)), torch.randn(T)
    found, expected = ([part.clone().requires_grad_() for part in parts] for _ in range(2))
    head = TextHead(nn.Parameter(found[1].detach()), nn.Parameter(found[2].detach()) if with_bias else None, cap=cap)
    ours_T = head(found[0], targets_T)
    theirs_T = written_out(expected[0], expected[1], expected[2] if with_bias else None, targets_T, cap)
    torch.testing.assert_close(ours_T, theirs_T)
    (ours_T * outer_T).sum().backward()
    (theirs_T * outer_T).sum().backward()
    for ours, theirs in zip([found[0], head.weight, head.bias], expected, strict=False):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)


def test_a_frozen_head_has_gradients_for_the_states_alone_and_none_where_none_are_asked_for():
    torch.manual_seed(0)
    head = TextHead(nn.Parameter(torch.randn(V, D))).frozen(torch.float32)
    states_TD = torch.randn(T, D, requires_grad=True)
    head(states_TD, torch.zeros(T, dtype=torch.long)).sum().backward()
    assert states_TD.grad is not None
    assert head.weight.grad is None
    assert not head(states_TD.detach(), torch.zeros(T, dtype=torch.long)).requires_grad
    assert head(states_TD, torch.zeros(0, dtype=torch.long)).shape == (0,)


@pytest.mark.parametrize("is_tied", [False, True])
def test_the_head_of_a_base_is_its_own(tmp_path, is_tied):
    config = tiny_config("llama")
    config.tie_word_embeddings = is_tied
    torch.manual_seed(1)
    causal = AutoModelForCausalLM.from_config(config).eval()
    causal.save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path)
    head = load_text_head(str(tmp_path), "tiny", backbone)
    assert (head.weight is backbone.model.get_input_embeddings().weight) == is_tied
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        states_TD = backbone.model(input_ids=ids).last_hidden_state[0, :-1]
        expected_T = causal(input_ids=ids).logits[0, :-1].log_softmax(1).gather(1, ids[0, 1:, None])[:, 0]
        torch.testing.assert_close(head(states_TD, ids[0, 1:]), expected_T, atol=1e-5, rtol=1e-5)


def test_a_cap_of_the_logits_is_kept(tmp_path):
    own = tiny_config("llama").to_dict()
    shared = {name: own[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim")}
    config = Gemma2Config(
        **shared, num_attention_heads=4, num_key_value_heads=2, final_logit_softcapping=2.0, initializer_range=0.5
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    backbone = load_backbone(tmp_path)
    assert load_text_head(str(tmp_path), "tiny", backbone).cap == 2.0


def test_what_has_no_head_of_its_own_is_refused_by_name(tmp_path, monkeypatch):
    save_tiny_published(tmp_path / "published")
    with pytest.raises(ValueError, match="base other has no language model's head"):
        load_text_head(str(tmp_path / "published"), "other", load_backbone(tmp_path / "published"))
    save_tiny_base(tmp_path / "base")
    monkeypatch.setattr(TextHead, "forward", lambda self, states_TD, targets_T: torch.zeros(len(targets_T)))
    with pytest.raises(ValueError, match="LlamaForCausalLM makes its logits in a way of its own"):
        load_text_head(str(tmp_path / "base"), "base", load_backbone(tmp_path / "base"))
