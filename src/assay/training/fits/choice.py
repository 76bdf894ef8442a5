"""`--params auto`: the head alone or the last blocks, whichever has the lower loss on training prompts that it was not fitted to.

In folds of those prompts, one after another, until they have decided: every prompt is held out of one fold.

Which is better depends on the number of pairs and on the base (benchmarks/auto.py). The frozen layers are run once for both.
Suffixes: P pairs.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from assay.console import progress, say
from assay.data.tokens.table import PairTable
from assay.files import digest, write_text
from assay.models.backbone import Backbone, can_cut, split_backbone
from assay.models.mean_layer import refuse_other_forms
from assay.records import Table
from assay.stats.metrics import is_right, log_losses
from assay.training import distributed
from assay.training.checkpoint import trained_weights
from assay.training.fits.weight_decay import choose_decay
from assay.training.loop import fit
from assay.training.settings import AUTO, HEAD_OF_BOTH, Derived, TrainConfig, parse_depth
from assay.training.tasks.task import COUNTER_EXAMPLES, Built
from assay.training.trained import Trained

QUICK = (
    "a quick look: a head alone, on the first third of the layers, nothing tried beside it; leave --quick out for a model to keep"
)
NUM_BLOCKS = 4
NUM_FOLDS = 3  # at most: then the trial costs as much as two more fits to all pairs
MIN_PROMPTS = 20  # in the trial
ENOUGH_PROMPTS = 30  # held out so far, before a fold less may do
MAX_PAIRS = 5000  # in the trial


class Tried(NamedTuple):
    """A candidate on the held-out pairs of the trial, and what it cost: wall and processor seconds. folds: mean loss of each."""

    params: str
    loss: float
    accuracy: float
    seconds: float
    cpu_seconds: float
    folds: Sequence[float] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """params: what is trained. reason: why, in a sentence. tried: the candidates; none where there was nothing to choose. is_quick:
    whether nothing was to be chosen, for --quick."""

    params: str
    reason: str
    tried: tuple[Tried, ...] = ()
    is_quick: bool = False

    def entry(self) -> Mapping[str, Any]:
        """For reward.json and config.json."""
        return {
            "asked": "quick" if self.is_quick else AUTO,
            "params": self.params,
            "reason": self.reason,
            "tried": [one._asdict() for one in self.tried],
        }

    def table(self) -> Table:
        """For the report."""
        rows = tuple(
            (
                one.params,
                one.loss,
                ", ".join(f"{loss:.3f}" for loss in one.folds),
                one.accuracy,
                round(one.seconds, 1),
                round(one.cpu_seconds, 1),
            )
            for one in self.tried
        )
        columns = ("--params", "held-out log loss", "by fold", "held-out accuracy", "seconds", "processor seconds")
        return Table(title="what was tried for --params auto", columns=columns, rows=rows, note=self.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A way to train, ready to be fitted. config: with its --params."""

    config: TrainConfig
    derived: Derived
    trained: Trained
    built: Built


class Options(NamedTuple):
    """--params of the candidates; reason: why there are not two."""

    params: tuple[str, ...]
    reason: str = ""


def options(config: TrainConfig, backbone: Backbone) -> Options:
    """What `--params auto` may choose from, before anything is run; what --params says where it says something else.

    Of what cannot be given for this base or with these flags the reason is told.
    """
    if config.machine.quick:
        if not can_cut(backbone):
            raise ValueError(
                f"--quick cuts the base after a third of its layers, and {type(backbone.model).__name__} cannot be cut"
            )
        own = _head_for(backbone).params if config.kind == "pairs" else ("head",)
        return Options((config.params,) if config.params.startswith("head") else own, QUICK)
    if config.params != AUTO:
        return Options((config.params,))
    head, blocks = _head_for(backbone) if config.kind == "pairs" else Options(("head",)), _blocks_for(config, backbone)
    why_one = _why_one(config)
    if why_one or not blocks.params:
        alone = blocks.params or head.params
        return Options(alone, "; ".join(filter(None, (why_one, blocks.reason, "" if blocks.params else head.reason))))
    return Options((*head.params, *blocks.params), head.reason)


def _why_one(config: TrainConfig) -> str:
    """Why the flags leave nothing to try."""
    if config.kind != "pairs":
        return f"--kind {config.kind} is not tried in several ways"
    if config.machine.shard or distributed.is_launched():
        return "several processes try nothing"
    own = {"--learning-rate": config.learning_rate, "--epochs": config.epochs, "--batch-pairs": config.batch_pairs}
    own["--weight-decay"] = config.regularization.weight_decay
    given = [flag for flag, value in own.items() if value is not None]
    return f"{given[0]} means one thing to a head and another to blocks" if given else ""


def _blocks_for(config: TrainConfig, backbone: Backbone) -> Options:
    """The last four blocks, or all but one of fewer; none, and the reason, where the base cannot be cut below them."""
    num_layers = parse_depth(config.depth_rule, backbone.num_layers) or backbone.num_layers
    num_blocks = min(NUM_BLOCKS, num_layers - 1)
    try:
        split_backbone(backbone, num_blocks)
    except ValueError as error:
        return Options((), f"no blocks are tried: {str(error).partition(':' if can_cut(backbone) else ': use')[0]}")
    return Options((f"blocks:{num_blocks}",))


def _head_for(backbone: Backbone) -> Options:
    """The head of both reads; that of the last token alone where the base's layers have another form.

    Which layer will be the last one is not known yet, so that none may see a window only.
    """
    try:
        refuse_other_forms(backbone)
    except ValueError as error:
        return Options(("head",), str(error).partition("; use")[0])
    if any(backbone.windows):
        return Options(("head",), f"--params {HEAD_OF_BOTH} is not tried: some layers see a window of the text only")
    return Options((HEAD_OF_BOTH,))


def choose(candidates: Sequence[Candidate], table: PairTable, train_rows: np.ndarray, *, seed: int) -> Choice:
    """Fit each of two candidates to two thirds of the training prompts, up to three times; the one with the lower log loss on the
    others is chosen.

    train_rows: training pairs and counter-examples made from them, which are not compared on.

    A fold less does where the mean difference is more than two standard errors, by prompt, from zero. A difference within noise
    decides too: where it is small, little is lost if it is wrong (benchmarks/auto.py). At most `MAX_PAIRS` pairs are used. The
    models are left as they were; calibration and test pairs are not looked at. With too few prompts it is the first candidate.
    """
    folds = _trial_folds(table, train_rows, seed)
    if not folds:
        reason = f"fewer than {MIN_PROMPTS} training prompts are too few to try more"
        return Choice(params=candidates[0].config.params, reason=reason)
    names, num_pairs = [one.config.params for one in candidates], sum(len(held_rows) for _, held_rows in folds)
    cost = f"a fit of each to about {len(folds[0][0]):,} rows in each of at most {len(folds)} folds"
    say("params", f"trying {' and '.join(names)} on {num_pairs:,} training pairs: {cost}, fewer where they decide")
    found = [_Fold((), (), 0.0, 0.0) for _ in candidates]
    held = np.empty(0, np.int64)
    for rows, held_rows in folds:
        found = [one.joined(_fold_of(each, table, rows, held_rows)) for one, each in zip(found, candidates, strict=True)]
        held = np.concatenate([held, held_rows])
        ahead = _ahead(np.concatenate(found[1].losses) - np.concatenate(found[0].losses), table.prompt[held])
        if abs(ahead.mean) > 2 * ahead.error and len(np.unique(table.prompt[held])) >= ENOUGH_PROMPTS:
            break
    tried = tuple(one.tried(name) for one, name in zip(found, names, strict=True))
    best = int(ahead.mean < 0)
    reason = _why(tried, _Ahead(abs(ahead.mean), ahead.error), len(held), best)
    return Choice(params=names[best], reason=reason, tried=tried)


class _Fold(NamedTuple):
    """What a candidate gave on held-out pairs, by fold: losses and whether each was right, (P,); and what it cost."""

    losses: tuple[np.ndarray, ...]
    right: tuple[np.ndarray, ...]
    seconds: float
    cpu_seconds: float

    def joined(self, other: _Fold) -> _Fold:
        took = self.seconds + other.seconds, self.cpu_seconds + other.cpu_seconds
        return _Fold(self.losses + other.losses, self.right + other.right, *took)

    def tried(self, params: str) -> Tried:
        right_P, folds = np.concatenate(self.right), tuple(round(float(loss_P.mean()), 4) for loss_P in self.losses)
        right = float(np.nanmean(right_P)) if np.isfinite(right_P).any() else math.nan
        loss = float(np.concatenate(self.losses).mean())
        return Tried(params, loss, right, round(self.seconds, 1), round(self.cpu_seconds, 1), folds)


class _Ahead(NamedTuple):
    """By how much the log loss of one is the lower one, and the standard error by prompt."""

    mean: float
    error: float


def _fold_of(candidate: Candidate, table: PairTable, rows: np.ndarray, held_rows: np.ndarray) -> _Fold:
    wall, cpu = time.perf_counter(), time.process_time()
    margins_P, labels_P = _held_out_margins(candidate, table, rows, held_rows), table.preference[held_rows].astype(np.float64)
    took = time.perf_counter() - wall, time.process_time() - cpu
    return _Fold((log_losses(margins_P, labels_P),), (is_right(margins_P, labels_P),), *took)


def _ahead(ahead_P: np.ndarray, prompt_P: np.ndarray) -> _Ahead:
    _, place_P = np.unique(prompt_P, return_inverse=True)
    sums_C = np.bincount(place_P, ahead_P - ahead_P.mean())
    error = math.sqrt((sums_C**2).sum() * len(sums_C) / max(1, len(sums_C) - 1)) / len(ahead_P)
    return _Ahead(float(ahead_P.mean()), error)


class KeptChoice:
    """A choice on disk, beside the cached states: a run that is resumed does not try anew."""

    def __init__(self, config: TrainConfig, table_digest: str, base_digest: str) -> None:
        self._path, self._may_read = config.out / "cache" / "choice.json", config.machine.resume
        settings = [config.seed, asdict(config.objective), asdict(config.regularization), str(config.machine.dtype)]
        self._identity = digest(json.dumps([table_digest, base_digest, settings], default=str))

    def read(self) -> Choice | None:
        """The choice of the run that is resumed; None where it made none, or with other data, base or settings."""
        if not (self._may_read and self._path.is_file()):
            return None
        kept = json.loads(self._path.read_text())
        if kept["identity"] != self._identity:
            return None
        tried = tuple(Tried(**one) for one in kept["tried"])
        return Choice(params=kept["params"], reason=kept["reason"], tried=tried)

    def write(self, choice: Choice) -> Choice:
        write_text(self._path, json.dumps({"identity": self._identity, **choice.entry()}))
        return choice


def _trial_folds(table: PairTable, train_rows: np.ndarray, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit to, counter-examples among them, and pairs to compare on, by fold; none where there are too few prompts."""
    prompt_P, is_pair_P = table.prompt[train_rows], ~np.isin(train_rows, table.rows(COUNTER_EXAMPLES))
    unique, place_P = np.unique(prompt_P, return_inverse=True)
    order = np.random.default_rng([seed, 7]).permutation(len(unique))
    drawn = order[np.cumsum(np.bincount(place_P, is_pair_P)[order]) <= MAX_PAIRS]
    if len(drawn) < MIN_PROMPTS:
        return []
    is_drawn_P, folds = np.isin(place_P, drawn), list[tuple[np.ndarray, np.ndarray]]()
    for number in range(NUM_FOLDS):
        is_held_P = np.isin(place_P, drawn[number::NUM_FOLDS])
        folds.append((train_rows[is_drawn_P & ~is_held_P], train_rows[is_held_P & is_pair_P]))
    return folds


def _held_out_margins(candidate: Candidate, table: PairTable, rows: np.ndarray, held_rows: np.ndarray) -> np.ndarray:
    """(P,) margins of the held-out pairs by the candidate fitted to the rows; it is put back to its start."""
    model, task, loop = candidate.trained.model, candidate.built.task, candidate.derived.loop
    is_head = candidate.config.params.startswith("head")
    others = [weight for weight in model.backbone.parameters() if weight.requires_grad and is_head]  # those of the blocks
    for weight in others:
        weight.requires_grad_(False)
    start = trained_weights(model)
    if is_head:
        loop = replace(loop, weight_decay=choose_decay(model, task, rows, table.prompt[rows], loop)[0])
    with progress(f"trying {candidate.config.params}", loop.num_steps(len(rows)), "steps") as advance:
        fit(model, task, rows, loop, on_steps=advance)
    rewards_P2 = task.rewards(model, held_rows).astype(np.float64)
    model.load_state_dict(start, strict=False)
    for weight in others:
        weight.requires_grad_(True)
    return rewards_P2[:, 0] - rewards_P2[:, 1]


def _why(tried: Sequence[Tried], ahead: _Ahead, num_pairs: int, best: int) -> str:
    """ahead: of the best one."""
    doubt = "" if ahead.mean > 2 * ahead.error else ", which is within noise"
    than = f"{tried[best].loss:.3f} against {tried[1 - best].loss:.3f} of {tried[1 - best].params}"
    cost = ", ".join(f"{one.params} {one.seconds:.0f} s" for one in tried)
    num_folds = len(tried[best].folds)
    where = f"on {num_pairs:,} training pairs held out in {num_folds} fold{'s' if num_folds > 1 else ''} by prompt"
    return f"held-out log loss {than}, {ahead.mean:.3f} +- {ahead.error:.3f} lower{doubt}, {where}; trying took {cost}"
