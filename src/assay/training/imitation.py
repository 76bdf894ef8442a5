"""A small language model from scratch, fitted to demonstrations of a made world: an ordinary base directory with a chat template.

Suffixes: B rows, L columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from assay.files import new_directory
from assay.models.bases import no_progress_bars

PAD, UNKNOWN, USER, ASSISTANT, END = "<pad>", "<unk>", "<user>", "<assistant>", "<end>"
TEMPLATE = (
    "{% for message in messages %}{{ ('" + ASSISTANT + " ' if message['role'] == 'assistant' else '" + USER + " ') "
    "+ message['content'] + ' " + END + " ' }}{% endfor %}{% if add_generation_prompt %}{{ '" + ASSISTANT + " ' }}{% endif %}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallModel:
    """Sizes of a Llama, and how it is fitted. inner: width of the feed-forward part, as a factor. spread: standard deviation of the
    first weights; transformers' .02 is that of wide models, 1 / sqrt(width) keeps states at the size they come in. rate: highest
    learning rate, on a cosine after a tenth of the steps."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    inner: int = 4
    spread: float = 0.02
    positions: int = 128
    batch: int = 128
    epochs: int = 2
    rate: float = 3e-3
    seed: int = 0


def word_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A token for each word; texts are words with a blank between. What is no word is one unknown token."""
    names = [PAD, UNKNOWN, USER, ASSISTANT, END, *dict.fromkeys(words)]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, eos_token=END, additional_special_tokens=[USER, ASSISTANT]
    )
    fast.chat_template = TEMPLATE
    return fast


def fitted(tokenizer: Any, demonstrations: Sequence[tuple[str, ...]], settings: SmallModel) -> LlamaForCausalLM:
    """A Llama that was fitted to prompts and answers; the loss is on the answers and their ends. Of a row of three texts the third
    is a remark behind the end of the answer, and the loss is on the remark alone: an answer that is remarked on need not be one to
    learn from."""
    torch.manual_seed(settings.seed)
    causal = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.width,
            intermediate_size=settings.inner * settings.width,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads,
            max_position_embeddings=settings.positions,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            tie_word_embeddings=True,
            initializer_range=settings.spread,
        )
    )
    rows = [_tokens(tokenizer, *one) for one in demonstrations]
    total = settings.epochs * -(-len(rows) // settings.batch)
    optimizer = torch.optim.AdamW(causal.parameters(), lr=settings.rate, weight_decay=0.01)
    rng = np.random.default_rng(settings.seed)
    causal.train()
    step = 0
    for _ in range(settings.epochs):
        order = rng.permutation(len(rows))
        for begin in range(0, len(rows), settings.batch):
            ids_BL, targets_BL = _batch([rows[i] for i in order[begin : begin + settings.batch]], tokenizer.pad_token_id)
            share = min((step + 1) / (0.1 * total + 1), 0.5 * (1 + np.cos(np.pi * step / total)) + 0.02)
            for group in optimizer.param_groups:
                group["lr"] = settings.rate * share
            logits = causal(input_ids=ids_BL, attention_mask=(ids_BL != tokenizer.pad_token_id).long()).logits[:, :-1]
            loss = cross_entropy(logits.flatten(0, 1), targets_BL[:, 1:].flatten(), ignore_index=-100)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(causal.parameters(), 1.0)
            optimizer.step()
            step += 1
    return causal.eval()


def save_base(causal: Any, tokenizer: Any, path: Path) -> Path:
    """A base directory that every command takes."""
    with new_directory(path, keep=True) as work, no_progress_bars():
        causal.save_pretrained(work)
        tokenizer.save_pretrained(work)
    return path


def _tokens(tokenizer: Any, prompt: str, answer: str, remark: str = "") -> tuple[list[int], int]:
    """Tokens of a conversation, and how many of them, at the front, are not learnt."""
    before = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
    asked = tokenizer(before, add_special_tokens=False)["input_ids"]
    said = tokenizer(f"{answer} {END}", add_special_tokens=False)["input_ids"]
    if not remark:
        return asked + said, len(asked)
    return asked + said + tokenizer(remark, add_special_tokens=False)["input_ids"], len(asked) + len(said)


def _batch(rows: Sequence[tuple[list[int], int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(ids) for ids, _ in rows)
    ids_BL = torch.full((len(rows), longest), pad_id)
    targets_BL = torch.full((len(rows), longest), -100)
    for row, (ids, num_asked) in enumerate(rows):
        ids_BL[row, : len(ids)] = torch.tensor(ids)
        targets_BL[row, num_asked : len(ids)] = torch.tensor(ids[num_asked:])
    return ids_BL, targets_BL
