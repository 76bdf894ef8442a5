"""The tool world: a turn is right when it does what the task still needs, which the tests work out from the text alone."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace

import pytest

from assay.data.steps.step_rules import split_steps
from assay.recipes.worlds.first_errors import WorldSettings
from assay.recipes.worlds.tool_use import tool_world

SETTINGS = WorldSettings(problems=120, lengths=(1, 3), solutions=4, seed=2)
CALL = re.compile(r"<tool_call>\n(.*)\n</tool_call>")


def first_wrong(prompt: str, steps: tuple[str, ...]) -> tuple[int | None, str | None]:
    """(index of the first turn that is not what the task needs, its kind), from the texts."""
    wanted = re.findall(r"(\d+) ([a-z]+)", prompt.partition(" cost?")[0])
    prices: list[int] = []
    for k, step in enumerate(steps):
        results = [int(one) for one in re.findall(r"<tool_response>\n(-?\d+)\n", step)]
        prices += results if k <= len(wanted) else []
        if k < len(wanted):
            call = json.loads(CALL.search(step)[1])
            if call != {"name": "look_up", "arguments": {"item": wanted[k][1]}}:
                return k, "wrong item"
        elif k == len(wanted):
            text = " + ".join(f"{number} * {price}" for (number, _), price in zip(wanted, prices, strict=True))
            if json.loads(CALL.search(step)[1]) != {"name": "calculate", "arguments": {"text": text}}:
                return k, "wrong number"
        elif not step.endswith(f"\nAnswer: {results[0]}"):
            return k, "wrong answer"
    return None, "none"


def test_the_labels_are_what_the_task_needs_and_the_outcome_is_the_answer():
    kinds = Counter()
    for solution in tool_world(SETTINGS):
        prompt, steps = solution.completion.messages[0].content, solution.completion.steps
        place, kind = first_wrong(prompt, steps)
        assert (solution.first_error, solution.tags["kind"]) == (place, kind)
        assert len(steps) == int(solution.tags["items"]) + 2
        assert solution.right[: place if place is not None else None] == (1,) * (len(steps) if place is None else place)
        assert place is None or solution.right[place:] == (0, *[None] * (len(steps) - place - 1))
        assert solution.outcome == float(place is None)
        assert split_steps(solution.completion.response, "tool-calls") == steps
        kinds[kind] += 1
    assert kinds.keys() == {"none", "wrong item", "wrong number", "wrong answer"}


def test_equal_settings_give_equal_worlds_and_more_than_five_items_are_refused():
    settings = replace(SETTINGS, problems=6)
    assert list(tool_world(settings)) == list(tool_world(settings)) != list(tool_world(replace(settings, seed=3)))
    with pytest.raises(ValueError, match="at most 5 items"):
        list(tool_world(replace(settings, lengths=(6,))))
