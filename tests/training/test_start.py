"""What a run starts from is checked before data are read, and its layers before the depth probe."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer, GPT2Config

from assay.models.backbone import Backbone
from assay.models.heads import SCALAR
from assay.training.settings import TrainConfig
from assay.training.start import check_layers, starting_point
from tiny import CHATML, save_tiny_base, save_tiny_encoder, save_tiny_published, tiny_backbone


def config(tmp_path: Path, **settings) -> TrainConfig:
    return TrainConfig(**{"data": ("pairs.jsonl",), "out": tmp_path / "run", **settings})


def gpt2() -> Backbone:
    torch.manual_seed(0)
    return Backbone(AutoModel.from_config(GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=4, n_positions=512)))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"params": "head:mean"}, r"head:mean cannot be given for GPT2Model.*use --params head"),
        ({"params": "blocks:1"}, r"GPT2Model has no plain \.layers and \.norm.*use --params full or head"),
        ({"params": "head", "depth": "1"}, r"GPT2Model has no plain .*--depth cannot be given"),
        ({"params": "head", "depth": "auto"}, r"GPT2Model has no plain .*--depth cannot be given"),
    ],
)
def test_flags_that_do_not_suit_the_layers_are_refused(settings, why, tmp_path):
    with pytest.raises(ValueError, match=why):
        check_layers(gpt2(), config(tmp_path, base="x", **settings))
    check_layers(gpt2(), config(tmp_path, base="x", params="head"))
    check_layers(tiny_backbone(), config(tmp_path, base="x", **{"depth": "full", **settings}))


def test_a_named_template_is_taken_by_its_flag(tmp_path):
    path = save_tiny_base(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = {"default": CHATML, "tool_use": CHATML.replace("<|im_end|>\n", "<|im_end|>")}
    tokenizer.save_pretrained(path)
    with pytest.raises(ValueError, match=r"say which with --template default"):
        starting_point(config(tmp_path, base=str(path)), SCALAR)
    start = starting_point(config(tmp_path, base=str(path), template="tool_use"), SCALAR)
    assert start.renderer.closing == "<|im_end|>"


def test_the_length_is_what_the_positions_hold(tmp_path):
    start = starting_point(config(tmp_path, base=str(save_tiny_base(tmp_path / "base")), max_length=2000), SCALAR)
    assert start.renderer.max_length == 512


def test_another_model_is_taken_to_go_on_from_as_it_lies(tmp_path):
    start = starting_point(config(tmp_path, init_from=save_tiny_published(tmp_path / "theirs", num_labels=2)), SCALAR)
    assert start.model is not None
    assert start.model.head.out_features == 1


def test_an_encoder_is_not_trained_further(tmp_path):
    with pytest.raises(ValueError, match=r"has an encoder, which Assay scores with and does not train"):
        starting_point(config(tmp_path, init_from=save_tiny_encoder(tmp_path / "encoder")), SCALAR)
