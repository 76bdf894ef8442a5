"""Golden vectors: a dozen short texts with their tokens and float32 rewards, saved in the artifact.

Anyone who loads the artifact later, on another machine or in another engine, can compare with them. The rewards are computed from
the saved artifact, loaded again, not from the model in memory, which may be in another number format. Where a head reads steps,
every step's reward is kept. Shapes: N texts, R reward positions, S steps of a text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from assay.data.tokens.packing import make_group, pack
from assay.data.tokens.render import LOST, Rendered
from assay.data.tokens.text_pair import TextPath
from assay.errors import ArtifactError
from assay.files import write_text
from assay.messages import Message
from assay.models.encoder import EncoderModel
from assay.models.heads import SCALAR, Head, head_of
from assay.models.reward_model import RewardModel
from assay.models.saved.step_policy import StepPolicy
from assay.records import Completion

GOLDEN_FILE = "golden.json"
GOLDEN_SCHEMA = 1
LONGEST = 2048  # a golden text that exceeds a larger max_length would cost more than all the others together
_BUDGET = 1024  # tokens: the long text fills one batch, the others another


class Golden(NamedTuple):
    """The content of golden.json.

    rewards: (N,) float32, NaN where the text has no reward; errors: why it has none. steps: N arrays (S,) of the reward of each
    step, NaN where it was cut off; of a head that reads one reward, that one. token_ids: N, empty where not rendered.
    num_special_tokens: how many special tokens the tokenizer adds to a text by default. left_out: texts that were not scored, with
    the reason.
    """

    completions: tuple[Completion, ...]
    token_ids: tuple[tuple[int, ...], ...]
    rewards: np.ndarray
    errors: tuple[str | None, ...]
    num_special_tokens: int
    left_out: Mapping[str, str]
    steps: tuple[np.ndarray, ...] = ()


_SPOON = "Which is heavier, a silver spoon or a wooden spoon of the same size?"
_TEXTS: tuple[tuple[str, tuple[tuple[str, str], ...], str], ...] = (
    ("one turn", (("user", "How long must an egg boil until it is hard?"),), "About ten minutes, then a minute in cold water."),
    (
        "several turns",
        (
            ("user", "I have flour, milk and two eggs. What can I make?"),
            ("assistant", "Pancakes: you have all that the batter needs."),
            ("user", "And without the milk?"),
        ),
        "Water will do in its place; the pancakes come out a little thinner.",
    ),
    (
        "system prompt",
        (("system", "Answer in one short sentence."), ("user", "Why do boats float?")),
        "They push aside water that weighs as much as they do.",
    ),
    ("empty answer", (("user", "Say nothing at all."),), ""),
    (
        "unicode",
        (("user", "Thank you, in four languages? 🙏"),),
        "Japanese ありがとう, Chinese 谢谢, Hindi धन्यवाद, French «merci» 🙂",
    ),
    (
        "code",
        (("user", "Write a Python function that adds up the squares of a list."),),
        "```python\ndef sum_of_squares(numbers):\n    return sum(n * n for n in numbers)\n```",
    ),
    ("white space", (("user", "  Is the ferry running on Sundays?\n"),), "  \n  Yes, at ten and at four.\n\n  "),
    ("first of four", (("user", _SPOON),), "The silver spoon."),
    ("second of four", (("user", _SPOON),), "The silver spoon"),
    ("third of four", (("user", _SPOON),), "The silver spoon: silver is about fifteen times as dense as wood."),
    ("fourth of four", (("user", _SPOON),), "The wooden spoon, since wood soaks up water."),
)
_LONG = "longer than max_length"


def golden_completions(max_length: int, head: Head = SCALAR) -> tuple[list[Completion], dict[str, str]]:
    """The texts for a length policy and a kind of head, and those that are left out, with the reason."""
    completions = [
        Completion(id=name, messages=tuple(Message(*turn) for turn in turns), response=response) for name, turns, response in _TEXTS
    ]
    completions += head.golden
    if max_length > LONGEST:
        return completions, {_LONG: f"a text of more than {max_length} tokens costs more than all the others together"}
    between = "\n\n" if head.reads_steps else " "
    steps = between.join(f"Step {n}: walk on to the next lamp and count it." for n in range(1, max_length // 10 + 2))
    completions.append(Completion(id=_LONG, messages=(Message("user", "Count the lamps along the pier."),), response=steps))
    return completions, {}


def write_golden(
    path: str | Path, model: RewardModel | EncoderModel, renderer: TextPath, description: Mapping[str, Any] | None = None
) -> None:
    """Write golden.json into the artifact directory `path`. model, renderer: loaded from `path`, in float32. description: the
    content of its reward.json."""
    kind, policy = head_of(model.outputs), StepPolicy.from_description(description or {})
    completions, left_out = golden_completions(renderer.max_length, kind)
    completions = policy.in_steps(completions) if kind.reads_steps else completions
    rendered = renderer.render(completions)
    items = []
    for completion, item, steps_S in zip(completions, rendered, _rewards(model, kind, rendered, renderer.pad_id), strict=True):
        reward = (policy.value(steps_S) if kind.reads_steps else float(steps_S[-1])) if len(steps_S) else math.nan
        entry = {
            "id": completion.id,
            "messages": [message.as_dict() for message in completion.messages],
            "response": completion.response,
            "token_ids": item.tokens.tolist(),
            "is_cut": item.is_cut,
            "reward": _or_none(reward),
            "error": item.error or (None if math.isfinite(reward) else _why_none(item)),
        }
        if kind.reads_steps:
            steps_S = np.full(len(completion.steps or ()), np.nan) if item.error else steps_S  # as a scorer gives them
            entry |= {"steps": list(completion.steps or ()), "step_rewards": [_or_none(step) for step in steps_S]}
        items.append(entry)
    head = {
        "schema_version": GOLDEN_SCHEMA,
        "computed_in": str(model.compute_dtype).removeprefix("torch."),
        "num_special_tokens": renderer.tokenizer.num_special_tokens_to_add(),
        "left_out": left_out,
    }
    lines = ",\n  ".join(json.dumps(item, ensure_ascii=False) for item in items)
    text = json.dumps(head, indent=1, ensure_ascii=False).removesuffix("\n}") + f',\n "items": [\n  {lines}\n ]\n}}\n'
    write_text(Path(path) / GOLDEN_FILE, text)


def read_golden(path: str | Path) -> Golden | None:
    """The golden vectors of an artifact, None when it has none. Raises ArtifactError when they cannot be read."""
    file = Path(path) / GOLDEN_FILE
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["schema_version"] > GOLDEN_SCHEMA:
            raise ArtifactError(
                f"{file} has schema {content['schema_version']}, this Assay reads {GOLDEN_SCHEMA}: upgrade assay-rm"
            )
        items: list[dict[str, Any]] = content["items"]
        return Golden(
            tuple(_completion(item) for item in items),
            tuple(tuple(map(int, item["token_ids"])) for item in items),
            _float32([item["reward"] for item in items]),
            tuple(item["error"] for item in items),
            int(content["num_special_tokens"]),
            dict(content["left_out"]),
            tuple(_float32(item.get("step_rewards", [item["reward"]])) for item in items),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{file} cannot be read ({error!r}): the artifact is damaged") from error


def _completion(item: Mapping[str, Any]) -> Completion:
    steps = tuple(item["steps"]) if item.get("steps") else None
    return Completion(id=item["id"], messages=item["messages"], response=item["response"], steps=steps)


def _float32(numbers: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if number is None else number for number in numbers], dtype=np.float32)


def _or_none(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


def _why_none(item: Rendered) -> str:
    """Why a text that was rendered has no reward."""
    if item.lost is not None:
        return item.lost
    if (item.reward_positions == LOST).any():
        return "the length limit cuts off steps"
    return "the model gave a reward that is not finite"


@torch.no_grad()
def _rewards(model: RewardModel | EncoderModel, head: Head, rendered: Sequence[Rendered], pad_id: int) -> list[np.ndarray]:
    """Rewards (S,) float32 of each text at its reads, without sharing prompts, NaN at reads that were cut off; empty where it was
    not rendered. Of several members the mean, as plain transformers computes it."""
    places = [head.reads(item.reward_positions) for item in rendered]
    found = [np.full(len(reads), np.nan, dtype=np.float32) for reads in places]
    known = [i for i, item in enumerate(rendered) if item.error is None]
    groups = [make_group([rendered[i].tokens], [places[i][places[i] != LOST]]) for i in known]
    for batch in pack(groups, _BUDGET, pad_id=pad_id, layout="plain"):
        sizes = [len(groups[index].reward_positions) for index in batch.order]
        rewards_R = head.rewards(model(batch).float()).mean(dim=1)
        for index, rewards_S in zip(batch.order, rewards_R.split(sizes), strict=True):
            found[known[index]][places[known[index]] != LOST] = rewards_S.cpu().numpy()
    return found
