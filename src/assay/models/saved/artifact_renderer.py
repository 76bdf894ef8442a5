"""The renderer of an artifact without its model: what asks an engine that serves the artifact needs the same tokens, not the
weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from assay.data.steps.laid_out import LAID_OUT, LaidOutRenderer
from assay.data.tokens.render import Renderer
from assay.errors import ArtifactError
from assay.files import digest
from assay.models.saved.step_policy import StepPolicy
from assay.run_files import STEPS, artifact_path, read_description


def renderer_of(path: str | Path) -> Renderer:
    """The renderer of an artifact, or of a run that holds one.

    Raises ArtifactError when there is none, when it has no tokenizer of its own, when the chat template was changed after
    saving, and for a process reward model, see `step_renderer_of`.
    """
    path = artifact_path(path)
    description = read_description(path)
    if description.get(STEPS):
        fix = "serve it with vLLM (--runner pooling) or assay serve, or load it here"
        raise ArtifactError(f"{path} rewards steps, and this engine is asked for one reward of a text: {fix}")
    renderer = _renderer(path, description)
    assert isinstance(renderer, Renderer)
    return renderer


def step_renderer_of(path: str | Path) -> tuple[Renderer | LaidOutRenderer, StepPolicy] | None:
    """The renderer of a process reward model's artifact, or of a run that holds one, and how it reads steps; None for an artifact
    that gives one reward. Raises ArtifactError as `renderer_of`."""
    path = artifact_path(path)
    description = read_description(path)
    if not description.get(STEPS):
        return None
    return _renderer(path, description), StepPolicy.from_description(description)


def _renderer(path: Path, description: Mapping[str, Any]) -> Renderer | LaidOutRenderer:
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} has no tokenizer that can be loaded: name the artifact that the engine serves ({error})"
        ) from error
    renderer: Renderer | LaidOutRenderer
    if description.get("input") == LAID_OUT:
        renderer = LaidOutRenderer.from_settings(tokenizer, dict(description))
        template = renderer.template
    else:
        template = str(tokenizer.chat_template)
        renderer = Renderer(tokenizer, max_length=description["max_length"], overlong=description["overlong"])
    if digest(template) != description["template_digest"]:
        raise ArtifactError(f"{path}: the chat template is not the one that the artifact was saved with; restore it or retrain")
    return renderer
