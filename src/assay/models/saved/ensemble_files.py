"""An ensemble on disk: a directory of plain artifacts, or one plain artifact and the tensors in which the other members differ.

artifact/reward.json             kind "ensemble", its form, how members are combined, one fingerprint for all
artifact/members/0/              a plain artifact
artifact/members/1/              form "models": another
artifact/members/1.safetensors   form "blocks": last layers, norm and head of member 1, by their names in member 0
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from assay.data.tokens.render import Renderer
from assay.errors import ArtifactError
from assay.models.backbone import split_backbone
from assay.models.encoder import EncoderModel
from assay.models.reward_model import RewardModel
from assay.models.saved.artifact import load_artifact, save_artifact, verify_digest, weights_digest
from assay.models.shared_trunk import SharedTrunk
from assay.run_files import (
    ENSEMBLE,
    MONITOR,
    POSTERIOR,
    PROMPTS_FILE,
    SCHEMA_VERSION,
    MemberScale,
    read_description,
    write_description,
)

MEMBERS = "members"
_AS_FIRST = ("template_digest", "max_length", "overlong", "dtype")


class Members(NamedTuple):
    """A loaded ensemble of form "blocks"."""

    model: SharedTrunk
    renderer: Renderer
    description: dict[str, Any]


def save_member(
    work: Path,
    number: int,
    model: RewardModel,
    renderer: Renderer,
    description: Mapping[str, Any],
    *,
    own: Sequence[str] | None,
    dtype: torch.dtype,
) -> None:
    """Add one member to a new ensemble. own: names of the backbone's parameters that differ from member 0; None for all."""
    if own is None or number == 0:
        save_artifact(model, renderer, work / MEMBERS / str(number), description, dtype=dtype)
        return
    values = dict(model.backbone.model.named_parameters())
    tensors = {name: values[name].detach().to(dtype).cpu().contiguous() for name in own}
    save_file({**tensors, "score.weight": model.head.weight.detach().float().cpu()}, work / MEMBERS / f"{number}.safetensors")


def finish_ensemble(
    work: Path,
    description: Mapping[str, Any],
    *,
    form: str,
    num_members: int,
    combination: Mapping[str, Any],
    num_blocks: int = 0,
    scales: Sequence[MemberScale] = (),
    scaled_by: str = "",
    train_prompts: np.ndarray | None = None,
) -> dict[str, Any]:
    """Write reward.json for the members that were added; returns its content. The others: see `ensemble_entry`."""
    first = read_description(work / MEMBERS / "0")
    if train_prompts is not None:
        np.save(work / PROMPTS_FILE, train_prompts)
    ensemble = ensemble_entry(form, num_members, combination=combination, scales=scales, scaled_by=scaled_by)
    return write_description(
        work,
        {
            "schema_version": SCHEMA_VERSION,
            **description,
            "kind": ENSEMBLE,
            ENSEMBLE: ensemble | ({"blocks": num_blocks} if num_blocks else {}),
            **{name: first[name] for name in _AS_FIRST},
            "weights_digest": weights_digest(work),
            "calibration": None,
        },
    )


def ensemble_entry(
    form: str, num_members: int, *, combination: Mapping[str, Any], scales: Sequence[MemberScale], scaled_by: str
) -> dict[str, Any]:
    """What reward.json says of an ensemble. combination: the entry of how the members become one reward. scales: of the members,
    in their order; scaled_by: what they were measured on."""
    scaled = {"scales": [list(scale) for scale in scales], "scaled_by": scaled_by}
    return {"form": form, "members": num_members, **combination, **scaled}


def member_paths(path: str | Path) -> list[Path]:
    """The plain artifacts of an ensemble of form "models", in order; of form "blocks" only that of the first member."""
    num_members = read_description(path)[ENSEMBLE]["members"]
    paths = [Path(path) / MEMBERS / str(number) for number in range(num_members)]
    return [member for member in paths if member.is_dir()]


def load_blocks(path: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Members:
    """Load an ensemble of form "blocks" as members over one trunk.

    Raises ArtifactError for a member that is missing or does not fit, and for files that do not match the fingerprint.
    """
    path = Path(path)
    description = read_description(path)
    verify_digest(path)
    first = _first(path, dtype)
    others = range(1, description[ENSEMBLE]["members"])
    wholes = [first.model, *(_with_own(first.model, path / MEMBERS / f"{number}.safetensors") for number in others)]
    num_blocks = int(description[ENSEMBLE]["blocks"])
    trunk, _ = split_backbone(wholes[0].backbone, num_blocks)
    tops = [RewardModel(split_backbone(whole.backbone, num_blocks)[1], whole.head, compute_dtype=dtype) for whole in wholes]
    return Members(SharedTrunk(trunk, tops).to(device).eval(), first.renderer, description)


def load_member(path: str | Path, number: int) -> RewardModel:
    """One member of an ensemble of either form as a single model, in float32."""
    description = read_description(path)
    num_members = description[ENSEMBLE]["members"]
    if not 0 <= number < num_members:
        raise ValueError(f"member {number} is not in 0..{num_members - 1}")
    if (folder := Path(path) / MEMBERS / str(number)).is_dir():
        model = load_artifact(folder).model
        if isinstance(model, EncoderModel):
            raise ValueError(f"member {number} of {path} is an encoder, which is not averaged: copy it from {folder}")
        return model
    return _with_own(_first(Path(path)).model, Path(path) / MEMBERS / f"{number}.safetensors")


def copy_member(source: Path, work: Path, number: int) -> None:
    """Add a copy of a plain artifact to a new ensemble."""
    shutil.copytree(source, work / MEMBERS / str(number), ignore=shutil.ignore_patterns("eval", MONITOR, POSTERIOR))
    if (description := read_description(work / MEMBERS / str(number))).pop(POSTERIOR, None):  # a member has no std of its own
        write_description(work / MEMBERS / str(number), description)


class _Member(NamedTuple):
    model: RewardModel
    renderer: Renderer


def _first(path: Path, dtype: torch.dtype = torch.float32) -> _Member:
    """The first member of an ensemble of form "blocks", a decoder. Raises ArtifactError for anything else."""
    loaded = load_artifact(path / MEMBERS / "0", dtype=dtype)
    if not isinstance(loaded.model, RewardModel) or not isinstance(loaded.renderer, Renderer):
        raise ArtifactError(f"{path}: member 0 is an encoder, which has no blocks in common with others: the ensemble is damaged")
    return _Member(loaded.model, loaded.renderer)


def _with_own(first: RewardModel, file: Path) -> RewardModel:
    """A model that shares all tensors with `first` except those in the file."""
    try:
        own = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{file} cannot be read ({error}): the ensemble is damaged") from error
    head = own.pop("score.weight")
    named = dict(first.backbone.model.named_parameters())
    unknown = [name for name, value in own.items() if name not in named or named[name].shape != value.shape]
    if unknown or head.shape != first.head.weight.shape:
        raise ArtifactError(f"{file} does not fit member 0 ({unknown[:3] or 'score.weight'}): the ensemble is damaged")
    memo: dict[int, Any] = {id(value): value for name, value in named.items() if name not in own}
    memo |= {id(named[name]): nn.Parameter(value.to(named[name].dtype), requires_grad=False) for name, value in own.items()}
    memo[id(first.head.weight)] = nn.Parameter(head, requires_grad=False)
    return copy.deepcopy(first, memo)
