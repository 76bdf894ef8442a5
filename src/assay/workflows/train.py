"""From preferences and an instruct model to a saved reward model: prepare, fit, report, save, check."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accelerate import Accelerator

from assay.data.table import PairTable
from assay.evaluation.evaluate import gap_finding
from assay.metrics import cluster_bootstrap, is_right
from assay.models.artifact import ENSEMBLE, REWARD_FILE, read_description, save_artifact
from assay.models.lora import merge_lora
from assay.models.mean_layer import MeanReadModel
from assay.models.member_files import MEMBERS
from assay.models.plain import plain_scores
from assay.records import Finding, Metric, Report, Table
from assay.scorers.ensemble import PLAIN
from assay.scorers.load import load_raw
from assay.train import distributed
from assay.train.checkpoint import latest_checkpoint
from assay.train.loop import LoopSettings, best_loss, fit, reward_pairs
from assay.workflows.drift import reference_of_run
from assay.workflows.ensemble import (
    MEMBER_RUNS,
    combination_of,
    fit_members,
    gather_heads,
    member_curves,
    save_members,
    with_diversity,
)
from assay.workflows.prepare import COUNTER_EXAMPLES, Prepared, gathered, prepare
from assay.workflows.rundir import known_prompts, split_pairs, write_report
from assay.workflows.settings import TrainConfig, parse_params
from assay.workflows.show import progress, say

MONITORED = 1000  # held-out pairs looked at after each epoch
RELOAD = "reload check: largest difference"


def train(config: TrainConfig) -> Path:
    """Train and save; returns the artifact's directory. Calibrating, evaluating and reporting are steps of their own.

    Raises ValueError for settings or data that cannot be used, TrainingError when the run has to stop.
    """
    if not config.resume and is_unfinished(config.out):
        raise ValueError(f"{config.out} holds the checkpoints of an unfinished run: go on with --resume, or give another --out")
    return fit_and_save(prepare(config)).path


def is_unfinished(run: Path) -> bool:
    """Whether a run directory holds checkpoints of a run that has not saved its artifact yet."""
    saved = run / "artifact" / REWARD_FILE
    patterns = ("checkpoints/step-*", f"{MEMBER_RUNS}/*/checkpoints/step-*")
    checkpoints = [path.stat().st_mtime for pattern in patterns for path in run.glob(pattern)]
    return bool(checkpoints) and (not saved.is_file() or max(checkpoints) > saved.stat().st_mtime)


class Saved(NamedTuple):
    """A saved artifact and the largest difference between its scores and plain transformers'."""

    path: Path
    checked: Metric


def fit_and_save(prepared: Prepared, extra: dict[str, Any] | None = None) -> Saved:
    """The loop over the training split, the artifact, the training report. extra: further entries of reward.json."""
    config = prepared.config
    if config.members.ensemble > 1:
        return fit_and_save_members(prepared, extra)
    train_rows, heldout_rows = prepared.train_rows, prepared.table.rows("calibration")[:MONITORED]
    loop = prepared.derived.loop
    num_steps = loop.num_steps(len(train_rows))
    if config.resume:
        say("resume", _resume_note(config.out / "checkpoints"))
    with progress("training", num_steps, "steps") as advance, tracking(config, loop) as track:
        reached = 0

        def on_step(row: dict[str, Any]) -> None:
            nonlocal reached
            advance(row["step"] - reached)
            reached = row["step"]
            track(row)

        rows = fit(
            prepared.model,
            prepared.source,
            train_rows,
            loop,
            heldout_rows=heldout_rows,
            run_dir=config.out,
            resume=config.resume,
            identity=prepared.identity,
            on_step=on_step,
        )
    sample, calibration_rows = training_sample(prepared.table.rows("train"), config.seed), prepared.table.rows("calibration")
    rewards = (reward_pairs(prepared.model, prepared.source, asked) for asked in (sample, calibration_rows))
    report = training_report(prepared, rows, next(rewards), sample, next(rewards))
    prepared = gathered(prepared)
    if distributed.rank() != 0:
        return Saved(config.out / "artifact", Metric(RELOAD, float("nan"), note="made by the first process"))
    if loop.early_stopping:
        say("early stopping", f"after {rows[-1]['epoch']:.2f} epochs; held-out loss {best_loss(rows):.4f} at best, which is kept")
    if prepared.adapted is not None:
        merge_lora(prepared.adapted)
    if isinstance(prepared.model, MeanReadModel):
        prepared = replace(prepared, whole=prepared.model.folded())
    prompts = trained_prompts(prepared)
    description, path = describe(prepared, extra), config.out / "artifact"
    save_artifact(prepared.whole, prepared.renderer, path, description, dtype=prepared.saved_dtype, train_prompts=prompts)
    return finish_run(prepared, report)


def fit_and_save_members(prepared: Prepared, extra: dict[str, Any] | None = None) -> Saved:
    """As `fit_and_save`, for an ensemble: members one after another, one artifact, a report on what their disagreement is worth."""
    config, table = prepared.config, prepared.table
    if distributed.is_launched():
        raise ValueError(f"--ensemble {config.members.ensemble} runs in one process: leave torchrun out")
    train_rows, calibration_rows = prepared.train_rows, table.rows("calibration")
    sample = training_sample(table.rows("train"), config.seed)
    fitted = fit_members(prepared, train_rows, calibration_rows[:MONITORED], np.concatenate([sample, calibration_rows]))
    description, path, prompts = describe(prepared, extra), config.out / "artifact", trained_prompts(prepared)
    if parse_params(config.params)[0] == "head":
        model, members = gather_heads(prepared, fitted)
        asked = config.members
        entry = {"form": "heads", "members": asked.ensemble, "combine": asked.combine, "penalty": asked.penalty}
        description = {**description, ENSEMBLE: entry}
        save_artifact(model, prepared.renderer, path, description, dtype=prepared.saved_dtype, train_prompts=prompts)
    else:
        members = save_members(prepared, path, description, fitted, prompts)
    members_KP2 = np.stack([member.rewards_P2 for member in members])
    value_P2 = combination_of(config.members)(members_KP2.reshape(len(members), -1))[0].reshape(-1, 2)
    report = training_report(prepared, [], value_P2[: len(sample)], sample, value_P2[len(sample) :])
    report = replace(report, tables=(member_curves(members), *report.tables))
    report = with_diversity(report, members_KP2[:, len(sample) :], calibration_rows, table, config.members)
    return finish_run(prepared, report)


@contextmanager
def tracking(config: TrainConfig, loop: LoopSettings) -> Iterator[Callable[[dict[str, Any]], None]]:
    """What takes a row of metrics.jsonl to the trackers of the configuration (tensorboard writes to --out). Nothing, without any.

    Raises ValueError for a tracker that is not installed.
    """
    for name in config.track:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"--track {name}: it is not installed (pip install {name})")
    if not config.track:
        yield lambda row: None
        return
    accelerator = Accelerator(cpu=config.machine.device == "cpu", log_with=list(config.track), project_dir=config.out)
    names: dict[str, Any] = {"wandb": {"name": config.out.name}, "trackio": {"name": config.out.name}}
    asked = {name: value for name, value in flat(loop).items() if isinstance(value, int | float | str)}
    accelerator.init_trackers(
        "assay",
        config={"params": config.params, "depth": config.depth_rule, "base": str(config.base or config.init_from), **asked},
        init_kwargs={name: names[name] for name in config.track if name in names},
    )
    try:
        yield lambda row: accelerator.log({name: value for name, value in row.items() if name != "step"}, step=row["step"])
    finally:
        for tracker in accelerator.trackers:  # end_training would end the process group, which the report still needs
            tracker.finish()


def flat(settings: LoopSettings) -> dict[str, Any]:
    """Settings of the loop by name, those of the objective among them."""
    values = asdict(settings)
    return {**values.pop("objective"), **values}


def _resume_note(checkpoints: Path) -> str:
    resumed = latest_checkpoint(checkpoints)
    if resumed is None:
        return f"{checkpoints} holds no checkpoint: training from the beginning"
    passed_over = "".join(f"; passed over {problem}" for problem in resumed.state["passed_over"])
    return f"from {resumed.path.name}{passed_over}"


def training_sample(train_rows: np.ndarray, seed: int) -> np.ndarray:
    """At most 2,000 of the training pairs, whose accuracy is set against the held-out one."""
    return np.sort(np.random.default_rng(seed).permutation(train_rows)[:2000])


def training_report(
    prepared: Prepared,
    rows: list[dict[str, Any]],
    train_rewards_P2: np.ndarray,
    sample: np.ndarray,
    heldout_rewards_P2: np.ndarray,
) -> Report:
    """The training curve, and accuracy on a sample of the training pairs against the calibration split."""

    def accuracy(name: str, rewards: np.ndarray, chosen_rows: np.ndarray) -> Metric:
        table, note = prepared.table, "" if len(chosen_rows) else "no pairs"
        right = is_right(rewards[:, 0] - rewards[:, 1], table.preference[chosen_rows])
        told = ~np.isnan(right)
        if not told.any():
            return Metric(name, float("nan"), note=note or "only ties")
        low, high = cluster_bootstrap(right[told], table.prompt[chosen_rows][told], seed=prepared.config.seed)
        return Metric(name, float(right[told].mean()), low, high, int(told.sum()), len(chosen_rows))

    train_metric = accuracy("accuracy on training pairs", train_rewards_P2, sample)
    heldout_metric = accuracy("accuracy on calibration pairs", heldout_rewards_P2, prepared.table.rows("calibration"))
    names = ("loss", "heldout_loss", "accuracy", "heldout_accuracy")
    curve = [tuple(row.get(name, float("nan")) for name in ("epoch", *names)) for row in rows]
    tables: tuple[Table, ...] = (
        Table(title="loss", columns=("epoch", "training", "held out"), rows=tuple((r[0], r[1], r[2]) for r in curve), chart="line"),
        Table(
            title="accuracy", columns=("epoch", "training", "held out"), rows=tuple((r[0], r[3], r[4]) for r in curve), chart="line"
        ),
    )
    if not rows:  # of members, whose curves are their own
        tables = ()
    findings: tuple[Finding, ...] = ()
    if not (np.isnan(train_metric.value) or np.isnan(heldout_metric.value)):
        findings = (gap_finding(train_metric, heldout_metric),)
    if prepared.probe is not None:
        tables = (*tables, prepared.probe.table())
    num_pairs = f"{len(prepared.table.rows('train')):,}"
    facts = {"params": prepared.config.params, "base": prepared.base.name, "training pairs": num_pairs}
    if num_added := len(prepared.table.rows(COUNTER_EXAMPLES)):
        facts["counter-examples"] = f"{num_added:,}, from {prepared.config.restraint.augment}"
    return Report(title="Training", metrics=(train_metric, heldout_metric), tables=tables, findings=findings, facts=facts)


def trained_prompts(prepared: Prepared) -> np.ndarray:
    """Sorted hashes of the prompts that the model has seen."""
    return np.union1d(prepared.table.prompt[prepared.table.rows("train")], known_prompts(prepared.config))


def describe(prepared: Prepared, extra: dict[str, Any] | None) -> dict[str, Any]:
    """What reward.json says of a run. extra: further entries."""
    config, loop = prepared.config, prepared.derived.loop
    settings = {name: {"value": value, "reason": prepared.derived.reasons.get(name, "")} for name, value in flat(loop).items()}
    return {
        "title": f"{prepared.base.name} reward model",
        "base_model": prepared.base.name,
        "base_note": prepared.base.note,
        "base_license": prepared.base.license,
        "base_revision": getattr(prepared.whole.backbone.config, "_commit_hash", None),
        "depth": prepared.whole.backbone.num_layers,
        "objective": loop.objective.loss,
        "params": config.params,
        "data": prepared.data,
        "splits": split_sizes(prepared.table),
        "settings": settings,
        "trained_in": str(prepared.compute.dtype).removeprefix("torch."),
        "versions": {name: version(name) for name in ("assay-rm", "torch", "transformers", "tokenizers", "accelerate", "numpy")}
        | {"python": platform.python_version()},
        **(extra or {}),
    }


def finish_run(prepared: Prepared, report: Report) -> Saved:
    """Write configuration and training report, and check that plain transformers gives the same scores as the saved artifact."""
    config, path = prepared.config, prepared.config.out / "artifact"
    write_config(prepared)
    for stale in (*(config.out / "eval").glob("*.json"), *(config.out / "cache").glob("activations.*")):
        stale.unlink()  # figures of an earlier model in the same directory; states that no step reads again
    difference, num_checked = reload_check(path, prepared)
    say("reload check", f"plain transformers differs by at most {difference:.1e} on {num_checked} answers, in float32")
    checked = Metric(RELOAD, difference, n_scored=num_checked, n=num_checked, note="plain transformers, float32")
    write_report(config.out, "training", replace(report, metrics=(*report.metrics, checked)))
    reference_of_run(config, path, str(prepared.compute.dtype).removeprefix("torch."))
    return Saved(path, checked)


def write_config(prepared: Prepared) -> None:
    """config.json: what was asked for (files by their whole path), what was derived, what was read."""
    config = asdict(prepared.config) | {"depth": prepared.config.depth_rule}
    config["data"] = [str(Path(name).resolve()) if Path(name).exists() else name for name in prepared.config.data]
    if config["init_from"] is not None:
        config["init_from"] = str(Path(config["init_from"]).resolve())
    if config["eval_data"] is not None and Path(config["eval_data"]).exists():
        config["eval_data"] = str(Path(config["eval_data"]).resolve())
    content = {
        "config": {**config, "split_by_prompt": prepared.split_by_prompt},
        "loop": asdict(prepared.derived.loop),
        "data": prepared.data,
        "base": prepared.base._asdict(),
    }
    (prepared.config.out / "config.json").write_text(json.dumps(content, indent=1, default=str))


def split_sizes(table: PairTable) -> dict[str, dict[str, Any]]:
    """Number of pairs and fingerprint of the prompts of each split."""
    sizes = {}
    added = (COUNTER_EXAMPLES,) if len(table.rows(COUNTER_EXAMPLES)) else ()
    for name in ("train", "calibration", "test", *added):
        prompts = np.unique(table.prompt[table.rows(name)])
        digest = hashlib.sha256(prompts.tobytes()).hexdigest()[:32]
        sizes[name] = {"num_pairs": len(table.rows(name)), "num_prompts": len(prompts), "fingerprint": digest}
    return sizes


def reload_check(path: Path, prepared: Prepared, num_pairs: int = 8) -> tuple[float, int]:
    """Largest difference between Assay's scores of the saved artifact and plain transformers', in float32, on a few answers."""
    pairs = itertools.islice(split_pairs(prepared.config, "calibration"), num_pairs)
    answers = [completion for pair in pairs for completion in pair.completions()]
    whole = [item.error is None and not item.is_cut for item in prepared.renderer.render(answers)]  # each side cuts in its own way
    completions = list(itertools.compress(answers, whole))
    if not completions:
        return float("nan"), 0
    scorer = load_raw(path, dtype="float32", device="cpu", combination=PLAIN)
    if read_description(path).get("kind") == ENSEMBLE:
        ours, plain = scorer.score_members(completions)[0], path / MEMBERS / "0"
    else:
        ours, plain = scorer.score(completions).value, path  # of several heads their mean, which is the plain head
    theirs = plain_scores(plain, completions)
    return float(np.nanmax(np.abs(ours - theirs))), len(completions)
