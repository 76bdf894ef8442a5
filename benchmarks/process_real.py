"""Process models of SmolLM2-135M on real labelled steps, beside what looks at nothing and what others recorded. Last line: JSON.

    python benchmarks/process_real.py --folder ../shared/data                # all of it: hours on two cores
    python benchmarks/process_real.py --folder ../shared/data --limit 300    # at most so many solutions of each set

Sets: PRMBench (several wrong steps a solution, put in by a model), BIG-Bench Mistake (three tasks, the first error), and the wrong
solutions of MR-GSM8K (the first error), with the scores of eight published process models of 7B to 34B. One model is trained on all
three and tested on each, on questions that it has not seen. A question is what the data say it is: PRMBench's `question` (its rows
reword it: 1,458 texts of 497 questions), the first 60 characters in MR-GSM8K (reversed questions begin alike), the text else. Every
interval is 95%, by question. Each seed splits anew; figures are of each seed.

Claims, written before it was run, of each seed:

1. Of each set the step AUROC is above a half by its interval.
2. On PRMBench PRMScore is above "the second half is wrong" (.5049 on all of it) by the interval of the difference.
3. On each set the step AUROC is above position and length, each the better way round, by the interval of the difference.
4. On MR-GSM8K it stays below Math-Shepherd (7B) in step AUROC: a model of 135M that was trained for minutes is no match for it.

No sentence about these models goes beyond what is above those lines.
"""

from __future__ import annotations

import gzip
import json
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import tyro

from assay.commands.demo.run import packaged_base
from assay.console import say
from assay.data.steps.labelled_steps import LabelledSteps
from assay.data.steps.step_rows import read_labelled_steps, write_labelled_steps
from assay.evaluation.steps.step_findings import above_ranking, above_second_half
from assay.evaluation.steps.step_rivals import HALF, SECOND_HALF, deciding_rivals, guesses, ranking_rivals, tilts
from assay.evaluation.steps.step_scores import StepScores, meant, score_steps
from assay.scorers.local import load_local
from assay.stats.calibration_error import ece
from assay.stats.metrics import mean, squared_error
from assay.stats.steps.step_figures import (
    Figure,
    StepLabels,
    first_error_accuracy,
    found_errors,
    prm_score,
    process_f1,
    step_auroc,
)
from assay.training.run import train
from assay.training.settings import Machine, TrainConfig

PRMBENCH, MISTAKE, MR = "prmbench", "big-bench-mistake", "mr-gsm8k-wrong"
FILES = {
    PRMBENCH: ("prmbench/data.jsonl.gz",),
    MISTAKE: tuple(f"big-bench-mistake/{task}.jsonl.gz" for task in ("dyck_languages", "multistep_arithmetic", "word_sorting")),
    MR: ("mr-gsm8k-wrong/first_error_labels.jsonl.gz",),
}
RECORDED = "mr-gsm8k-wrong/recorded_step_scores.jsonl.gz"
SHEPHERD = "math-shepherd_mistral-7b"
BEGINNING = 60
"""Characters by which questions of MR-GSM8K are told apart."""


@dataclass(frozen=True, kw_only=True)
class RealStepsConfig:
    folder: Path = Path("../shared/data")
    """Where the sets lie."""
    limit: int | None = None
    """At most so many solutions of each set, drawn by prompt."""
    seeds: int = 1
    test: float = 0.3
    """Share of the questions to test on."""
    base: str | None = None
    params: str = "blocks:4"
    depth: str = "auto"
    epochs: int | None = None
    learning_rate: float | None = None
    max_length: int = 1024


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(RealStepsConfig)
    torch.set_num_threads(1)
    sets = {name: read(config, name) for name in FILES}
    recorded = recorded_scores(config.folder / RECORDED)
    found = [one_seed(config, sets, recorded, seed) for seed in range(config.seeds)]
    result = {
        "machine": f"{platform.machine()}, 1 thread, float32",
        "base": Path(config.base or packaged_base()).name,
        "settings": {
            name: str(getattr(config, name)) for name in RealStepsConfig.__dataclass_fields__ if name not in ("base", "folder")
        },
        "solutions": {name: len(items) for name, (items, _) in sets.items()},
        "seeds": found,
        "claims": claims(found),
    }
    print(json.dumps(result))
    return 0


def read(config: RealStepsConfig, name: str) -> tuple[list[LabelledSteps], list[str]]:
    """The solutions of a set, and the question of each."""
    items: list[LabelledSteps] = []
    for file in FILES[name]:
        limit = None if config.limit is None else max(1, config.limit // len(FILES[name]))
        reader = read_labelled_steps(config.folder / file, limit=limit)
        items += list(reader)
        say("read", f"{file}: {reader.summary()}")
    texts = [item.prompt[-1].content for item in items]  # of PRMBench the question, not its rewordings
    return items, [text[:BEGINNING] for text in texts] if name == MR else texts


def recorded_scores(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Published process model -> id of a solution -> P(right) of its steps; of ReasonEval's classes neutral and good together."""
    found: dict[str, dict[str, np.ndarray]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if isinstance(row["scores"], list):  # ROSCOE gives one number a solution
                scores = [one if isinstance(one, float) else one[1] + one[2] for one in row["scores"]]
                found.setdefault(row["run"], {})[row["id"]] = np.array(scores)
    return found


def one_seed(
    config: RealStepsConfig,
    sets: Mapping[str, tuple[list[LabelledSteps], list[str]]],
    recorded: Mapping[str, Mapping[str, np.ndarray]],
    seed: int,
) -> dict[str, Any]:
    """One split, one model: its figures on the test questions of each set, with those of the others on the same steps."""
    rng, tested = np.random.default_rng(seed), {}
    with tempfile.TemporaryDirectory() as folder:
        training: list[LabelledSteps] = []
        for name, (items, questions) in sets.items():
            known = sorted(set(questions))
            held_out = {known[i] for i in rng.permutation(len(known))[: round(config.test * len(known))]}
            training += [item for item, question in zip(items, questions, strict=True) if question not in held_out]
            kept = [(item, question) for item, question in zip(items, questions, strict=True) if question in held_out]
            tested[name] = [item for item, _ in kept], [question for _, question in kept]
        data, began = Path(folder) / "training.jsonl", time.process_time()
        write_labelled_steps(data, training)
        scorer = load_local(train(trained(config, data, Path(folder) / "run", seed)), dtype="float32", device="cpu")
        seconds = time.process_time() - began
        say("trained", f"seed {seed}: {len(training):,} solutions, {seconds:.0f} s of processor time")
        page: dict[str, Any] = {"seconds": round(seconds), "training solutions": len(training)}
        for name, (items, questions) in tested.items():
            labels = StepLabels.of([item.right for item in items], questions)
            lengths = [np.array([len(step) for step in item.completion.steps or ()]) for item in items]
            page[name] = figures(score_steps(scorer, items), labels, lengths, seed) | without_a_look(labels, lengths, seed)
            if name == MR:
                page[name]["recorded"] = {
                    run: figures(meant([own[item.id] for item in items], np.zeros(len(items))), labels, lengths, seed)
                    for run, own in recorded.items()
                }
    return page


def trained(config: RealStepsConfig, data: Path, out: Path, seed: int) -> TrainConfig:
    return TrainConfig(
        kind="process",
        data=(str(data),),
        base=config.base or packaged_base(),
        out=out,
        params=config.params,
        depth=config.depth,
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        max_length=config.max_length,
        test=0.0,
        seed=seed,
        machine=Machine(dtype="float32", device="cpu", reference=0),
    )


def figures(scores: StepScores, labels: StepLabels, lengths: Sequence[np.ndarray], seed: int) -> dict[str, Any]:
    """What scores of steps are worth: [value, low, high] each, and whether they are above what looks at nothing."""
    found_N = found_errors(scores.scores, scores.threshold)
    second_half = next(one for one in deciding_rivals(labels) if one.name == SECOND_HALF)
    ahead = [
        *(above_ranking(scores, one, labels) for one in ranking_rivals(labels, lengths)),
        above_second_half(scores, second_half, labels, seed),
    ]
    shown = {
        "first-error accuracy": first_error_accuracy(found_N, labels),
        "none-found accuracy": first_error_accuracy(found_N, labels, of="right"),
        "PRMScore": prm_score(scores.scores, labels, scores.threshold, seed=seed),
        "step AUROC": step_auroc(scores.scores, labels),
        **{one.name: one.figure for one in tilts(scores.scores, labels, lengths)},
    }
    scored_N = ~np.isnan(found_N)
    if (labels.is_wrong_N & scored_N).any() and (labels.is_right_N & scored_N).any():
        shown["ProcessBench F1"] = process_f1(found_N, labels, seed=seed)
    probability_T, right_T = labels.scores_T(scores.probabilities), labels.right_T
    known_T = ~np.isnan(probability_T) & ~np.isnan(right_T)
    return {
        **{name: rounded(figure) for name, figure in shown.items()},
        "step Brier": round(mean(squared_error(probability_T, right_T)[known_T]), 4),
        "step ECE": round(ece(probability_T[known_T], right_T[known_T]), 4),
        "steps": int((~np.isnan(right_T)).sum()),
        "unscored steps": int(np.isnan(labels.scores_T(scores.scores)).sum()),
        "ahead": {one.name: [one.level == "ok", one.why] for one in ahead},
    }


def without_a_look(labels: StepLabels, lengths: Sequence[np.ndarray], seed: int) -> dict[str, Any]:
    """The lines below which nothing is claimed."""
    return {
        "share of steps that are right": round(mean(labels.right_T[~np.isnan(labels.right_T)]), 4),
        "guesses of the first error": {one.name: rounded(one.figure) for one in guesses(labels, lengths)},
        "PRMScore of": {one.name: rounded(prm_score(one.scores, labels, HALF, seed=seed)) for one in deciding_rivals(labels)},
        "step AUROC of": {one.name: rounded(step_auroc(one.scores, labels)) for one in ranking_rivals(labels, lengths)},
    }


def claims(found: Sequence[Mapping[str, Any]]) -> dict[str, bool]:
    return {
        "above chance on each set": all(one[name]["step AUROC"][1] > 0.5 for one in found for name in FILES),
        "PRMScore above the second half on PRMBench": all(
            one[PRMBENCH]["ahead"][f"better than {SECOND_HALF!r}"][0] for one in found
        ),
        "above position and length on each set": all(
            one[name]["ahead"][f"better than {rival}"][0] for one in found for name in FILES for rival in ("position", "length")
        ),
        "below Math-Shepherd on MR-GSM8K": all(
            one[MR]["step AUROC"][0] < one[MR]["recorded"][SHEPHERD]["step AUROC"][0] for one in found
        ),
    }


def rounded(figure: Figure) -> list[float | None]:
    """[value, low, high]; None where there is none."""
    return [None if np.isnan(one) else round(float(one), 4) for one in (figure.value, *figure.interval)]


if __name__ == "__main__":
    raise SystemExit(main())
