"""The artifact: a plain Hugging Face directory of a classification class, with `reward.json` for what Assay adds to it.

Weights are safetensors, the head is named `score`; transformers, TRL, vLLM and RewardBench load it unchanged. The fingerprint is a
digest of weights, template, length policy, dtype and calibration.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoTokenizer

from assay.data.steps.laid_out import LAID_OUT, LaidOutRenderer
from assay.data.tokens.render import Renderer
from assay.data.tokens.score_template import SCORE_TEMPLATE_FILE, score_template
from assay.data.tokens.text_pair import TEXT_PAIR, PairRenderer, TextPath
from assay.errors import ArtifactError
from assay.files import digest, file_sha256, new_directory
from assay.models.backbone import Backbone, attention_for
from assay.models.base_checks import form_of
from assay.models.bases import no_progress_bars
from assay.models.encoder import EncoderModel, separator_of
from assay.models.heads import Head, head_named, head_of
from assay.models.reward_model import RewardModel
from assay.models.saved.golden import write_golden
from assay.models.saved.older_readers import spell_for_older_readers
from assay.models.saved.step_policy import StepPolicy
from assay.run_files import (
    CARD,
    ENSEMBLE,
    MONITOR,
    POSTERIOR,
    PROMPTS_FILE,
    REWARD_FILE,
    SCHEMA_VERSION,
    STEPS,
    fingerprint,
    read_description,
    write_description,
)

NO_FILES: Mapping[str, Mapping[str, torch.Tensor]] = {}
HEADS_FILE = "members/heads.safetensors"  # in a folder: engines load every safetensors file next to the weights


class Artifact(NamedTuple):
    """A loaded artifact: the model, its renderer, and the content of reward.json."""

    model: RewardModel | EncoderModel
    renderer: TextPath
    description: dict[str, Any]


@no_progress_bars()
def save_artifact(
    model: RewardModel | EncoderModel,
    renderer: TextPath,
    path: str | Path,
    description: Mapping[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
    train_prompts: np.ndarray | None = None,
    files: Mapping[str, Mapping[str, torch.Tensor]] = NO_FILES,
) -> dict[str, Any]:
    """Write the artifact directory, all or nothing, and return the content of reward.json.

    dtype: of the backbone's saved weights; the head stays float32. train_prompts: sorted hashes of the training prompts, saved so
    that evaluating on them can be refused. Of K heads the mean is saved as `score`, and the offsets from it in
    members/heads.safetensors. files: further safetensors files, path below the artifact -> tensors. Raises ValueError for a base
    without the class that the head needs.
    """
    path, kept = Path(path), head_of(model.outputs)
    num_outputs = model.head.out_features
    plain = _plain_model(model, renderer, dtype)
    with new_directory(path) as work:
        plain.save_pretrained(work)
        renderer.tokenizer.save_pretrained(work)
        if isinstance(renderer, Renderer) and (template := score_template(renderer)) is not None:
            (work / SCORE_TEMPLATE_FILE).write_text(template, encoding="utf-8")
        spell_for_older_readers(work, takes_types=isinstance(model, EncoderModel) and model.separator is not None)
        if beside := {} if isinstance(model, EncoderModel) else kept.beside(model.head):
            (work / HEADS_FILE).parent.mkdir()
            save_file(dict(beside), work / HEADS_FILE)
        for name, tensors in files.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            save_file(dict(tensors), work / name)
        if train_prompts is not None:
            np.save(work / PROMPTS_FILE, train_prompts)
        description = {
            "schema_version": SCHEMA_VERSION,
            "kind": kept.kind,
            "head": {"name": "score", kept.outputs: num_outputs, "dtype": "float32"},
            **({} if kept.card is None else {CARD: dict(kept.card)}),
            **({STEPS: StepPolicy().entry()} if kept.reads_steps else {}),
            **{name: value for name, value in description.items() if name != POSTERIOR},  # of the weights that it was fitted to
            **renderer.settings(),
            "dtype": str(dtype).removeprefix("torch."),
            "weights_digest": weights_digest(work),
            "template_digest": digest(renderer.template),
            "calibration": description.get("calibration"),
        }
        written = write_description(work, description)
        write_golden(work, *load_artifact(work))
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
    plain, tokenizer = _load_plain(path, kept, dtype)
    model = _decoder(plain, path, kept, dtype) if _has_score(plain) else _encoder(plain, tokenizer, path)
    renderer = _renderer(tokenizer, description)
    if digest(renderer.template) != description["template_digest"]:
        raise ArtifactError(f"{path}: the chat template is not the one that the artifact was saved with; restore it or retrain")
    verify_digest(path)
    return Artifact(model.to(device).eval(), renderer, description)


def _load_plain(path: Path, kept: Head, dtype: torch.dtype) -> tuple[Any, Any]:
    """transformers' model and tokenizer of an artifact. Raises ArtifactError for missing or surplus weights, or other shapes."""
    try:
        config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
        form = form_of(config, kept)
        attention = attention_for(config) if form is None or form.reads_last_token else None
        plain, loading = kept.loader.from_pretrained(
            str(path), dtype=dtype, attn_implementation=attention, output_loading_info=True, trust_remote_code=False
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
    return plain, tokenizer


def _has_score(plain: Any) -> bool:
    """Whether it is a decoder; an encoder has a head of its own."""
    return isinstance(getattr(plain, "score", None), nn.Linear)


def _decoder(plain: Any, path: Path, kept: Head, dtype: torch.dtype) -> RewardModel:
    """The backbone, and the head in float32 with what lies beside it."""
    saved = {name: _read_tensor(path, f"score.{name}") for name, _ in plain.score.named_parameters()}
    head = kept.restored(saved, _read_beside(path))
    backbone = Backbone(getattr(plain, plain.base_model_prefix))
    return RewardModel(backbone, head, outputs=kept.outputs, compute_dtype=dtype)


def _encoder(plain: Any, tokenizer: Any, path: Path) -> EncoderModel:
    """The model with its last linear map in float32, as it was saved."""
    model = EncoderModel(plain, separator=separator_of(tokenizer, plain.config))
    name = next(name for name, part in plain.named_modules() if part is model.head)
    with torch.no_grad():
        for part, value in model.head.named_parameters():
            value.copy_(_read_tensor(path, f"{name}.{part}").float())
    return model


def _renderer(tokenizer: Any, description: Mapping[str, Any]) -> TextPath:
    length, overlong = description["max_length"], description["overlong"]
    if description.get("input") == TEXT_PAIR:
        return PairRenderer(tokenizer, max_length=length, overlong=overlong)
    if description.get("input") == LAID_OUT:
        return LaidOutRenderer.from_settings(tokenizer, dict(description))
    return Renderer(tokenizer, max_length=length, overlong=overlong, closes=description.get("closes", True))


def saved_constant(path: str | Path) -> float:
    """What an adopted head adds to every reward beside what transformers' class computes; 0 for every other artifact."""
    bias = _read_beside(Path(path)).get("bias")
    return 0.0 if bias is None else float(bias.mean())


def _read_beside(path: Path) -> dict[str, torch.Tensor]:
    """What the plain head has no place for: "offsets" of members, the "bias" of an adopted head."""
    return load_file(path / HEADS_FILE) if (path / HEADS_FILE).is_file() else {}


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
    left_out = {MONITOR, POSTERIOR}
    files = sorted(file for file in Path(path).rglob("*.safetensors") if left_out.isdisjoint(file.relative_to(path).parts))
    if not files:
        raise ArtifactError(f"{path} holds no safetensors file")
    return digest(b"".join(bytes.fromhex(file_sha256(file)) for file in files))


def _as_reward(config: Any, labels: Sequence[str], pad_id: int, dtype: torch.dtype) -> None:
    """Say in a configuration what the outputs are, and that nothing is put over them."""
    config.num_labels, config.id2label = len(labels), dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    config.problem_type = "regression"  # else transformers' pipeline, and vLLM by default, apply a sigmoid to the reward
    config.get_text_config().pad_token_id = config.pad_token_id = pad_id
    config.dtype = dtype


def _plain_model(model: RewardModel | EncoderModel, renderer: TextPath, dtype: torch.dtype) -> Any:
    """The model of transformers that shares the reward model's weights (cast where dtype differs), with the plain head."""
    kept = head_of(model.outputs)
    if isinstance(model, EncoderModel):
        _as_reward(model.plain.config, kept.labels(1), renderer.pad_id, dtype)
        return model.plain
    base: Any = model.backbone.model
    config = copy.deepcopy(base.config)
    if type(config) not in kept.classes:
        raise ValueError(f"transformers has no {kept.task} class for {type(config).__name__}: choose another base")
    num_rows = base.get_input_embeddings().num_embeddings
    if renderer.pad_id >= num_rows:
        raise ValueError(f"pad token {renderer.pad_id} has none of the {num_rows} embeddings: model.resize_token_embeddings first")
    _as_reward(config, kept.labels(model.head.out_features), renderer.pad_id, dtype)
    with torch.device("meta"):
        plain = kept.classes[type(config)](config)
    state = {f"{plain.base_model_prefix}.{name}": value.detach().to(dtype) for name, value in base.state_dict().items()}
    state |= {f"score.{name}": value for name, value in kept.saved(model.head).items()}
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
