"""The device, the number format and the token budget that suit the machine, measured where the user gives none."""

from __future__ import annotations

import os
import platform
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch

from assay.data.tokens.packing import GROUP_FACTOR
from assay.records import Dtype


def library_versions(*more: str) -> dict[str, str]:
    """What a run stood on: Assay's libraries and those named, and Python. torch's has its build, such as 2.13.0+cu130, which the
    package's metadata leave out."""
    names = ("assay-rm", "transformers", "tokenizers", *more, "numpy")
    return {"torch": torch.__version__, **{name: version(name) for name in names}, "python": platform.python_version()}


class Compute(NamedTuple):
    """Device and number format of the backbone, and why they were chosen."""

    device: torch.device
    dtype: torch.dtype
    reason: str

    @property
    def name(self) -> Dtype:
        """The number format as flags name it."""
        return "bfloat16" if self.dtype == torch.bfloat16 else "float32"


def pick_compute(device: str = "auto", dtype: Dtype = "auto") -> Compute:
    """Resolve "auto": a GPU when there is one; bfloat16 when a half-second probe of matrix products shows that it is faster.

    Raises ValueError for a device that cannot be used.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used here ({error}): leave it at 'auto', or give 'cpu'") from error
    if dtype != "auto":
        return Compute(place, getattr(torch, dtype), "set by the user")
    if place.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return Compute(place, torch.bfloat16 if supported else torch.float32, f"{torch.cuda.get_device_name(place)}")
    if place.type != "cpu":
        return Compute(place, torch.float32, f"{place.type}: bfloat16 is not probed there")
    plain, half = _products_per_second(torch.float32), _products_per_second(torch.bfloat16)
    chosen = torch.bfloat16 if half > 1.3 * plain else torch.float32
    return Compute(place, chosen, f"a probe of this CPU gave {plain:.0f} GFLOP/s in float32, {half:.0f} in bfloat16")


class ScoringPlan(NamedTuple):
    """The size of one forward when scoring. max_tokens: of a batch. group_tokens: answers to one prompt are cut into parts of at
    most that many tokens. forward_bytes: largest size of the activations; predicted_bytes: largest memory of the process (CPU) or
    on the device (GPU). free_bytes: free memory when the plan was made."""

    max_tokens: int
    group_tokens: int
    forward_bytes: int
    predicted_bytes: int
    free_bytes: int

    def summary(self) -> str:
        return (
            f"{self.max_tokens:,} tokens a forward, {self.predicted_bytes / 1e9:.2f} GB at most, of them activations "
            f"{self.forward_bytes / 1e9:.2f}; {self.free_bytes / 1e9:.1f} GB are free"
        )


ROUNDS_FACTOR = 64  # a group in rounds takes the memory of one round, however many answers it has
_SHARE_OF_FREE = 0.5


def plan_scoring(
    bytes_per_token: int,
    square_bytes: int,
    device: torch.device,
    *,
    max_tokens: int | None,
    longest: int,
    cuts_groups: bool,
    kept_bytes: int = 0,
) -> ScoringPlan:
    """The token budget of one forward: the fastest that takes at most half of the free memory, or `max_tokens` if that is given.

    bytes_per_token: peak activations of one token; square_bytes: of a dense mask and its copies, for each pair of columns of a row;
    0 without a mask. longest: the longest possible sequence. cuts_groups: whether a group over the budget is cut at the budget, or
    only at `GROUP_FACTOR` times the budget. kept_bytes: keys and values of one token, where a group runs in rounds behind its
    prompt: then it is cut at `ROUNDS_FACTOR` times the budget; 0 where it runs at once.
    """
    free, used = _free_and_used(device)
    budget = max_tokens or token_budget(device)

    def need(tokens: int) -> int:
        return tokens * bytes_per_token + tokens * tokens * square_bytes

    while max_tokens is None and budget > 128 and need(budget) > _SHARE_OF_FREE * free:
        budget //= 2
    in_round = longest + GROUP_FACTOR * budget
    peak = need(in_round) + in_round * kept_bytes
    if kept_bytes and peak <= _SHARE_OF_FREE * free:
        return ScoringPlan(budget, ROUNDS_FACTOR * budget, peak, used + peak, free)
    group = budget if cuts_groups else GROUP_FACTOR * budget
    while group > budget and need(group) > _SHARE_OF_FREE * free:
        group //= 2
    peak = need(max(group, longest))
    return ScoringPlan(budget, max(group, budget), peak, used + peak, free)


def _free_and_used(device: torch.device) -> tuple[int, int]:
    """Free bytes on the device, and bytes used by this process (CPU) or by its tensors (GPU)."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0], torch.cuda.memory_allocated(device)
    try:
        available = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return int(available.split()[1]) * 1024, resident
    except (OSError, StopIteration):  # not Linux: half of the memory counts as free, and used memory is not known
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2, 0


def token_budget(device: torch.device) -> int:
    """The fastest number of tokens for one forward: on a CPU few enough for activations to stay in the cache (1,024 was the fastest
    of 256-8,192 on SmolLM2-135M, by up to a third), on a GPU enough to keep it busy."""
    return 1024 if device.type == "cpu" else 16_384


@cache
def _products_per_second(dtype: torch.dtype, seconds: float = 0.2) -> float:
    """GFLOP/s of a matrix product of the size found in a small model; measured once in a process, so that all that it loads is
    computed in one format."""
    left, right = torch.ones(512, 576, dtype=dtype), torch.ones(576, 1536, dtype=dtype)
    best = float("inf")
    for _ in range(2):
        left @ right
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - start)
    return 2 * 512 * 576 * 1536 / best / 1e9
