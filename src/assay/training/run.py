"""From preferences and an instruct model to a saved reward model: prepare, fit, report, save, check."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accelerate import Accelerator

from assay.audit.drift.kept import reference_of_run
from assay.console import progress, say
from assay.models.artifact import save_artifact
from assay.models.ensemble_files import MEMBERS
from assay.models.plain import plain_scores
from assay.models.reward_model import RewardModel
from assay.records import Metric, Report, extended
from assay.run_files import ENSEMBLE, REWARD_FILE, read_description, write_report
from assay.scorers.ensemble import PLAIN
from assay.scorers.local import load_raw
from assay.training import distributed
from assay.training.checkpoint import latest_checkpoint
from assay.training.loop import best_loss, fit
from assay.training.members import (
    MEMBER_RUNS,
    combination_of,
    fit_members,
    gather_heads,
    member_curves,
    save_members,
    with_diversity,
)
from assay.training.prepare import Prepared, prepare
from assay.training.record import accuracy_report, describe, trained_prompts, training_sample, write_config
from assay.training.settings import TrainConfig, parse_params

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
    """Fit on the training split; save the artifact and the training report. extra: further entries of reward.json."""
    config, loop, model = prepared.config, prepared.derived.loop, prepared.model
    if config.members.ensemble > 1:
        return fit_and_save_members(prepared, extra)
    if config.resume:
        say("resume", _resume_note(config.out / "checkpoints"))
    train_rows, path = prepared.train_rows, config.out / "artifact"
    with progress("training", loop.num_steps(len(train_rows)), "steps") as advance, tracking(prepared) as track:
        rows = fit(
            model,
            prepared.task,
            train_rows,
            loop,
            heldout_rows=prepared.heldout_rows,
            run_dir=config.out,
            resume=config.resume,
            identity=prepared.identity,
            on_row=track,
            on_steps=advance,
        )
    report, finished = prepared.kind.training_report(prepared, rows), prepared.trained.finish()
    if distributed.rank() != 0:
        return Saved(path, Metric(RELOAD, float("nan"), note="made by rank 0"))
    if loop.patience:
        say("early stopping", f"after {rows[-1]['epoch']:.2f} epochs; kept the best, of held-out loss {best_loss(rows):.4f}")
    _save(prepared, finished, path, describe(prepared, finished, extra))
    return finish_run(prepared, report)


def fit_and_save_members(prepared: Prepared, extra: dict[str, Any] | None = None) -> Saved:
    """As `fit_and_save`, for an ensemble: members one after another, one artifact, a report on what their disagreement is worth."""
    config, table, ensemble = prepared.config, prepared.table, prepared.config.members
    if distributed.is_launched():
        raise ValueError(f"--ensemble {ensemble.ensemble} runs in one process: leave torchrun out")
    sample, calibration_rows = training_sample(prepared), table.rows("calibration")
    fitted = fit_members(prepared, np.concatenate([sample, calibration_rows]))
    description, path = describe(prepared, prepared.trained.whole, extra), config.out / "artifact"
    if parse_params(config.params)[0] == "head":
        model, members = gather_heads(prepared, fitted)
        entry = {"form": "heads", "members": ensemble.ensemble, "combine": ensemble.combine, "penalty": ensemble.penalty}
        _save(prepared, model, path, {**description, ENSEMBLE: entry})
    else:
        members = save_members(prepared, path, description, fitted, trained_prompts(prepared))
    members_KP2 = np.stack([member.rewards_P2 for member in members])
    value_P2 = combination_of(ensemble)(members_KP2.reshape(len(members), -1))[0].reshape(-1, 2)
    report = accuracy_report(prepared, [], value_P2[: len(sample)], value_P2[len(sample) :])
    report = replace(report, tables=(member_curves(members), *report.tables))
    report = with_diversity(report, members_KP2[:, len(sample) :], calibration_rows, table, ensemble)
    return finish_run(prepared, report)


def _save(prepared: Prepared, model: RewardModel, path: Path, description: dict[str, Any]) -> None:
    prompts = trained_prompts(prepared)
    save_artifact(model, prepared.renderer, path, description, dtype=prepared.saved_dtype, train_prompts=prompts)


@contextmanager
def tracking(prepared: Prepared) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Gives a function that sends a row of metrics.jsonl to the trackers of --track (tensorboard writes to --out).

    Raises ValueError for a tracker that is not installed.
    """
    config = prepared.config
    for name in config.machine.track:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"--track {name}: it is not installed (pip install {name})")
    if not config.machine.track:
        yield lambda row: None
        return
    accelerator = Accelerator(cpu=config.machine.device == "cpu", log_with=list(config.machine.track), project_dir=config.out)
    names: dict[str, Any] = {"wandb": {"name": config.out.name}, "trackio": {"name": config.out.name}}
    settings = {name: value for name, value in prepared.settings.items() if isinstance(value, int | float | str)}
    accelerator.init_trackers(
        "assay",
        config={"params": config.params, "depth": config.depth_rule, "base": str(config.base or config.init_from), **settings},
        init_kwargs={name: names[name] for name in config.machine.track if name in names},
    )
    try:
        yield lambda row: accelerator.log({name: value for name, value in row.items() if name != "step"}, step=row["step"])
    finally:
        for tracker in accelerator.trackers:  # end_training would end the process group, which the report still needs
            tracker.finish()


def _resume_note(checkpoints: Path) -> str:
    resumed = latest_checkpoint(checkpoints)
    if resumed is None:
        return f"{checkpoints} holds no checkpoint: training from the beginning"
    passed_over = "".join(f"; passed over {problem}" for problem in resumed.state["passed_over"])
    return f"from {resumed.path.name}{passed_over}"


def finish_run(prepared: Prepared, report: Report) -> Saved:
    """Write configuration and training report, and check that plain transformers gives the same scores as the saved artifact."""
    config, path = prepared.config, prepared.config.out / "artifact"
    write_config(prepared)
    for stale in (*(config.out / "eval").glob("*.json"), *(config.out / "cache").glob("activations.*")):
        stale.unlink()  # figures of an earlier model in the same directory; states that no step reads again
    difference, num_checked = reload_check(path, prepared)
    say("reload check", f"plain transformers differs by at most {difference:.1e} on {num_checked} answers, in float32")
    checked = Metric(RELOAD, difference, n_scored=num_checked, n=num_checked, note="plain transformers, float32")
    write_report(config.out, "training", extended(report, [checked]))
    reference_of_run(
        prepared.kind.answers(config, "train"),
        prepared.kind.answers(config, "calibration"),
        path,
        num_answers=config.machine.reference,
        seed=config.seed,
        dtype=prepared.compute.name,
        device=config.machine.device,
    )
    return Saved(path, checked)


def reload_check(path: Path, prepared: Prepared, num_answers: int = 16) -> tuple[float, int]:
    """Largest difference between Assay's scores of the saved artifact and plain transformers', in float32, on a few answers."""
    answers = list(itertools.islice(prepared.kind.answers(prepared.config, "calibration"), num_answers))
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
