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
from assay.models.artifact import REWARD_FILE, plain_scores, save_artifact
from assay.models.lora import merge_lora
from assay.records import Finding, Metric, Report, Table
from assay.scorers.load import load
from assay.train import distributed
from assay.train.checkpoint import latest_checkpoint
from assay.train.loop import LoopSettings, best_loss, fit, reward_pairs
from assay.workflows.prepare import Prepared, gathered, prepare
from assay.workflows.rundir import known_prompts, split_pairs, write_report
from assay.workflows.settings import TrainConfig
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
    checkpoints = [path.stat().st_mtime for path in (run / "checkpoints").glob("step-*")]
    return bool(checkpoints) and (not saved.is_file() or max(checkpoints) > saved.stat().st_mtime)


class Saved(NamedTuple):
    """A saved artifact and the largest difference between its scores and plain transformers'."""

    path: Path
    checked: Metric


def fit_and_save(prepared: Prepared, extra: dict[str, Any] | None = None) -> Saved:
    """The loop over the training split, the artifact, the training report. extra: further entries of reward.json."""
    config = prepared.config
    train_rows, heldout_rows = prepared.table.rows("train"), prepared.table.rows("calibration")[:MONITORED]
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
    report = training_report(prepared, rows, train_rows)
    prepared = gathered(prepared)
    if distributed.rank() != 0:
        return Saved(config.out / "artifact", Metric(RELOAD, float("nan"), note="made by the first process"))
    if loop.early_stopping:
        say("early stopping", f"after {rows[-1]['epoch']:.2f} epochs; held-out loss {best_loss(rows):.4f} at best, which is kept")
    if prepared.adapted is not None:
        merge_lora(prepared.adapted)
    return save_run(prepared, report, extra)


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
        config={"params": config.params, "depth": config.depth, "base": str(config.base or config.init_from), **asked},
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


def training_report(prepared: Prepared, rows: list[dict[str, Any]], train_rows: np.ndarray) -> Report:
    """The training curve, and accuracy on the training pairs (a sample of 2,000) against the calibration split."""

    def accuracy(name: str, chosen_rows: np.ndarray) -> Metric:
        table, note = prepared.table, "" if len(chosen_rows) else "no pairs"
        rewards = reward_pairs(prepared.model, prepared.source, chosen_rows)
        right = is_right(rewards[:, 0] - rewards[:, 1], table.preference[chosen_rows])
        told = ~np.isnan(right)
        if not told.any():
            return Metric(name, float("nan"), note=note or "only ties")
        low, high = cluster_bootstrap(right[told], table.prompt[chosen_rows][told], seed=prepared.config.seed)
        return Metric(name, float(right[told].mean()), low, high, int(told.sum()), len(chosen_rows))

    sample = np.random.default_rng(prepared.config.seed).permutation(train_rows)[:2000]
    train_metric = accuracy("accuracy on training pairs", np.sort(sample))
    heldout_metric = accuracy("accuracy on calibration pairs", prepared.table.rows("calibration"))
    names = ("loss", "heldout_loss", "accuracy", "heldout_accuracy")
    curve = [tuple(row.get(name, float("nan")) for name in ("epoch", *names)) for row in rows]
    tables: tuple[Table, ...] = (
        Table(title="loss", columns=("epoch", "training", "held out"), rows=tuple((r[0], r[1], r[2]) for r in curve), chart="line"),
        Table(
            title="accuracy", columns=("epoch", "training", "held out"), rows=tuple((r[0], r[3], r[4]) for r in curve), chart="line"
        ),
    )
    findings: tuple[Finding, ...] = ()
    if not (np.isnan(train_metric.value) or np.isnan(heldout_metric.value)):
        findings = (gap_finding(train_metric, heldout_metric),)
    if prepared.probe is not None:
        tables = (*tables, prepared.probe.table())
    facts = {"params": prepared.config.params, "base": prepared.base.name, "training pairs": f"{len(train_rows):,}"}
    return Report(title="Training", metrics=(train_metric, heldout_metric), tables=tables, findings=findings, facts=facts)


def save_run(prepared: Prepared, report: Report, extra: dict[str, Any] | None = None) -> Saved:
    """Write the artifact and the training report, and check that plain transformers gives the same scores."""
    config, loop = prepared.config, prepared.derived.loop
    path = config.out / "artifact"
    settings = {name: {"value": value, "reason": prepared.derived.reasons.get(name, "")} for name, value in flat(loop).items()}
    description = {
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
    prompts = np.union1d(prepared.table.prompt[prepared.table.rows("train")], known_prompts(config))
    save_artifact(prepared.whole, prepared.renderer, path, description, dtype=prepared.saved_dtype, train_prompts=prompts)
    write_config(prepared)
    for stale in (*(config.out / "eval").glob("*.json"), *(config.out / "cache").glob("activations.*")):
        stale.unlink()  # figures of an earlier model in the same directory; states that no step reads again
    difference, num_checked = reload_check(path, prepared)
    say("reload check", f"plain transformers differs by at most {difference:.1e} on {num_checked} answers, in float32")
    checked = Metric(RELOAD, difference, n_scored=num_checked, n=num_checked, note="plain transformers, float32")
    write_report(config.out, "training", replace(report, metrics=(*report.metrics, checked)))
    return Saved(path, checked)


def write_config(prepared: Prepared) -> None:
    """config.json: what was asked for (files by their whole path), what was derived, what was read."""
    config = asdict(prepared.config)
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
    for name in ("train", "calibration", "test"):
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
    ours = load(path, dtype="float32", device="cpu").score(completions).value
    theirs = plain_scores(path, completions).numpy()
    return float(np.nanmax(np.abs(ours - theirs))), len(completions)
