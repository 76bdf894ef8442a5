"""Real preferences: reward models by Assay against length, bag-of-words and (one set) TRL. Last line: one JSON document.

python benchmarks/real.py --set truthful --depths auto full

Held out by prompt: each seed draws --folds folds, and every pair is tested once a seed by what was fitted on the other folds. The
base, the cached trunk and the layer states are computed once for all fits (no label is seen by them); depth, head, blocks and
bag-of-words model are fitted on the training pairs of each fit alone. Intervals resample prompts, of a pair's mean over the seeds.

Suffixes: P pairs, S seeds, L layers, D hidden size.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import tyro
from transformers import AutoTokenizer

from assay.commands.demo.run import packaged_base
from assay.console import say
from assay.data.pairs import read_pairs, write_pairs
from assay.data.tokens.render import Renderer
from assay.data.tokens.table import PairTable, build_table
from assay.models.backbone import load_backbone
from assay.models.bases import resolve_base
from assay.models.device import pick_compute, token_budget
from assay.models.reward_model import new_head
from assay.models.saved.plain import plain_scores
from assay.records import PreferencePair
from assay.scorers.base import margins
from assay.scorers.baselines import LengthScorer, fit_bag_of_words
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import brier, cluster_folds, is_right, sigmoid
from assay.training.fits.weight_decay import choose_decay
from assay.training.loop import fit
from assay.training.objective import Objective
from assay.training.prepare import Prepared, prepare
from assay.training.settings import Machine, Regularization, TrainConfig, derive
from assay.training.states.depth import LOOKS, PENALTIES, DepthProbe, fit_linear, probe_depth
from assay.training.states.layer_states import differences, layer_states
from assay.training.tasks.pairs import pair_figures

Set = Literal["harmless", "truthful", "rmb-helpful", "rmb-harmless", "alpaca"]
Read = Literal["last", "mean", "both"]
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
    """As in assay train; or linear: a linear Bradley-Terry model of frozen states (L2 by cross-validation), all depths, reads and
    fits from one forward."""
    reward_positions: tuple[Read, ...] = ("last",)
    """Where a linear model reads: the last token, the mean over the text, or both side by side."""
    epochs: int | None = None
    learning_rate: float | None = None
    batch_pairs: int | None = None
    pairs: int | None = None
    """At most so many pairs, drawn by prompt."""
    max_length: int = 512
    folds: int = 4
    seeds: int = 3
    base: str | None = None
    trl: bool = False
    """Also TRL's RewardTrainer, full fine-tuning of the whole base, as many steps of as many pairs, on the first fold."""
    keep: Path | None = None
    """Keep token tables and caches here, for another run of the same set."""
    objective: Objective = field(default_factory=Objective)
    regularization: Regularization = field(default_factory=Regularization)


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
        draws = all_draws(pairs, config.folds, config.seeds)
        rivals = baselines(pairs, draws, config.seeds)
        result["fits"] = {"seeds": config.seeds, "folds": config.folds, "train": int((draws[0].split == "train").sum())}
        result["baselines"] = {name: summary(margins_SP, pairs) for name, margins_SP in rivals.items()}
        say("baselines", json.dumps({name: row["accuracy"] for name, row in result["baselines"].items()}))
        words_SP = rivals["bag of words"]
        study = Study(config, base, work, pairs, draws, words_SP)
        models = linear_models if config.params == "linear" else trained_models
        found = models(study, result)  # margins (S, P) by depth and read
        for name in [name for name in found if name.startswith("auto")]:
            if (full := name.replace("auto", "full")) in found:
                result[f"depth {name}"]["above_full"] = difference(found[name], found[full], pairs)
                say(f"{name} less {full}", str(result[f"depth {name}"]["above_full"]))
        if config.trl:
            result["trl"] = trl_run(config, base, pairs, draws[0].split, words_SP, work)
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


class Draw(NamedTuple):
    """One fit: number tells it from the others of its run and seeds its model; split (P,) says train or test."""

    number: int
    seed: int
    split: np.ndarray


def all_draws(pairs: list[PreferencePair], folds: int, seeds: int) -> list[Draw]:
    """Every fold of every seed, drawn by prompt."""
    prompts = np.array([pair.prompt_key for pair in pairs])
    draws = []
    for seed in range(seeds):
        folds_P = cluster_folds(prompts, folds, seed=seed)
        draws += [Draw(seed * folds + fold, seed, np.where(folds_P == fold, "test", "train")) for fold in range(folds)]
    return draws


class Study(NamedTuple):
    """What every model of a run is fitted to and compared with. words_SP: margins of the bag-of-words models."""

    config: RealConfig
    base: str
    work: Path
    pairs: list[PreferencePair]
    draws: list[Draw]
    words_SP: np.ndarray

    def probes(self, table: PairTable, differences: np.ndarray, result: dict[str, Any]) -> list[DepthProbe]:
        """What `--depth auto` would find on the training pairs of each draw; into the result too."""
        found = [probe_on(table, differences, probe_sample(draw), draw.seed) for draw in self.draws]
        result["probe"] = probe_rows(found)
        return found


def linear_models(study: Study, result: dict[str, Any]) -> dict[str, np.ndarray]:
    """Margins (S, P) of linear models of frozen states, by depth and read; figures go into the result."""
    config, base, work, pairs, draws, words_SP = study
    table, differences = states_of(config, base, work, np.arange(len(pairs)))
    probes = study.probes(table, differences, result) if "auto" in config.depths else []
    found: dict[str, np.ndarray] = {}
    for depth in config.depths:
        for read in config.reward_positions:
            name = f"{depth} {read}"
            found[name] = np.full((config.seeds, len(pairs)), np.nan)
            facts = []
            for draw in draws:
                layer = probes[draw.number].depth if depth == "auto" else len(differences) if depth == "full" else int(depth)
                tested = draw.split == "test"
                margins_P, fact = linear_run(table, differences[layer - 1], draw.split, read)
                found[name][draw.seed, tested] = margins_P[tested]
                facts.append({"depth": layer, **fact})
            result[f"depth {name}"] = {**summary(found[name], pairs, words_SP), "runs": facts}
            say(f"depth {name}", json.dumps(result[f"depth {name}"] | {"runs": len(facts)}))
    return found


def trained_models(study: Study, result: dict[str, Any]) -> dict[str, np.ndarray]:
    """Margins (S, P) of models trained as `assay train` trains them, by depth; figures go into the result."""
    config, base, work, pairs, draws, words_SP = study
    probes: list[DepthProbe] = []
    if "auto" in config.depths:
        union = np.unique(np.concatenate([probe_sample(draw) for draw in draws]))
        probes = study.probes(*states_of(config, base, work, union), result)
    found: dict[str, np.ndarray] = {}
    for depth in config.depths:
        found[depth] = np.full((config.seeds, len(pairs)), np.nan)
        facts: list[dict[str, Any]] = []
        depths = [str(probes[draw.number].depth) if depth == "auto" else depth for draw in draws]
        for cut in sorted(set(depths)):
            prepared = prepare(train_config(config, base, work, cut), split=lambda pair: "train")
            assert len(prepared.table) == len(pairs), "pairs were set aside: margins and pairs no longer correspond"
            for draw in [draw for draw in draws if depths[draw.number] == cut]:
                tested = draw.split == "test"
                margins_P, fact = train_and_score(prepared, config, draw)
                found[depth][draw.seed, tested] = margins_P[tested]
                facts.append({"fit": draw.number, "depth": prepared.trained.whole.backbone.num_layers, **fact})
                say(f"depth {depth}", json.dumps(facts[-1]))
        result[f"depth {depth}"] = {**summary(found[depth], pairs, words_SP), "runs": sorted(facts, key=lambda row: row["fit"])}
        say(f"depth {depth}", json.dumps(result[f"depth {depth}"] | {"runs": len(facts)}))
    return found


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
        regularization=config.regularization,
        machine=Machine(),
    )


def baselines(pairs: list[PreferencePair], draws: list[Draw], seeds: int) -> dict[str, np.ndarray]:
    """(S, P) margins of the longer answer and of bag-of-words models of each fit's training pairs."""
    length_P = margins(LengthScorer(), pairs)
    words_SP = np.full((seeds, len(pairs)), np.nan)
    for draw in draws:
        words = fit_bag_of_words([pair for pair, name in zip(pairs, draw.split, strict=True) if name == "train"])
        tested = np.flatnonzero(draw.split == "test")
        words_SP[draw.seed, tested] = margins(words, [pairs[i] for i in tested])
    return {"length": np.tile(length_P, (seeds, 1)), "bag of words": words_SP}


def probe_sample(draw: Draw) -> np.ndarray:
    """The training pairs that `--depth auto` would look at, at most, in the order in which it would."""
    return np.random.default_rng(draw.number).permutation(np.flatnonzero(draw.split == "train"))[: LOOKS[-1]]


def states_of(config: RealConfig, base: str, work: Path, rows: np.ndarray) -> tuple[PairTable, np.ndarray]:
    """The token table, and (L, 2, N, D) float16 differences of the frozen states after every layer; zeros but at `rows`.

    All rows are kept beside the table, with --keep for the next run of the same set and base.
    """
    path = resolve_base(base).path
    renderer = Renderer(AutoTokenizer.from_pretrained(path), max_length=config.max_length)
    table, _ = build_table(read_pairs(work / f"{config.set}.jsonl"), renderer, work / f"{config.set}-probe.arrow")
    kept = work / f"{config.set}-{Path(base).stem}-{len(table)}x{config.max_length}-states.npy"
    if kept.is_file():
        return table, np.load(kept)
    compute = pick_compute()
    backbone = load_backbone(path, dtype=compute.dtype).to(compute.device).eval()
    found = np.zeros((backbone.num_layers, 2, len(table), backbone.hidden_size), np.float16)
    for start in range(0, len(rows), 500):
        part = layer_states(backbone, table, rows[start : start + 500], max_tokens=token_budget(compute.device))
        for layer, both in enumerate(found):
            both[:, part.rows] = differences([part], layer, backbone)
    if len(rows) == len(table):
        np.save(kept, found)
    return table, found


def probe_on(table: PairTable, differences: np.ndarray, rows: np.ndarray, seed: int) -> DepthProbe:
    """What `--depth auto` would find."""
    part = differences[:, :, rows].astype(np.float32)
    labels, prompts = table.preference[rows], table.prompt[rows]
    found = probe_depth(lambda start, stop, top: part[:top, :, start:stop], labels, prompts, num_layers=len(part), seed=seed)
    say("probe", f"seed {seed}: {found.reason}")
    return found


def linear_run(table: PairTable, differences_RPD: np.ndarray, split: np.ndarray, read: Read) -> tuple[np.ndarray, dict[str, Any]]:
    """(P,) margins of a linear model of the states after a layer, fitted on the training pairs."""
    parts = differences_RPD if read == "both" else differences_RPD[[0 if read == "last" else 1]]
    states, train = np.concatenate(list(parts), axis=-1).astype(np.float32), np.flatnonzero(split == "train")
    weights, penalty = fit_states(table, states, train)
    return states @ weights, fact_of(states @ weights, table, train, penalty)


def fit_states(table: PairTable, states: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights of a linear Bradley-Terry model of the training pairs, and its penalty, the best in five folds of them."""
    preference = table.preference.astype(np.float64)
    scale = np.sqrt((states[train] ** 2).mean(0)) + 1e-6
    scaled, folds = states / scale, cluster_folds(table.prompt[train], 5, seed=0)
    losses = np.zeros(len(PENALTIES))
    for fold in range(5):
        inside, outside = train[folds == fold], train[folds != fold]
        weights = np.zeros(states.shape[1])
        for number, penalty in reversed(list(enumerate(PENALTIES))):  # the strongest first: each start is near its end
            weights = fit_linear(scaled[outside], preference[outside], penalty, start=weights)
            margins_P, label = scaled[inside] @ weights, preference[inside]
            losses[number] += float((label * np.logaddexp(0, -margins_P) + (1 - label) * np.logaddexp(0, margins_P)).sum())
    penalty = PENALTIES[int(np.argmin(losses))]
    return fit_linear(scaled[train], preference[train], penalty, start=np.zeros(states.shape[1])) / scale, penalty


def fact_of(margins_P: np.ndarray, table: PairTable, train: np.ndarray, penalty: float) -> dict[str, Any]:
    told = is_right(margins_P[train], table.preference[train].astype(np.float64))
    return {"penalty": penalty, "train_accuracy": round(float(np.nanmean(told)), 4)}


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


def train_and_score(prepared: Prepared, config: RealConfig, draw: Draw) -> tuple[np.ndarray, dict[str, Any]]:
    """(P,) margins of the model of one fit, NaN for no pair, and how the run went. The model is put back to its start."""
    began = time.perf_counter()
    train, test = np.flatnonzero(draw.split == "train"), np.flatnonzero(draw.split == "test")
    width = prepared.trained.whole.backbone.hidden_size
    loop = derive(replace(prepared.config, seed=draw.number), len(train), width, prepared.compute.device).loop
    if config.params.startswith("head") and config.regularization.weight_decay is None:
        loop = replace(loop, weight_decay=choose_decay(prepared.model, prepared.task, train, prepared.table.prompt[train], loop)[0])
    start = {name: p.detach().clone() for name, p in prepared.model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        prepared.model.head.weight[:, :width].copy_(new_head(width, seed=draw.number).weight)
    held = None
    if config.regularization.early_stopping:  # a sixth of the training prompts to evaluate on
        inner = np.random.default_rng(draw.number).permutation(np.unique(prepared.table.prompt[train]))
        looked = np.isin(prepared.table.prompt[train], inner[: len(inner) // 6])
        train, held = train[~looked], train[looked]
    rows = fit(prepared.model, prepared.task, train, loop, heldout_rows=test if held is None else held)
    seconds = time.perf_counter() - began
    rewards = prepared.task.rewards(prepared.model, np.arange(len(draw.split)))
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
        "batch_pairs": loop.batch_size,
        "weight_decay": loop.weight_decay,
        "train_accuracy": round(pair_figures(rewards[train], preference[train]).accuracy, 4),
        "test_accuracy": round(pair_figures(rewards[test], preference[test]).accuracy, 4),
        "looks_accuracy": by_epoch,
        "looks_loss": losses,
        "seconds": round(seconds, 1),
    }
    return (rewards[:, 0] - rewards[:, 1]).astype(np.float64), fact


def trl_run(
    config: RealConfig, base: str, pairs: list[PreferencePair], split: np.ndarray, words_SP: np.ndarray, work: Path
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
    path = resolve_base(base).path
    tokenizer = Renderer(AutoTokenizer.from_pretrained(path), max_length=config.max_length).tokenizer
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = tokenizer.pad_token_id
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    rows = Dataset.from_list(
        [
            {
                "prompt": [turn.as_dict() for turn in pair.prompt],
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
        gradient_accumulation_steps=loop.batch_size // 8,
        num_train_epochs=loop.epochs,
        learning_rate=loop.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(loop.warmup * loop.num_steps(len(train))),
        weight_decay=loop.weight_decay,
        max_length=config.max_length,
        center_rewards_coefficient=asked.objective.centring,
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
    row = summary((scores[:, 0] - scores[:, 1])[None], pairs, words_SP[:1])
    settings = {"epochs": loop.epochs, "learning_rate": loop.learning_rate, "batch_pairs": loop.batch_size}
    return {"version": trl.__version__, **row, **settings, "steps": trainer.state.global_step, "seconds": round(seconds)}


def summary(margins_SP: np.ndarray, pairs: list[PreferencePair], rival_SP: np.ndarray | None = None) -> dict[str, Any]:
    """Accuracy on the pairs that were tested, a pair's mean over the seeds, resampled by prompt; the difference to a rival."""
    preference_P, prompts_P = np.array([pair.preference for pair in pairs]), np.array([pair.prompt_key for pair in pairs])
    right_SP = np.array([is_right(margins_P, preference_P) for margins_P in margins_SP])
    tested_P = ~np.isnan(right_SP).all(0)
    interval = mean_interval(np.nanmean(right_SP[:, tested_P], 0), prompts_P[tested_P], seed=0)
    row: dict[str, Any] = {
        "accuracy": round(float(np.nanmean(right_SP)), 4),
        "interval": [round(interval.low, 4), round(interval.high, 4)],
        "by_seed": np.nanmean(right_SP, 1).round(4).tolist(),
        "num_tested": int(tested_P.sum()),
        "brier": round(float(np.nanmean(brier(sigmoid(margins_SP), np.broadcast_to(preference_P, margins_SP.shape)))), 4),
    }
    if rival_SP is not None:
        row["above_bag_of_words"] = difference(margins_SP, rival_SP, pairs)
    return row


def difference(margins_SP: np.ndarray, other_SP: np.ndarray, pairs: list[PreferencePair]) -> list[float]:
    """[mean, low, high] of the paired difference in accuracy, resampled by prompt, on the pairs that both were tested on."""
    preference_P, prompts_P = np.array([pair.preference for pair in pairs]), np.array([pair.prompt_key for pair in pairs])
    both = zip(margins_SP, other_SP, strict=True)
    gain_SP = np.array([is_right(mine, preference_P) - is_right(other, preference_P) for mine, other in both])
    tested_P = ~np.isnan(gain_SP).all(0)
    gain_P = np.nanmean(gain_SP[:, tested_P], 0)
    interval = mean_interval(gain_P, prompts_P[tested_P], seed=0, support=None)
    return [round(float(gain_P.mean()), 4), round(interval.low, 4), round(interval.high, 4)]


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
