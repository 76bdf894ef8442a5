"""Checkpoints as safetensors and JSON, never pickle: a run that was killed goes on from one bit by bit.

A checkpoint is a directory step-00001234 that appears by rename when it is complete; state.json holds the digests of its files
and of itself.
"""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from assay.errors import CheckpointError, TrainingError
from assay.files import file_sha256, new_directory, sha256
from assay.training import distributed

KEEP = 2
_OPTIMIZER_KEYS = ("step", "exp_avg", "exp_avg_sq")


class Resumed(NamedTuple):
    """Where a run goes on: number of finished steps, recorded state of the run, directory of the checkpoint."""

    step: int
    state: dict[str, Any]
    path: Path


def save_checkpoint(
    directory: Path, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> Path:
    """Write checkpoint `step` and drop all but the last two. Raises TrainingError when the disk is full; older ones are kept."""
    target = directory / f"step-{step:08d}"
    trained, moments = _trained(model), _optimizer_tensors(model, optimizer)  # every process helps to gather sharded ones
    if distributed.rank() != 0:
        return target
    for half in directory.glob(".step-*"):  # of a run that was killed while it wrote
        shutil.rmtree(half)
    try:
        with new_directory(target) as work:
            save_file(trained, work / "model.safetensors")
            save_file(moments, work / "optimizer.safetensors")
            digests = {file.name: file_sha256(file) for file in sorted(work.glob("*.safetensors"))}
            content = {"step": step, "digests": digests, **state}
            (work / "state.json").write_text(json.dumps({**content, "digest": _state_digest(content)}, indent=1))
    except (OSError, SafetensorError) as error:
        if is_disk_full(error):
            kept = latest_checkpoint(directory)
            raise TrainingError(
                f"the disk is full at checkpoint {step} in {directory}; the last good one is {kept.path.name if kept else 'none'}: "
                "free some space, then train again with --resume"
            ) from error
        raise
    for old in sorted(directory.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old)
    return target


def latest_checkpoint(directory: Path) -> Resumed | None:
    """The newest whole checkpoint, or None when there is none at all.

    A damaged one is passed over in favour of the one before; raises CheckpointError when all are damaged.
    """
    found = sorted(directory.glob("step-*"), reverse=True)
    problems = []
    for path in found:
        try:
            state = json.loads((path / "state.json").read_bytes())
            if state.pop("digest", "") != _state_digest(state):
                problems.append(f"{path.name}: state.json altered")
                continue
            damaged = [name for name, digest in state["digests"].items() if file_sha256(path / name) != digest]
            if damaged:
                problems.append(f"{path.name}: {', '.join(damaged)} altered or cut short")
                continue
            return Resumed(int(state["step"]), {**state, "passed_over": problems}, path)
        except (OSError, ValueError, AttributeError, TypeError) as error:  # gone, no JSON, or no object
            problems.append(f"{path.name}: {error}")
    if found:
        raise CheckpointError(
            f"no checkpoint in {directory} is whole ({'; '.join(problems)}): delete them to train from the beginning"
        )
    return None


def trained_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the trained parameters, gathered where they are sharded; `load_state_dict(..., strict=False)` takes them back."""
    return {name: distributed.full_tensor(p.detach()).clone() for name, p in model.named_parameters() if p.requires_grad}


def restore_checkpoint(resumed: Resumed, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load a checkpoint into model and optimizer. Raises CheckpointError when it is of another model."""
    trained = load_file(resumed.path / "model.safetensors")
    if trained.keys() != {name for name, parameter in model.named_parameters() if parameter.requires_grad}:
        raise CheckpointError(
            f"{resumed.path} holds other parameters than this run trains: it was made with another --params or base"
        )
    tensors = load_file(resumed.path / "optimizer.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in trained:
                parameter.copy_(distributed.like(trained[name], parameter))
                keys = [key for key in _OPTIMIZER_KEYS if f"{name}/{key}" in tensors]
                optimizer.state[parameter] = {key: _placed(key, tensors[f"{name}/{key}"], parameter) for key in keys}
    torch.set_rng_state(tensors["rng"])


def is_disk_full(error: BaseException) -> bool:
    """Whether an error says that no more can be written: no space, a quota, a file size limit."""
    codes = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return (isinstance(error, OSError) and error.errno in codes) or any(f"os error {code}" in str(error) for code in codes)


def _placed(key: str, value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    return value if key == "step" else distributed.like(value, parameter)


def _trained(model: nn.Module) -> dict[str, torch.Tensor]:
    trained = ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)
    return {name: distributed.full_tensor(parameter.detach()).cpu().contiguous() for name, parameter in trained}


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    tensors = {
        f"{name}/{key}": distributed.full_tensor(torch.as_tensor(value)).detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    return {**tensors, "rng": torch.get_rng_state()}


def _state_digest(content: Mapping[str, Any]) -> str:
    return sha256(json.dumps(content, sort_keys=True))
