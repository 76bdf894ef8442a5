"""Where the steps of a solution end among the tokens of its rendered text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assay.records import Completion

_NOT_READ = -1  # render.LOST


def step_positions(
    completion: Completion, text: str, tail: str, offsets: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, str | None]:
    """Index of the last token of each step: the last one that begins before the step's end, white space apart; and why a step has
    none (-1, or no indices where the steps cannot be located).

    The response is looked for before `tail`, what the template writes after an answer; a template may trim it. A blank step has no
    token; of steps that end in one token only the last has, for what the others' reward would read stands behind them.
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
    why, last = None, None
    for k in reversed(range(len(steps))):
        if steps[k].strip() and reward_positions[k] != last:
            last = reward_positions[k]
            continue
        reward_positions[k] = _NOT_READ
        what = "ends in the same token as the next" if steps[k].strip() else "is empty"
        why = f"step {k + 1} {what} and has no reward: join empty or tiny steps"
    return np.array(reward_positions, dtype=np.int32), why
