"""The artifact: a plain Hugging Face sequence-classification directory that also says everything Assay knows of it.

Weights are safetensors, the head is named `score`; transformers, TRL, vLLM and RewardBench load it unchanged. `reward.json`
holds the rest. The fingerprint is a digest of weights, template, length policy, dtype and calibration.
"""

from __future__ import annotations

import copy
import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from assay.data.render import Renderer
from assay.errors import ArtifactError
from assay.models.backbone import Backbone, attention_for
from assay.models.golden import write_golden
from assay.models.reward_model import RewardModel

REWARD_FILE = "reward.json"
PROMPTS_FILE = "train_prompts.npy"
ENSEMBLE = "ensemble"  # the kind of a directory of members, and the entry that says how they are combined
SCHEMA_VERSION = 1
MONITOR = "monitor"  # folder of what is watched by, such as the reference of assay drift; no part of what decides a score
HEADS_FILE = "members/heads.safetensors"  # not beside the weights: engines load every safetensors file that lies there
_DECIDING = ("weights_digest", "template_digest", "max_length", "overlong", "dtype", "calibration")


class Artifact(NamedTuple):
    """A loaded artifact: the model, its text-to-token path, and the content of reward.json."""

    model: RewardModel
    renderer: Renderer
    description: dict[str, Any]


def save_artifact(
    model: RewardModel,
    renderer: Renderer,
    path: str | Path,
    description: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
    train_prompts: np.ndarray | None = None,
) -> dict[str, Any]:
    """Write the artifact directory, all or nothing, and return what reward.json says.

    dtype: of the backbone's saved weights; the head stays float32. train_prompts: sorted hashes of the prompts trained on, kept
    beside the weights so that evaluating on them can be refused. Of K heads the mean is the plain model's `score`, and their
    offsets from it are members/heads.safetensors. Raises ValueError for a base without a sequence-classification class.
    """
    path = Path(path)
    plain = _plain_model(model, renderer, dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as outer:
        work = Path(outer) / "new"
        work.mkdir()
        plain.save_pretrained(work)
        renderer.tokenizer.save_pretrained(work)
        if model.head.out_features > 1:
            (work / HEADS_FILE).parent.mkdir()
            heads_KD = model.head.weight.detach().float().cpu()
            save_file({"offsets": heads_KD - heads_KD.mean(dim=0)}, work / HEADS_FILE)
        if train_prompts is not None:
            np.save(work / PROMPTS_FILE, train_prompts)
        description = {
            "schema_version": SCHEMA_VERSION,
            "kind": "scalar",
            "head": {"name": "score", "members": model.head.out_features, "dtype": "float32"},
            **description,
            **renderer.settings(),
            "dtype": str(dtype).removeprefix("torch."),
            "weights_digest": weights_digest(work),
            "template_digest": _text_digest(renderer.tokenizer.chat_template),
            "calibration": description.get("calibration"),
        }
        written = write_description(work, description)
        write_golden(work, *load_artifact(work)[:2])
        if path.exists():
            path.rename(Path(outer) / "old")
        work.rename(path)
    return written


def load_artifact(path: str | Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Artifact:
    """Load an artifact to run in `dtype` (the head always in float32).

    Raises ArtifactError when a file or a weight is missing (a head is never silently re-initialised), and when the weights are not
    those of the fingerprint.
    """
    path = Path(path)
    description = read_description(path)
    if description.get("kind") == ENSEMBLE:
        raise ArtifactError(f"{path} is an ensemble, not one model: take a member out with assay export, and give that")
    try:
        config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
        plain, loading = AutoModelForSequenceClassification.from_pretrained(
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
    model = RewardModel(Backbone(getattr(plain, plain.base_model_prefix)), head, compute_dtype=dtype).to(device).eval()
    renderer = Renderer(tokenizer, max_length=description["max_length"], overlong=description["overlong"])
    if _text_digest(tokenizer.chat_template) != description["template_digest"]:
        raise ArtifactError(f"{path}: the chat template is not the one that the artifact was saved with; restore it or retrain")
    verify_digest(path)
    return Artifact(model, renderer, description)


def read_description(path: str | Path) -> dict[str, Any]:
    """The content of reward.json. Raises ArtifactError when it is missing, not JSON or of a newer schema."""
    file = Path(path) / REWARD_FILE
    if not file.is_file():
        raise ArtifactError(f"{path} holds no {REWARD_FILE}: it is not an artifact of Assay")
    try:
        description = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{file} is not JSON ({error}): the artifact is damaged") from error
    if not isinstance(description, dict):
        raise ArtifactError(f"{file} is not a JSON object: the artifact is damaged")
    if description.get("schema_version", 0) > SCHEMA_VERSION:
        raise ArtifactError(
            f"{file} has schema {description['schema_version']}, this Assay reads {SCHEMA_VERSION}: upgrade assay-rm"
        )
    missing = {"fingerprint", *_DECIDING} - description.keys()
    if missing:
        raise ArtifactError(f"{file} lacks {', '.join(sorted(missing))}: the artifact is damaged")
    return description


def write_description(path: str | Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """Write reward.json with the fingerprint brought up to date, by rename, and return its content."""
    full = {**description, "fingerprint": fingerprint(description)}
    file = Path(path) / REWARD_FILE
    work = file.with_suffix(".tmp")
    work.write_text(json.dumps(full, indent=1, ensure_ascii=False, allow_nan=False))
    work.replace(file)
    return full


def fingerprint(description: Mapping[str, Any]) -> str:
    """Digest of what decides a score: weights, template, length policy, saved dtype, calibration, and how members are combined."""
    parts = [description.get(part) for part in _DECIDING]
    if description.get(ENSEMBLE):
        parts.append(description[ENSEMBLE])
    return _text_digest(json.dumps(parts, sort_keys=True))


def verify_digest(path: str | Path) -> None:
    """Hash the files again. Raises ArtifactError when weights, template or settings are not those of the fingerprint."""
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
    """sha256 over the safetensors files in name order, those of members below included (32 hex digits are kept)."""
    digest = hashlib.sha256()
    files = sorted(file for file in Path(path).rglob("*.safetensors") if MONITOR not in file.relative_to(path).parts)
    if not files:
        raise ArtifactError(f"{path} holds no safetensors file")
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:32]


def _plain_model(model: RewardModel, renderer: Renderer, dtype: torch.dtype) -> Any:
    """The transformers ForSequenceClassification model that shares the reward model's weights (cast where dtype differs)."""
    base: Any = model.backbone.model
    config = copy.deepcopy(base.config)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise ValueError(f"transformers has no sequence-classification class for {type(config).__name__}: choose another base")
    num_rows = base.get_input_embeddings().num_embeddings
    if renderer.pad_id >= num_rows:
        raise ValueError(f"pad token {renderer.pad_id} has none of the {num_rows} embeddings: model.resize_token_embeddings first")
    config.num_labels, config.id2label, config.label2id = 1, {0: "reward"}, {"reward": 0}
    config.problem_type = "regression"  # else transformers' pipeline, and vLLM unless told not to, put a sigmoid over the reward
    config.get_text_config().pad_token_id = config.pad_token_id = renderer.pad_id
    config.dtype = dtype
    with torch.device("meta"):
        plain = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)](config)
    state = {f"{plain.base_model_prefix}.{name}": value.detach().to(dtype) for name, value in base.state_dict().items()}
    state["score.weight"] = model.head.weight.detach().float().mean(dim=0, keepdim=True)
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


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
