"""Operations on saved models: join them into an ensemble, average their weights, take a member out of an ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay.files import new_directory
from assay.models.encoder import EncoderModel
from assay.models.mean_layer import HEAD_MEAN
from assay.models.reward_model import RewardModel
from assay.models.saved.artifact import load_artifact, save_artifact
from assay.models.saved.ensemble_files import copy_member, finish_ensemble, load_member, member_paths
from assay.run_files import (
    ENSEMBLE,
    WORDS_FILE,
    MemberScale,
    artifact_path,
    prompt_file,
    read_description,
    saved_scales,
    words_file,
)

_SAME = {"template_digest": "chat template", "max_length": "max_length", "overlong": "length policy"}


def refuse_join(models: Sequence[Path]) -> None:
    """Raises ValueError for fewer than two models, for the same model twice, and for an ensemble among them."""
    descriptions = [read_description(artifact_path(model)) for model in models]
    if len(models) < 2:
        raise ValueError(f"an ensemble has at least two members, got {len(models)}")
    for model, description in zip(models, descriptions, strict=True):
        if description.get(ENSEMBLE):
            raise ValueError(f"{model} is an ensemble itself: name its members, taken out with assay model export")
    digests = [description["weights_digest"] for description in descriptions]
    if len(set(digests)) < len(digests):
        raise ValueError("two of the models have the same weights: their agreement would say nothing")


def join(
    models: Sequence[Path], out: Path, *, combination: Mapping[str, Any], scales: Sequence[MemberScale], scaled_by: str
) -> Path:
    """Write an ensemble of copies of the models (runs or artifacts) to `out`; returns it. combination: its entry in reward.json.

    scales: what each model's rewards are brought to before they are combined; scaled_by: what they were measured on, in words.
    Raises ValueError as `refuse_join`, and for another number of scales.
    """
    refuse_join(models)
    if len(scales) != len(models):
        raise ValueError(f"{len(scales)} scales for {len(models)} models: give one each")
    paths = [artifact_path(model) for model in models]
    descriptions = [read_description(path) for path in paths]
    with new_directory(out) as work:
        for number, path in enumerate(paths):
            copy_member(path, work, number)
        finish_ensemble(
            work,
            _joint(descriptions, f"{len(paths)} reward models, joined"),
            form="models",
            num_members=len(paths),
            combination=combination,
            scales=scales,
            scaled_by=scaled_by,
            train_prompts=_prompts(paths),
        )
    return out


def refuse_average(models: Sequence[Path]) -> None:
    """Raises ValueError for fewer than two models (of an ensemble all members count), and when their templates or length policies
    differ."""
    paths = [artifact_path(model) for model in models]
    if (number := sum(map(_num_members, paths))) < 2:
        raise ValueError(f"an average takes at least two models, got {number}")
    descriptions = [read_description(path) for path in paths]
    if HEAD_MEAN in {description.get("params") for description in descriptions}:
        fix = "join them with assay model ensemble"
        raise ValueError(f"models of --params {HEAD_MEAN} cannot be averaged, as their last layer is a product of weights: {fix}")
    for key, name in _SAME.items():
        if any(description[key] != descriptions[0][key] for description in descriptions):
            raise ValueError(f"{models[0]} and another of the models differ in their {name}: an average would be of neither")


@torch.no_grad()
def average(models: Sequence[Path], out: Path, *, units: Sequence[float]) -> int:
    """Write the mean of the models' weights to `out` as a plain artifact; of an ensemble all members count. Returns the number of
    models in the mean.

    units: of each model, what its head is divided by first: the mean of unlike heads would be that of the largest.
    Rame et al. (2024), "WARM": the weights of models that were fine-tuned from one base are close enough for their mean to work as
    a model. Raises ValueError as `refuse_average`, when architectures differ, and for another number of units.
    """
    refuse_average(models)
    if len(units) != len(models):
        raise ValueError(f"{len(units)} units for {len(models)} models: give one each")
    paths = [artifact_path(model) for model in models]
    descriptions = [read_description(path) for path in paths]
    members = []
    for path, description, unit in zip(paths, descriptions, units, strict=True):
        for number, scale in enumerate(saved_scales(description)):
            members.append(_member(path, number))
            members[-1].head.weight.div_(unit * scale.unit)
    first = members[0]
    for other in members[1:]:
        _refuse_unlike(first, other)
    weights = [dict(model.named_parameters()) for model in members]
    for name, value in first.named_parameters():
        value.copy_(torch.stack([of_member[name].float() for of_member in weights]).mean(dim=0))
    renderer = load_artifact(member_paths(paths[0])[0] if _is_directory(descriptions[0]) else paths[0]).renderer
    description = _joint(descriptions, f"the mean of the weights of {len(members)} reward models")
    dtype = getattr(torch, descriptions[0]["dtype"])
    save_artifact(first, renderer, out, description, dtype=dtype, train_prompts=_prompts(paths))
    _carry_words([words_file(path) for path in paths], out)
    return len(members)


def export(model: Path, member: int, out: Path) -> Path:
    """Write one member of an ensemble to `out` as a plain artifact; returns it. Raises ValueError for a single model."""
    path = artifact_path(model)
    description = read_description(path)
    if not description.get(ENSEMBLE):
        raise ValueError(f"{model} is a single model: it is a plain artifact as it is")
    num_members = _num_members(path)
    if not 0 <= member < num_members:
        raise ValueError(f"--member {member} is not in 0..{num_members - 1}")
    source = member_paths(path)[min(member, len(member_paths(path)) - 1)] if _is_directory(description) else path
    loaded = load_artifact(source)
    note = {"title": f"member {member} of {description.get('title', model.name)}", ENSEMBLE: None}
    facts = {**_of_training(read_description(source)), **note}
    dtype = getattr(torch, description["dtype"])
    save_artifact(_member(path, member), loaded.renderer, out, facts, dtype=dtype, train_prompts=_prompts([path]))
    _carry_words([words_file(path / "members" / str(member)) or words_file(path)], out)
    return out


def _num_members(path: Path) -> int:
    ensemble = read_description(path).get(ENSEMBLE)
    return int(ensemble["members"]) if ensemble else 1


def _member(path: Path, number: int) -> RewardModel:
    """One model of an artifact, with one head: the only model, or a member of an ensemble."""
    if _is_directory(read_description(path)):
        return load_member(path, number)
    whole = load_artifact(path).model
    if isinstance(whole, EncoderModel):
        raise ValueError(f"{path} is an encoder: encoders are joined with assay model ensemble, not averaged")
    if whole.num_members == 1:
        return whole
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
    """Entries of reward.json for a model made of several models."""
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
    """Hashes of all prompts that the models were trained on; None when those of one model are not known."""
    known = [prompt_file(path) for path in paths]
    if any(prompts is None for prompts in known):
        return None
    return np.unique(np.concatenate([prompts for prompts in known if prompts is not None]))


def _carry_words(files: Sequence[Path | None], out: Path) -> None:
    """Give a new artifact the bag of words of the models that it is made of, if all have the same: one of other training pairs
    would be a baseline of only some of them. Without one, evaluation cross-validates and says so."""
    contents = {file.read_bytes() if file else None for file in files}
    if len(contents) == 1 and (content := contents.pop()) is not None:
        (out / WORDS_FILE).write_bytes(content)
