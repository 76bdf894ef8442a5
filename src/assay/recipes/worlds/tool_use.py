"""A world of tool use: what do so many of these cost? The assistant looks prices up, calculates, answers; each turn has an exact
label.

A turn with tool calls is a step (`data/steps/step_rules.trajectory_steps`). A wrong turn is of a named kind:

wrong item     a price is looked up that nobody asked for
wrong number   the calculation has another price than the one that was looked up
wrong answer   the answer is not what the calculation gave

All that follows a wrong turn goes on from it, and is labelled as unknown. A turn is wrong with one probability at every place,
and all prices of a problem differ, so that no wrong turn comes to the right answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from assay.data.steps.labelled_steps import LabelledSteps
from assay.data.steps.step_rules import trajectory_steps
from assay.messages import Message, ToolCall
from assay.recipes.worlds.first_errors import WorldSettings, first_errors, labels_up_to
from assay.records import Completion

_ITEMS = (
    "bags", "beds", "bells", "books", "boots", "bowls", "boxes", "cakes", "cards", "chairs", "clocks", "coats", "cups",
    "desks", "doors", "drums", "fans", "flags", "forks", "hats", "jars", "keys", "kites", "lamps", "locks", "maps",
    "masks", "mugs", "nails", "nets", "pans", "pens", "pins", "plates", "pots", "rings", "ropes", "rugs", "seats",
    "shoes", "socks", "spoons", "tents", "toys",
)  # fmt: skip
_PRICES = range(2, 30)


class Task(NamedTuple):
    """wanted: how many of which item are asked for. prices: of every item."""

    wanted: tuple[tuple[int, str], ...]
    prices: dict[str, int]

    @property
    def text(self) -> str:
        parts = [f"{number} {item}" for number, item in self.wanted]
        listed = parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
        return (
            f"What do {listed} cost? look_up(item) gives the price of one, calculate(text) the value of an expression. "
            "Look up each price, calculate once, then give the answer."
        )

    @property
    def answer(self) -> int:
        return sum(number * self.prices[item] for number, item in self.wanted)


def tool_world(settings: WorldSettings) -> Iterator[LabelledSteps]:
    """Candidate trajectories, problem by problem, with the label of each turn and the outcome; equal settings give equal ones.

    lengths: items that are asked for, up to 5; a solution has two steps more. tags: items, kind and first_error (counted from 0).
    Raises ValueError for more items.
    """
    if max(settings.lengths) > 5:
        raise ValueError(f"lengths {settings.lengths}: at most 5 items can be asked for")
    rng = np.random.default_rng([settings.seed, 2])
    lengths = [settings.lengths[i % len(settings.lengths)] for i in range(settings.problems)]
    places = {
        length: iter(first_errors(length + 2, settings.solutions * lengths.count(length), settings.error_rate, rng))
        for length in dict.fromkeys(lengths)
    }
    pool = {"first": _ITEMS[0::2], "second": _ITEMS[1::2], "all": _ITEMS}[settings.names]
    for i, length in enumerate(lengths):
        items = [pool[k] for k in rng.permutation(len(pool))]
        prices = dict(zip(items, (int(one) for one in rng.permutation(np.array(_PRICES))), strict=False))
        task = Task(tuple((int(rng.integers(2, 10)), item) for item in items[:length]), prices)
        for j in range(settings.solutions):
            yield _solution(task, next(places[length]), f"{i}:{j}", settings, rng)


def _solution(task: Task, place: int | None, name: str, settings: WorldSettings, rng: np.random.Generator) -> LabelledSteps:
    turns, said, kind = turns_of_task(task, place, rng)
    prompt, steps = trajectory_steps([Message("user", task.text), *turns])
    tags = {"world": "tools", "items": str(len(task.wanted)), "kind": kind}
    return LabelledSteps(
        completion=Completion(messages=prompt, steps=steps, ground_truth={"answer": str(task.answer)}, id=name),
        right=labels_up_to(place, len(steps)),
        outcome=float(said == task.answer),
        source=f"tools:seed={settings.seed}",
        id=name,
        tags=tags if place is None else {**tags, "first_error": str(place)},
    )


def turns_of_task(task: Task, place: int | None, rng: np.random.Generator) -> tuple[list[Message], int, str]:
    """(turns of the assistant and the tools, the answer that is given, kind of the error at turn `place`)."""
    turns: list[Message] = []
    num_items, kind = len(task.wanted), "none"
    asked = {item for _, item in task.wanted}
    others = [item for item in task.prices if item not in asked]
    found: list[int] = []
    for k, (_, item) in enumerate(task.wanted):
        if k == place:
            item, kind = others[rng.integers(len(others))], "wrong item"
        turns += [_call("look_up", {"item": item}), Message("tool", str(task.prices[item]))]
        found.append(task.prices[item])
    if place == num_items:
        k, kind = int(rng.integers(num_items)), "wrong number"
        wrong = [price for price in _PRICES if price not in found]
        found[k] = int(wrong[rng.integers(len(wrong))])
    value = sum(number * price for (number, _), price in zip(task.wanted, found, strict=True))
    text = " + ".join(f"{number} * {price}" for (number, _), price in zip(task.wanted, found, strict=True))
    turns += [_call("calculate", {"text": text}), Message("tool", str(value))]
    if place == num_items + 1:
        kind = "wrong answer"
        value += int(rng.choice([-4, -3, -2, -1, 1, 2, 3, 4]))
    return [*turns, Message("assistant", f"Answer: {value}")], value, kind


def _call(name: str, arguments: dict[str, str]) -> Message:
    return Message("assistant", "", (ToolCall(name, json.dumps(arguments)),))
