"""Which device and number format to compute in, found by looking rather than asked for."""

from __future__ import annotations

import time
from typing import Literal, NamedTuple

import torch

Dtype = Literal["auto", "float32", "bfloat16"]


class Compute(NamedTuple):
    """Device and number format of the backbone, and why they were chosen."""

    device: torch.device
    dtype: torch.dtype
    reason: str


def pick_compute(device: str = "auto", dtype: Dtype = "auto") -> Compute:
    """Resolve "auto": a GPU when there is one; bfloat16 when a half-second probe of matrix products shows that it pays.

    Raises ValueError for a device that is not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        place = torch.device(device)
        torch.zeros(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used here ({error}): leave it at 'auto', or give 'cpu'") from error
    if dtype != "auto":
        return Compute(place, getattr(torch, dtype), "asked for")
    if place.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return Compute(place, torch.bfloat16 if supported else torch.float32, f"{torch.cuda.get_device_name(place)}")
    if place.type != "cpu":
        return Compute(place, torch.float32, f"{place.type}: bfloat16 is not probed there")
    plain, half = _products_per_second(torch.float32), _products_per_second(torch.bfloat16)
    chosen = torch.bfloat16 if half > 1.3 * plain else torch.float32
    return Compute(place, chosen, f"a probe of this CPU gave {plain:.0f} GFLOP/s in float32, {half:.0f} in bfloat16")


def token_budget(device: torch.device) -> int:
    """Tokens of one forward that run best: on a CPU few enough that the activations stay in the cache (1,024 was the fastest of
    256-8,192 on SmolLM2-135M, by up to a third), on a GPU enough to fill it."""
    return 1024 if device.type == "cpu" else 16_384


def _products_per_second(dtype: torch.dtype, seconds: float = 0.2) -> float:
    """Giga floating-point operations a second of a matrix product of a small model's size."""
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
