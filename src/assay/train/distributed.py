"""Several processes on one run: each takes its share of every batch, and what they computed is summed.

Started by torchrun; alone, every function here does nothing. The loss of a step is divided by its global number of pairs before
the sum, so that any number of processes, with any shares, takes the same step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor


def rank() -> int:
    """Number of this process, 0 when alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_tensor(value: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, in place."""
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def largest(value: int, device: torch.device) -> int:
    """The largest of a number that each process gives."""
    if world_size() == 1:
        return value
    number = torch.tensor(value, device=device)
    dist.all_reduce(number, op=dist.ReduceOp.MAX)
    return int(number)


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes, in one message; a process without one adds zero.

    Sharded parameters are left out: theirs are summed on the way back."""
    if world_size() == 1:
        return
    trained = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    if not trained:
        return
    flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in trained])
    dist.all_reduce(flat)
    for parameter, part in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
        parameter.grad = part.view_as(parameter)


def batches(model: torch.nn.Module, source: Any, rows: np.ndarray) -> Iterator[tuple[Any, float]]:
    """This process's share of `rows` as micro-batches, each with 1.0, or 0.0 for one that is run for company only.

    Layers that are sharded over the processes run in step: a process with fewer micro-batches repeats one, and drops the result.
    """
    mine = rows[rank() :: world_size()]
    found = source.batches(mine) if len(mine) else []
    yield from ((batch, 1.0) for batch in found)
    if is_sharded(model):
        missing = largest(len(found), next(model.parameters()).device) - len(found)
        spare = found[:1] or source.batches(rows[:1])[:1]
        yield from ((batch, 0.0) for batch in spare * missing)


def is_sharded(model: torch.nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(value: torch.Tensor) -> torch.Tensor:
    """The full tensor of one that may be sharded; every process has to ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A full tensor, sharded as another one is."""
    if isinstance(other, DTensor):
        return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)
    return value.to(other.device)
