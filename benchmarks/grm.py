"""A loss on the text of answers (GRM) beside plain Bradley-Terry, on the same pairs: in and out of distribution. Last line: JSON.

    python benchmarks/grm.py --folder ../shared/data --keep FOLDER    # goes on where it was stopped

SmolLM2-135M, all 30 layers (the language model's head reads the last one), the last four trained. Trained on HH-RLHF's harmless
pairs, tested on held-out prompts of the same set (in) and on PandaLM and RMB (out), ties of the labels left out. The frozen trunk
is run once for all arms and seeds; a seed is another draw of the training prompts, another head and another order, and all arms of
a seed have the same of each. Only pairs of at most --longest tokens a side are taken, for time. Rows are paired: the same pairs by
every arm. Intervals are 95%, of a pair's mean over the seeds, resampled by prompt.

Claims, written before it was run (of the arm "sft 0.01", which is GRM as its authors run it):

1. In distribution it is within three points of Bradley-Terry (the mean over the seeds).
2. Out of distribution it is above Bradley-Terry: the interval of the paired difference over both sets lies above zero.
3. It keeps the language: held-out chosen answers lose fewer nats a token against the untrained base than after Bradley-Terry, in
   every seed.

The paper trained models of 2B and more on 40,000 pairs; this is 135M and some hundreds. No sentence about GRM goes beyond that.

Suffixes: P pairs, S seeds.
"""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import tyro

from assay.commands.demo.run import packaged_base
from assay.console import say
from assay.data.pairs import read_pairs, write_pairs
from assay.data.tokens.render import Renderer
from assay.models.bases import load_tokenizer
from assay.models.reward_model import new_head
from assay.records import Dtype, PreferencePair
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import is_right
from assay.training.checkpoint import trained_weights
from assay.training.loop import fit
from assay.training.objective import Objective
from assay.training.prepare import Prepared, prepare
from assay.training.settings import Machine, TrainConfig, derive
from assay.training.text_reads import num_text_tokens, text_likelihoods

ARMS = {
    "bradley-terry": Objective(),
    "sft 0.01": Objective(text_loss="sft"),
    "sft:per-token 0.2": Objective(text_loss="sft:per-token", text_weight=0.2),
    "dpo 0.01": Objective(text_loss="dpo"),
}
PLAIN, GRM = "bradley-terry", "sft 0.01"
IN, OUT = "harmless", ("pandalm", "rmb")
FILES = {"harmless": "hh-rlhf-harmless/pairs.jsonl.gz", "pandalm": "pandalm/testset-v1.jsonl.gz", "rmb": "rmb/pairs.jsonl.gz"}


@dataclass(frozen=True, kw_only=True)
class GrmConfig:
    folder: Path = Path("../shared/data")
    """Where the sets lie."""
    keep: Path
    """Data, the trunk's states and what each fit gave are kept here."""
    arms: tuple[str, ...] = tuple(ARMS)[:3]
    seeds: int = 3
    pool: int = 200
    """Training pairs from which each seed draws."""
    pairs: int = 160
    """Training pairs of a seed."""
    tested: int = 120
    """Pairs of each set to test on."""
    longest: int = 192
    params: str = "blocks:4"
    epochs: int | None = None
    base: str | None = None
    dtype: Dtype = "auto"


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(GrmConfig)
    torch.set_num_threads(1)
    config.keep.mkdir(parents=True, exist_ok=True)
    base = config.base or packaged_base()
    pairs = read_sets(config, base)
    prepared = prepare(train_config(config, base, pairs), split=lambda pair: pair.id.partition(":")[0])
    found = all_fits(config, prepared)
    result = {
        "machine": f"{platform.machine()}, 1 thread, {prepared.compute.name}",
        "base": Path(base).name,
        "settings": {
            name: str(getattr(config, name)) for name in ("seeds", "pool", "pairs", "tested", "longest", "params", "epochs")
        },
        "pairs": {name: len(prepared.table.rows(name)) for name in ("train", *FILES)},
        **figures(prepared, found),
    }
    print(json.dumps(result))
    return 0


def read_sets(config: GrmConfig, base: str) -> list[PreferencePair]:
    """The pool to train on, ids "train:...", and the pairs to test on, ids with the name of their set: other prompts."""
    renderer = Renderer(load_tokenizer(base)[1], max_length=4096)
    taken: list[PreferencePair] = []
    for name, file in FILES.items():
        every = [pair for pair in read_pairs(config.folder / file, max_pairs_per_prompt=1) if pair.preference != 0.5]
        sizes = [len(item.tokens) for item in renderer.render([one for pair in every for one in pair.completions()])]
        short = [pair for k, pair in enumerate(every) if 0 < max(sizes[2 * k : 2 * k + 2]) <= config.longest]
        by_prompt: dict[str, list[PreferencePair]] = {}
        for pair in short:
            by_prompt.setdefault(pair.prompt_key, []).append(pair)
        order = np.random.default_rng(0).permutation(len(by_prompt))
        drawn = [list(by_prompt.values())[k][0] for k in order]
        tested, rest = drawn[: config.tested], drawn[config.tested :]
        parts = [(name, tested), *([("train", rest[: config.pool])] if name == IN else [])]
        taken += [replace(pair, id=f"{part}:{k}") for part, chosen in parts for k, pair in enumerate(chosen)]
        say(name, f"{len(every):,} pairs, {len(short):,} short enough, of {len(by_prompt):,} prompts; {len(tested):,} to test on")
    return taken


def train_config(config: GrmConfig, base: str, pairs: Sequence[PreferencePair]) -> TrainConfig:
    data = config.keep / "pairs.jsonl"
    write_pairs(data, pairs)
    return TrainConfig(
        data=(str(data),),
        base=base,
        out=config.keep / "run",
        params=config.params,
        depth="full",
        epochs=config.epochs,
        max_length=config.longest,
        objective=Objective(text_loss="sft"),  # so that all arms know where the answers begin
        machine=Machine(device="cpu", dtype=config.dtype),
    )


def all_fits(config: GrmConfig, prepared: Prepared) -> dict[str, list[dict[str, Any]]]:
    """For each arm what each seed gave: margins of the pairs of each set, nats a token of held-out chosen answers, seconds."""
    start = trained_weights(prepared.model)
    at_start = config.keep / "start.json"
    if not at_start.is_file():
        at_start.write_text(json.dumps({"nats": nats(prepared)}))
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in config.arms}
    for seed in range(config.seeds):
        for arm in config.arms:
            file = config.keep / f"{arm.replace(' ', '_').replace(':', '-')}.{seed}.json"
            if not file.is_file():
                file.write_text(json.dumps(one_fit(config, prepared, start, ARMS[arm], seed)))
            found[arm].append(json.loads(file.read_text()))
            right = {name: float((np.array(found[arm][-1]["margins"][name]) > 0).mean()) for name in FILES}
            say(f"{arm}, seed {seed}", f"{right}, {found[arm][-1]['nats']:.3f} nats a token, {found[arm][-1]['seconds']} s")
    return found


def one_fit(
    config: GrmConfig, prepared: Prepared, start: dict[str, torch.Tensor], objective: Objective, seed: int
) -> dict[str, Any]:
    model, table = prepared.model, prepared.table
    model.load_state_dict(start, strict=False)
    with torch.no_grad():
        model.head.weight.copy_(new_head(model.backbone.hidden_size, seed=seed).weight)
    rows = np.sort(np.random.default_rng([seed, 3]).permutation(table.rows("train"))[: config.pairs])
    loop = derive(replace(prepared.config, seed=seed), len(rows), model.backbone.hidden_size, prepared.compute.device).loop
    task = replace(prepared.task, objective=objective)
    began, cpu = time.perf_counter(), time.process_time()
    log = fit(model, task, rows, loop)
    seconds = [round(time.perf_counter() - began, 1), round(time.process_time() - cpu, 1)]
    margins = {name: (r := task.rewards(model, table.rows(name)).astype(np.float64))[:, 0] - r[:, 1] for name in FILES}
    return {
        "margins": {name: margin.tolist() for name, margin in margins.items()},
        "nats": nats(prepared),
        "seconds": seconds,
        "log": [{name: row[name] for name in ("loss", "accuracy", "text_loss") if name in row} for row in log],
    }


def nats(prepared: Prepared) -> float:
    """-log p a token of the chosen answers of the held-out pairs of the set that is trained on."""
    rows = prepared.table.rows(IN)
    sums_P = text_likelihoods(prepared.model, prepared.task.source, prepared.table, rows)[rows, 0]
    return float(-sums_P.sum() / num_text_tokens(prepared.table, rows)[:, 0].sum())


def figures(prepared: Prepared, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Accuracy of each arm on each set, and on the two out of distribution together; what each is above Bradley-Terry; claims."""
    table = prepared.table
    start = json.loads((prepared.config.out.parent / "start.json").read_text())["nats"]
    rows = {name: table.rows(name) for name in FILES} | {"out": np.concatenate([table.rows(name) for name in OUT])}
    right: dict[str, dict[str, np.ndarray]] = {}
    arms: dict[str, Any] = {}
    for arm, seeds in found.items():
        of_set = {
            name: np.array([is_right(np.array(one["margins"][name]), table.preference[rows[name]]) for one in seeds])
            for name in FILES
        }
        right[arm] = of_set | {"out": np.concatenate([of_set[name] for name in OUT], axis=1)}
        arms[arm] = {name: summary(right_SP, table.prompt[rows[name]]) for name, right_SP in right[arm].items()}
        arms[arm]["nats_lost"] = [round(one["nats"] - start, 4) for one in seeds]
        arms[arm]["seconds"] = [one["seconds"] for one in seeds]
    for arm, of_set in right.items():
        gains = {name: right_SP - right[PLAIN][name] for name, right_SP in of_set.items()}
        arms[arm]["above_bradley_terry"] = {name: change(gain_SP, table.prompt[rows[name]]) for name, gain_SP in gains.items()}
    above = arms.get(GRM, {}).get("above_bradley_terry")
    claims = None if above is None else {
        "1 in distribution within three points": abs(above[IN]["mean"]) <= 0.03,
        "2 out of distribution above": (above["out"]["interval"][0] or 0.0) > 0,
        "3 fewer nats lost in every seed": all(
            ours < plain for ours, plain in zip(arms[GRM]["nats_lost"], arms[PLAIN]["nats_lost"], strict=True)
        ),
    }  # fmt: skip
    return {"nats_of_the_base": round(start, 4), "arms": arms, "claims": claims}


def summary(right_SP: np.ndarray, prompts_P: np.ndarray) -> dict[str, Any]:
    interval = mean_interval(right_SP.mean(0), prompts_P, seed=0)
    return {
        "accuracy": round(float(right_SP.mean()), 4),
        "interval": [round(interval.low, 4), round(interval.high, 4)],
        "by_seed": right_SP.mean(1).round(4).tolist(),
    }


def change(gain_SP: np.ndarray, prompts_P: np.ndarray) -> dict[str, Any]:
    interval = mean_interval(gain_SP.mean(0), prompts_P, seed=0, support=None)
    return {
        "mean": round(float(gain_SP.mean()), 4),
        "interval": [None if math.isnan(end) else round(end, 4) for end in (interval.low, interval.high)],  # none: no pair differs
        "by_seed": gain_SP.mean(1).round(4).tolist(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
