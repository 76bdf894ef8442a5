"""Low-rank adapters (peft): added to a backbone in place, and merged into its weights before it is saved."""

from __future__ import annotations

import importlib.util
from typing import Any

from assay.models.backbone import Backbone


def add_lora(backbone: Backbone, rank: int, *, dropout: float = 0.0) -> Any:
    """Freeze the backbone and add an adapter of that rank to every linear map; pass the result to `merge_lora`.

    W + 2 B A with B zero at the start: Hu et al. (2021), equation 3, with alpha = 2 rank. Adapters are float32.
    Raises ValueError when peft is not installed.
    """
    if importlib.util.find_spec("peft") is None:
        raise ValueError("--params lora needs peft: pip install '.[lora]' in Assay's clone")
    from peft import LoraConfig, get_peft_model

    backbone.requires_grad_(False)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules="all-linear", bias="none")
    return get_peft_model(backbone.model, config)


def merge_lora(adapted: Any) -> None:
    """Add the adapters to the weights of the backbone, in place, and remove them. adapted: the result of `add_lora`."""
    adapted.merge_and_unload()
