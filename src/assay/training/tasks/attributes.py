"""Attributes: several heads that say how an answer is rated (helpfulness, verbosity, ...), and a stated combination as the reward.

    reward = sum over a of w_a (rating a, in the units of the data), up to a constant

The heads are trained by masked regression (training/losses.py) on standardised ratings. What is saved is a plain model of one
reward, and the heads beside it (models/attribute_heads.py). Shapes: R answers, A attributes, D hidden size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch

from assay.console import say
from assay.data.split import Split
from assay.data.tokens.answer_lists import attributes_in, rated_answers
from assay.data.tokens.answer_table import AnswerTable, TwoOfEach
from assay.data.tokens.render import Renderer
from assay.models.attribute_heads import ENTRY, HEADS_PATH, AttributeHeads, read_attribute_heads
from assay.models.backbone import Backbone
from assay.models.device import Compute
from assay.models.heads import SCALAR
from assay.models.reward_model import Outputs, RewardModel
from assay.records import Completion, PreferencePair, Report
from assay.run_files import write_report
from assay.scorers.base import Scorer
from assay.scorers.local import LocalScorer, load_local
from assay.training.batches import Source, outputs_at
from assay.training.losses import masked_regression
from assay.training.objective import refuse_pair_flags
from assay.training.prepare import Prepared
from assay.training.record import curve, training_sample
from assay.training.rows.answer_rows import Reading, answers_in, read_answer_table, rows_in
from assay.training.rows.rating_figures import RatingResult, rating_metrics
from assay.training.settings import TrainConfig
from assay.training.states.depth import LOOKS, Probed, probe_layers
from assay.training.tasks.pairs import measure as measure_pairs
from assay.training.tasks.task import BatchLoss, Built, Finished, Measured

OUTPUTS: Outputs = "attributes"
HEAD = SCALAR


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeTask:
    """Train on rated answers, a case a row: the answers of one line of the data. mean_A, scale_A: of the training answers."""

    table: AnswerTable
    source: Source
    mean_A: np.ndarray
    scale_A: np.ndarray

    @property
    def columns(self) -> tuple[str, ...]:
        return ("loss", "output_size")

    def batches(self, rows: np.ndarray) -> Sequence[Any]:
        return self.source.batches(rows)

    def loss(self, model: RewardModel, batch: Any) -> BatchLoss:
        """Each answer weighs alike: the loop divides by rows, so the sum over answers is divided by their mean number in a row."""
        predicted_RA = self.source.outputs(model, batch).float()
        losses_R = masked_regression(predicted_RA, self._targets(batch.rows).to(predicted_RA.device))
        total = losses_R.sum() / self._answers_per_row
        size = predicted_RA.detach().abs().mean(1).sum() / self._answers_per_row
        return BatchLoss(total, torch.stack([total.detach(), size]))

    def evaluate(self, model: RewardModel, rows: np.ndarray) -> dict[str, float]:
        predicted_RA = torch.from_numpy(self.predictions(model, rows))
        return {"loss": float(masked_regression(predicted_RA, self._targets(rows)).mean())}

    def predictions(self, model: RewardModel, rows: np.ndarray) -> np.ndarray:
        """Standardised ratings (R, A), float32, of the answers at `rows`, row after row. Every process gets all of them."""
        return outputs_at(model, self.source, rows)

    def ratings(self, rows: np.ndarray) -> np.ndarray:
        """Ratings (R, A) of the data, NaN where one is missing."""
        return self.table.values[self.table.places(rows)]

    def _targets(self, rows: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(((self.ratings(rows) - self.mean_A) / self.scale_A).astype(np.float32))

    @property
    def _answers_per_row(self) -> float:
        return len(self.table.values) / len(self.table)


def combination(config: TrainConfig) -> dict[str, float]:
    """Name of an attribute -> its weight in the reward, of --kind attributes:NAME=WEIGHT,... Raises ValueError for what is none."""
    found: dict[str, float] = {}
    for word in filter(None, config.kind.partition(":")[2].split(",")):
        name, _, number = word.strip().partition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = math.nan
        if not name or not math.isfinite(weight) or name in found:
            example = "attributes:helpfulness=1,verbosity=-0.4"
            raise ValueError(f"--kind {config.kind}: {word!r} is no attribute with its weight, or stands twice; as in {example}")
        found[name] = weight
    if found and not any(found.values()):
        raise ValueError(f"--kind {config.kind}: with all weights 0 every reward is the same")
    return found


def check_flags(config: TrainConfig) -> None:
    """Raises ValueError for flags of pairs or of one reward, and, naming the attributes of the data, when no combination is
    stated."""
    refuse_pair_flags(config)
    if config.reads_mean:
        raise ValueError(f"--params {config.params} reads the mean for one reward, attributes are several: use --params head")
    if combination(config):
        return
    counts = attributes_in(chain.from_iterable(reader.cases(together=False) for reader in config.run_data.readers()))
    known = ", ".join(f"{name} ({count:,} answers)" for name, count in counts.most_common()) or "no attribute that is known"
    some = ",".join(f"{name}=1" for name, _ in counts.most_common(2)) or "helpfulness=1,verbosity=-0.4"
    needed = f"--kind {config.kind} needs weights in the reward; the data have {known}"
    raise ValueError(f"{needed}: for example --kind attributes:{some}")


def read_rows(
    config: TrainConfig, renderer: Renderer, split: Callable[[PreferencePair], str] | None
) -> tuple[AnswerTable, list[dict[str, Any]]]:
    if split is not None:
        raise ValueError("--kind attributes is split by the hash of the prompt alone")
    return read_answer_table(config, renderer, _reading(config))


def _reading(config: TrainConfig) -> Reading:
    names = tuple(combination(config))
    return Reading(of_case=partial(rated_answers, names=names), names=names, fewest=1, what="cases", is_single=True)


def num_outputs(table: AnswerTable) -> int:
    return len(table.names)


def probe_depth(backbone: Backbone, table: AnswerTable, compute: Compute, config: TrainConfig, least: int) -> Probed | None:
    """As of pairs, on the best and the worst answer of training cases whose combined ratings differ; None without such cases."""
    weight_A = np.array(list(combination(config).values()))
    found: list[tuple[int, int, int]] = []
    for row in np.random.default_rng(config.seed).permutation(table.rows("train")):
        worth = np.nan_to_num(table.values[table.places(np.array([row]))] @ weight_A, nan=-np.inf)
        if len(found) < LOOKS[-1] and np.isfinite(worth).all() and worth.max() > worth.min():
            found.append((int(row), int(worth.argmax()), int(worth.argmin())))
    if not found:
        return None
    rows, first, second = np.array(found).T
    two, places = TwoOfEach(table, rows, first, second), np.arange(len(rows))
    probed = probe_layers(backbone, two, places, np.ones(len(rows)), two.prompt, compute, seed=config.seed, least=least)
    return probed._replace(known=None)


def build_task(config: TrainConfig, table: AnswerTable, source: Source) -> Built:
    """Ratings are standardised by the training answers. Raises ValueError for an attribute that does not vary among them."""
    values_RA = table.values[table.places(table.rows("train"))].astype(np.float64)
    for name, values_R in zip(table.names, values_RA.T, strict=True):
        known_R = values_R[~np.isnan(values_R)]
        if not len(known_R) or known_R.min() == known_R.max():
            seen = f"is {known_R[0]:g} in all" if len(known_R) else "stands in none"
            raise ValueError(f"--kind {config.kind}: {name} {seen} of the {len(values_R):,} training answers: leave it out")
        say("attribute", f"{name}: {len(known_R):,} of {len(values_R):,} training answers, mean {known_R.mean():.3g}")
    task = AttributeTask(table=table, source=source, mean_A=np.nanmean(values_RA, 0), scale_A=np.nanstd(values_RA, 0))
    weights = combination(config)
    say("reward", " ".join(f"{weight:+g} x {name}" for name, weight in weights.items()) + ", up to a constant")
    return Built(task, {"loss": "masked regression", "combination": weights}, {})


def training_report(prepared: Prepared, log: list[dict[str, Any]]) -> Report:
    """How much of each attribute the heads explain, on the training sample and on the calibration split, and the curve."""
    task: AttributeTask = prepared.task
    metrics = []
    for split, rows in (("training", training_sample(prepared)), ("calibration", prepared.table.rows("calibration"))):
        predicted_RA = task.predictions(prepared.model, rows) * task.scale_A + task.mean_A
        prompt_R = np.repeat(prepared.table.prompt[rows], prepared.table.num_reward_positions[rows])
        for number, name in enumerate(prepared.table.names):
            ratings_R, guess_R = task.ratings(rows)[:, number], predicted_RA[:, number]
            label = f"{name}, {split} answers"
            metrics += rating_metrics(label, ratings_R, guess_R, prompt_R, float(task.mean_A[number]), seed=prepared.config.seed)
    tables = (curve(log, "loss"),) if prepared.probe is None else (curve(log, "loss"), prepared.probe.table())
    facts = {"params": prepared.config.params, "base": prepared.base.name, "training answers": f"{len(prepared.table.values):,}"}
    return Report(title="Training", metrics=tuple(metrics), tables=tables, facts=facts)


def finish(prepared: Prepared, model: RewardModel) -> Finished:
    """The reward as the combination of the heads, which are kept beside it."""
    task: AttributeTask = prepared.task
    weights = combination(prepared.config)
    heads = AttributeHeads(
        names=tuple(weights),
        weight_AD=model.head.weight.detach().float().cpu().numpy(),
        mean_A=task.mean_A,
        scale_A=task.scale_A,
        combination_A=np.array(list(weights.values())),
    )
    head = torch.nn.Linear(model.head.in_features, 1, bias=False, dtype=torch.float32).to(model.head.weight.device)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(heads.reward_D[None]))
    reward = RewardModel(model.backbone, head, compute_dtype=model.compute_dtype)
    return Finished(reward, {ENTRY: heads.entry(), "objective": "attributes"}, {HEADS_PATH: dict(heads.tensors())})


def answers(config: TrainConfig, split: Split) -> Iterator[Completion]:
    return answers_in(config, split, _reading(config))


def training_pairs(config: TrainConfig) -> Iterator[PreferencePair]:
    return config.run_data.pairs("train")


def measure(config: TrainConfig, loaded: Scorer | None = None) -> Measured | None:
    """The attributes on the test split by the saved model; and as with pairs where several answers to one prompt are rated."""
    result = rated(config, loaded)
    if result is not None:
        write_report(config.out, "attributes", result.report())
    if any(True for _ in config.run_data.pairs("test")):
        return measure_pairs(replace(config, kind="pairs"), loaded)
    say("not calibrated", "no two answers to one prompt of the test split are rated: assay model calibrate takes pairs with --data")
    return None if result is None else Measured(result, "attributes")


def rated(config: TrainConfig, loaded: Scorer | None) -> RatingResult | None:
    """How much of each attribute the saved heads explain on the test split; None where it is empty."""
    rows = list(rows_in(config, "test", _reading(config)))
    if not rows:
        say("not evaluated", "the test split is empty: raise --test")
        return None
    path, machine = config.out / "artifact", config.machine
    heads = read_attribute_heads(path)
    scorer = loaded if isinstance(loaded, LocalScorer) else load_local(path, dtype=machine.dtype, device=machine.device)
    predicted = heads.predict(scorer, [completion for row in rows for completion in row.completions])
    ratings_RA = np.concatenate([row.values for row in rows])
    prompt_R = np.concatenate([np.full(len(row.completions), row.prompt, np.uint64) for row in rows])
    metrics = [
        metric
        for number, name in enumerate(heads.names)
        for metric in rating_metrics(
            name, ratings_RA[:, number], predicted[name], prompt_R, float(heads.mean_A[number]), seed=config.seed
        )
    ]
    return RatingResult(title="Attributes on the test split", metrics=tuple(metrics), entries=tuple(heads.entry()))
