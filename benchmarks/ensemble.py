"""What an ensemble is worth on real preferences: coverage, best-of-n, off-distribution. Last line: one JSON document.

python benchmarks/ensemble.py --set truthful --params blocks:2 --depth 20

`assay train --ensemble K` on one split a seed; everything is then read off the rewards of its members on held-out prompts, so that
single models, their mean and every penalty are the same members. Best-of-n: recorded candidates of held-out prompts, gold
from a label that is not the pair's (TruthfulQA: a person's truth label; AlpacaEval: GPT-4's preference over the reference answer).
"""

from __future__ import annotations

import gzip
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import tyro
from real import RealConfig, machine, read_set

from assay.audit.best_of_n import best_of_n_curve
from assay.commands.demo.run import packaged_base
from assay.console import say
from assay.data.pairs import write_pairs
from assay.data.run_data import run_data
from assay.evaluation.disagreement import diversity
from assay.evaluation.pair_scores import score_pairs
from assay.models.saved.combine import average
from assay.records import Completion, PreferencePair
from assay.scorers.base import margins
from assay.scorers.ensemble import Combination, members_of
from assay.scorers.load import load
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import is_right
from assay.training.run import train
from assay.training.settings import Members, TrainConfig

Set = Literal["truthful", "alpaca"]
WAYS = {
    "mean": Combination(penalty=0.0),
    "mean - 0.5 std": Combination(penalty=0.5),
    "mean - std": Combination(penalty=1.0),
    "mean - 2 std": Combination(penalty=2.0),
    "min": Combination(how="min"),
}


@dataclass(frozen=True, kw_only=True)
class EnsembleBenchConfig:
    set: Set = "truthful"
    folder: Path = Path("../shared/data")
    pairs: int | None = None
    params: str = "blocks:2"
    depth: str = "20"
    members: int = 5
    seeds: int = 2
    epochs: int | None = None
    test: float = 0.25
    candidates: int = 16
    """Of a prompt, for best-of-n."""
    bon_prompts: int = 150
    max_length: int = 512
    other_pairs: int = 100
    """Of each set that the members were not trained on."""
    base: str | None = None


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(EnsembleBenchConfig)
    began = time.perf_counter()
    pairs = read_set(RealConfig(set=config.set, folder=config.folder, pairs=config.pairs))
    runs = []
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "pairs.jsonl"
        write_pairs(data, pairs)
        for seed in range(config.seeds):
            runs.append(one_seed(config, data, seed))
            say(f"seed {seed}", json.dumps(runs[-1]))
    names = [name for name, value in runs[0].items() if isinstance(value, float)]
    result = {
        "set": config.set,
        "num_pairs": len(pairs),
        "params": config.params,
        "depth": config.depth,
        "members": config.members,
        "max_length": config.max_length,
        "mean_over_seeds": {name: round(float(np.mean([run[name] for run in runs])), 4) for name in names},
        "runs": runs,
        "machine": machine(),
        "seconds": round(time.perf_counter() - began),
    }
    print(json.dumps(result))
    return 0


def one_seed(config: EnsembleBenchConfig, data: Path, seed: int) -> dict[str, Any]:
    asked = TrainConfig(
        data=(str(data),),
        base=config.base or packaged_base(),
        out=data.parent / f"run-{seed}",
        params=config.params,
        depth=config.depth,
        epochs=config.epochs,
        max_length=config.max_length,
        test=config.test,
        seed=1000 * seed,
        members=Members(ensemble=config.members),
    )
    began = time.perf_counter()
    train(asked)
    row: dict[str, Any] = {"train_seconds": round(time.perf_counter() - began, 1)}
    scorer = load(asked.out)
    members = members_of(scorer)
    assert members is not None
    test = list(run_data(asked.out).pairs("test"))
    members_KP2 = score_pairs(scorer, test).members
    assert members_KP2 is not None
    row |= {"test_pairs": len(test), **on_pairs(members_KP2, test)}
    row |= best_of_n(config, members, {pair.prompt_key for pair in test})
    row["off distribution"] = {
        name: spread(score_pairs(scorer, read_set(RealConfig(set=name, folder=config.folder, pairs=config.other_pairs))).members)
        for name in ("harmless", "truthful", "alpaca")
        if name != config.set
    } | {config.set: spread(members_KP2)}
    if config.params != "head":
        where = data.parent / f"average-{seed}"
        average((asked.out,), where, units=(1.0,))  # its members are on one scale
        labels = np.array([pair.preference for pair in test])
        row["accuracy: average of the weights (WARM)"] = float(np.nanmean(is_right(margins(load(where), test), labels)))
        shutil.rmtree(where)
    shutil.rmtree(asked.out)
    return row


def on_pairs(members_KP2: np.ndarray, pairs: list[PreferencePair]) -> dict[str, Any]:
    """Figures of `diversity`; for each way of combining its accuracy and, paired by prompt, what it gains on a member."""
    labels, prompts = np.array([pair.preference for pair in pairs]), np.array([pair.prompt_key for pair in pairs])
    parts = diversity(members_KP2, labels, prompts, Combination())
    row: dict[str, Any] = {metric.name: round(metric.value, 4) for metric in parts.metrics}
    row["AUROC interval"] = next([round(m.low, 3), round(m.high, 3)] for m in parts.metrics if m.name.startswith("AUROC"))
    single = np.mean([is_right(m[:, 0] - m[:, 1], labels) for m in members_KP2], axis=0)
    for name, way in WAYS.items():
        value = way(members_KP2.reshape(len(members_KP2), -1))[0].reshape(-1, 2)
        right = is_right(value[:, 0] - value[:, 1], labels)
        low, high = mean_interval(right - single, prompts, seed=0, support=None)
        row[f"accuracy: {name}"] = round(float(np.nanmean(right)), 4)
        row[f"gain: {name}"] = [round(float(np.nanmean(right - single)), 4), round(low, 4), round(high, 4)]
    covered = covered_gain(members_KP2, labels, prompts)
    return row | covered


def covered_gain(members_KP2: np.ndarray, labels: np.ndarray, prompts: np.ndarray, coverage: float = 0.8) -> dict[str, Any]:
    """Accuracy on the surest 80%: the ensemble by |mean| / std less a member by its own |margin|, prompts drawn anew 500 times."""
    told = labels != 0.5
    margins_KP, labels, prompts = (members_KP2[:, told, 0] - members_KP2[:, told, 1]), labels[told], prompts[told]

    def gain(rows: np.ndarray) -> float:
        m, y = margins_KP[:, rows], labels[rows]
        mean, std = m.mean(axis=0), m.std(axis=0, ddof=1)
        kept = round(coverage * len(rows))
        ours = is_right(mean, y)[np.argsort(-np.abs(mean) / np.maximum(std, 1e-12))[:kept]].mean()
        theirs = np.mean([is_right(one, y)[np.argsort(-np.abs(one))[:kept]].mean() for one in m])
        return float(ours - theirs)

    _, inverse = np.unique(prompts, return_inverse=True)
    of_prompt = [np.flatnonzero(inverse == c) for c in range(inverse.max() + 1)]
    rng = np.random.default_rng(0)
    drawn = [gain(np.concatenate([of_prompt[c] for c in rng.integers(len(of_prompt), size=len(of_prompt))])) for _ in range(500)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"gain at 80% coverage": [round(gain(np.arange(len(labels))), 4), round(float(low), 4), round(float(high), 4)]}


def best_of_n(config: EnsembleBenchConfig, members: Any, test_prompts: set[str]) -> dict[str, Any]:
    """Gold of best-of-n by a member (mean over members) and by each way of combining, and the paired gain at the largest n."""
    asked = candidates_of(config, test_prompts)
    completions = [completion for group, _ in asked for completion in group]
    members_KN = members.score_members(completions).astype(np.float64)
    starts = np.cumsum([0, *(len(group) for group, _ in asked)])
    golds = [gold for _, gold in asked]
    sizes = [n for n in (1, 2, 4, 8, 16) if n <= config.candidates]

    def of_groups(values_N: np.ndarray) -> list[np.ndarray]:
        return [values_N[start:end] for start, end in itertools.pairwise(starts)]

    def picked(values_N: np.ndarray) -> np.ndarray:
        return np.array([gold[np.argmax(value)] for value, gold in zip(of_groups(values_N), golds, strict=True)])

    singles = [best_of_n_curve(of_groups(member), golds, sizes) for member in members_KN]
    single_picks = np.mean([picked(member) for member in members_KN], axis=0)
    row: dict[str, Any] = {"best of n": {"n": sizes, "a member": np.mean([c.gold for c in singles], axis=0).round(4).tolist()}}
    row["best-of-n prompts"] = len(asked)
    for name, way in WAYS.items():
        value = way(members_KN)[0]
        row["best of n"][name] = best_of_n_curve(of_groups(value), golds, sizes).gold.round(4).tolist()
        gain = picked(value) - single_picks
        low, high = mean_interval(gain, np.arange(len(gain)), seed=0, support=None)
        row[f"best-of-n gain: {name}"] = [round(float(gain.mean()), 4), round(low, 4), round(high, 4)]
    return row


def candidates_of(config: EnsembleBenchConfig, test_prompts: set[str]) -> list[tuple[list[Completion], np.ndarray]]:
    """Up to `candidates` distinct answers to each held-out prompt, with their gold."""
    by_prompt: dict[str, dict[str, float]] = defaultdict(dict)
    if config.set == "truthful":
        for item in rows(config.folder / "truthfulqa-judge/truth.jsonl.gz"):
            by_prompt[item["question"]].setdefault(item["answer"], float(item["truthful"]))
    else:
        prompts = {item["prompt_id"]: item["instruction"] for item in rows(config.folder / "alpacaeval/prompts.jsonl.gz")}
        gold = {
            (item["model"], item["prompt_id"]): item["p_model"]
            for item in rows(config.folder / "alpacaeval/preferences.jsonl.gz")
            if item["judge"] == "weighted_alpaca_eval_gpt4_turbo"
        }
        for item in rows(config.folder / "alpacaeval/outputs.jsonl.gz"):
            key = (item["model"], item["prompt_id"])
            if key in gold and item["output"].strip():
                by_prompt[prompts[item["prompt_id"]]].setdefault(item["output"], gold[key])
    found = []
    rng = np.random.default_rng(0)
    for prompt in sorted(by_prompt):
        pair = PreferencePair(prompt=prompt, chosen="a", rejected="b")
        answers = list(by_prompt[prompt].items())
        if pair.prompt_key not in test_prompts or len(answers) < config.candidates:
            continue
        chosen = [answers[i] for i in rng.permutation(len(answers))[: config.candidates]]
        golds = np.array([gold for _, gold in chosen])
        if np.ptp(golds) > 0:  # else every way gives the same
            found.append(([Completion(messages=prompt, response=answer) for answer, _ in chosen], golds))
    return [found[i] for i in rng.permutation(len(found))[: config.bon_prompts]]


def rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def spread(members_KP2: np.ndarray) -> dict[str, float]:
    """Size of the mean margin, disagreement about it, and their ratio, over the pairs of a set."""
    margins_KP = members_KP2[:, :, 0] - members_KP2[:, :, 1]
    margins_KP = margins_KP[:, ~np.isnan(margins_KP).any(axis=0)]
    size, std = float(np.abs(margins_KP.mean(axis=0)).mean()), float(margins_KP.std(axis=0, ddof=1).mean())
    return {"pairs": margins_KP.shape[1], "mean margin": round(size, 4), "std": round(std, 4), "ratio": round(std / size, 4)}


if __name__ == "__main__":
    sys.exit(main())
