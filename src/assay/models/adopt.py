"""Another's reward model written as an artifact: a plain checkpoint with equal rewards, golden vectors, and what was assumed."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

from assay.models.artifact import save_artifact
from assay.models.checkpoints import Published, Reading, load_published
from assay.models.encoder import EncoderModel
from assay.run_files import ADOPTED


def adopt(checkpoint: Path, out: Path, reading: Reading, *, name: str) -> dict[str, str]:
    """Write the artifact of a checkpoint to `out`, all or nothing; returns what was assumed. name: of the model, for the card.

    Raises ValueError as `load_published`, and for a head that transformers' classification classes do not have.
    """
    loaded = load_published(checkpoint, reading)
    refuse_unsavable(loaded, checkpoint)
    packages = ("assay-rm", "torch", "transformers", "tokenizers", "numpy")
    description = {
        "title": f"{name.rstrip('/').split('/')[-1]}, adopted",
        "base_model": name,
        "params": "adopted",
        ADOPTED: {"from": name, "identity": loaded.identity, "assumed": loaded.assumed},
        "data": [],
        "versions": {package: version(package) for package in packages} | {"python": platform.python_version()},
    }
    save_artifact(loaded.model, loaded.renderer, out, description, dtype=loaded.saved_dtype)
    return loaded.assumed


def refuse_unsavable(loaded: Published, checkpoint: Path) -> None:
    """Raises ValueError for a model whose head no plain class has; it can be scored with as it lies."""
    if not isinstance(loaded.model, EncoderModel) and loaded.model.before is not None:
        why = f"its head ({loaded.assumed['head']}) has a hidden layer, which no sequence-classification class of transformers has"
        fix = "evaluate, audit or serve the checkpoint as it is"
        raise ValueError(f"{checkpoint} cannot become an artifact that others read: {why}; {fix}")
