"""The relay world, longer than trained: a process model against an outcome model of the same problems. Last line: JSON.

    python benchmarks/process_relay.py                 # three seeds
    python benchmarks/process_relay.py --sft           # the same from a model that has learnt to write right solutions
    python benchmarks/process_relay.py --quick         # one seed of a small world, to see that it runs

A problem asks who has the key after so many passes; a solution writes a pass a step (src/assay/recipes/worlds/relay.py). Both
models are fitted on the same solutions from the same base by `assay train`: --kind process on the labels of the steps, --kind
outcome on whether the answer is right. Then each chooses among 16 candidates to problems with more passes than any it was trained
on, made with names that training did not have. Right candidates are as long as wrong ones, and no wrong one has a right answer: the
labels of the outcome model are true, but one a solution.

Claims, written before it was run, of all seeds together (each is shown by itself):

1. Best of 16 by the process model (the least of its steps, its default) is right more often than by the outcome model, their 95%
   intervals by problem apart.
2. The same against the majority. It is a weak rival here: two of three kinds of error lead to one wrong answer each.
3. The step AUROC of the process model at the longer problems is at least .8, so that what it chooses by is knowledge of steps.

With --sft (relay_sft.py) the base of all seeds is one model that was fine-tuned on right solutions to other problems of the world,
as a reward model's base is on its task. The claims are the same, and one more, written before its first run:

4. The first two hold in each seed.

Beside them: a random candidate, the oracle (one right candidate is enough), the other reductions, best of n for smaller n, and the
step AUROC by the kind of the first error: a model may know who has the key, and not whom it is passed to.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import tyro
from relay_sft import SftSettings, sft_model

from assay.audit.chosen_answers import MAJORITY, RANDOM, chosen_answers
from assay.commands.demo.run import packaged_base
from assay.console import say
from assay.data.steps.labelled_steps import LabelledSteps
from assay.data.steps.step_rows import write_labelled_steps
from assay.evaluation.steps.evaluate_steps import measure_steps
from assay.evaluation.steps.step_scores import labels_of, score_steps
from assay.recipes.worlds.first_errors import WorldSettings
from assay.recipes.worlds.relay import KINDS, NONE, relay_world
from assay.records import Dtype, Metric
from assay.scorers.local import load_local
from assay.stats.mean_intervals import change_interval, share_interval
from assay.stats.metrics import mean
from assay.stats.steps.step_figures import reduced, right_above_wrong, step_auroc
from assay.stats.steps.step_reductions import REDUCED
from assay.training.run import train
from assay.training.settings import Machine, TrainConfig

SIZES = (1, 2, 4, 8, 16)
PROCESS, OUTCOME, OWN = "process", "outcome", "min"


@dataclass(frozen=True, kw_only=True)
class RelayConfig:
    seeds: int = 3
    quick: bool = False
    """One seed, a small world: a check that it runs, no figure."""
    problems: int = 80
    solutions: int = 4
    """Of a problem, in training."""
    lengths: tuple[int, ...] = (1, 2, 3)
    longer: tuple[int, ...] = (5, 6)
    test_problems: int = 48
    error_rate: float = 0.3
    base: str | None = None
    sft: bool = False
    """Fine-tune the base first, once for all seeds; it is cut there, and not by --depth."""
    params: str = "blocks:4"
    depth: str = "20"
    """Whether a step is right is told from frozen states of SmolLM2-135M from layer 12 to 23, and hardly below."""
    epochs: int = 3
    learning_rate: float | None = None
    batch: int = 16
    dtype: Dtype = "auto"
    first_seed: int = 0
    keep: Path | None = None
    """Keep the runs and what was found of each seed here; several runs may share it, each with seeds of its own."""

    @property
    def small(self) -> RelayConfig:
        return replace(self, seeds=1, problems=24, solutions=2, test_problems=4)


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(RelayConfig, config=(tyro.conf.FlagCreatePairsOff,))
    config = config.small if config.quick else config
    torch.set_num_threads(1)
    seeds = list(range(config.first_seed, config.first_seed + config.seeds))
    with tempfile.TemporaryDirectory() as made:
        config, sft = with_sft(config, Path(made))
        found = [kept_or_new(config, seed) for seed in seeds]
    together = columns_together([one["right"] for one in found])
    result = {
        "machine": f"{platform.machine()}, 1 thread",
        "base": Path(config.base or packaged_base()).name,
        "sft": sft,
        "settings": {name: getattr(config, name) for name in RelayConfig.__dataclass_fields__ if name not in ("base", "keep")},
        "seeds": {
            seed: {key: value for key, value in one.items() if key != "right"} | {"best of 16": best_of(one["right"])}
            for seed, one in zip(seeds, found, strict=True)
        },
        "all seeds": best_of(together),
        "claims": claims(together, found, in_each_seed=config.sft),
    }
    print(json.dumps(result))
    return 0


def with_sft(config: RelayConfig, made: Path) -> tuple[RelayConfig, dict[str, Any] | None]:
    """The settings with the fine-tuned base, kept where runs are, and what it cost and learnt; without --sft as they are."""
    if not config.sft:
        return config, None
    settings = SftSettings(problems=16, epochs=1, depth=2, blocks=1) if config.quick else SftSettings()
    folder = made if config.keep is None else config.keep
    folder.mkdir(parents=True, exist_ok=True)
    found = sft_model(config.base or packaged_base(), settings, folder / "sft")
    return replace(config, base=str(folder / "sft"), depth="full"), found


def kept_or_new(config: RelayConfig, seed: int) -> dict[str, Any]:
    """What was found with a seed; with --keep it is written there, and taken from there by a run with the same settings."""
    if config.keep is None:
        return one_seed(config, seed)
    settings = json.loads(
        json.dumps({name: value for name, value in asdict(replace(config, keep=None)).items() if "seed" not in name})
    )
    path = config.keep / f"seed-{seed}.json"
    if not path.exists() or json.loads(path.read_text())["settings"] != settings:
        found = one_seed(config, seed)
        columns = {name: one_P.tolist() for name, one_P in found["right"].items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"settings": settings, "found": found | {"right": columns}}))
    found = json.loads(path.read_text())["found"]
    return {**found, "right": {name: np.array(one_P) for name, one_P in found["right"].items()}}


def one_seed(config: RelayConfig, seed: int) -> dict[str, Any]:
    """Both models of one seed: what they cost and choose. right: of each way to choose, (P,) chances to be right at n = 16."""
    base = config.base or packaged_base()
    world = WorldSettings(
        problems=config.problems,
        lengths=config.lengths,
        solutions=config.solutions,
        error_rate=config.error_rate,
        names="first",
        seed=1000 + seed,
    )
    longer = replace(
        world, problems=config.test_problems, lengths=config.longer, solutions=SIZES[-1], names="second", seed=2000 + seed
    )
    items = list(relay_world(longer))
    paths, seconds = {}, {}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) if config.keep is None else config.keep / f"seed-{seed}"
        data = folder / "relay.jsonl"
        data.parent.mkdir(parents=True, exist_ok=True)
        write_labelled_steps(data, relay_world(world))
        for kind in (PROCESS, OUTCOME):
            began = time.process_time()
            paths[kind] = train(trained(config, data, base, kind, folder / kind, seed))
            seconds[kind] = round(time.process_time() - began, 1)
            say("trained", f"{kind}, seed {seed}: {seconds[kind]} s of processor time")
        rewards, steps = rewards_of(config, paths, items, seed)
    return {"seconds": seconds, **steps, **chosen(items, rewards, seed)}


def trained(config: RelayConfig, data: Path, base: str, kind: str, out: Path, seed: int) -> TrainConfig:
    """The same settings for both kinds."""
    return TrainConfig(
        kind=kind,
        data=(str(data),),
        base=base,
        out=out,
        params=config.params,
        depth=config.depth,
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        batch_pairs=config.batch,
        test=0.0,
        seed=seed,
        machine=Machine(dtype=config.dtype, device="cpu", reference=0),
    )


def rewards_of(
    config: RelayConfig, paths: Mapping[str, Path], items: Sequence[LabelledSteps], seed: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(N,) rewards of the candidates by each way, and how well steps and solutions are told apart."""
    labels = labels_of(items)
    scores = score_steps(load_local(paths[PROCESS], dtype=config.dtype, device="cpu"), items)
    page = measure_steps(scores, items, title="longer problems", seed=seed)
    rewards = {f"{PROCESS}, {how}": reduced(scores.probabilities, how) for how in REDUCED}
    outcome = load_local(paths[OUTCOME], dtype=config.dtype, device="cpu")
    rewards[OUTCOME] = outcome.score([item.completion for item in items]).value.astype(np.float64)
    couples = {name: right_above_wrong(column_N, labels) for name, column_N in rewards.items()}
    return rewards, {
        "steps": {one.name: shown(one) for one in (page.first_error, page.f1, page.prm_score, page.auroc, page.ece) if one},
        "step AUROC by kind": by_kind(scores.scores, items),
        "right above wrong solution": {name: [round(one.value, 4), *_rounded(one.interval)] for name, one in couples.items()},
    }


def by_kind(scores: Sequence[np.ndarray], items: Sequence[LabelledSteps]) -> dict[str, list[float]]:
    """Of each kind of error: [step AUROC, low, high] in the solutions with such an error and in those without any."""
    found = {}
    for kind in KINDS:
        kept = [i for i, item in enumerate(items) if item.tags["kind"] in (kind, NONE)]
        figure = step_auroc([scores[i] for i in kept], labels_of([items[i] for i in kept]))
        found[kind] = [round(figure.value, 4), *_rounded(figure.interval)]
    return found


def chosen(items: Sequence[LabelledSteps], rewards: Mapping[str, np.ndarray], seed: int) -> dict[str, Any]:
    """Best of n by each way for all sizes; the candidates to a problem stand one behind the other."""
    names = [item.id.split(":")[0] for item in items]
    cuts = [i for i in range(1, len(names)) if names[i] != names[i - 1]]
    gold = np.split(np.array([item.outcome for item in items], np.float64), cuts)
    answers = [(item.completion.steps or ("",))[-1].rpartition("Answer: ")[2] for item in items]
    classes = np.split(np.unique(answers, return_inverse=True)[1], cuts)
    by_way = {name: np.split(column_N, cuts) for name, column_N in rewards.items()}
    curves = chosen_answers(gold, by_way, classes, SIZES, seed=seed)
    right: dict[str, list[float]] = {}
    for p in range(len(gold)):  # a problem at a time: what each is worth, for paired intervals
        one = chosen_answers(
            gold[p : p + 1], {name: rows[p : p + 1] for name, rows in by_way.items()}, classes[p : p + 1], SIZES[-1:]
        )
        for name, metrics in one.figures.items():
            right.setdefault(name, []).append(metrics[0].value)
    wanted = {name: [shown(one) for one in metrics] for name, metrics in curves.figures.items() if not name.startswith("weighted")}
    return {"sizes": SIZES, "best of n": wanted, "right": {name: np.array(right[name]) for name in wanted}}


def columns_together(of_seeds: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The problems of all seeds, which are different ones."""
    return {name: np.concatenate([one[name] for one in of_seeds]) for name in of_seeds[0]}


def best_of(right: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """Share of the problems answered rightly by best of 16, with its interval; and by how much the process model is ahead."""
    problems_P = np.arange(len(right[RANDOM]))
    shares = {name: [round(mean(one_P), 4), *_rounded(share_interval(one_P, problems_P))] for name, one_P in right.items()}
    own_P = right[f"best of n: {PROCESS}, {OWN}"]
    for rival in (f"best of n: {OUTCOME}", MAJORITY):
        gain_P = own_P - right[rival]
        shares[f"ahead of {rival}"] = [round(mean(gain_P), 4), *_rounded(change_interval(gain_P, problems_P))]
    return shares


def claims(together: Mapping[str, np.ndarray], found: Sequence[Mapping[str, Any]], *, in_each_seed: bool) -> dict[str, bool]:
    """Those of the docstring; the fourth with `in_each_seed`."""
    each = [apart(one["right"]) for one in found]
    named = {
        "better than the outcome model, intervals apart": apart(together)[0],
        "better than the majority, intervals apart": apart(together)[1],
        "step AUROC of at least .8 in each seed": all(one["steps"]["step AUROC"][0] >= 0.8 for one in found),
    }
    return {**named, "the first two in each seed": all(map(all, each))} if in_each_seed else named


def apart(right: Mapping[str, np.ndarray]) -> tuple[bool, bool]:
    """Whether the lower end of the process model's interval lies above the upper end of the outcome model's, and the majority's."""
    shares = best_of(right)
    low = shares[f"best of n: {PROCESS}, {OWN}"][1]
    return low > shares[f"best of n: {OUTCOME}"][2], low > shares[MAJORITY][2]


def shown(metric: Metric) -> list[float | None]:
    """[value, low, high]; None where there is none."""
    return [None if np.isnan(one) else round(float(one), 4) for one in (metric.value, metric.low, metric.high)]


def _rounded(interval: Sequence[float]) -> list[float]:
    return [round(one, 4) for one in interval]


if __name__ == "__main__":
    raise SystemExit(main())
