"""Device and number format: as asked for, or chosen with a reason that has figures."""

from __future__ import annotations

import re

import pytest
import torch

from assay.models import device
from assay.models.device import pick_compute, token_budget


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_dtype_that_is_given_is_used(dtype):
    compute = pick_compute("cpu", dtype)
    assert (compute.device, compute.dtype, compute.reason) == (torch.device("cpu"), getattr(torch, dtype), "set by the user")


@pytest.mark.parametrize("name", ["quantum", "cuda:99"])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(ValueError, match=f"device '{name}' cannot be used here"):
        pick_compute(name)


def test_on_a_cpu_the_reason_has_the_two_figures():
    compute = pick_compute("cpu")
    plain, half = map(int, re.findall(r"\b(\d+)\b(?= GFLOP| in bfloat16)", compute.reason))
    assert plain > 0
    assert half >= 0
    assert compute.dtype in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize(("half", "chosen"), [(131.0, torch.bfloat16), (129.0, torch.float32)])
def test_bfloat16_is_chosen_where_it_pays(monkeypatch, half, chosen):
    monkeypatch.setattr(device, "_products_per_second", lambda dtype: 100.0 if dtype == torch.float32 else half)
    compute = pick_compute("cpu")
    assert compute.dtype == chosen
    assert compute.reason == f"a probe of this CPU gave 100 GFLOP/s in float32, {half:.0f} in bfloat16"


def test_auto_finds_a_device_that_works():
    compute = pick_compute("auto", "float32")
    assert torch.ones(2, device=compute.device).sum().item() == 2


def test_a_gpu_takes_more_tokens_at_once():
    assert 0 < token_budget(torch.device("cpu")) < token_budget(torch.device("cuda"))
