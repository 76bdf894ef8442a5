"""Micro-batches, rewards put back in their places, and the frozen trunk's cache: nothing here may change a number."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from assay.data.tokens.table import PairTable, build_table
from assay.errors import TrainingError
from assay.models.backbone import split_backbone
from assay.models.reward_model import RewardModel
from assay.records import PreferencePair
from assay.training.batches import Source, StateSource, TokenSource, outputs_at, row_batches
from assay.training.states.cache import build_cache, final_states
from tiny import tiny_model, tiny_renderer, toy_pairs

GIGABYTE = 10**9


def uneven_pairs(num_pairs: int) -> list[PreferencePair]:
    """Answers of very different lengths, so that micro-batches hold several rows and rows hold several groups."""
    return [
        replace(pair, chosen=pair.chosen * (1 + i % 4), rejected=pair.rejected * (1 + (i * 7) % 3))
        for i, pair in enumerate(toy_pairs(num_pairs))
    ]


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> PairTable:
    return build_table(uneven_pairs(37), tiny_renderer(max_length=160), tmp_path_factory.mktemp("table") / "tokens.arrow")[0]


def plain_rewards(model: RewardModel, table: PairTable, rows: np.ndarray) -> np.ndarray:
    """One sequence in one forward, by transformers alone."""
    values = []
    with torch.no_grad():
        for row in rows:
            for tokens, read in zip(table[int(row)][:2], table[int(row)].reward_positions, strict=True):
                hidden = model.backbone.model(input_ids=torch.from_numpy(tokens.copy()).long()[None]).last_hidden_state
                values.append(model.head(hidden[0, int(read)]).item())
    return np.array(values, np.float32).reshape(-1, 2)


def pair_rewards(model: RewardModel, source: Source, rows: np.ndarray) -> np.ndarray:
    return outputs_at(model, source, rows).reshape(-1, 2)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("max_tokens", [1, 150, 700, 100_000])
def test_every_pair_is_in_one_batch_and_each_slot_is_used_once(table, share, max_tokens):
    rows = np.random.default_rng(0).permutation(len(table))[:23]
    batches = row_batches(table, rows, max_tokens, layout="rows" if share else "plain")
    assert sorted(np.concatenate([batch.rows for batch in batches])) == sorted(rows)
    for batch in batches:
        assert sorted(batch.slots) == list(range(2 * len(batch.rows)))
        assert len(batch.packed.reward_positions) == len(batch.slots)
        assert batch.packed.tokens.size <= max_tokens or len(batch.rows) == 1


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("max_tokens", [150, 700, 100_000])
def test_rewards_come_back_in_the_order_of_the_rows_asked_for(table, share, max_tokens):
    model = tiny_model("llama")
    rows = np.random.default_rng(1).permutation(len(table))[:19]
    source = TokenSource(table=table, max_tokens=max_tokens, layout="rows" if share else "plain")
    np.testing.assert_allclose(pair_rewards(model, source, rows), plain_rewards(model, table, rows), atol=2e-5)


@pytest.mark.parametrize("can_branch", [True, False])
def test_cached_states_give_the_rewards_of_the_whole_model(table, tmp_path, can_branch):
    model = tiny_model("qwen")
    trunk, top = split_backbone(model.backbone, 2)
    model.backbone.can_branch = trunk.can_branch = top.can_branch = can_branch
    cache = build_cache(trunk, table, tmp_path / "a.bin", identity="a", max_tokens=300, dtype=torch.float32, limit_bytes=GIGABYTE)
    source = TokenSource(table=table, max_tokens=200, layout="rows" if can_branch else "plain", cache=cache)
    rows = np.arange(len(table))[::-1].copy()
    cached = pair_rewards(RewardModel(top, model.head), source, rows)
    np.testing.assert_allclose(cached, plain_rewards(model, table, rows), atol=2e-5)


@pytest.mark.parametrize("can_branch", [True, False])
def test_final_states_give_the_rewards_of_the_whole_model(table, can_branch, tmp_path):
    model = tiny_model("gemma")
    model.backbone.can_branch = can_branch
    seen: list[int] = []
    settings = {"identity": "a", "max_tokens": 300, "limit_bytes": GIGABYTE, "on_answers": seen.append}
    states = final_states(model.backbone, table, tmp_path / "s.bin", **settings)
    assert states.dtype == np.float32
    assert (tmp_path / "s.bin").stat().st_size == states.nbytes == 2 * len(table) * 32 * 4
    assert sum(seen) == 2 * len(table)
    rows = np.arange(len(table))
    rewards = pair_rewards(model, StateSource(table=table, states_RD=states), rows)
    np.testing.assert_allclose(rewards, plain_rewards(model, table, rows), atol=2e-5)


def test_a_bfloat16_cache_holds_what_the_trunk_computed_bit_by_bit(table, tmp_path):
    trunk, _ = split_backbone(tiny_model("llama").backbone, 1)
    trunk.to(torch.bfloat16)
    cache = build_cache(trunk, table, tmp_path / "a.bin", identity="a", max_tokens=300, dtype=torch.bfloat16, limit_bytes=GIGABYTE)
    (batch,) = row_batches(table, np.array([3]), 10_000, layout="rows")
    hidden = cache.gather(batch.packed, batch.groups)
    with torch.no_grad():
        direct = trunk(batch.packed)
    assert hidden.dtype == direct.dtype == torch.bfloat16
    num_tokens = sum(len(table.groups(row, share=True)[0].tokens) for row in range(len(table)))
    assert (tmp_path / "a.bin").stat().st_size == num_tokens * 32 * 2
    torch.testing.assert_close(hidden, direct, atol=0.05, rtol=0.05)


def test_the_size_is_told_before_the_trunk_runs_and_is_the_file_s(table, tmp_path):
    trunk, _ = split_backbone(tiny_model("llama").backbone, 1)
    events: list[tuple[str, int]] = []
    build_cache(
        trunk,
        table,
        tmp_path / "a.bin",
        identity="a",
        max_tokens=300,
        dtype=torch.float32,
        limit_bytes=GIGABYTE,
        on_start=lambda num_bytes, num_tokens: events.append(("size", num_bytes)),
        on_answers=lambda num_answers: events.append(("answers", num_answers)),
    )
    num_tokens = sum(len(table.groups(row, share=True)[0].tokens) for row in range(len(table)))
    assert events[0] == ("size", num_tokens * 32 * 4) == ("size", (tmp_path / "a.bin").stat().st_size)
    assert sum(count for name, count in events if name == "answers") == 2 * len(table)


def test_a_cache_over_the_limit_is_refused_with_its_size_and_the_fix(table, tmp_path):
    trunk, _ = split_backbone(tiny_model("llama").backbone, 1)
    with pytest.raises(TrainingError, match=r"0\.0 GB.*--cache-limit-gb.*--max-length.*--params full"):
        build_cache(trunk, table, tmp_path / "a.bin", identity="a", max_tokens=300, dtype=torch.float32, limit_bytes=1000)
    assert list(tmp_path.iterdir()) == []


def test_a_whole_cache_is_reused_and_one_of_another_identity_or_cut_short_is_not(table, tmp_path):
    trunk, _ = split_backbone(tiny_model("llama").backbone, 1)
    calls: list[int] = []
    trunk.register_forward_hook(lambda *_: calls.append(1))

    def build(identity: str) -> int:
        calls.clear()
        build_cache(trunk, table, tmp_path / "a.bin", identity=identity, max_tokens=300, dtype=torch.float32, limit_bytes=GIGABYTE)
        return len(calls)

    assert build("one") > 0
    assert build("one") == 0
    assert build("two") > 0
    os.truncate(tmp_path / "a.bin", 100)
    assert build("two") > 0


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_while_caching_leaves_no_half_cache(table, tmp_path, monkeypatch, code):
    def full(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "posix_fallocate", full)
    trunk, _ = split_backbone(tiny_model("llama").backbone, 1)
    with pytest.raises(TrainingError, match="disk is full while caching activations"):
        build_cache(trunk, table, tmp_path / "a.bin", identity="a", max_tokens=300, dtype=torch.float32, limit_bytes=GIGABYTE)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_while_caching_are_not_called_a_full_disk(table, tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "posix_fallocate", broken)
    trunk, _ = split_backbone(tiny_model("llama").backbone, 1)
    with pytest.raises(OSError, match="Input/output error"):
        build_cache(trunk, table, tmp_path / "a.bin", identity="a", max_tokens=300, dtype=torch.float32, limit_bytes=GIGABYTE)


FILE_LIMIT = """
import json, resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import torch
from tiny import tiny_model, tiny_renderer, toy_pairs
from assay.data.tokens.table import build_table
from assay.errors import TrainingError
from assay.models.backbone import split_backbone
from assay.training.states.cache import build_cache
from assay.training.checkpoint import latest_checkpoint, save_checkpoint

work = Path(sys.argv[1])
table, _ = build_table(toy_pairs(40), tiny_renderer(), work / "tokens.arrow")
model = tiny_model()
optimizer = torch.optim.AdamW(model.parameters())
save_checkpoint(work / "checkpoints", 1, model, optimizer, {"identity": "x"})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
told = {}
trunk, _ = split_backbone(model.backbone, 1)
try:
    build_cache(trunk, table, work / "cache" / "a.bin", identity="", max_tokens=99, dtype=torch.float32, limit_bytes=10**9)
except TrainingError as error:
    told["cache"] = str(error)
try:
    save_checkpoint(work / "checkpoints", 2, model, optimizer, {"identity": "x"})
except TrainingError as error:
    told["checkpoint"] = str(error)
told["latest"] = latest_checkpoint(work / "checkpoints").step
print(json.dumps(told))
"""


@pytest.mark.slow
def test_a_file_size_limit_ends_in_a_training_error_and_keeps_the_last_good_state(tmp_path):
    """The kernel, not a stand-in, refuses to write more: what a full disk or a quota does."""
    tests = str(Path(__file__).parents[1])
    ran = subprocess.run(
        [sys.executable, "-c", FILE_LIMIT, str(tmp_path), tests], capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert "disk is full while caching" in told["cache"]
    assert "disk is full at checkpoint 2" in told["checkpoint"]
    assert "step-00000001" in told["checkpoint"]
    assert told["latest"] == 1
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    assert list((tmp_path / "cache").iterdir()) == []
