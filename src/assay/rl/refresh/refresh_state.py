"""Where a refresh is: one small file, written before each action, so that whatever ends the process, the next one goes on there.

RUN/{refresh.json, state.json, data/, policy/00 01 .., rounds/01 02 ..}. refresh.json: the settings; state.json: what is done next
and what came of the rounds so far; data/: the pairs of the first reward model; policy/NN: a run directory of the policy for each
stretch under one reward model; rounds/NN: the new pairs, their labels, the new reward model, what the gate said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

from assay.errors import CheckpointError
from assay.files import write_text
from assay.run_files import LOCK

SETTINGS, STATE, DATA = "refresh.json", "state.json", "data"
COMPUTED_IN = "computed in"
Doing = Literal[
    "gather", "policy", "choose", "label", "train", "gate", "rescale", "promote", "move", "roll-back", "done", "stopped"
]
ENDS: tuple[Doing, ...] = ("done", "stopped")


class Waiting(NamedTuple):
    """An action that cannot go on before people have done their part; what they are told."""

    told: str


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """doing: the next action. stretch: number of the policy's stretch; begin: where it begins, None for the start. reward: artifact
    of the reward model in use, below the run's directory; None for the first one. round: number of the refresh, from 1; stop: why
    and where the policy stopped for it; now: what came of it so far; rounds: what came of those before."""

    doing: Doing = "gather"
    stretch: int = 0
    reward: str | None = None
    begin: Mapping[str, Any] | None = None
    round: int = 0
    stop: Mapping[str, Any] | None = None
    now: Mapping[str, Any] = field(default_factory=dict)
    rounds: tuple[Mapping[str, Any], ...] = ()

    def then(self, doing: Doing, **seen: Any) -> Self:
        """The state after an action of a round: what is next, and what it found."""
        return replace(self, doing=doing, now={**self.now, **seen})


def stretch_path(out: Path, stretch: int) -> Path:
    return out / "policy" / f"{stretch:02d}"


def round_path(out: Path, number: int) -> Path:
    return out / "rounds" / f"{number:02d}"


def write_state(out: Path, state: State) -> None:
    """Whole or not at all, and on the disk before the action begins."""
    write_text(out / STATE, json.dumps(asdict(state), indent=1, ensure_ascii=False) + "\n")


def read_state(out: Path) -> State | None:
    """None where no state was written yet. Raises CheckpointError for a file that is none."""
    path = out / STATE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        state = State(**{**content, "rounds": tuple(content["rounds"])})
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is no state of a refresh ({error}): it was altered; begin in another --out") from error
    if state.doing not in get_args(Doing):
        raise CheckpointError(f"{path} says {state.doing!r}, which this Assay does not know: go on with the version that wrote it")
    return state


def settled(out: Path, identity: Mapping[str, Any], computed_in: str) -> tuple[bool, str]:
    """Whether the directory is a new one, and the number format of its models; the settings are written, or held against those that
    are there. Raises ValueError for a directory of something else, CheckpointError for other settings, naming them."""
    path, now = out / SETTINGS, json.loads(json.dumps(dict(identity)))
    if not path.is_file():
        if others := sorted(one.name for one in out.iterdir() if one.name != LOCK and not one.name.startswith(f".{SETTINGS}")):
            raise ValueError(f"{out} holds {', '.join(others[:3])} and no refresh to go on with: choose another --out")
        write_text(path, json.dumps({**now, COMPUTED_IN: computed_in}, indent=1, ensure_ascii=False) + "\n")
        return True, computed_in
    saved = json.loads(path.read_text(encoding="utf-8"))
    before, after = _flat(saved), _flat(now)
    other = [name for name in sorted(before.keys() | after.keys()) if name != COMPUTED_IN and before.get(name) != after.get(name)]
    if other:
        shown = "; ".join(f"{name}: {before.get(name)} before, {after.get(name)} now" for name in other)
        raise CheckpointError(f"{out} was begun with other settings ({shown}): give the same to go on, or choose another --out")
    return False, str(saved[COMPUTED_IN])


def _flat(content: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{before}{name}, ")
        else:
            found[f"{before}{name}"] = value
    return found
