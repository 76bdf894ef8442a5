"""Where the steps of a solution end among the tokens of its rendered text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assay.records import Completion


def step_positions(
    completion: Completion, text: str, tail: str, offsets: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, str | None]:
    """Index of the last token of each step: the last one that begins before the step's end, white space apart.

    The response is looked for before `tail`, what the template writes after an answer; a template may trim it.
    """
    response, steps, none = str(completion.response), completion.steps or (), np.empty(0, np.int32)
    if completion.answer.tool_calls:
        return none, "the steps of an answer with tool calls cannot be located"
    if "".join(steps) != response:
        return none, "the steps, joined, are not the response"
    core = response.strip()
    start = text.rfind(core, 0, len(text) - len(tail) if text.endswith(tail) else len(text))
    if start < 0:
        return none, "the chat template altered the response, so its steps cannot be located"
    begins = np.array([begin for begin, _ in offsets])
    reward_positions, position = [], start - (len(response) - len(response.lstrip()))
    for step in steps:
        reward_positions.append(int(np.searchsorted(begins, position + len(step.rstrip()))) - 1)
        position += len(step)
    if len(set(reward_positions)) != len(reward_positions) or not all(step.strip() for step in steps):
        return none, "two steps end in the same token: join empty or tiny steps"
    return np.array(reward_positions, dtype=np.int32), None
