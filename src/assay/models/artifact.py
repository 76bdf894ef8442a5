"""The artifact: a plain Hugging Face sequence-classification directory, with `reward.json` for what Assay adds to it.

Weights are safetensors, the head is named `score`; transformers, TRL, vLLM and RewardBench load it unchanged. The fingerprint is a
digest of weights, template, length policy, dtype and calibration.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoTokenizer

from assay.data.render import Renderer
from assay.errors import ArtifactError
from assay.files import digest, file_sha256, new_directory
from assay.models.backbone import Backbone, attention_for
from assay.models.bases import no_progress_bars
from assay.models.golden import write_golden
from assay.models.heads import head_named, head_of
from assay.models.reward_model import RewardModel
from assay.run_files import (
    ENSEMBLE,
    MONITOR,
    PROMPTS_FILE,
    REWARD_FILE,
    SCHEMA_VERSION,
    fingerprint,
    read_description,
    write_description,
)

HEADS_FILE = "members/heads.safetensors"  # in a folder: engines load every safetensors file next to the weights


class Artifact(NamedTuple):
    """A loaded artifact: the model, its renderer, and the content of reward.json."""

    model: RewardModel
    renderer: Renderer
    description: dict[str, Any]


@no_progress_bars()
def save_artifact(
    model: RewardModel,
    renderer: Renderer,
    path: str | Path,
    description: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
    train_prompts: np.ndarray | None = None,
) -> dict[str, Any]:
    """Write the artifact directory, all or nothing, and return the content of reward.json.

    dtype: of the backbone's saved weights; the head stays float32. train_prompts: sorted hashes of the training prompts, saved so
    that evaluating on them can be refused. Of K heads the mean is saved as `score`, and the offsets from it in
    members/heads.safetensors. Raises ValueError for a base without a sequence-classification class, and for a head of labels or
    attributes.
    """
    path, kept = Path(path), head_of(model.outputs)
    num_outputs = model.head.out_features
    plain = _plain_model(model, renderer, dtype)
    with new_directory(path) as work:
        plain.save_pretrained(work)
        renderer.tokenizer.save_pretrained(work)
        if model.outputs == "members" and num_outputs > 1:
            (work / HEADS_FILE).parent.mkdir()
            heads_KD = model.head.weight.detach().float().cpu()
            save_file({"offsets": heads_KD - heads_KD.mean(dim=0)}, work / HEADS_FILE)
        if train_prompts is not None:
            np.save(work / PROMPTS_FILE, train_prompts)
        description = {
            "schema_version": SCHEMA_VERSION,
            "kind": kept.kind,
            "head": {"name": "score", kept.outputs: num_outputs, "dtype": "float32"},
            **description,
            **renderer.settings(),
            "dtype": str(dtype).removeprefix("torch."),
            "weights_digest": weights_digest(work),
            "template_digest": digest(renderer.tokenizer.chat_template),
            "calibration": description.get("calibration"),
        }
        written = write_description(work, description)
        write_golden(work, *load_artifact(work)[:2])
    return written


@no_progress_bars()
def load_artifact(path: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Artifact:
    """Load an artifact to run in `dtype` (the head always in float32).

    Raises ArtifactError when a file or a weight is missing (a head is never initialised at random), and when the weights do not
    match the fingerprint.
    """
    path = Path(path)
    description = read_description(path)
    if description.get("kind") == ENSEMBLE:
        raise ArtifactError(f"{path} is an ensemble, not one model: take a member out with assay model export, and give that")
    kept = head_named(description.get("kind", "scalar"))
    try:
        config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
        plain, loading = kept.loader.from_pretrained(
            str(path), dtype=dtype, attn_implementation=attention_for(config), output_loading_info=True, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, RuntimeError, SafetensorError, ValueError) as error:  # RuntimeError: weights of another shape
        raise ArtifactError(f"{path} cannot be loaded: {error}") from error
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading.get(key):
            some = sorted(map(str, loading[key]))[:3]
            raise ArtifactError(
                f"{path}: the weights do not fit the model ({key.replace('_', ' ')}: {some}); the head would be random"
            )
    weight_KD = _read_tensor(path, "score.weight").float()
    if (path / HEADS_FILE).is_file():
        weight_KD = weight_KD + load_file(path / HEADS_FILE)["offsets"]
    head = nn.Linear(plain.score.in_features, len(weight_KD), bias=False, dtype=torch.float32)
    with torch.no_grad():
        head.weight.copy_(weight_KD)
    model = RewardModel(Backbone(getattr(plain, plain.base_model_prefix)), head, outputs=kept.outputs, compute_dtype=dtype)
    model = model.to(device).eval()
    renderer = Renderer(tokenizer, max_length=description["max_length"], overlong=description["overlong"])
    if digest(tokenizer.chat_template) != description["template_digest"]:
        raise ArtifactError(f"{path}: the chat template is not the one that the artifact was saved with; restore it or retrain")
    verify_digest(path)
    return Artifact(model, renderer, description)


def verify_digest(path: str | Path) -> None:
    """Hash the files again. Raises ArtifactError when weights, template or settings do not match the fingerprint."""
    description = read_description(path)
    if weights_digest(path) != description["weights_digest"]:
        raise ArtifactError(
            f"{path}: the weights were changed after the artifact was saved (digest {description['weights_digest']})"
        )
    if fingerprint(description) != description["fingerprint"]:
        raise ArtifactError(
            f"{path}: {REWARD_FILE} was edited: its settings do not give its fingerprint {description['fingerprint']}"
        )


def weights_digest(path: str | Path) -> str:
    """sha256 over the safetensors files in name order, with those of members (the first 32 hex digits)."""
    files = sorted(file for file in Path(path).rglob("*.safetensors") if MONITOR not in file.relative_to(path).parts)
    if not files:
        raise ArtifactError(f"{path} holds no safetensors file")
    return digest(b"".join(bytes.fromhex(file_sha256(file)) for file in files))


def _plain_model(model: RewardModel, renderer: Renderer, dtype: torch.dtype) -> Any:
    """The model of transformers that shares the reward model's weights (cast where dtype differs), with the plain head."""
    kept = head_of(model.outputs)
    base: Any = model.backbone.model
    config = copy.deepcopy(base.config)
    if type(config) not in kept.classes:
        raise ValueError(f"transformers has no {kept.task} class for {type(config).__name__}: choose another base")
    num_rows = base.get_input_embeddings().num_embeddings
    if renderer.pad_id >= num_rows:
        raise ValueError(f"pad token {renderer.pad_id} has none of the {num_rows} embeddings: model.resize_token_embeddings first")
    labels = kept.labels(model.head.out_features)
    config.num_labels, config.id2label = len(labels), dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    config.problem_type = "regression"  # else transformers' pipeline, and vLLM by default, apply a sigmoid to the reward
    config.get_text_config().pad_token_id = config.pad_token_id = renderer.pad_id
    config.dtype = dtype
    with torch.device("meta"):
        plain = kept.classes[type(config)](config)
    state = {f"{plain.base_model_prefix}.{name}": value.detach().to(dtype) for name, value in base.state_dict().items()}
    state["score.weight"] = kept.saved(model.head.weight.detach().float())
    missing, unexpected = plain.load_state_dict(state, strict=False, assign=True)
    if missing or unexpected:
        raise ArtifactError(
            f"{type(plain).__name__} does not take these weights (missing {missing[:3]}, unexpected {unexpected[:3]})"
        )
    return plain


def _read_tensor(path: Path, name: str) -> torch.Tensor:
    for file in sorted(path.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            if name in tensors.keys():  # noqa: SIM118  (a safe_open handle is no mapping)
                return tensors.get_tensor(name)
    raise ArtifactError(f"{path} holds no {name}: the head is missing")
