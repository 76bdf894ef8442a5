"""Real preferences: reward models by Assay against length, bag-of-words and (one set) TRL. Last line: one JSON document.

python benchmarks/real.py --set truthful --depths auto full

Held out by prompt, one split a seed. The base, the cached trunk and the layer states are computed once for all seeds (no label is
seen by them); depth, head, blocks and bag-of-words model are fitted on each seed's own training pairs.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import tyro
from transformers import AutoTokenizer

from assay.data.pairs import read_pairs, write_pairs
from assay.data.render import Renderer
from assay.data.split import split_of
from assay.data.table import PairTable, build_table
from assay.metrics import brier, cluster_bootstrap, cluster_folds, is_right
from assay.models.backbone import load_backbone
from assay.models.bases import resolve_base
from assay.models.device import pick_compute, token_budget
from assay.models.plain import plain_scores
from assay.models.reward_model import new_head
from assay.records import PreferencePair
from assay.scorers.base import margins, sigmoid
from assay.scorers.baselines import LengthScorer, fit_bag_of_words
from assay.train.depth import PENALTIES, DepthProbe, fit_linear, layer_differences, probe_differences
from assay.train.loop import fit, pair_figures, reward_pairs
from assay.workflows.demo import packaged_base
from assay.workflows.prepare import PROBED, Prepared, prepare
from assay.workflows.settings import Machine, Objective, Restraint, TrainConfig, derive
from assay.workflows.show import say

Set = Literal["harmless", "truthful", "rmb-helpful", "rmb-harmless", "alpaca"]
_FILES = {
    "harmless": "hh-rlhf-harmless/pairs.jsonl.gz",
    "truthful": "truthfulqa-judge/truth.jsonl.gz",
    "rmb-helpful": "rmb/pairs.jsonl.gz",
    "rmb-harmless": "rmb/pairs.jsonl.gz",
    "alpaca": "alpacaeval/preferences.jsonl.gz",
}


@dataclass(frozen=True, kw_only=True)
class RealConfig:
    set: Set
    folder: Path = Path("../shared/data")
    """Where the sets lie."""
    depths: tuple[str, ...] = ("auto", "full")
    """auto, full or a number of layers; each is a model of its own."""
    params: str = "blocks:4"
    """As in assay train; or linear: a linear Bradley-Terry model of frozen states (L2 by cross-validation), all depths and seeds
    from one forward."""
    epochs: int | None = None
    learning_rate: float | None = None
    batch_pairs: int | None = None
    pairs: int | None = None
    """At most so many pairs, drawn by prompt."""
    max_length: int = 512
    test: float = 0.25
    seeds: int = 3
    base: str | None = None
    trl: bool = False
    """Also TRL's RewardTrainer, full fine-tuning of the whole base, as many steps of as many pairs, on the first seed's split."""
    keep: Path | None = None
    """Keep token tables and caches here, for another run of the same set."""
    objective: Objective = field(default_factory=Objective)
    restraint: Restraint = field(default_factory=Restraint)


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(RealConfig, config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff))
    began = time.perf_counter()
    pairs = read_set(config)
    base = config.base or packaged_base()
    result: dict[str, Any] = {
        "set": config.set,
        "num_pairs": len(pairs),
        "num_prompts": len({pair.prompt_key for pair in pairs}),
        "base": Path(base).name,
        "params": config.params,
        "max_length": config.max_length,
        "machine": machine(),
    }
    with tempfile.TemporaryDirectory() as directory:
        work = config.keep or Path(directory)
        work.mkdir(parents=True, exist_ok=True)
        write_pairs(work / f"{config.set}.jsonl", pairs)
        splits = [
            np.array([split_of(p.prompt, seed=seed, calibration=0.0, test=config.test) for p in pairs])
            for seed in range(config.seeds)
        ]
        rivals = [baselines(pairs, split) for split in splits]
        result["seeds"] = [{"train": int((s == "train").sum()), "test": int((s == "test").sum())} for s in splits]
        result["baselines"] = {
            name: summary([rival[name] for rival in rivals], pairs, splits) for name in ("length", "bag of words")
        }
        say("baselines", json.dumps({name: row["accuracy"] for name, row in result["baselines"].items()}))
        chosen: list[DepthProbe] = []
        if config.params == "linear":
            table, differences = states_of(config, base, work, np.arange(len(pairs)))
            chosen = [probe_on(table, differences, probe_sample(split, seed), seed) for seed, split in enumerate(splits)]
            for depth in config.depths:
                runs = [
                    linear_run(table, differences, split, chosen[seed].depth if depth == "auto" else depth)
                    for seed, split in enumerate(splits)
                ]
                row = summary([run[0] for run in runs], pairs, splits, [rival["bag of words"] for rival in rivals])
                result[f"depth {depth}"] = {**row, "runs": [run[1] for run in runs]}
                say(f"depth {depth}", json.dumps(row))
        elif "auto" in config.depths:
            rows = [probe_sample(split, seed) for seed, split in enumerate(splits)]
            union = np.unique(np.concatenate(rows))
            table, differences = states_of(config, base, work, union)
            chosen = [probe_on(table, differences, mine, seed) for seed, mine in enumerate(rows)]
        if chosen:
            result["probe"] = probe_rows(chosen)
        for depth in config.depths:
            if config.params == "linear":
                continue
            depths = [str(chosen[seed].depth) if depth == "auto" else depth for seed in range(config.seeds)]
            scored: list[np.ndarray] = []
            facts: list[dict[str, Any]] = []
            for name in sorted(set(depths)):
                prepared = prepare(train_config(config, base, work, name), split=lambda pair: "train")
                assert len(prepared.table) == len(pairs), "pairs were set aside: margins and pairs no longer correspond"
                for seed in [seed for seed in range(config.seeds) if depths[seed] == name]:
                    found, fact = train_and_score(prepared, config, splits[seed], seed)
                    scored.append(found)
                    facts.append({"seed": seed, "depth": prepared.whole.backbone.num_layers, **fact})
                    say(f"depth {depth}", json.dumps(facts[-1]))
            order = np.argsort([fact["seed"] for fact in facts])
            row = summary([scored[i] for i in order], pairs, splits, [rival["bag of words"] for rival in rivals])
            result[f"depth {depth}"] = {**row, "runs": [facts[i] for i in order]}
            say(f"depth {depth}", json.dumps(row))
        if config.trl:
            result["trl"] = trl_run(config, base, pairs, splits[0], rivals[0]["bag of words"], work)
            say("trl", json.dumps(result["trl"]))
    result["seconds"] = round(time.perf_counter() - began)
    print(json.dumps(result))
    return 0


def read_set(config: RealConfig) -> list[PreferencePair]:
    """The pairs of a set: TruthfulQA at most 4 a question, AlpacaEval 4 a prompt, RMB's two halves apart."""
    most = 4 if config.set in ("truthful", "alpaca") else 16
    pairs = list(read_pairs(config.folder / _FILES[config.set], max_pairs_per_prompt=most))
    if config.set.startswith("rmb"):
        half = "Helpfulness" if config.set == "rmb-helpful" else "Harmlessness"
        pairs = [pair for pair in pairs if half in pair.tags["category_path"]]
    if config.set == "alpaca":  # the first judged pairs of each prompt
        counts: dict[str, int] = {}
        kept = []
        for pair in (pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))):
            counts[pair.prompt_key] = counts.get(pair.prompt_key, 0) + 1
            if counts[pair.prompt_key] <= most:
                kept.append(pair)
        pairs = kept
    if config.pairs is not None and len(pairs) > config.pairs:
        keys = [pair.prompt_key for pair in pairs]
        order = {key: place for place, key in enumerate(np.random.default_rng(0).permutation(sorted(set(keys))))}
        pairs = [pairs[i] for i in sorted(range(len(pairs)), key=lambda i: order[keys[i]])[: config.pairs]]
    return pairs


def split_names(pairs: list[PreferencePair], seed: int, test: float) -> np.ndarray:
    """train or test for each pair, by prompt."""
    return np.array([split_of(pair.prompt, seed=seed, calibration=0.0, test=test) for pair in pairs])


def train_config(config: RealConfig, base: str, work: Path, depth: str) -> TrainConfig:
    return TrainConfig(
        data=(str(work / f"{config.set}.jsonl"),),
        base=base,
        out=work / f"{config.set}-{depth}",
        params=config.params,
        depth=depth,
        max_length=config.max_length,
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        batch_pairs=config.batch_pairs,
        objective=config.objective,
        restraint=config.restraint,
        machine=Machine(),
    )


def baselines(pairs: list[PreferencePair], split: np.ndarray) -> dict[str, np.ndarray]:
    """(P,) margins of the longer answer and of a bag-of-words model of the training pairs."""
    words = fit_bag_of_words([pair for pair, name in zip(pairs, split, strict=True) if name == "train"])
    return {"length": margins(LengthScorer(), pairs), "bag of words": margins(words, pairs)}


def probe_sample(split: np.ndarray, seed: int) -> np.ndarray:
    """The training pairs that `--depth auto` would look at."""
    return np.sort(np.random.default_rng(seed).permutation(np.flatnonzero(split == "train"))[:PROBED])


def states_of(config: RealConfig, base: str, work: Path, rows: np.ndarray) -> tuple[PairTable, np.ndarray]:
    """The token table, and (L, 2, N, D) float16 differences of the frozen states after every layer; zeros but at `rows`."""
    resolved = resolve_base(base)
    renderer = Renderer(AutoTokenizer.from_pretrained(resolved.path), max_length=config.max_length)
    table, _ = build_table(read_pairs(work / f"{config.set}.jsonl"), renderer, work / f"{config.set}-probe.arrow")
    compute = pick_compute()
    backbone = load_backbone(resolved.path, dtype=compute.dtype).to(compute.device).eval()
    found = layer_differences(backbone, table, rows, max_tokens=token_budget(compute.device))
    differences = np.zeros((*found.shape[:2], len(table), found.shape[-1]), np.float16)
    differences[:, :, rows] = found
    return table, differences


def probe_on(table: PairTable, differences: np.ndarray, rows: np.ndarray, seed: int) -> DepthProbe:
    """What `--depth auto` would find."""
    part = differences[:, :, rows].astype(np.float32)
    found = probe_differences(part, table.preference[rows], table.prompt[rows], seed=seed)
    say("probe", f"seed {seed}: {found.reason}")
    return found


def linear_run(table: PairTable, differences: np.ndarray, split: np.ndarray, depth: int | str) -> tuple[np.ndarray, dict[str, Any]]:
    """(P,) margins of a linear model of the last token's states after a layer, fitted on the training pairs."""
    layer = len(differences) if depth == "full" else int(depth)
    states = differences[layer - 1, 0].astype(np.float32)
    train = np.flatnonzero(split == "train")
    scale = np.sqrt((states[train] ** 2).mean(0)) + 1e-6
    states, preference = states / scale, table.preference.astype(np.float64)
    folds = cluster_folds(table.prompt[train], 5, seed=0)
    losses = []
    for penalty in PENALTIES:
        margins_P = np.zeros(len(train))
        for fold in range(5):
            inside, outside = train[folds == fold], train[folds != fold]
            weights = fit_linear(states[outside], preference[outside], penalty, start=np.zeros(states.shape[1]))
            margins_P[folds == fold] = states[inside] @ weights
        signed = preference[train] * np.logaddexp(0, -margins_P) + (1 - preference[train]) * np.logaddexp(0, margins_P)
        losses.append(signed.mean())
    penalty = PENALTIES[int(np.argmin(losses))]
    weights = fit_linear(states[train], preference[train], penalty, start=np.zeros(states.shape[1]))
    found = (states @ weights).astype(np.float64)
    told = is_right(found[train], preference[train])
    return found, {"depth": layer, "penalty": penalty, "train_accuracy": round(float(np.nanmean(told)), 4)}


def probe_rows(found: list[DepthProbe]) -> dict[str, Any]:
    """Mean over the seeds of the probe's accuracy and loss by layer, at the last token and as the mean over the text."""
    return {
        "depths": [probe.depth for probe in found],
        **{
            f"{figure} {name}": np.mean([getattr(probe, field)[:, read] for probe in found], axis=0).round(4).tolist()
            for figure, field in (("accuracy", "accuracies_LR"), ("loss", "losses_LR"))
            for read, name in enumerate(("last token", "mean"))
        },
    }


def train_and_score(prepared: Prepared, config: RealConfig, split: np.ndarray, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    """(P,) margins of the model of one seed, NaN for no pair, and how the run went. The model is put back to its start."""
    began = time.perf_counter()
    train, test = np.flatnonzero(split == "train"), np.flatnonzero(split == "test")
    width = prepared.whole.backbone.hidden_size
    loop = derive(replace(prepared.config, seed=seed), len(train), width, prepared.compute.device).loop
    start = {name: p.detach().clone() for name, p in prepared.model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        prepared.model.head.weight.copy_(new_head(width, seed=seed).weight)
    held = None
    if config.restraint.early_stopping:  # a sixth of the training prompts to look at
        inner = np.random.default_rng(seed).permutation(np.unique(prepared.table.prompt[train]))
        looked = np.isin(prepared.table.prompt[train], inner[: len(inner) // 6])
        train, held = train[~looked], train[looked]
    rows = fit(prepared.model, prepared.source, train, loop, heldout_rows=test if held is None else held)
    seconds = time.perf_counter() - began
    rewards = reward_pairs(prepared.model, prepared.source, np.arange(len(split)))
    preference = prepared.table.preference
    by_epoch = [round(row["heldout_accuracy"], 4) for row in rows if "heldout_accuracy" in row]
    losses = [round(row["heldout_loss"], 4) for row in rows if "heldout_loss" in row]
    with torch.no_grad():
        for name, parameter in prepared.model.named_parameters():
            if name in start:
                parameter.copy_(start[name])
    fact = {
        "learning_rate": loop.learning_rate,
        "epochs": loop.epochs,
        "batch_pairs": loop.batch_pairs,
        "train_accuracy": round(pair_figures(rewards[train], preference[train]).accuracy, 4),
        "test_accuracy": round(pair_figures(rewards[test], preference[test]).accuracy, 4),
        "looks_accuracy": by_epoch,
        "looks_loss": losses,
        "seconds": round(seconds, 1),
    }
    return (rewards[:, 0] - rewards[:, 1]).astype(np.float64), fact


def trl_run(
    config: RealConfig, base: str, pairs: list[PreferencePair], split: np.ndarray, words: np.ndarray, work: Path
) -> dict[str, Any]:
    """Accuracy of TRL's RewardTrainer on the same training and test pairs, scored by plain transformers in float32."""
    import trl
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification

    began = time.perf_counter()
    asked = replace(
        train_config(config, base, work, "full"), params="full", epochs=config.epochs or 2, batch_pairs=config.batch_pairs or 32
    )
    train = [pair for pair, name in zip(pairs, split, strict=True) if name == "train"]
    loop = derive(asked, len(train), 576, torch.device("cpu")).loop
    resolved = resolve_base(base)
    tokenizer = Renderer(AutoTokenizer.from_pretrained(resolved.path), max_length=config.max_length).tokenizer
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(resolved.path, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    rows = Dataset.from_list(
        [
            {
                "prompt": [{"role": role, "content": content} for role, content in pair.prompt],
                "chosen": [{"role": "assistant", "content": pair.chosen}],
                "rejected": [{"role": "assistant", "content": pair.rejected}],
            }
            for pair in train
        ]
    )
    bfloat16 = pick_compute().dtype == torch.bfloat16
    arguments = trl.RewardConfig(
        output_dir=str(work / "trl"),
        per_device_train_batch_size=8,
        gradient_accumulation_steps=loop.batch_pairs // 8,
        num_train_epochs=loop.epochs,
        learning_rate=loop.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(loop.warmup * loop.num_steps(len(train))),
        weight_decay=loop.weight_decay,
        max_length=config.max_length,
        center_rewards_coefficient=loop.objective.centring,
        bf16=bfloat16,
        use_cpu=True,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        logging_steps=50,
        disable_tqdm=True,
    )
    trainer = trl.RewardTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    seconds = time.perf_counter() - began
    trainer.save_model(str(work / "trl" / "model"))
    tokenizer.save_pretrained(str(work / "trl" / "model"))
    scores = np.full((len(pairs), 2), np.nan)
    test = np.flatnonzero(split == "test")
    completions = [completion for row in test for completion in pairs[row].completions()]
    scores[test] = plain_scores(work / "trl" / "model", completions).reshape(-1, 2)
    row = summary([scores[:, 0] - scores[:, 1]], pairs, [split], [words])
    settings = {"epochs": loop.epochs, "learning_rate": loop.learning_rate, "batch_pairs": loop.batch_pairs}
    return {"version": trl.__version__, **row, **settings, "steps": trainer.state.global_step, "seconds": round(seconds)}


def summary(
    margins_SP: list[np.ndarray], pairs: list[PreferencePair], splits: list[np.ndarray], rival_SP: list[np.ndarray] | None = None
) -> dict[str, Any]:
    """Accuracy over the test pairs of all seeds, resampled by prompt; with a rival, the paired difference to it."""
    preference = np.array([pair.preference for pair in pairs])
    prompts = np.array([pair.prompt_key for pair in pairs])
    tests = [split == "test" for split in splits]
    right = np.concatenate([is_right(m[t], preference[t]) for m, t in zip(margins_SP, tests, strict=True)])
    clusters = np.concatenate([prompts[t] for t in tests])
    interval = cluster_bootstrap(right, clusters, seed=0)
    probability = np.concatenate([sigmoid(m[t]) for m, t in zip(margins_SP, tests, strict=True)])
    labels = np.concatenate([preference[t] for t in tests])
    row: dict[str, Any] = {
        "accuracy": round(float(np.nanmean(right)), 4),
        "interval": [round(interval.low, 4), round(interval.high, 4)],
        "by_seed": [round(float(np.nanmean(is_right(m[t], preference[t]))), 4) for m, t in zip(margins_SP, tests, strict=True)],
        "brier": round(float(np.nanmean(brier(probability, labels))), 4),
    }
    if rival_SP is not None:
        other = np.concatenate([is_right(m[t], preference[t]) for m, t in zip(rival_SP, tests, strict=True)])
        gain = cluster_bootstrap(right - other, clusters, seed=0, support=None)
        row["above_bag_of_words"] = [round(float(np.nanmean(right - other)), 4), round(gain.low, 4), round(gain.high, 4)]
    return row


def machine() -> dict[str, Any]:
    threads = torch.get_num_threads()
    return {
        "threads": threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": pick_compute().device.type,
    }


if __name__ == "__main__":
    sys.exit(main())
