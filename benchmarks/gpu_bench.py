"""What the parts of gpu.py stand on: a Llama shape with random weights, drawn texts, clocks, and figures kept as they are found."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModel, LlamaConfig, PreTrainedTokenizerFast

from assay.data.tokens.packing import Group, make_group
from assay.data.tokens.render import Renderer
from assay.data.tokens.table import PairTable, build_table
from assay.models.attention import ATTENTION
from assay.models.backbone import Backbone
from assay.models.reward_model import RewardModel, new_head
from assay.records import PreferencePair

TEMPLATE = "{% for message in messages %}{{ message['role'] + ' ' + message['content'] + ' <eos> ' }}{% endfor %}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A Llama shape and how much is measured with it. prompt, answer: tokens; the answers to a prompt of best-of-16 have half."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    prompt: int
    answer: int
    batch_pairs: int
    steps: int
    prompts: int
    requests: int


SIZES = {
    "tiny": Size(
        hidden=32, inner=64, layers=3, heads=4, kv_heads=2, vocabulary=300, prompt=12, answer=8, batch_pairs=4, steps=2,
        prompts=2, requests=40,
    ),
    "half": Size(
        hidden=1024, inner=4096, layers=24, heads=16, kv_heads=4, vocabulary=32_000, prompt=384, answer=192, batch_pairs=16,
        steps=8, prompts=16, requests=3000,
    ),
    "one": Size(
        hidden=2048, inner=8192, layers=16, heads=32, kv_heads=8, vocabulary=32_000, prompt=384, answer=192, batch_pairs=16,
        steps=8, prompts=16, requests=3000,
    ),
}  # fmt: skip


class Bench:
    """One part's surroundings: size, device, and the figures found so far, which are written each time."""

    def __init__(self, size: Size, device: str, work: Path) -> None:
        self.size, self.device, self.work, self.found = size, torch.device(device), work, dict[str, Any]()
        self.rng = np.random.default_rng(0)

    def keep(self, **figures: Any) -> None:
        self.found |= figures
        (self.work / "found.json").write_text(json.dumps(self.found))

    @property
    def half(self) -> torch.dtype:
        """The number format that is measured: bfloat16 on a GPU."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def config(self, layers: int | None = None) -> LlamaConfig:
        s = self.size
        return LlamaConfig(
            vocab_size=s.vocabulary,
            hidden_size=s.hidden,
            intermediate_size=s.inner,
            num_hidden_layers=layers or s.layers,
            num_attention_heads=s.heads,
            num_key_value_heads=s.kv_heads,
            max_position_embeddings=8192,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=1,
        )

    def model(self, dtype: torch.dtype, compute: torch.dtype, layers: int | None = None) -> RewardModel:
        """Random weights of one seed, on the device."""
        torch.manual_seed(0)
        with torch.device(self.device):
            decoder = AutoModel.from_config(self.config(layers), attn_implementation=ATTENTION)
        head = new_head(self.size.hidden, seed=0).to(self.device)
        return RewardModel(Backbone(decoder.to(dtype).eval()), head, compute_dtype=compute)

    def tokens(self, length: int) -> np.ndarray:
        return self.rng.integers(3, self.size.vocabulary, length, dtype=np.int32)

    def groups(self, num_prompts: int, answers: int, prompt: int, answer: int) -> list[list[np.ndarray]]:
        """Sequences of each prompt: a shared beginning, then an answer whose length varies by a third."""
        prompts = [self.tokens(prompt) for _ in range(num_prompts)]
        lengths = self.rng.integers(max(1, answer * 2 // 3), answer * 4 // 3 + 1, (num_prompts, answers))
        return [[np.concatenate([p, self.tokens(int(n))]) for n in row] for p, row in zip(prompts, lengths, strict=True)]

    def sync(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, run: Callable[[], Any], *, least: float = 2.0) -> float:
        """Seconds of a run, the median of as many as fit in `least` seconds, after one to warm up."""
        run()
        self.sync()
        taken: list[float] = []
        while not taken or sum(taken) < least:
            began = time.perf_counter()
            run()
            self.sync()
            taken.append(time.perf_counter() - began)
        return float(np.median(taken))

    def peak_gb(self) -> float:
        return torch.cuda.max_memory_allocated() / 1e9 if self.device.type == "cuda" else 0.0

    def matmul_rate(self) -> float:
        """Floating-point operations a second of square products in the format that is measured."""
        n = 8192 if self.device.type == "cuda" else 256
        a, b = (torch.randn(n, n, dtype=self.half, device=self.device) for _ in range(2))
        return 2.0 * n**3 / self.seconds(lambda: a @ b, least=0.5)


def tokenizer_of(size: Size) -> PreTrainedTokenizerFast:
    """A word is a token: so texts have the lengths that are asked for."""
    names = ["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(3, size.vocabulary - 3)), "user", "assistant", "system"]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    fast.chat_template = TEMPLATE
    return fast


def renderer_of(size: Size) -> Renderer:
    return Renderer(tokenizer_of(size), max_length=4 * (size.prompt + size.answer))


def words(bench: Bench, count: int) -> str:
    return " ".join(f"w{i}" for i in bench.rng.integers(3, bench.size.vocabulary - 3, count))


def table_of(bench: Bench, num_pairs: int) -> PairTable:
    """Pairs of drawn words, as training reads them."""
    s = bench.size
    lengths = bench.rng.integers(max(1, s.answer // 2), s.answer * 3 // 2 + 1, (num_pairs, 2))
    pairs = [
        PreferencePair(prompt=words(bench, s.prompt), chosen=words(bench, int(a)), rejected=words(bench, int(b)), id=str(i))
        for i, (a, b) in enumerate(lengths)
    ]
    table, _ = build_table(pairs, renderer_of(s), bench.work / "tokens.arrow")
    return table


def packed_group(sequences: Sequence[np.ndarray], *, share: bool = True) -> Group:
    return make_group(sequences, [np.array([len(sequence) - 1]) for sequence in sequences], share=share)


def layer_weights(decoder: Any) -> float:
    """Weights of the layers' matrices: what a token is multiplied with."""
    return float(sum(parameter.numel() for parameter in decoder.layers.parameters() if parameter.ndim == 2))
