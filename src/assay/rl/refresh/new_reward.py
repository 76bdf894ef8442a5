"""A reward model trained anew on all data there is, compared with the one in use, brought to its scale, and put in its place."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from assay.console import progress, say
from assay.data.pairs import write_pairs
from assay.errors import EngineError
from assay.evaluation.compare import ComparisonResult, Side, compare_margins
from assay.evaluation.pair_scores import score_pairs
from assay.evaluation.rescale import save_rescaled
from assay.evaluation.scale import MIN_PAIRS, ScaleResult, measure_scale
from assay.files import new_directory, replacing
from assay.records import Dtype, PreferencePair, extended
from assay.report.run_page import write_run_page
from assay.rl.refresh.refresh_settings import RefreshSettings, ServedModel
from assay.run_files import ENSEMBLE, REWARD_FILE, read_description, write_report
from assay.scorers.opened import open_scorer, refuse_seen
from assay.serve.admin_client import change_models
from assay.training.record import config_of_run
from assay.training.run import train_and_keep
from assay.training.settings import TrainConfig
from assay.training.tasks.task import kind_of

OLD, OLD_TEST = "old.jsonl", "old-test.jsonl"
REWARD, PROMOTED = "reward", "promoted"
MARGINS = "margins.npy"  # of the pairs that neither was trained on, by the model in use and the new one


def trainable(reward: Path) -> TrainConfig:
    """The flags of a run whose model can be trained anew and compared with. Raises ValueError, with what is needed, for others."""
    if not (reward / "artifact" / REWARD_FILE).is_file():
        raise ValueError(
            f"a refresh trains the reward model anew on its old data and the new, and {reward} is no run of assay train, with its "
            "data and flags in config.json: train one (assay train --data ... --out runs/mine) and give its directory"
        )
    config, description = config_of_run(reward), read_description(reward / "artifact")
    if config.kind != "pairs":
        raise ValueError(
            f"{reward} is of --kind {config.kind}: a refresh labels pairs, so it needs a model that is trained on pairs"
        )
    if description.get("kind") == ENSEMBLE:
        raise ValueError(
            f"{reward} is an ensemble of several models, which is not rescaled: train it with --params head, or one model"
        )
    num = int(description["splits"]["test"]["num_pairs"])
    if config.eval_data is None and num < MIN_PAIRS:
        raise ValueError(
            f"{reward} has {num} pairs in its test split: the new model is held against the old one on pairs that neither was "
            f"trained on, at least {MIN_PAIRS}; train with a larger --test, or with --eval-data"
        )
    return config


def gather_old(reward: Path, folder: Path) -> int:
    """Write the data of the first reward model as it was read, so that its flags of reading are not those of the new pairs too; how
    many pairs there were."""
    data = trainable(reward).run_data
    num = write_pairs(folder / OLD, (pair for reader in data.readers() for pair in reader))
    if data.eval_data is not None:
        write_pairs(folder / OLD_TEST, data.pairs("test"))
    return num


def new_config(reward: Path, folder: Path, labels: Sequence[Path], out: Path, *, device: str, dtype: Dtype) -> TrainConfig:
    """The flags of the first reward model, with its data, the labels of all rounds, and a directory of its own."""
    config = trainable(reward)
    machine = replace(config.machine, device=device, dtype=dtype, resume=True, overwrite=False, track=(), verbose=False)
    return replace(
        config,
        data=(str((folder / OLD).resolve()), *(str(path.resolve()) for path in labels)),
        eval_data=None if config.eval_data is None else str((folder / OLD_TEST).resolve()),
        form=None,
        columns=(),
        ignore=(),
        limit=None,
        out=out,
        machine=machine,
    )


def train_new(config: TrainConfig) -> None:
    """Train, calibrate and evaluate, as `assay train` does; from its newest checkpoint where it was stopped."""
    saved = train_and_keep(config)
    measured = kind_of(config.kind).measure(config, saved.scorer)
    if measured is not None:
        write_report(config.out, measured.kept_as, measured.result.report())
    write_run_page(config.out)


def gate_pairs(config: TrainConfig) -> list[PreferencePair]:
    """Pairs that neither model was trained on: the test split, which goes by prompt, of old and new pairs together."""
    return list(config.run_data.pairs("test"))


def held_against(
    old: Path,
    new: Path,
    pairs: Sequence[PreferencePair],
    settings: RefreshSettings,
    folder: Path,
    *,
    device: str,
    dtype: Dtype,
    seed: int,
) -> ComparisonResult:
    """`assay compare` of the model in use and the new one; the report is kept in the folder, with the margins, which `rescaled`
    reads.

    Raises DataError where one of them was trained on a prompt of the pairs.
    """
    name, sides = "pairs that neither was trained on", []
    for path, letter in ((old, "A"), (new, "B")):
        opened = open_scorer(path, device=device, dtype=dtype)
        refuse_seen(opened, pairs, name)
        with progress(f"scoring {letter}", 2 * len(pairs), "answers") as advance:
            scores = score_pairs(opened.scorer, pairs, advance)
        sides.append(Side(scores.margins, scores.probabilities if scores.has_probabilities else None))
    with replacing(folder / MARGINS) as work, work.open("wb") as file:
        np.save(file, np.stack([side.margins_P for side in sides]), allow_pickle=False)
    title = "The new reward model (B) against the one in use (A)"
    result = compare_margins(sides[0], sides[1], pairs, title=title, fdr=settings.fdr, drop=settings.drop, seed=seed)
    write_report(folder, "compare", result.report())
    return result


def rescaled(
    old: Path, new: Path, pairs: Sequence[PreferencePair], out: Path, *, device: str, dtype: Dtype, seed: int
) -> ScaleResult:
    """The new model with its head times the factor that brings it to the scale of the one in use, by the margins that
    `held_against` kept beside `out`, where the report goes too. Raises ValueError where fewer than 20 pairs were scored by both."""
    opened = [open_scorer(path, device=device, dtype=dtype) for path in (old, new)]
    of_old, of_new = np.load(out.parent / MARGINS, allow_pickle=False)
    result = measure_scale(of_old, of_new, pairs, title="Scale against the model in use", seed=seed)
    facts = {"old": opened[0].fingerprint, "model": opened[1].fingerprint, "reference": "pairs that neither was trained on"}
    result = replace(result, page=extended(result.page, first=facts))
    write_report(out.parent, "rescale", result.report())
    save_rescaled(opened[1].need_artifact("a rescaled model"), out, result)
    return result


def promote_in_service(service: ServedModel, artifact: Path, name: str) -> None:
    """Load the artifact into the service under that name and promote it; nothing where it is the current one already.

    Its rewards are on the scale already, so that the service leaves them. Where the service then answers with another model, it is
    rolled back, and EngineError is raised.
    """
    served = _served(service)
    if served["current"]["source"] == name:
        return
    if not (service.models_dir / name).is_dir():
        with new_directory(service.models_dir / name) as work:
            shutil.copytree(artifact, work, dirs_exist_ok=True)
    if served["candidate"] is None or served["candidate"]["source"] != name:
        change_models(service.url, "load", model=service.name, artifact=name, as_it_is=True)
    (now,) = change_models(service.url, "promote", model=service.name)
    if now["current"]["source"] != name:
        change_models(service.url, "rollback", model=service.name)
        raise EngineError(f"{service.url} answers with {now['current']['source']} after {name} was promoted: rolled back")
    say("promoted", f"{name} in {service.url}")


def roll_back_in_service(service: ServedModel, name: str) -> None:
    """Back to the model before; nothing where the one of that name is not the current one (any more)."""
    served = _served(service)
    if served["current"]["source"] == name:
        (now,) = change_models(service.url, "rollback", model=service.name)
        say("rolled back", f"{service.url} answers with {now['current']['source']}")


def _served(service: ServedModel) -> Mapping[str, Any]:
    """What the service says of the model. Raises ValueError where it serves several and none is named, or none of that name."""
    models = change_models(service.url, "list")
    named = [one for one in models if service.name in (None, one["name"])]
    if len(named) != 1:
        there = ", ".join(one["name"] for one in models)
        raise ValueError(f"{service.url} serves {there}: say which is to be replaced with --service-model")
    return dict(named[0])
