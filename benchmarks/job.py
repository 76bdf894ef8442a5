"""The whole of `assay train`, from the file to the report, beside TRL's RewardTrainer from the file to a saved, evaluated model.

python benchmarks/job.py            two idle cores, about 3 hours; --quick: a few minutes, to see that it runs

Claims, written before it was run, in processor seconds:

1. `assay train --params head:mean` takes at most 1.3 times what it cannot do without: one forward of all texts through the layers
   that are kept, the probe's pairs through all layers, and the fit of the head. On 1,153 HH pairs and on 5,000 pairs of RMB.
2. It takes at most a tenth of one epoch of TRL's full fine-tuning on the same pairs, at an accuracy that is equal or better: the
   interval of the paired difference does not lie below zero. On HH, and on 1,000 pairs of RMB (TRL on 5,000 would take hours; no
   epoch is extrapolated).
3. Its peak memory is at most TRL's.

Every measure runs in a process of its own, with as many threads as there are cores. The held-out pairs are the same: a fifth of
the prompts, in a file of their own. Of the others Assay trains on nine tenths and calibrates on the rest; TRL trains on all of
them, in bfloat16 where Assay computes in it, at the micro-batch that was best in a sweep, which is not counted. Last line: one JSON
document.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import tyro

from assay.commands.demo.run import packaged_base
from assay.commands.train import train_all
from assay.data.pairs import read_pairs, write_pairs
from assay.data.sampling import draw_pairs
from assay.data.split import split_of
from assay.data.tokens.render import Renderer
from assay.data.tokens.table import PairTable
from assay.models.backbone import cut_depth, load_backbone
from assay.models.bases import resolve_base
from assay.models.device import pick_compute, token_budget
from assay.records import PreferencePair
from assay.run_files import read_description
from assay.scorers.base import margins
from assay.scorers.opened import open_scorer
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import CHANGE, is_right
from assay.training.settings import TrainConfig
from assay.training.states.cache import final_states

SETS = {"hh": "hh-rlhf-harmless/pairs.jsonl.gz", "rmb": "rmb/pairs.jsonl.gz"}
PHASES = {  # functions of the command -> the phase that they are
    "assay.training.tasks.pairs:read_rows": "read and tokenise",
    "assay.training.prepare:_compute": "choose the number format",
    "assay.training.prepare:load_backbone": "load the base",
    "assay.training.prepare:starting_point": "load the base",
    "assay.training.states.depth:layer_states": "probe: forward",
    "assay.training.states.depth:held_out_margins": "probe: fits",
    "assay.training.trained:final_states": "cache: forward",
    "assay.training.trained:build_cache": "cache: forward",
    "assay.training.prepare:choose": "choose --params",
    "assay.training.prepare:choose_decay": "weight decay",
    "assay.training.run:fit": "fit",
    "assay.training.run:_save": "save",
    "assay.training.run:reload_check": "reload check",
    "assay.training.run:scorer_of_run": "check of the kept states",
    "assay.training.run:keep_bag_of_words": "baseline of words",
    "assay.training.run:reference_of_run": "drift reference",
    "assay.training.tasks.pairs:calibrate": "calibrate",
    "assay.training.tasks.pairs:evaluate_pairs": "evaluate",
    "assay.commands.train:write_run_page": "report",
}


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    folder: Path = Path("../shared/data")
    """Where the sets lie."""
    params: tuple[str, ...] = ("head:mean",)
    """--params of Assay; the first one is what the claims are about."""
    sets: tuple[str, ...] = ("hh", "rmb-1000", "rmb-5000")
    """A set, all of it or so many pairs."""
    trl: tuple[str, ...] = ("hh", "rmb-1000")
    """Those on which TRL runs too."""
    micro_batches: tuple[int, ...] = (1, 2, 4)
    """Tried for TRL."""
    quick: bool = False
    """Some 80 pairs of each set: figures that mean nothing."""
    base: str | None = None
    measure: str | None = None
    """One measure in this process (used by the benchmark itself)."""
    work: Path | None = None


def main() -> int:
    config = tyro.cli(JobConfig, config=(tyro.conf.FlagCreatePairsOff,))
    cli.keep_freed_memory()
    if config.measure is not None:
        print(json.dumps(measure(config, *config.measure.split(" "))))
        return 0
    if config.quick:
        config = replace(config, sets=("hh-80", "rmb-80"), trl=("hh-80", "rmb-80"), micro_batches=(1, 2))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        config = replace(config, work=Path(folder))
        found = {name: one_set(config, name, with_trl=name in config.trl) for name in config.sets}
        result = {
            "base": Path(config.base or packaged_base()).name,
            "quick": config.quick,
            "sets": found,
            "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__},
            "seconds": round(time.perf_counter() - began),
        }
    print(json.dumps(result))
    return 0


def one_set(config: JobConfig, name: str, *, with_trl: bool) -> dict[str, Any]:
    """All measures of one set, and what the claims say of them."""
    assert config.work is not None
    folder = config.work / name
    folder.mkdir()
    label, _, size = name.partition("-")
    pairs = list(read_pairs(config.folder / SETS[label]))
    pairs = draw_pairs(pairs, int(size), seed=0) if size and int(size) < len(pairs) else pairs
    is_test = [split_of(pair.prompt, calibration=0.0, test=0.2) == "test" for pair in pairs]
    for part, wanted in (("rest", False), ("test", True)):
        write_pairs(folder / f"{part}.jsonl", [pair for pair, test in zip(pairs, is_test, strict=True) if test is wanted])
    found: dict[str, Any] = {"pairs": len(pairs), "held out": sum(is_test)}
    for params in config.params:
        found[params] = in_own_process(config, f"assay {name} {params}")
        found[params]["floor"] = in_own_process(config, f"floor {name} {params}")
    ours = found[config.params[0]]
    floor = ours["floor"]["cpu_seconds"] + ours["phases"]["fit"]["cpu_seconds"]
    found["claim 1: over what it cannot do without, asked 1.3"] = round(ours["cpu_seconds"] / floor, 3)
    if with_trl:
        sweep = {micro: in_own_process(config, f"trl {name} {micro} 16") for micro in config.micro_batches}
        best = min(sweep, key=lambda micro: sweep[micro]["train_seconds"])
        found["trl sweep, seconds for 16 pairs"] = {micro: row["train_seconds"] for micro, row in sweep.items()}
        theirs = found["trl"] = in_own_process(config, f"trl {name} {best} 0")
        found["claim 2: over TRL, asked 0.1"] = round(ours["cpu_seconds"] / theirs["cpu_seconds"], 3)
        found["wall over TRL's"] = round(ours["seconds"] / theirs["seconds"], 3)
        right, other = np.array(ours["right"]), np.array(theirs["right"])
        prompts = [pair.prompt_key for pair, test in zip(pairs, is_test, strict=True) if test]
        gain = mean_interval(right - other, np.array(prompts), seed=0, support=CHANGE)
        found["claim 2: accuracy above TRL's"] = [round(float(value), 3) for value in (np.nanmean(right - other), *gain)]
        found["claim 3: peak memory over TRL's"] = round(ours["peak_mb"] / theirs["peak_mb"], 3)
    for row in found.values():
        if isinstance(row, dict):
            row.pop("right", None)
    print(name, json.dumps(found), file=sys.stderr)
    return found


def in_own_process(config: JobConfig, name: str) -> dict[str, Any]:
    flags = ["--measure", name, "--work", str(config.work), *(["--base", config.base] if config.base else [])]
    every = set(range(os.cpu_count() or 1))  # OpenMP has bound this process to one core, and a child inherits that
    ran = subprocess.run(
        [sys.executable, __file__, *flags],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, every) if hasattr(os, "sched_setaffinity") else None,
    )
    if ran.returncode:
        raise RuntimeError(f"{name} failed:\n{ran.stderr[-3000:]}\n{ran.stdout[-1000:]}")
    row: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    print(name, {key: value for key, value in row.items() if key != "right"}, file=sys.stderr)
    return row


def measure(config: JobConfig, what: str, name: str, *arguments: str) -> dict[str, Any]:
    """What one process does, from its start: imports are in its processor seconds, as a user waits for them too."""
    assert config.work is not None
    began, folder = time.perf_counter(), config.work / name
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "assay": lambda: assay_job(config, folder, arguments[0]),
        "floor": lambda: floor(folder, arguments[0]),
        "trl": lambda: trl_job(config, folder, int(arguments[0]), int(arguments[1])),
    }
    row = measures[what]()
    peak, not_counted = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, row.pop("not counted", (0.0, 0.0))
    seconds, cpu = time.perf_counter() - began - not_counted[0], cpu_seconds() - not_counted[1]
    return {"seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1), "peak_mb": round(peak), **row}


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def assay_job(config: JobConfig, folder: Path, params: str) -> dict[str, Any]:
    """`assay train` as the command runs it; phases of its time."""
    phases: dict[str, dict[str, float]] = {}
    out = run_of(folder, params)
    with timed(phases):
        train_all(
            TrainConfig(
                data=(str(folder / "rest.jsonl"),),
                eval_data=str(folder / "test.jsonl"),
                base=config.base or packaged_base(),
                out=out,
                params=params,
                test=0.0,
            )
        )
    phases["imports and the rest"] = {"cpu_seconds": round(cpu_seconds() - sum(row["cpu_seconds"] for row in phases.values()), 3)}
    return {"phases": phases, "depth": read_description(out / "artifact")["depth"], **accuracy_of(out, folder)}


def run_of(folder: Path, params: str) -> Path:
    return folder / f"run-{params.replace(':', '-')}"


@contextmanager
def timed(phases: dict[str, dict[str, float]]) -> Iterator[None]:
    """Wall and processor seconds of the functions in `PHASES`, each without those that are called inside of it."""
    kept, inside = [], [[0.0, 0.0]]

    def clock() -> np.ndarray:
        return np.array([time.perf_counter(), time.process_time()])

    def watched(function: Callable[..., Any], label: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            before = clock()
            inside.append([0.0, 0.0])
            try:
                return function(*arguments, **named)
            finally:
                took, nested = clock() - before, np.array(inside.pop())
                inside[-1] = (np.array(inside[-1]) + took).tolist()
                row = phases.setdefault(label, {"seconds": 0.0, "cpu_seconds": 0.0})
                for key, value in zip(row, took - nested, strict=True):
                    row[key] = round(row[key] + float(value), 3)

        return run

    for place, label in PHASES.items():
        module, _, name = place.partition(":")
        owner = importlib.import_module(module)
        kept.append((owner, name, getattr(owner, name)))
        setattr(owner, name, watched(getattr(owner, name), label))
    try:
        yield
    finally:
        for owner, name, function in kept:
            setattr(owner, name, function)


def accuracy_of(run: Path, folder: Path) -> dict[str, Any]:
    """On the held-out pairs, through the saved model as anyone would load it; not in the time of the job."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    pairs = list(read_pairs(folder / "test.jsonl"))
    right = judged(margins(open_scorer(run).raw, pairs), pairs)
    return {**right, "not counted": (time.perf_counter() - wall, cpu_seconds() - cpu)}


def judged(margins_P: np.ndarray, pairs: list[PreferencePair]) -> dict[str, Any]:
    right_P = is_right(np.asarray(margins_P, np.float64), np.array([pair.preference for pair in pairs]))
    interval = mean_interval(right_P, np.array([pair.prompt_key for pair in pairs]), seed=0)
    accuracy = [round(float(value), 3) for value in (np.nanmean(right_P), *interval)]
    return {"accuracy": accuracy, "right": right_P.tolist()}


def floor(folder: Path, params: str) -> dict[str, Any]:
    """One forward of all texts through the kept layers, and of the probe's pairs through all layers."""
    run = run_of(folder, params)
    kept = json.loads((run / "config.json").read_text())
    depth = read_description(run / "artifact")["depth"] - (params == "head:mean")  # the mean read is a layer more
    compute = pick_compute()
    backbone = load_backbone(kept["base"]["path"], dtype=compute.dtype).to(compute.device).eval()
    rest, budget = PairTable(run / "cache" / "tokens.arrow"), token_budget(compute.device)
    tokenizer = importlib.import_module("transformers").AutoTokenizer.from_pretrained(kept["base"]["path"])
    build = importlib.import_module("assay.data.tokens.table").build_table
    test, _ = build(read_pairs(folder / "test.jsonl"), Renderer(tokenizer, max_length=1024), run / "cache" / "test.arrow")
    settings: dict[str, Any] = {
        "identity": "floor",
        "max_tokens": budget,
        "limit_bytes": 10**11,
        "with_mean": params == "head:mean",
    }
    seconds = {}
    for name, table, layers in (("all", rest, depth), ("test", test, depth)):
        before = time.process_time()
        final_states(cut_depth(backbone, layers), table, run / "cache" / f"floor-{name}.bin", **settings)
        seconds[f"{name} at depth {layers}"] = round(time.process_time() - before, 1)
    num_probed = probed_pairs(run)
    seconds[f"{num_probed} pairs of the probe at depth {backbone.num_layers}"] = round(probe_seconds(backbone, rest, num_probed), 1)
    return {"parts": seconds, "cpu_seconds": round(sum(seconds.values()), 1)}


def probed_pairs(run: Path) -> int:
    """How many pairs the probe of a run has looked at, by the note of its table."""
    report = json.loads((run / "eval" / "training.json").read_text())
    notes = [table["note"] for table in report["tables"] if table["title"] == "where the reward is read best"]
    return int(notes[0].split("linear probe on ")[1].split(" pairs")[0].replace(",", "")) if notes else 0


def probe_seconds(backbone: Any, table: PairTable, num_pairs: int) -> float:
    from assay.training.batches import row_batches

    rows = np.random.default_rng(0).permutation(table.rows("train"))[:num_pairs]
    before = time.process_time()
    with torch.no_grad():
        for start in range(0, len(rows), 256):
            for batch in row_batches(table, rows[start : start + 256], token_budget(torch.device("cpu")), layout=backbone.layout):
                backbone(batch.packed)
    return time.process_time() - before


def trl_job(config: JobConfig, folder: Path, micro: int, num_pairs: int) -> dict[str, Any]:
    """TRL from the file to a saved model and its accuracy; with num_pairs only so many pairs are trained on, for the sweep."""
    import trl
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    path = resolve_base(config.base or packaged_base()).path
    pairs = list(read_pairs(folder / "rest.jsonl"))
    pairs = [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))][: num_pairs or len(pairs)]
    tokenizer = Renderer(AutoTokenizer.from_pretrained(path), max_length=1024).tokenizer
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id
    is_half = pick_compute().dtype == torch.bfloat16
    arguments = trl.RewardConfig(
        output_dir=str(folder / "trl"),
        num_train_epochs=1,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=max(1, 32 // micro),
        learning_rate=5e-5,
        max_length=1024,
        gradient_checkpointing=False,
        bf16=is_half,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    rows = [[message.as_dict() for message in pair.prompt] for pair in pairs]
    data = Dataset.from_list(
        [
            {
                "chosen": [*row, {"role": "assistant", "content": pair.chosen}],
                "rejected": [*row, {"role": "assistant", "content": pair.rejected}],
            }
            for row, pair in zip(rows, pairs, strict=True)
        ]
    )
    trainer = trl.RewardTrainer(model=model, args=arguments, train_dataset=data, processing_class=tokenizer)
    began = time.perf_counter()
    trainer.train()
    train_seconds = round(time.perf_counter() - began, 1)
    if num_pairs:
        return {"train_seconds": train_seconds}
    trainer.save_model(str(folder / "trl"))
    held = list(read_pairs(folder / "test.jsonl"))
    rewards = scored(str(folder / "trl"), tokenizer, held, torch.bfloat16 if is_half else torch.float32)
    return {"train_seconds": train_seconds, "micro_batch": micro, "trained_on": len(pairs), **judged(rewards, held)}


@torch.inference_mode()
def scored(path: str, tokenizer: Any, pairs: list[PreferencePair], dtype: torch.dtype) -> np.ndarray:
    """(P,) margins of a saved model by plain transformers, longest first, eight texts at a time."""
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(path, dtype=dtype).eval()
    texts = [
        tokenizer.apply_chat_template(
            [*(message.as_dict() for message in pair.prompt), {"role": "assistant", "content": answer}], tokenize=False
        )
        for pair in pairs
        for answer in (pair.chosen, pair.rejected)
    ]
    order, rewards = np.argsort([-len(text) for text in texts]), np.empty(len(texts))
    for start in range(0, len(order), 8):
        part = order[start : start + 8]
        batch = tokenizer([texts[i] for i in part], return_tensors="pt", padding=True, truncation=True, max_length=1024)
        rewards[part] = model(**batch).logits[:, 0].float().numpy()
    return rewards[::2] - rewards[1::2]


if __name__ == "__main__":
    sys.exit(main())
