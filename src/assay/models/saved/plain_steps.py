"""The layouts of others' process models in plain transformers, for parity checks: simple, slow, and without `StepRenderer`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from assay.records import Completion


class PlainSteps(NamedTuple):
    """ids: tokens of a solution up to the last one that is read; reads: which of them are."""

    ids: list[int]
    reads: list[int]


def plain_steps(tokenizer: Any, layout: Mapping[str, Any], completion: Completion) -> PlainSteps:
    """A solution in steps by its layout: a conversation or a text that grows by one step at a time, or ids one after another.

    layout: the entry of reward.json.
    """
    mark, steps = str(layout["mark"]), [step.strip(layout["trims"]) for step in completion.steps or ()]
    turns = [turn.as_dict() for turn in completion.messages]
    prompt = str(turns[-1]["content"]) + layout["lead"]
    if layout["writes_prompt"] and layout["joined"] in ("text", "ids"):
        prompt = tokenizer.apply_chat_template(turns, tokenize=False)
    if layout["joined"] == "ids":
        ids = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
        ids += tokenizer(prompt, add_special_tokens=False)["input_ids"]
        reads = []
        for step in steps:
            ids = [*ids, *tokenizer(step, add_special_tokens=False)["input_ids"]]
            ids += tokenizer(mark, add_special_tokens=False)["input_ids"]
            reads.append(len(ids) - 1)
        return PlainSteps(ids, reads)
    lengths: list[int] = []
    for k in range(1, len(steps) + 1):
        if layout["joined"] == "text":
            text = prompt + "".join((layout["between"] if i else "") + step + mark for i, step in enumerate(steps[:k]))
            ids = tokenizer(text)["input_ids"]
        elif layout["joined"] == "answer":
            answer = "".join(step + mark + layout["between"] for step in steps[:k])
            ids = _chat(tokenizer, [*turns, {"role": "assistant", "content": answer}])
        else:
            asked = [prompt + steps[0], *steps[1:k]]
            said = [turn for step in asked for turn in ({"role": "user", "content": step}, {"role": "assistant", "content": mark})]
            ids = _chat(tokenizer, [*turns[:-1], *said])
        tag = tokenizer(f"x{mark}" if layout["joined"] != "turns" else mark, add_special_tokens=False)["input_ids"][-1]
        lengths.append(len(ids) - ids[::-1].index(tag) - (1 if layout["read"] == "before mark" else 0))
    return PlainSteps(list(ids[: lengths[-1]]), [length - 1 for length in lengths])


def _chat(tokenizer: Any, turns: list[dict[str, Any]]) -> list[int]:
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
