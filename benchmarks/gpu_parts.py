"""The parts of gpu.py, each run in a process of its own. Shapes: R rewards, P pairs; L tokens of a sequence."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_bench import SIZES, Bench, layer_weights, packed_group, renderer_of, table_of, tokenizer_of, words
from gpu_policy import policy, policy_trl

from assay.data.tokens.packing import PackedBatch, pack
from assay.data.tokens.table import PairTable
from assay.models.backbone import Backbone, split_backbone
from assay.models.device import token_budget
from assay.models.reward_model import RewardModel
from assay.models.shared_trunk import SharedTrunk


def measure(part: str, size: str, device: str, work: Path) -> None:
    """Run one part; what it finds is in found.json below `work`."""
    bench = Bench(SIZES[size], device, work)
    parts: dict[str, Callable[[Bench], None]] = {
        "device": device_part,
        "parity": parity,
        "train-full": partial(train, way="full"),
        "train-lora": partial(train, way="lora"),
        "train-blocks": partial(train, way="blocks"),
        "train-trl": train_trl,
        "score": score,
        "ensemble": ensemble,
        "serve": serve,
        "policy": policy,
        "policy-trl": policy_trl,
        "fsdp": fsdp,
    }
    try:
        parts[part](bench)
    except ModuleNotFoundError as error:
        bench.keep(not_run=f"needs {error.name}")


def device_part(bench: Bench) -> None:
    import transformers

    name = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else "cpu"
    bench.keep(name=name, torch=torch.__version__, transformers=transformers.__version__, python=sys.version.split()[0])
    bench.keep(matmul_tflops=bench.matmul_rate() / 1e12)


def parity(bench: Bench) -> None:
    """Rewards of branches that share a prompt, packed, against plain transformers on one sequence at a time."""
    sequences = bench.groups(3, 4, bench.size.prompt, bench.size.answer)
    plain = [sequence for group in sequences for sequence in group]
    rewards = {}
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        model = bench.model(torch.float32, torch.float32, layers=min(4, bench.size.layers))
        model = RewardModel(Backbone(model.backbone.model.to(dtype)), model.head, compute_dtype=dtype)
        bench.keep(**{f"{name}_attention": model.backbone.attention()})
        batches = pack([packed_group(group) for group in sequences], 1 << 16, layout=model.backbone.layout)
        with torch.inference_mode():
            packed_R = in_order([model(batch)[:, 0].float().cpu().numpy() for batch in batches], batches, len(sequences[0]))
            eager = copy.deepcopy(model.backbone.model)
            eager.set_attn_implementation("sdpa")
            one_by_one = [
                eager(torch.from_numpy(s[None].astype(np.int64)).to(bench.device)).last_hidden_state[0, -1] for s in plain
            ]
            plain_R = torch.cat([model.head(state.float())[None] for state in one_by_one])[:, 0].cpu().numpy()
        rewards[name] = plain_R
        bench.keep(**{f"{name}_difference": float(np.abs(packed_R - plain_R).max())})
    bench.keep(attention=bench.found["float32_attention"])
    bench.keep(bfloat16_of_plain=float(np.abs(rewards["bfloat16"] - rewards["float32"]).max()))


def in_order(rewards: Sequence[np.ndarray], batches: Sequence[PackedBatch], answers: int) -> np.ndarray:
    """Rewards (R,) of batches in the order of the sequences, of which each group has as many as `answers`."""
    index = np.concatenate([(batch.order[:, None] * answers + np.arange(answers)).ravel() for batch in batches])
    found = np.empty(len(index), np.float32)
    found[index] = np.concatenate(rewards)
    return found


def train(bench: Bench, *, way: str) -> None:
    """Pairs a second of the loop itself, after two steps to warm up; of `blocks`, from the cached states of the frozen layers."""
    from assay.models.lora import add_lora
    from assay.training.batches import TokenSource
    from assay.training.states.cache import build_cache

    s, rate = bench.size, bench.matmul_rate()
    table, budget = table_of(bench, s.batch_pairs * (s.steps + 2)), token_budget(bench.device)
    model = bench.model(torch.float32, bench.half)
    weights = layer_weights(model.backbone.model)
    factor, blocks = 6.0, min(4, s.layers - 1)
    source = TokenSource(table=table, max_tokens=budget, layout=model.backbone.layout)
    if way == "lora":
        add_lora(model.backbone, 16)
        factor = 4.0  # no gradients of the frozen weights
    if way == "blocks":
        model.backbone.requires_grad_(False)
        trunk, top = split_backbone(model.backbone, blocks)
        top.model.layers.requires_grad_(True)
        frozen, began = copy.deepcopy(trunk).to(bench.half).eval(), time.perf_counter()
        cache = build_cache(
            frozen, table, bench.work / "states.bin", identity="", max_tokens=budget, dtype=bench.half, limit_bytes=10**11
        )
        bench.keep(caching_pairs_per_second=len(table) / (time.perf_counter() - began))
        source, factor = replace(source, cache=cache), 6.0 * blocks / s.layers
        model = RewardModel(top, model.head, compute_dtype=bench.half)
        del frozen, trunk
    bench.keep(parameters=weights, attention=model.backbone.attention())
    fit_and_keep(bench, model, source, table, factor * weights, rate)


def fit_and_keep(bench: Bench, model: RewardModel, source: Any, table: PairTable, flops_a_token: float, rate: float) -> list[float]:
    """Take the steps, keep the figures after each; returns the losses."""
    from assay.training.loop import LoopSettings, fit
    from assay.training.objective import Objective
    from assay.training.tasks.pairs import PairTask

    s = bench.size
    settings = LoopSettings(
        epochs=1, batch_size=s.batch_pairs, learning_rate=1e-5, head_learning_rate=1e-5, batch_tokens=token_budget(bench.device)
    )
    computed = sum(batch.packed.tokens.size for batch in source.batches(np.arange(len(table)))) / len(table)
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    taken: list[float] = []

    def on_row(row: dict[str, Any]) -> None:
        bench.sync()
        taken.append(float(row["seconds"]))
        if len(taken) > 2:
            pairs = s.batch_pairs * (len(taken) - 2) / sum(taken[2:])
            share = pairs * computed * flops_a_token / rate
            bench.keep(pairs_per_second=pairs, tokens_per_second=pairs * computed, peak_gb=bench.peak_gb())
            bench.keep(share_of_matmul_rate=share, steps=len(taken) - 2)

    task = PairTask(table=table, source=source, objective=Objective(centring=0.0))
    return [float(row["loss"]) for row in fit(model, task, np.arange(len(table)), settings, on_row=on_row)]


def train_trl(bench: Bench) -> None:
    """TRL's RewardTrainer on the same tokens, at the better of two micro-batches: a quarter of the step, and the whole."""
    import trl

    s, rate = bench.size, bench.matmul_rate()
    table = table_of(bench, s.batch_pairs * (s.steps + 2))
    for micro in (max(1, s.batch_pairs // 4), s.batch_pairs):
        before = dict(bench.found)
        try:
            trl_steps(bench, table, micro, rate)
        except torch.OutOfMemoryError:
            bench.keep(**{f"micro_batch_{micro}": "out of memory"}, **before)
        if before.get("pairs_per_second", 0.0) > bench.found.get("pairs_per_second", 0.0):
            bench.keep(**before)
    bench.keep(trl=trl.__version__)


def trl_steps(bench: Bench, table: PairTable, micro: int, rate: float) -> None:
    """The steps of `train` in TRL's trainer; figures are kept after each, from the third on."""
    import trl
    from datasets import Dataset
    from transformers import LlamaForSequenceClassification, TrainerCallback

    s, rows = bench.size, [table[i] for i in range(len(table))]
    data = Dataset.from_dict({"chosen_ids": [r.chosen.tolist() for r in rows], "rejected_ids": [r.rejected.tolist() for r in rows]})
    torch.manual_seed(0)
    config = bench.config()
    config.num_labels = 1
    model = LlamaForSequenceClassification._from_config(config, attn_implementation="sdpa").to(bench.device)
    arguments = trl.RewardConfig(
        output_dir=str(bench.work / "trl"), per_device_train_batch_size=micro, max_steps=s.steps + 2, save_strategy="no",
        gradient_accumulation_steps=s.batch_pairs // micro, gradient_checkpointing=False, bf16=bench.device.type == "cuda",
        use_cpu=bench.device.type == "cpu", report_to="none", disable_tqdm=True, max_length=None, logging_strategy="no",
    )  # fmt: skip
    ends: list[float] = []
    tokens, weights = float(table.lengths.sum()) / len(table), layer_weights(model.model)

    class Clock(TrainerCallback):
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            bench.sync()
            ends.append(time.perf_counter())
            if len(ends) > 2:
                pairs = s.batch_pairs * (len(ends) - 2) / (ends[-1] - ends[1])
                bench.keep(pairs_per_second=pairs, tokens_per_second=pairs * tokens, peak_gb=bench.peak_gb(), micro_batch=micro)
                bench.keep(share_of_matmul_rate=pairs * tokens * 6.0 * weights / rate)

    trainer = trl.RewardTrainer(
        model=model, args=arguments, train_dataset=data, processing_class=tokenizer_of(s), callbacks=[Clock()]
    )
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer.train()


def score(bench: Bench) -> None:
    """Answers a second: 16 answers to a prompt, groups of 8, lone answers, and the first two as padded rows."""
    s, rate = bench.size, bench.matmul_rate()
    model, plain = bench.model(bench.half, bench.half), bench.model(bench.half, bench.half)
    plain.backbone.model.set_attn_implementation("sdpa")
    weights, padded = layer_weights(model.backbone.model), {}
    for name, answers, answer in (("best_of_16", 16, s.answer // 2), ("groups_of_8", 8, s.answer), ("lone", 1, s.answer)):
        groups = bench.groups(s.prompts * 16 // answers, answers, s.prompt, answer)
        flat = [sequence for group in groups for sequence in group]
        batches = pack([packed_group(group) for group in groups], token_budget(bench.device), layout=model.backbone.layout)
        seconds = bench.seconds(partial(forward_all, model, batches))
        computed = sum(batch.tokens.size for batch in batches)
        bench.keep(**{name: len(flat) / seconds, f"{name}_share": 2.0 * weights * computed / seconds / rate})
        if answers > 1:
            rows = pack([packed_group([sequence], share=False) for sequence in flat], token_budget(bench.device), layout="plain")
            padded[name] = len(flat) / bench.seconds(partial(forward_all, plain, rows))
            bench.keep(padded_rows=padded, over_padded_rows={key: round(bench.found[key] / padded[key], 3) for key in padded})
    bench.keep(peak_gb=bench.peak_gb())


@torch.inference_mode()
def forward_all(model: RewardModel | SharedTrunk, batches: Sequence[PackedBatch]) -> None:
    for batch in batches:
        model(batch)


def ensemble(bench: Bench) -> None:
    """Answers a second of 5 heads and of 5 members with their own last 2 blocks, as shares of one model's."""
    s = bench.size
    one = bench.model(bench.half, bench.half)
    batches = pack(
        [packed_group(group) for group in bench.groups(s.prompts, 16, s.prompt, s.answer // 2)],
        token_budget(bench.device),
        layout=one.backbone.layout,
    )
    alone = bench.seconds(partial(forward_all, one, batches))
    head = torch.nn.Linear(s.hidden, 5, bias=False, device=bench.device)
    bench.keep(
        heads_5=alone / bench.seconds(partial(forward_all, RewardModel(one.backbone, head, compute_dtype=bench.half), batches))
    )
    trunk, top = split_backbone(one.backbone, min(2, s.layers - 1))
    tops = [RewardModel(copy.deepcopy(top), copy.deepcopy(one.head), compute_dtype=bench.half) for _ in range(5)]
    bench.keep(blocks_5=alone / bench.seconds(partial(forward_all, SharedTrunk(trunk, tops), batches)), peak_gb=bench.peak_gb())


def serve(bench: Bench) -> None:
    """Answers a second over HTTP, and the 99th percentile of seconds, with 64 and with 256 callers."""
    import fastapi  # noqa: F401  the service needs it: said at once where it is missing
    import httpx2
    import tyro  # noqa: F401
    from serve_process import Server

    from assay.models.saved.artifact import save_artifact

    s = bench.size
    save_artifact(bench.model(torch.float32, bench.half), renderer_of(s), bench.work / "artifact", {"title": "random"})
    command = [sys.executable, "-m", "assay.cli", "serve", f"rm={bench.work / 'artifact'}", "--port", "0"]
    dtype = "bfloat16" if bench.half == torch.bfloat16 else "float32"
    command += ["--device", str(bench.device), "--dtype", dtype, "--timeout", "60"]
    prompts = [words(bench, s.prompt) for _ in range(s.prompts)]
    bodies = [
        json.dumps({"items": [{"prompt": prompts[i % s.prompts], "response": words(bench, s.answer)}]}) for i in range(s.requests)
    ]

    async def load(url: str, callers: int, count: int) -> list[float]:
        numbers, taken = iter(range(count)), []
        limits = httpx2.Limits(max_connections=callers, max_keepalive_connections=callers)
        async with httpx2.AsyncClient(base_url=url, timeout=120.0, limits=limits, trust_env=False) as client:

            async def caller() -> None:
                for number in numbers:
                    began = time.perf_counter()
                    reply = await client.post("/v1/score", content=bodies[number], headers={"Content-Type": "application/json"})
                    reply.raise_for_status()
                    taken.append(time.perf_counter() - began)

            await asyncio.gather(*(caller() for _ in range(callers)))
        return taken

    with Server(command, bench.work / "serve.log", health="/readyz", start_seconds=60.0) as server:
        asyncio.run(load(server.url, 16, min(64, s.requests)))  # to warm up
        for callers in (64, 256):
            began = time.perf_counter()
            taken = asyncio.run(load(server.url, callers, s.requests))
            rate = len(taken) / (time.perf_counter() - began)
            bench.keep(**{f"callers_{callers}": rate, f"p99_{callers}": float(np.quantile(taken, 0.99))})


def fsdp(bench: Bench) -> None:
    """`full` with parameters sharded by FSDP2 in one process, against the plain steps: the same losses, and what it costs."""
    from assay.training import distributed
    from assay.training.batches import TokenSource

    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    os.environ["TORCHELASTIC_RUN_ID"] = "gpu"
    rate, table = bench.matmul_rate(), table_of(bench, bench.size.batch_pairs * (bench.size.steps + 2))
    losses = []
    with distributed.process_group(str(bench.device)):
        for is_sharded in (False, True):
            model = bench.model(torch.float32, bench.half)
            source = TokenSource(table=table, max_tokens=token_budget(bench.device), layout=model.backbone.layout)
            weights = layer_weights(model.backbone.model)
            if is_sharded:
                distributed.shard(model)
            losses.append(fit_and_keep(bench, model, source, table, 6.0 * weights, rate))
            if not is_sharded:
                bench.keep(plain={name: bench.found[name] for name in ("pairs_per_second", "peak_gb")})
            del model
    bench.keep(largest_loss_difference=float(np.abs(np.subtract(*losses)).max()))
