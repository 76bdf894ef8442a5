"""Sample the demo's candidates: answers of its own base to prompts whose answers a program can check. Run once.

python dev/sample_candidates.py            # writes src/assay/data/starter/candidates.jsonl

32 answers to a prompt, temperature 1, at most 12 to 32 tokens, a seed for each prompt; gold is 1 where the checker finds what was
asked for, else 0. Prompts are tried in turn, one of each kind, and the first 24 with a mean gold from .1 to .8 are kept, so that
there is something to choose; at most a third from one kind. Gold is exact for what the checker looks at, and blind to the rest.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import torch
import tyro
from transformers import AutoModelForCausalLM, AutoTokenizer

from assay.commands.demo.run import packaged_base
from assay.models.bases import resolve_base

OUT = Path("src/assay/data/starter/candidates.jsonl")
MARKDOWN = re.compile(r"^\s*([-*•#>]|\d+[.)])\s|\*\*|__|`", re.MULTILINE)
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
SENTENCE_END = re.compile(r"[.!?](?=\s|$)")


class Task(NamedTuple):
    kind: str
    prompt: str
    is_right: Callable[[str], bool]


def says(*words: str) -> Callable[[str], bool]:
    """One of the words stands in the answer, as a word."""
    return lambda text: any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in words)


def ends_with(number: float) -> Callable[[str], bool]:
    """The last number of the answer is the right one."""

    def is_right(text: str) -> bool:
        found = [float(each.replace(",", "")) for each in NUMBER.findall(text)]
        return bool(found) and found[-1] == number

    return is_right


def one_line(count: int) -> Callable[[str], bool]:
    """So many things on one line, with commas between, no markdown, few words each."""

    def is_right(text: str) -> bool:
        items = re.split(r",\s*(?:and\s+)?|\s+and\s+", text.strip().rstrip("."))
        return (
            len(items) == count
            and "\n" not in text.strip()
            and not MARKDOWN.search(text)
            and all(len(i.split()) <= 4 for i in items)
        )

    return is_right


def one_sentence(*words: str) -> Callable[[str], bool]:
    """A single whole sentence without markdown or line breaks that says one of the words."""

    def is_right(text: str) -> bool:
        text = text.strip()
        ends = SENTENCE_END.findall(text)
        return len(ends) == 1 and text[-1] in ".!?" and "\n" not in text and not MARKDOWN.search(text) and says(*words)(text)

    return is_right


def starts(word: str) -> Callable[[str], bool]:
    return lambda text: text.strip().lower().startswith(word.lower())


def without(word: str, at_least: int = 6) -> Callable[[str], bool]:
    """An answer of some length that never uses the word."""
    return lambda text: len(text.split()) >= at_least and not says(word)(text)


def is_plain(text: str) -> bool:
    """An answer of some length without lists, numbered or not, bold, headings or code."""
    return len(text.split()) >= 6 and not MARKDOWN.search(text)


TASKS = (
    Task("arithmetic", "What is 9 plus 4? Answer with the number only.", ends_with(13)),
    Task("arithmetic", "What is 5 plus 5? Answer with the number only.", ends_with(10)),
    Task("arithmetic", "What is 10 minus 4? Answer with the number only.", ends_with(6)),
    Task("arithmetic", "What is 3 times 4? Answer with the number only.", ends_with(12)),
    Task("fact", "What colour do you get when you mix blue and yellow?", says("green")),
    Task("fact", "What is the capital of France?", says("paris")),
    Task("fact", "Which season comes after winter?", says("spring")),
    Task("fact", "Which animal barks?", says("dogs?")),
    Task("fact", "What do bees make?", says("honey")),
    Task("fact", "What is frozen water called?", says("ice")),
    Task("fact", "How many days are in a week?", says("seven", "7")),
    Task("fact", "What is the opposite of hot?", says("cold", "cool")),
    Task("one line", "Name three colours, on one line, separated by commas, and write nothing else.", one_line(3)),
    Task("one line", "Name three countries in Europe, on one line, separated by commas, nothing else.", one_line(3)),
    Task("one line", "Name three musical instruments, on one line, separated by commas, nothing else.", one_line(3)),
    Task("sentence", "Explain in one short sentence why people sleep.", one_sentence("sleep", "rest", "body", "brain")),
    Task("sentence", "In one short sentence, what is a library?", one_sentence("library", "books?")),
    Task("sentence", "In one short sentence, what does a doctor do?", one_sentence("doctors?", "health", "patients?", "treats?")),
    Task("sentence", "In one short sentence, why do we brush our teeth?", one_sentence("teeth", "tooth", "brush", "brushing")),
    Task("sentence", "Describe snow in one short sentence.", one_sentence("snow", "white", "cold", "flakes?")),
    Task("sentence", "In one short sentence, what is the sun?", one_sentence("star", "sun")),
    Task("sentence", "In one short sentence, say why trees are useful.", one_sentence("trees?", "oxygen", "air", "shade", "wood")),
    Task("sentence", "In one short sentence, what is bread made of?", one_sentence("flour")),
    Task("begins", "Tell me about winter. Begin your answer with the word Winter.", starts("winter")),
    Task("begins", "Why do cats purr? Begin your answer with the word Cats.", starts("cats")),
    Task("begins", "Why do leaves fall? Begin your answer with the word Leaves.", starts("leaves")),
    Task("without", "Describe a dog in one or two sentences without using the word dog.", without("dogs?")),
    Task("without", "Describe rain in one or two sentences without using the word rain.", without("rain(s|ing|drops?|fall)?")),
    Task("without", "Describe a beach in one or two sentences without using the word sand.", without("sand(y)?")),
    Task("without", "Describe a birthday in one or two sentences without using the word birthday.", without("birthdays?")),
    Task("without", "Describe a cat in one or two sentences without using the word cat.", without("cats?")),
    Task("without", "Describe a forest in one or two sentences without using the word tree.", without("trees?")),
    Task("plain", "Give two tips for sleeping well. Write plain text without lists, numbers or bold.", is_plain),
    Task("plain", "How do I make tea? Write plain text without lists, numbers or bold.", is_plain),
    Task("plain", "What should I pack for a day at the beach? Plain text, no lists, no bold.", is_plain),
    Task("plain", "How can I save money on food? Plain text, no lists, no bold.", is_plain),
    Task("plain", "What makes a good neighbour? Plain text, no lists, no bold.", is_plain),
    Task("plain", "How do I clean a window? Plain text, no lists, no bold.", is_plain),
)  # fmt: skip


SHORTER = {"arithmetic": 12, "fact": 20, "one line": 20, "begins": 20}


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    out: Path = OUT
    num_candidates: int = 32
    num_prompts: int = 24
    max_new_tokens: int = 32
    """At most; fewer for the kinds in SHORTER."""
    seed: int = 0
    base: str | None = None


def main() -> int:
    config = tyro.cli(SampleConfig)
    base = resolve_base(config.base or packaged_base())
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32).eval()
    kept: list[dict[str, Any]] = []
    for task in in_turn(TASKS):
        if len(kept) == config.num_prompts:
            break
        if sum(row["kind"] == task.kind for row in kept) >= config.num_prompts / 3:
            continue
        torch.manual_seed(config.seed + crc32(task.prompt.encode()))  # another task more or less changes no answer
        answers = sample(model, tokenizer, task, config)
        gold = [int(task.is_right(answer)) for answer in answers]
        print(f"{sum(gold):3d} of {len(gold)}  {task.prompt}", file=sys.stderr, flush=True)
        if 0.1 <= sum(gold) / len(gold) <= 0.8:
            row = {"id": f"candidates-{len(kept):02d}", "kind": task.kind, "prompt": task.prompt}
            kept.append({**row, "candidates": answers, "gold": gold})
    config.out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept), encoding="utf-8")
    means = {row["id"]: sum(row["gold"]) / len(row["gold"]) for row in kept}
    kinds = dict(Counter(row["kind"] for row in kept))
    print(json.dumps({"base": base.name, "prompts": len(kept), "kinds": kinds, "mean_gold": means}))
    return 0


@torch.no_grad()
def sample(model: Any, tokenizer: Any, task: Task, config: SampleConfig) -> list[str]:
    """Answers drawn from the model as it is: temperature 1, no cut of the distribution. What has ended leaves the batch."""
    turn = [{"role": "user", "content": task.prompt}]
    ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_tensors="pt", return_dict=True)["input_ids"]
    out = model(ids, use_cache=True)
    cache, logits = out.past_key_values, out.logits[:, -1].expand(config.num_candidates, -1)
    cache.batch_repeat_interleave(config.num_candidates)
    going, drawn = torch.arange(config.num_candidates), [list[int]() for _ in range(config.num_candidates)]
    for _ in range(min(config.max_new_tokens, SHORTER.get(task.kind, config.max_new_tokens))):
        tokens = torch.multinomial(logits.float().softmax(-1), 1)
        is_going = tokens[:, 0] != tokenizer.eos_token_id
        going, tokens = going[is_going], tokens[is_going]
        for row, token in zip(going.tolist(), tokens[:, 0].tolist(), strict=True):
            drawn[row].append(token)
        if not len(going):
            break
        cache.batch_select_indices(torch.nonzero(is_going)[:, 0])
        logits = model(tokens, past_key_values=cache, use_cache=True).logits[:, -1]
    return [text.strip() for text in tokenizer.batch_decode(drawn, skip_special_tokens=True)]


def in_turn(tasks: Sequence[Task]) -> list[Task]:
    """One task of each kind, then the next of each."""
    turn: Counter[str] = Counter()
    places = []
    for task in tasks:
        places.append(turn[task.kind])
        turn[task.kind] += 1
    return [task for _, task in sorted(zip(places, tasks, strict=True), key=lambda item: item[0])]


if __name__ == "__main__":
    sys.exit(main())
