"""What a small scalar model keeps of its teacher, and what it saves: soft, hard and gold labels on the same pairs. Last line: JSON.

    python benchmarks/distill.py --folder ../shared/data                       # a made teacher of known quality
    python benchmarks/distill.py --data pairs.jsonl --teacher runs/strong      # any scorer: a run, a rubric, a URL, a rule
    python benchmarks/distill.py --data pairs.jsonl --teacher judge.toml --judge-model org/judge

The student is a head on the first third of SmolLM2-135M (`--quick`), the teacher by default one that is made: it knows the gold
label through noise, its log-odds are normal with mean m and variance 2 m (they are calibrated), and m is set so that it is right on
the share --accuracy. A seed is another draw of training and test prompts, of the teacher's noise and of the head. All three labels
stand on the same training pairs, and all figures are of the same test pairs, by the labels of the data; pairs on which a real
teacher has no verdict are left out of both, and counted. Weight decay is chosen for
each label anew, from what that label says. Intervals are 95%, of the tests of all seeds together, by prompt.

Claims, written before it was run (of the made teacher that is right on 75%):

1. Soft labels train a better student than hard ones: the interval of the paired difference lies above zero.
2. The student of soft labels is within three points of the student of gold labels.

Suffixes: P pairs, S seeds.
"""

from __future__ import annotations

import copy
import json
import math
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import tyro
from scipy.optimize import brentq
from scipy.stats import norm

from assay.bulk.label import judged, open_labeller
from assay.commands.demo.run import packaged_base
from assay.console import say
from assay.data.pairs import read_pairs, write_pairs
from assay.generation.ledger import Ledger
from assay.models.reward_model import new_head
from assay.models.saved.artifact import save_artifact
from assay.records import Dtype, PreferencePair
from assay.scorers.base import Scorer, margins
from assay.scorers.judges.open_judge import is_judge
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.local import load_local
from assay.stats.mean_intervals import mean_interval
from assay.stats.metrics import is_right, sigmoid
from assay.training.checkpoint import trained_weights
from assay.training.fits.weight_decay import choose_decay
from assay.training.loop import fit
from assay.training.prepare import Prepared, prepare
from assay.training.settings import Machine, Regularization, TrainConfig, derive

GOLD, HARD, SOFT = "gold", "hard", "soft"
TIMED = 200  # test pairs on which a student's time is taken


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    folder: Path = Path("../shared/data")
    """Where the default set lies (truthfulqa-judge)."""
    data: str | None = None
    """Pairs with gold labels, in place of the default set."""
    teacher: str | None = None
    """Any scorer; left out, the made one."""
    accuracy: float = 0.75
    """Of the made teacher."""
    pairs: int = 500
    """Training pairs of a seed."""
    tested: int = 400
    seeds: int = 3
    params: str = "head:mean"
    depth: str = "1/3"
    max_length: int = 512
    base: str | None = None
    dtype: Dtype = "auto"
    judging: JudgeOptions = field(default_factory=JudgeOptions)


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What a teacher says of every pair, in the order of the table: P(chosen is better), NaN where it says nothing that stands;
    seconds for each judgement, NaN for the made one."""

    p_P: np.ndarray
    seconds: float
    name: str


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(DistillConfig, config=(tyro.conf.OmitArgPrefixes,))
    torch.set_num_threads(1)
    base = config.base or packaged_base()
    pairs = read_gold(config)
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        write_pairs(work / "pairs.jsonl", pairs)
        prepared = prepare(train_config(config, base, work), split=lambda pair: "train")
        by_id = {pair.id: pair for pair in pairs}
        kept = [by_id[pair.id] for pair in read_pairs(work / "pairs.jsonl")]
        assert len(kept) == len(prepared.table), "a pair was set aside: its row would stand for another"
        teachers = teachers_of(config, kept, work)
        fits = [one_seed(config, prepared, teacher, seed) for seed, teacher in enumerate(teachers)]
        student_seconds = seconds_of_student(prepared, kept, work)
        result = {
            "machine": f"{platform.machine()}, 1 thread, {prepared.compute.name}",
            "base": Path(base).name,
            "data": config.data or "truthfulqa-judge",
            "teacher": teachers[0].name,
            "pairs_without_a_verdict": int(np.isnan(teachers[0].p_P).sum()),
            "settings": {
                name: str(getattr(config, name)) for name in ("pairs", "tested", "seeds", "params", "depth", "max_length")
            },
            **figures(fits, prepared.table.prompt, teachers, student_seconds),
        }
    print(json.dumps(result))
    return 0


def read_gold(config: DistillConfig) -> list[PreferencePair]:
    """Pairs with a label that is no tie, each with an id of its own, as many as are needed, drawn by the order of a permutation."""
    source = config.data or str(config.folder / "truthfulqa-judge" / "truth.jsonl.gz")
    reader = read_pairs(source, max_pairs_per_prompt=4)
    every = [pair for pair in reader if not pair.is_tie]
    say("read", f"{source}: {reader.summary()}")
    order = np.random.default_rng(0).permutation(len(every))[: 2 * (config.pairs + config.tested)]
    return [replace(every[i], id=f"pair {k}") for k, i in enumerate(np.sort(order))]


def train_config(config: DistillConfig, base: str, work: Path) -> TrainConfig:
    return TrainConfig(
        data=(str(work / "pairs.jsonl"),),
        base=base,
        out=work / "run",
        params=config.params,
        depth=config.depth,
        max_length=config.max_length,
        regularization=Regularization(weight_decay=1.0),  # of each label anew, below
        machine=Machine(device="cpu", dtype=config.dtype),
    )


def teachers_of(config: DistillConfig, pairs: Sequence[PreferencePair], work: Path) -> list[Taught]:
    """What is said to each seed: of the made one anew, of a real one the same, which is asked once.

    Raises ValueError for a teacher that says nothing of more pairs than can be spared.
    """
    if config.teacher is None:
        right_P = np.array([pair.preference > 0.5 for pair in pairs])
        return [made(right_P, config.accuracy, seed) for seed in range(config.seeds)]
    ledger = Ledger(work / "ledger.sqlite") if is_judge(config.teacher) else None
    judge = open_labeller(config.teacher, config.judging, ledger, device="cpu", dtype=config.dtype)
    began = time.perf_counter()
    said = judged(judge, pairs)
    seconds = (time.perf_counter() - began) / len(pairs)
    silent = Counter(one.why_not for one in said if one.why_not)
    say("teacher", f"{len(said) - silent.total():,} of {len(said):,} pairs have a verdict; others: {dict(silent) or 'none'}")
    if len(said) - silent.total() <= config.tested:
        raise ValueError(f"{config.teacher} has a verdict on too few pairs to train and test on: without one {dict(silent)}")
    taught = Taught(p_P=np.array([math.nan if one.why_not else one.p for one in said]), seconds=seconds, name=judge.fingerprint)
    return [taught] * config.seeds


def made(right_P: np.ndarray, accuracy: float, seed: int) -> Taught:
    """Log-odds of a calibrated teacher: normal, mean +-m, variance 2 m, so that it is right with probability Phi(sqrt(m / 2))."""
    mean = float(brentq(lambda m: norm.cdf(math.sqrt(m / 2)) - accuracy, 1e-6, 200.0))
    noise_P = np.random.default_rng([seed, 17]).normal(size=len(right_P))
    odds_P = np.where(right_P, mean, -mean) + math.sqrt(2 * mean) * noise_P
    return Taught(p_P=sigmoid(odds_P), seconds=math.nan, name=f"made, right on {accuracy:.0%}")


def one_seed(config: DistillConfig, prepared: Prepared, teacher: Taught, seed: int) -> dict[str, np.ndarray]:
    """Which of the test pairs are right, (P,) over the whole table, NaN for the others: by the teacher and by each student."""
    table, model = prepared.table, prepared.model
    prompts = np.random.default_rng([seed, 5]).permutation(np.unique(table.prompt))
    place = {prompt: k for k, prompt in enumerate(prompts)}
    order = np.argsort([place[prompt] for prompt in table.prompt], kind="stable")  # whole prompts, one after another
    order = order[np.isfinite(teacher.p_P[order])]  # all are tested, and learn, where the teacher has a verdict
    test = np.sort(order[: config.tested])
    tested = set(table.prompt[test])
    rows = np.sort([row for row in order[config.tested :] if table.prompt[row] not in tested][: config.pairs])
    if len(rows) == 0:
        raise ValueError(f"no pair is left to train on behind {config.tested} to test on: give more data, or a smaller --tested")
    gold_P = table.preference.copy()
    labels = {GOLD: gold_P, SOFT: teacher.p_P, HARD: (teacher.p_P > 0.5).astype(np.float64)}
    right = {"teacher": _only(test, is_right(teacher.p_P - 0.5, gold_P), len(table))}
    start = trained_weights(model)
    for name, label_P in labels.items():
        model.load_state_dict(start, strict=False)
        with torch.no_grad():
            width = model.backbone.hidden_size
            model.head.weight.zero_()[:, :width].copy_(new_head(width, seed=seed).weight)
        relabelled = copy.copy(table)
        relabelled.preference = np.where(np.isfinite(label_P), label_P, 0.5).astype(np.float32)
        task = replace(prepared.task, table=relabelled)
        loop = derive(replace(prepared.config, seed=seed), len(rows), width, prepared.compute.device).loop
        decay, _ = choose_decay(model, task, rows, table.prompt[rows], loop)
        fit(model, task, rows, replace(loop, weight_decay=decay))
        rewards_P2 = task.rewards(model, test).astype(np.float64)
        found_P = np.full(len(table), np.nan)
        found_P[test] = is_right(rewards_P2[:, 0] - rewards_P2[:, 1], gold_P[test])
        right[name] = found_P
    say(
        f"seed {seed}",
        f"{ {name: round(float(np.nanmean(values)), 4) for name, values in right.items()} }, {len(rows)} training pairs",
    )
    return right


def _only(rows: np.ndarray, values_P: np.ndarray, size: int) -> np.ndarray:
    kept = np.full(size, np.nan)
    kept[rows] = values_P[rows]
    return kept


def seconds_of_student(prepared: Prepared, pairs: Sequence[PreferencePair], work: Path) -> tuple[float, float]:
    """Wall and processor seconds a pair by the saved student, texts in, rewards out."""
    save_artifact(prepared.trained.finish(), prepared.renderer, work / "student", {}, dtype=prepared.saved_dtype)
    scorer: Scorer = load_local(work / "student", dtype=prepared.compute.name, device="cpu")
    margins(scorer, pairs[:8])
    began, cpu = time.perf_counter(), time.process_time()
    margins(scorer, pairs[:TIMED])
    num = len(pairs[:TIMED])
    return (time.perf_counter() - began) / num, (time.process_time() - cpu) / num


def figures(
    fits: Sequence[Mapping[str, np.ndarray]],
    prompts_P: np.ndarray,
    teachers: Sequence[Taught],
    student_seconds: tuple[float, float],
) -> dict[str, Any]:
    right = {name: np.array([one[name] for one in fits]) for name in fits[0]}
    found: dict[str, Any] = {name: summary(right_SP, prompts_P) for name, right_SP in right.items()}
    gains = {f"{one} less {other}": change(right[one] - right[other], prompts_P) for one, other in ((SOFT, HARD), (SOFT, GOLD))}
    teacher, soft = found["teacher"]["accuracy"], found[SOFT]["accuracy"]
    speed = {
        "teacher_ms_a_pair": None if math.isnan(teachers[0].seconds) else round(1000 * teachers[0].seconds, 2),
        "student_ms_a_pair": round(1000 * student_seconds[0], 2),
        "student_processor_ms_a_pair": round(1000 * student_seconds[1], 2),
    }
    claims = {
        "1 soft above hard": (gains[f"{SOFT} less {HARD}"]["interval"][0] or 0.0) > 0,
        "2 soft within three points of gold": gains[f"{SOFT} less {GOLD}"]["mean"] >= -0.03,
    }
    kept = round((soft - 0.5) / (teacher - 0.5), 4) if teacher > 0.5 else None
    return {"accuracy": found, "above_chance_kept": kept, **gains, **speed, "claims": claims}


def summary(right_SP: np.ndarray, prompts_P: np.ndarray) -> dict[str, Any]:
    interval = mean_interval(*_tests(right_SP, prompts_P), seed=0)
    return {
        "accuracy": round(float(np.nanmean(right_SP)), 4),
        "interval": [round(interval.low, 4), round(interval.high, 4)],
        "by_seed": np.nanmean(right_SP, 1).round(4).tolist(),
    }


def change(gain_SP: np.ndarray, prompts_P: np.ndarray) -> dict[str, Any]:
    interval = mean_interval(*_tests(gain_SP, prompts_P), seed=0, support=None)
    return {
        "mean": round(float(np.nanmean(gain_SP)), 4),
        "interval": [None if math.isnan(end) else round(end, 4) for end in (interval.low, interval.high)],  # none: no pair differs
        "by_seed": np.nanmean(gain_SP, 1).round(4).tolist(),
    }


def _tests(values_SP: np.ndarray, prompts_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values of all tests of all seeds, of which a pair may have been in several, and the prompt of each."""
    tested_SP = ~np.isnan(values_SP)
    return values_SP[tested_SP], np.broadcast_to(prompts_P, values_SP.shape)[tested_SP]


if __name__ == "__main__":
    raise SystemExit(main())
