"""Several processes on one run, started by torchrun: each takes its share of every step, and their gradients are summed.

In a single process every function here does nothing. The loss of a step is divided by its global number of rows before the sum, so
that any number of processes takes the same step. The processes share the run directory; rank 0 writes.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from assay.errors import TrainingError
from assay.models.reward_model import RewardModel

TIMEOUT = timedelta(hours=2)  # rank 0 reads and tokenises while the others wait; a process that dies is noticed at once


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Run the body in the process group that torchrun started; without torchrun nothing happens.

    Raises TrainingError when another process of the run is lost.
    """
    if not is_launched() or dist.is_initialized():
        yield
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    try:
        yield
    except RuntimeError as error:
        if world_size() > 1 and ("Connection" in str(error) or isinstance(error, dist.DistError)):
            raise TrainingError(f"process {rank()} lost another process of this run, whose own message says why") from error
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


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
    """The maximum of a number over all processes."""
    if world_size() == 1:
        return value
    number = torch.tensor(value, device=device)
    dist.all_reduce(number, op=dist.ReduceOp.MAX)
    return int(number)


def barrier() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()


def broadcast_from_rank0(value: int) -> int:
    """Rank 0's number, in every process: what was measured or searched may differ between machines, a run must not."""
    if world_size() == 1:
        return value
    number = torch.tensor(value)
    dist.broadcast(number, 0)
    return int(number)


@contextmanager
def rank0_first() -> Iterator[None]:
    """Rank 0 runs the body alone, then the others do: what it leaves on disk is there for them."""
    if rank() != 0:
        barrier()
    yield
    if rank() == 0:
        barrier()


def shard(model: RewardModel) -> None:
    """Spread parameters, gradients and optimiser over the processes, layer by layer (FSDP2; Zhao et al. 2023).

    Frozen embeddings, which may have the checkpoint's own number format, stay whole.
    """
    decoder = model.backbone.model
    for layer in decoder.layers:
        fully_shard(layer)
    kept = {p for p in decoder.get_input_embeddings().parameters() if not p.requires_grad}
    fully_shard(
        model, reshard_after_forward=True, ignored_params=kept
    )  # else checkpoints after an evaluation miss the root's moments
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)  # a sum: the loss is divided by the rows of the step already
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes, in one message; a process without one adds zero.

    Sharded parameters are left out: their gradients are summed in the backward pass.
    """
    if world_size() == 1:
        return
    trained = [parameter for parameter in parameters if not isinstance(parameter, DTensor)]
    if not trained:
        return
    flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in trained])
    dist.all_reduce(flat)
    for parameter, part in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
        parameter.grad = part.view_as(parameter)


def batches(model: nn.Module, batches_of: Callable[[np.ndarray], Sequence[Any]], rows: np.ndarray) -> Iterator[tuple[Any, float]]:
    """This process's share of `rows` as micro-batches, each with weight 1.0, or 0.0 for a repeated one, whose result is dropped.

    Layers that are sharded over the processes run in step, so that a process with fewer micro-batches has to repeat one. How often
    is settled before the first: later one process would wait for the number while another waits in a forward.
    """
    mine = rows[rank() :: world_size()]
    found = batches_of(mine) if len(mine) else []
    in_step = world_size() > 1 and is_sharded(model)
    missing = largest(len(found), next(model.parameters()).device) - len(found) if in_step else 0
    yield from ((batch, 1.0) for batch in found)
    if missing:
        spare = found[0] if found else batches_of(rows[:1])[0]
        yield from itertools.repeat((spare, 0.0), missing)


def is_sharded(model: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def full_tensor(value: torch.Tensor) -> torch.Tensor:
    """The full tensor of one that may be sharded. Every process has to call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(value: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """A full tensor, sharded as another one is."""
    if isinstance(other, DTensor):
        return distribute_tensor(value.to(other.device), other.device_mesh, other.placements)
    return value.to(other.device)
