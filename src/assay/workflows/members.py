"""What is done with models that exist already: joined into an ensemble, averaged into one, or taken out of an ensemble again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from assay.models.artifact import ENSEMBLE, PROMPTS_FILE, load_artifact, read_description, save_artifact
from assay.models.member_files import copy_member, finish_ensemble, load_member, member_paths, new_ensemble
from assay.models.reward_model import RewardModel
from assay.scorers.ensemble import Combination, How
from assay.scorers.load import artifact_path
from assay.workflows.rundir import prompt_file
from assay.workflows.settings import HEAD_OF_BOTH, ModelPath
from assay.workflows.show import say

_SAME = {"template_digest": "chat template", "max_length": "max_length", "overlong": "length policy"}


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleConfig:
    """Join reward models: mean less a penalty on disagreement, and a std."""

    models: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories or artifacts, of any bases."""
    out: Path
    """Directory of the ensemble."""
    combine: How = "mean"
    penalty: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AverageConfig:
    """Average the weights of models of one base into a plain one (WARM)."""

    models: tyro.conf.Positional[tuple[Path, ...]]
    """Run directories or artifacts; of an ensemble all its members."""
    out: Path
    """Directory of the averaged model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportConfig:
    """Take one member out of an ensemble as a plain artifact."""

    model: ModelPath
    """Run directory or artifact of the ensemble."""
    out: Path
    member: int = 0


def join(config: EnsembleConfig) -> Path:
    """Write an ensemble of copies of the models; returns its directory.

    Raises ValueError for fewer than two, for the same one twice, for ensembles among them.
    """
    paths = [artifact_path(model) for model in config.models]
    descriptions = [read_description(path) for path in paths]
    Combination(how=config.combine, penalty=config.penalty)
    if len(paths) < 2:
        raise ValueError(f"an ensemble has at least two members, got {len(paths)}")
    for model, description in zip(config.models, descriptions, strict=True):
        if description.get(ENSEMBLE):
            raise ValueError(f"{model} is an ensemble itself: name its members, taken out with assay export")
    digests = [description["weights_digest"] for description in descriptions]
    if len(set(digests)) < len(digests):
        raise ValueError("two of the models have the same weights: their agreement would say nothing")
    with new_ensemble(config.out) as work:
        for number, path in enumerate(paths):
            copy_member(path, work, number)
        finish_ensemble(
            work,
            _joint(descriptions, f"{len(paths)} reward models, joined"),
            form="models",
            num_members=len(paths),
            combine=config.combine,
            penalty=config.penalty,
            train_prompts=_prompts(paths),
        )
    say("ensemble", f"{len(paths)} members -> {config.out}")
    return config.out


@torch.no_grad()
def average(config: AverageConfig) -> Path:
    """Write the mean of the models' weights as a plain artifact; returns its directory.

    Rame et al. (2024), "WARM": members that were fine-tuned from one base lie close enough for their mean to be a model. Raises
    ValueError for fewer than two members, and for members of another architecture, template or length policy.
    """
    paths = [artifact_path(model) for model in config.models]
    models = [_member(path, number) for path in paths for number in range(_num_members(path))]
    if len(models) < 2:
        raise ValueError(f"an average takes at least two models, got {len(models)}")
    descriptions = [read_description(path) for path in paths]
    if HEAD_OF_BOTH in {description.get("params") for description in descriptions}:
        fix = "join them with assay ensemble"
        raise ValueError(
            f"models of --params {HEAD_OF_BOTH} cannot be averaged, as their last layer is a product of weights: {fix}"
        )
    for key, name in _SAME.items():
        if any(description[key] != descriptions[0][key] for description in descriptions):
            raise ValueError(f"{config.models[0]} and another of the models differ in their {name}: an average would be of neither")
    first = models[0]
    for other in models[1:]:
        _refuse_unlike(first, other)
    weights = [dict(model.named_parameters()) for model in models]
    for name, value in first.named_parameters():
        value.copy_(torch.stack([of_member[name].float() for of_member in weights]).mean(dim=0))
    renderer = load_artifact(member_paths(paths[0])[0] if _is_directory(descriptions[0]) else paths[0]).renderer
    description = _joint(descriptions, f"the mean of the weights of {len(models)} reward models")
    dtype = getattr(torch, descriptions[0]["dtype"])
    save_artifact(first, renderer, config.out, description, dtype=dtype, train_prompts=_prompts(paths))
    say("average", f"of {len(models)} models -> {config.out}; not calibrated")
    return config.out


def export(config: ExportConfig) -> Path:
    """Write one member of an ensemble as a plain artifact; returns its directory. Raises ValueError for a single model."""
    path = artifact_path(config.model)
    description = read_description(path)
    if not description.get(ENSEMBLE):
        raise ValueError(f"{config.model} is a single model: it is a plain artifact as it is")
    num_members = _num_members(path)
    if not 0 <= config.member < num_members:
        raise ValueError(f"--member {config.member} is not in 0..{num_members - 1}")
    source = member_paths(path)[min(config.member, len(member_paths(path)) - 1)] if _is_directory(description) else path
    loaded = load_artifact(source)
    note = {"title": f"member {config.member} of {description.get('title', config.model.name)}", ENSEMBLE: None}
    facts = {**_of_training(read_description(source)), **note}
    dtype = getattr(torch, description["dtype"])
    save_artifact(_member(path, config.member), loaded.renderer, config.out, facts, dtype=dtype, train_prompts=_prompts([path]))
    say("member", f"{config.member} -> {config.out}; not calibrated")
    return config.out


def _num_members(path: Path) -> int:
    ensemble = read_description(path).get(ENSEMBLE)
    return int(ensemble["members"]) if ensemble else 1


def _member(path: Path, number: int) -> RewardModel:
    """One of the models in an artifact, with one head: the only one, or a member of an ensemble."""
    if _is_directory(read_description(path)):
        return load_member(path, number)
    whole = load_artifact(path).model
    head = torch.nn.Linear(whole.head.in_features, 1, bias=False)
    head.weight.data.copy_(whole.head.weight[number : number + 1])
    return RewardModel(whole.backbone, head, compute_dtype=whole.compute_dtype)


def _is_directory(description: dict[str, Any]) -> bool:
    return description.get("kind") == ENSEMBLE


def _refuse_unlike(first: RewardModel, other: RewardModel) -> None:
    ours, theirs = ({name: value.shape for name, value in model.named_parameters()} for model in (first, other))
    if ours != theirs:
        unlike = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
        needed = "only members of one base, cut at one --depth, are averaged"
        raise ValueError(f"the models are of different architectures (unlike in {unlike[:2]}): {needed}")


def _joint(descriptions: Sequence[dict[str, Any]], title: str) -> dict[str, Any]:
    """Entries of reward.json for what was made of several models."""
    names = sorted({str(description.get("base_model")) for description in descriptions})
    licences = sorted({str(description.get("base_license")) for description in descriptions if description.get("base_license")})
    return {
        "title": title,
        "base_model": ", ".join(names),
        "base_license": ", ".join(licences),
        "params": "members",
        "made_of": [description["fingerprint"] for description in descriptions],
        "data": list(descriptions[0].get("data", [])),
    }


def _of_training(description: dict[str, Any]) -> dict[str, Any]:
    kept = (
        "base_model",
        "base_note",
        "base_license",
        "base_revision",
        "depth",
        "objective",
        "params",
        "data",
        "splits",
        "settings",
    )
    return {name: description[name] for name in kept if name in description}


def _prompts(paths: Sequence[Path]) -> np.ndarray | None:
    """Hashes of all prompts that the models were trained on; None when one of them does not say."""
    known = [prompt_file(path, PROMPTS_FILE) for path in paths]
    if any(prompts is None for prompts in known):
        return None
    return np.unique(np.concatenate([prompts for prompts in known if prompts is not None]))
