"""The heads of a model that was trained on attributes, beside the one head that is its reward.

An artifact stays a plain model of one reward: `score` is the stated combination of the attributes. The heads of the attributes lie
beside it in `attributes/heads.safetensors`, their names and scales in reward.json. Shapes: N answers, A attributes, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from safetensors.torch import load_file

from assay.records import Completion
from assay.run_files import read_description

HEADS_PATH = "attributes/heads.safetensors"
ENTRY = "attributes"  # of reward.json


class GivesStates(Protocol):
    """A scorer that gives the hidden states (N, D) that its head reads, NaN where an answer could not be scored."""

    def states(self, completions: Sequence[Completion]) -> np.ndarray: ...


class AttributeHeads(NamedTuple):
    """names: A. weight_AD: float32. mean_A, scale_A: of the training answers, in the units of the data. combination_A: weight of
    each attribute in the reward, in those units."""

    names: tuple[str, ...]
    weight_AD: np.ndarray
    mean_A: np.ndarray
    scale_A: np.ndarray
    combination_A: np.ndarray

    def predict(self, scorer: GivesStates, completions: Sequence[Completion]) -> dict[str, np.ndarray]:
        """The attributes of N answers in the units of the data, (N,) each; NaN where an answer could not be scored."""
        found_NA = scorer.states(completions) @ self.weight_AD.T * self.scale_A + self.mean_A
        return dict(zip(self.names, found_NA.T, strict=True))

    @property
    def reward_D(self) -> np.ndarray:
        """The head of the reward: the combination of the heads, up to a constant, which says nothing."""
        return (self.combination_A * self.scale_A) @ self.weight_AD

    def entry(self) -> list[dict[str, Any]]:
        """What reward.json says of them."""
        numbers = zip(self.names, self.combination_A, self.mean_A, self.scale_A, strict=True)
        return [
            {"name": name, "weight": float(weight), "mean": float(mean), "scale": float(scale)}
            for name, weight, mean, scale in numbers
        ]

    def tensors(self) -> Mapping[str, torch.Tensor]:
        """What `HEADS_PATH` holds."""
        return {"heads": torch.from_numpy(np.ascontiguousarray(self.weight_AD, dtype=np.float32))}


def read_attribute_heads(path: str | Path) -> AttributeHeads:
    """The heads of an artifact. Raises ValueError for one that was not trained on attributes."""
    entries = read_description(path).get(ENTRY)
    if not entries:
        raise ValueError(f"{path} was not trained on attributes: it has one reward and no more (assay train --kind attributes)")
    mean_A, scale_A, combination_A = (np.array([entry[name] for entry in entries]) for name in ("mean", "scale", "weight"))
    weight_AD = load_file(Path(path) / HEADS_PATH)["heads"].numpy()
    return AttributeHeads(tuple(entry["name"] for entry in entries), weight_AD, mean_A, scale_A, combination_A)
