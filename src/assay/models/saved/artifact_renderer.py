"""The renderer of an artifact without its model: what asks an engine that serves the artifact needs the same tokens, not the
weights."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from assay.data.render import Renderer
from assay.data.steps.laid_out import LAID_OUT
from assay.errors import ArtifactError
from assay.files import digest
from assay.run_files import STEPS, artifact_path, read_description


def renderer_of(path: str | Path) -> Renderer:
    """The renderer of an artifact, or of a run that holds one.

    Raises ArtifactError when there is none, when it has no tokenizer of its own, when the chat template was changed after
    saving, and for a process reward model, of which engines give no one reward of a text.
    """
    path = artifact_path(path)
    description = read_description(path)
    if description.get(STEPS):
        fix = "serve it with assay serve, or load it here; assay audit verify --against compares an engine's rows of tokens"
        raise ArtifactError(f"{path} rewards steps, and engines are asked for one reward of a text: {fix}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} has no tokenizer that can be loaded: name the artifact that the engine serves ({error})"
        ) from error
    if description.get("input") == LAID_OUT:
        raise ArtifactError(f"{path} lays steps out as its publisher does, which engines are not asked for: load it here")
    renderer = Renderer(tokenizer, max_length=description["max_length"], overlong=description["overlong"])
    if digest(tokenizer.chat_template) != description["template_digest"]:
        raise ArtifactError(f"{path}: the chat template is not the one that the artifact was saved with; restore it or retrain")
    return renderer
