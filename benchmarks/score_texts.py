"""Workloads of the scoring benchmark: prompts and answers of wanted token lengths, cut out of the project's own starter pairs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from assay.data.pairs import read_pairs
from assay.data.tokens.packing import make_group
from assay.data.tokens.render import Renderer
from assay.records import Completion

MAX_LENGTH = 1536


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """English running text as tokens, the places where a word begins, and what the chat template adds to a prompt and an answer."""

    renderer: Renderer
    tokens: np.ndarray
    begins: np.ndarray
    prompt_extra: int
    answer_extra: int

    def cut(self, num_tokens: int, rng: np.random.Generator) -> str:
        """Text of about `num_tokens` tokens from a place drawn at random."""
        start = int(rng.choice(self.begins))
        tokens = np.take(self.tokens, np.arange(start, start + max(1, num_tokens)), mode="wrap")
        return str(self.renderer.tokenizer.decode(tokens.tolist())).strip() or "word"

    def group(self, prompt_tokens: int, answer_tokens: Sequence[int], rng: np.random.Generator) -> list[Completion]:
        """Answers to one prompt, of the wanted lengths with the template's own tokens counted in."""
        prompt = self.cut(prompt_tokens - self.prompt_extra, rng)
        answers = [self.cut(wanted - self.answer_extra, rng) for wanted in answer_tokens]
        return [Completion(messages=prompt, response=answer) for answer in answers]  # type: ignore[arg-type]

    def lone(self, num_tokens: int, rng: np.random.Generator) -> Completion:
        """One sequence of the wanted length, a third of it the prompt, where the template leaves room for that."""
        prompt = max(self.prompt_extra + 4, num_tokens // 3)  # 4: else short prompts coincide, and would be shared
        return self.group(prompt, [max(self.answer_extra + 1, num_tokens - prompt)], rng)[0]


@functools.cache
def read_texts(renderer: Renderer) -> Texts:
    pairs = read_pairs(str(files("assay.data") / "starter" / "starter.jsonl"))
    text = " ".join(" ".join([*(message.content for message in pair.prompt), pair.chosen]) for pair in pairs)
    encoded = renderer.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    begins = [i for i, (start, end) in enumerate(encoded["offset_mapping"]) if text[start:end].startswith(" ")]
    prompt, answer = [{"role": "user", "content": "word"}], {"role": "assistant", "content": "word"}

    def length(messages: list[dict[str, str]], **named: Any) -> int:
        rendered = renderer.tokenizer.apply_chat_template(messages, tokenize=False, **named)
        return len(renderer.tokenizer(rendered, add_special_tokens=False)["input_ids"])

    opened = length(prompt, add_generation_prompt=True)
    return Texts(
        renderer=renderer,
        tokens=np.array(encoded["input_ids"]),
        begins=np.array(begins),
        prompt_extra=opened - 1,
        answer_extra=length([*prompt, answer]) - opened - 1,
    )


def make_workloads(texts: Texts, scale: float, *, seed: int = 0) -> dict[str, list[Completion]]:
    """(a) 8 prompts of 300 tokens with 16 answers of 100, (b) 16 prompts of 150 with 8 answers of 250, (c) 300 lone sequences of 20
    to 1,000 tokens, evenly spread on a log scale; counts times `scale`. The small ones, for sweeps, have the suffix `-part`."""

    def groups(count: int, size: int, prompt: int, answer: int, stream: int) -> list[Completion]:
        rng = np.random.default_rng([seed, stream])
        return [one for _ in range(count) for one in texts.group(prompt, [answer] * size, rng)]

    def lone(count: int, stream: int) -> list[Completion]:
        rng = np.random.default_rng([seed, stream])
        lengths = np.exp(np.linspace(np.log(20), np.log(1000), count)).round().astype(int)
        return [texts.lone(int(length), rng) for length in rng.permutation(lengths)]

    def scaled(count: int) -> int:
        return max(1, round(count * scale))

    return {
        "a": groups(scaled(8), 16, 300, 100, 1),
        "a-part": groups(1, 16, 300, 100, 2)[: 16 if scale >= 0.2 else 8],
        "b": groups(scaled(16), 8, 150, 250, 3),
        "b-part": groups(1, 8, 150, 250, 4),
        "c": lone(max(8, scaled(300)), 5),
        "c-part": lone(max(8, scaled(300) // 4), 6),
    }


def sizes(completions: Sequence[Completion], renderer: Renderer) -> dict[str, float]:
    """Sequences, their tokens, and the tokens when each prompt stands once: what no layout can go below."""
    rendered = renderer.render(completions)
    failed = [item.error for item in rendered if item.error]
    assert not failed, failed
    by_prompt: dict[Any, list[int]] = {}
    for i, completion in enumerate(completions):
        by_prompt.setdefault(completion.messages, []).append(i)
    members = [[rendered[i] for i in indices] for indices in by_prompt.values()]
    once = sum(
        len(make_group([item.tokens for item in group], [item.reward_positions for item in group]).tokens) for group in members
    )
    lengths = [len(item.tokens) for item in rendered]
    return {
        "sequences": len(completions),
        "groups": len(members),
        "tokens": sum(lengths),
        "shortest": min(lengths),
        "longest": max(lengths),
        "tokens_with_prompts_once": once,
    }
