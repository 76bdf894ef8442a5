"""From preferences and an instruct model to a saved reward model: prepare, fit, report, save, check."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator

from assay.audit.drift.kept import reference_of_run
from assay.console import progress, say
from assay.data.split import Split
from assay.models.reward_model import RewardModel
from assay.models.saved.artifact import NO_FILES, save_artifact
from assay.models.saved.ensemble_files import MEMBERS, ensemble_entry
from assay.models.saved.plain import plain_scores
from assay.records import Completion, Metric, Report, extended
from assay.run_files import ENSEMBLE, REWARD_FILE, only_run, read_description, saved_scales, write_report
from assay.scorers.base import Scorer
from assay.scorers.baselines import MAX_PAIRS, keep_bag_of_words
from assay.scorers.ensemble import PLAIN
from assay.scorers.local import load_local, load_raw
from assay.training import distributed
from assay.training.checkpoint import latest_checkpoint
from assay.training.fits.members import (
    MEMBER_RUNS,
    SCALED_BY,
    combination_of,
    fit_members,
    gather_heads,
    member_curves,
    rewards_of,
    save_members,
    scales_of,
    with_diversity,
)
from assay.training.fits.neutral import with_neutral_labels
from assay.training.loop import best_loss, fit
from assay.training.prepare import Prepared, prepare
from assay.training.record import accuracy_report, describe, trained_prompts, training_sample, write_config
from assay.training.settings import TrainConfig

RELOAD = "reload check: largest difference"
NUM_CHECKED = 16  # answers that are scored in two ways
CHECKED_TOKENS = 3000  # beyond which no further answer is scored in float32: long ones took a minute
MAX_TRIED = 100  # answers of a split among which whole answers are looked for


def train(config: TrainConfig) -> Path:
    """As `train_and_keep`, alone in --out; returns the artifact's directory."""
    with alone_in(config.out):
        return train_and_keep(config).path


def train_and_keep(config: TrainConfig) -> Saved:
    """Train and save. Calibrating, evaluating and reporting are steps of their own.

    Raises ValueError for settings or data that cannot be used, and for an --out that holds a run which was neither to be resumed
    nor overwritten; TrainingError when the run has to stop.
    """
    if not (config.machine.resume or config.machine.overwrite):
        ways = "give another --out, or --overwrite to begin anew in it"
        if is_unfinished(config.out):
            raise ValueError(f"{config.out} holds the checkpoints of an unfinished run: go on with --resume, {ways}")
        if (config.out / "artifact" / REWARD_FILE).is_file():
            raise ValueError(f"{config.out} holds a finished run, whose model would be lost: {ways}")
    prepared = prepare(config)
    saved = fit_and_save(prepared)
    if saved.scorer is None and distributed.rank() == 0:
        return saved._replace(scorer=scorer_of_run(saved.path, prepared))
    return saved


@contextmanager
def alone_in(run: Path) -> Iterator[None]:
    """Hold a run directory while the block runs, see `only_run`; of several processes the first one does, for all of them."""
    with ExitStack() as stack:
        refused = None
        if distributed.rank() == 0:
            try:
                stack.enter_context(only_run(run))
            except ValueError as error:
                refused = error
        if distributed.broadcast_from_rank0(int(refused is not None)):
            raise refused or ValueError(f"{run} is in use: the first process says by whom")
        yield


def is_unfinished(run: Path) -> bool:
    """Whether a run directory holds checkpoints of a run that has not saved its artifact yet."""
    saved = run / "artifact" / REWARD_FILE
    patterns = ("checkpoints/step-*", f"{MEMBER_RUNS}/*/checkpoints/step-*")
    checkpoints = [path.stat().st_mtime for pattern in patterns for path in run.glob(pattern)]
    return bool(checkpoints) and (not saved.is_file() or max(checkpoints) > saved.stat().st_mtime)


class Saved(NamedTuple):
    """A saved artifact, the largest difference between its scores and plain transformers', and its scorer of `scorer_of_run`, where
    it was needed."""

    path: Path
    checked: Metric
    scorer: Scorer | None = None


def fit_and_save(prepared: Prepared, extra: dict[str, Any] | None = None) -> Saved:
    """Fit on the training split; save the artifact and the training report. extra: further entries of reward.json."""
    prepared = with_neutral_labels(prepared)
    config, loop, model = prepared.config, prepared.derived.loop, prepared.model
    if config.members.ensemble > 1:
        return fit_and_save_members(prepared, extra)
    if config.machine.resume:
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
            resume=config.machine.resume,
            identity=prepared.identity,
            on_row=track,
            on_steps=advance,
        )
    report = prepared.kind.training_report(prepared, rows)
    finished = prepared.kind.finish(prepared, prepared.trained.finish())
    if distributed.rank() != 0:
        return Saved(path, Metric(RELOAD, float("nan"), note="made by rank 0"))
    if loop.patience:
        say("early stopping", f"after {rows[-1]['epoch']:.2f} epochs; kept the best, of held-out loss {best_loss(rows):.4f}")
    description = describe(prepared, finished.model, {**finished.description, **(extra or {})})
    _save(prepared, finished.model, path, description, finished.files)
    return finish_run(prepared, report)


def fit_and_save_members(prepared: Prepared, extra: dict[str, Any] | None = None) -> Saved:
    """As `fit_and_save`, for an ensemble: members one after another, one artifact, a report on what their disagreement is worth."""
    config, table, ensemble = prepared.config, prepared.table, prepared.config.members
    if distributed.is_launched():
        raise ValueError(f"--ensemble {ensemble.ensemble} runs in one process: leave torchrun out")
    sample, calibration_rows = training_sample(prepared), table.rows("calibration")
    fitted = fit_members(prepared, np.concatenate([sample, calibration_rows]))
    whole = prepared.trained.finish() if config.reads_mean else prepared.trained.whole
    description, path = describe(prepared, whole, extra), config.out / "artifact"
    if config.params == "head":
        model, members = gather_heads(prepared, fitted)
        entry = ensemble_entry(
            "heads",
            ensemble.ensemble,
            combination=combination_of(ensemble).entry,
            scales=scales_of(members),
            scaled_by=SCALED_BY,
        )
        _save(prepared, model, path, {**description, ENSEMBLE: entry})
    else:
        members = save_members(prepared, path, description, fitted, trained_prompts(prepared))
    members_KP2 = rewards_of(members)
    value_P2 = combination_of(ensemble)(members_KP2.reshape(len(members), -1))[0].reshape(-1, 2)
    report = accuracy_report(prepared, [], value_P2[: len(sample)], value_P2[len(sample) :])
    report = replace(report, tables=(member_curves(members), *report.tables))
    report = with_diversity(report, members_KP2[:, len(sample) :], calibration_rows, table, ensemble)
    return finish_run(prepared, report)


def _save(
    prepared: Prepared,
    model: RewardModel,
    path: Path,
    description: dict[str, Any],
    files: Mapping[str, Mapping[str, torch.Tensor]] = NO_FILES,
) -> None:
    prompts = trained_prompts(prepared)
    save_artifact(model, prepared.renderer, path, description, dtype=prepared.saved_dtype, train_prompts=prompts, files=files)


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
    """Write configuration, training report and the baseline to beat; check that plain transformers scores as the saved artifact."""
    config, path = prepared.config, prepared.config.out / "artifact"
    write_config(prepared)
    for stale in (config.out / "eval").glob("*.json"):
        stale.unlink()  # figures of an earlier model in the same directory
    difference, num_checked = reload_check(path, prepared)
    seen = f"plain transformers differs by at most {difference:.1e} on {num_checked} answers, in float32"
    say("reload check", seen if num_checked else f"left out: no answer fits into --max-length {config.max_length} whole")
    checked = Metric(RELOAD, difference, n_scored=num_checked, n=num_checked, note="plain transformers, float32")
    write_report(config.out, "training", extended(report, [checked]))
    scorer = scorer_of_run(path, prepared) if config.machine.reference else None
    if pairs := list(itertools.islice(prepared.kind.training_pairs(config), MAX_PAIRS)):
        keep_bag_of_words(path, pairs)
    reference_of_run(
        prepared.kind.answers(config, "train"),
        prepared.kind.answers(config, "calibration"),
        path,
        num_answers=config.machine.reference,
        seed=config.seed,
        dtype=prepared.compute.name,
        device=config.machine.device,
        loaded=scorer,
    )
    for kept in (config.out / "cache").glob("activations.*"):
        kept.unlink()  # the mapped file stays readable for the scorer, and is gone with it
    return Saved(path, checked, scorer)


def scorer_of_run(path: Path, prepared: Prepared) -> Scorer | None:
    """The saved model, which forwards no text of the run whose states the run has kept; None for members that each have layers.

    That the kept states give the rewards of the saved files is tried on a few answers; where they do not, it is said, and every
    text is forwarded.
    """
    if read_description(path).get("kind") == ENSEMBLE:
        return None
    scorer = load_local(path, dtype=prepared.compute.name, device=prepared.config.machine.device)
    known = prepared.known_texts()
    if known is None:
        return scorer
    answers = list(itertools.islice(prepared.kind.answers(prepared.config, "calibration"), NUM_CHECKED))
    forwarded_N = scorer.score(answers).value
    scorer.known = known
    difference = float(np.nanmax(np.abs(scorer.score(answers).value - forwarded_N), initial=0.0))
    seen = f"differ from those of the saved files by at most {difference:.1e} on {len(answers)} answers, in {prepared.compute.name}"
    if difference > scorer.tolerance:
        say("kept states", f"their rewards {seen}, over the tolerance of {scorer.tolerance:.1e}: texts are forwarded again")
        scorer.known = None
    else:
        say("kept states", f"their rewards {seen} (tolerance {scorer.tolerance:.1e}): no text is forwarded again")
    return scorer


def reload_check(path: Path, prepared: Prepared, num_answers: int = NUM_CHECKED) -> tuple[float, int]:
    """Largest difference between Assay's scores of the saved artifact and plain transformers', in float32, on a few answers.

    Of the calibration split, or where all of those are too long, of the training split; NaN on 0 answers where those are too.
    """
    tried: tuple[tuple[Split, int], ...] = (("calibration", num_answers), ("calibration", MAX_TRIED), ("train", MAX_TRIED))
    completions = next(filter(None, (_whole_answers(prepared, *part) for part in tried)), [])
    if not completions:
        return float("nan"), 0
    scorer = load_raw(path, dtype="float32", device="cpu", combination=PLAIN)
    description = read_description(path)
    if description.get("kind") == ENSEMBLE:
        first = saved_scales(description)[0]
        ours, plain = scorer.score_members(completions)[0] * first.unit + first.centre, path / MEMBERS / "0"
    else:
        rewards = scorer.score(completions)  # of several heads their mean, which is the plain head
        ours, plain = rewards.value if rewards.steps is None else np.concatenate(rewards.steps), path
    theirs = plain_scores(plain, completions)
    return float(np.nanmax(np.abs(ours - theirs))), len(completions)


def _whole_answers(prepared: Prepared, split: Split, num_answers: int) -> list[Completion]:
    """Of the first answers of a split those that fit into max_length, as each side cuts in its own way, up to so many tokens."""
    answers = list(itertools.islice(prepared.kind.answers(prepared.config, split), num_answers))
    rendered = prepared.renderer.render(answers)
    whole = [(answer, len(item.tokens)) for answer, item in zip(answers, rendered, strict=True) if not (item.error or item.is_cut)]
    within = itertools.accumulate((num_tokens for _, num_tokens in whole), initial=0)
    return [answer for (answer, _), before in zip(whole, within, strict=False) if before <= CHECKED_TOKENS]
