"""What turns a state into a reward in the checkpoints that others publish, told by the names and shapes of their tensors.

Only names and shapes are looked at; the values are read by `read_head`. A head that is not one linear map, or a few with ReLU
between them, is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import nn

from assay.models.published.weight_files import Stored

# Name of a head -> who saves one under it. Longer names first: "v_head.summary" is not a "v_head" with a layer "summary".
HEADS = {
    "v_head.summary": "a value head of TRL, LLaMA-Factory or GRM",
    "v_head": "a value head without a bias (Starling)",
    "value_head": "a value head of OpenRLHF",
    "regression_layer": "a regression layer",
    "regression_head": "a regression head (UltraRM, Eurus)",
    "reward_head": "a reward head",
    "score_head": "a score head of safe-rlhf",
    "rm_head": "a reward head",
    "score": "a head of transformers' sequence classification",
}
READS_LAST = frozenset(HEADS) - {"score"}  # at the last token of the mask; "score": at the rightmost token that is not padding
_REFUSED = (
    (r"(^|\.)gating", "its reward is a mixture of attributes that a gating network weighs by the prompt (ArmoRM, URM, QRM)"),
    (r"reward_transform_matrix", "its reward is a mixture of attributes that are adjusted to each other (ArmoRM, QRM)"),
    (r"(^|\.)(mean_head|std_head|logvar_head|weight_layer)\.", "its head gives a distribution, not a reward (URM, LDL)"),
    (r"^(multi_output|mlp_head|head_layer|network)\.", "its head is a network of the publisher's own (LDL, PairRM)"),
    (
        r"\.lora_[AB]\.",
        "it holds an adapter that is not merged: merge it first (peft: merge_and_unload), then save the whole model",
    ),
)
_WITH_RELU = ("GRewardModel", "INFORMForSequenceClassification", "Qwen2ForRewardModel", "Qwen3ForRewardModel")
_GOOD = re.compile(
    r"chosen|accept|good|better|best|pos(itive)?|helpful|harmless|prefer|correct|reward|entailment|yes|true", re.IGNORECASE
)
_BAD = re.compile(
    r"reject|bad|worse|worst|neg(ative)?|harm(?!less)|wrong|incorrect|contradiction|false|(^|[^a-z])(un|not|non|no$)", re.IGNORECASE
)


class ForeignHead(NamedTuple):
    """A head as stored. name: its tensors' prefix; origin: who saves one so. layers: the linear maps, in order, by their prefixes;
    ReLU stands between them. num_outputs: of the last one. reads_last: at the last token, else at the rightmost one that is not
    the configuration's padding. mean, std: the reward is (output - mean) / std."""

    name: str
    origin: str
    layers: tuple[str, ...]
    num_outputs: int
    reads_last: bool
    mean: float = 0.0
    std: float = 1.0

    @property
    def is_linear(self) -> bool:
        return len(self.layers) == 1


def head_names(tensors: Mapping[str, Stored]) -> list[str]:
    """The known heads that a checkpoint holds."""
    return [name for name in HEADS if _layers(tensors, name)]


def find_head(tensors: Mapping[str, Stored], config: Mapping[str, Any], path: object) -> ForeignHead:
    """The head of a decoder's checkpoint. Raises ValueError, naming what was found, when there is none that is known.

    config: the content of config.json. path: of the checkpoint, for messages.
    """
    _refuse_known(tensors, config, path)
    found = head_names(tensors)
    if not found:
        steps = (
            ". A published process model is named with its form, as in PATH#math-shepherd (docs/process-models.md), "
            "and one that writes its verdict as PATH#rm-r1 (docs/generative.md)"
        )
        raise ValueError(f"{path} has no reward head: none of its tensors is named {', '.join(HEADS)}. {_others(tensors)}{steps}")
    if len(found) > 1:
        raise ValueError(
            f"{path} has several heads ({', '.join(found)}), and which one is the reward is not known: keep one of them"
        )
    name = found[0]
    layers = _layers(tensors, name)
    if len(layers) > 1 and not (name == "v_head.summary" or set(config.get("architectures") or ()) & set(_WITH_RELU)):
        architecture = ", ".join(config.get("architectures") or ["an unknown class"])
        why = f"what stands between them only the publisher's own code says ({architecture})"
        raise ValueError(f"{path}: the head {name} has {len(layers)} layers, and {why}: it is not adopted")
    num_outputs = tensors[f"{layers[-1]}.weight"].shape[0]
    if num_outputs > 2:
        why = "attributes or classes, of which no one rule makes a reward"
        raise ValueError(f"{path}: the head {name} gives {num_outputs} numbers, {why}: it is not adopted")
    mean, std = _scaling(tensors, config, path)
    return ForeignHead(name, HEADS[name], layers, num_outputs, name in READS_LAST, mean, std)


def read_head(head: ForeignHead, tensors: Mapping[str, Stored], good: int = 1) -> tuple[nn.Sequential | None, nn.Linear]:
    """(what stands before the last linear map or None, the last linear map), float32, with one output.

    good: which of two outputs is the better answer's; the reward is its logit less the other's. A bias that is 0 is left out.
    """
    outputs = read_outputs(tensors, head.name)
    assert outputs is not None
    before, linear = outputs
    last = with_one_output(linear, good)
    with torch.no_grad():
        bias = (0.0 if last.bias is None else last.bias) - torch.tensor([head.mean])
        final = nn.Linear(last.in_features, 1, bias=bool((bias != 0).any()))
        final.weight.copy_(last.weight / head.std)
        if final.bias is not None:
            final.bias.copy_(bias / head.std)
    return before, final


def read_outputs(tensors: Mapping[str, Stored], name: str) -> tuple[nn.Sequential | None, nn.Linear] | None:
    """(what stands before the last linear map or None, the last one with all its outputs) of the head of this name, float32; None
    where there is none. Between several linear maps stands ReLU."""
    linear = [_linear(layer, tensors) for layer in _layers(tensors, name)]
    if not linear:
        return None
    between = [part for layer in linear[:-1] for part in (layer, nn.ReLU())]
    return (nn.Sequential(*between) if between else None), linear[-1]


def with_one_output(linear: nn.Linear, good: int) -> nn.Linear:
    """A map of one output as it is; of two, the map that gives output `good` less the other one."""
    if linear.out_features == 1:
        return linear
    one = nn.Linear(linear.in_features, 1, bias=linear.bias is not None, dtype=linear.weight.dtype)
    with torch.no_grad():
        one.weight.copy_((linear.weight[good] - linear.weight[1 - good])[None])
        if linear.bias is not None:
            one.bias.copy_((linear.bias[good] - linear.bias[1 - good])[None])
    return one


def good_label(names: Sequence[str], asked: str | None = None) -> tuple[int, str]:
    """(which of two labels is the better answer's, why). asked: its name, given by the user. Raises ValueError for another name."""
    if asked is not None:
        if asked not in names:
            raise ValueError(f"--label {asked!r} is none of the checkpoint's labels {list(names)}")
        return list(names).index(asked), "as given"
    good = [bool(_GOOD.search(name)) and not _BAD.search(name) for name in names]
    bad = [bool(_BAD.search(name)) for name in names]
    if good[0] != good[1]:
        return int(good[1]), f"the label {names[int(good[1])]!r} says so"
    if bad[0] != bad[1]:
        return int(bad[0]), f"the other label is {names[int(bad[1])]!r}"
    return 1, f"assumed: the labels {list(names)} do not say which is the better answer's (--label does)"


def _refuse_known(tensors: Mapping[str, Stored], config: Mapping[str, Any], path: object) -> None:
    for pattern, why in _REFUSED:
        found = next((name for name in tensors if re.search(pattern, name)), None)
        if found:
            raise ValueError(f"{path} is not adopted: {why}. Its tensor {found} shows it; serve it with the publisher's own code")
    if config.get("num_quantiles"):
        raise ValueError(f"{path} is not adopted: its head gives {config['num_quantiles']} quantiles, not a reward (QRM)")
    if config.get("pooling") == "mean":
        raise ValueError(f"{path} is not adopted: its reward is read from the mean over the text, not from the last token")


def _layers(tensors: Mapping[str, Stored], name: str) -> tuple[str, ...]:
    """Prefixes of a head's linear maps, in order; none when the checkpoint has no such head."""
    if f"{name}.weight" in tensors and len(tensors[f"{name}.weight"].shape) == 2:
        return (name,)
    numbers = sorted(int(found[1]) for key in tensors if (found := re.fullmatch(rf"{re.escape(name)}\.(\d+)\.weight", key)))
    return tuple(f"{name}.{number}" for number in numbers)


def _scaling(tensors: Mapping[str, Stored], config: Mapping[str, Any], path: object) -> tuple[float, float]:
    """Mean and standard deviation that the publisher's code takes off (OpenRLHF). Raises ValueError where they are tensors."""
    if config.get("do_normalize"):
        raise ValueError(
            f"{path} is not adopted: its rewards are normalised by running statistics of the publisher's code (safe-rlhf)"
        )
    if not config.get("normalize_reward"):
        return 0.0, 1.0
    mean, std = float(config.get("mean", 0.0)), float(config.get("std", 1.0))
    if not std > 0:
        raise ValueError(f"{path}: config.json says normalize_reward with std {std}: mend it")
    return mean, std


def _linear(prefix: str, tensors: Mapping[str, Stored]) -> nn.Linear:
    values = {part: _value(name, tensors) for part in ("weight", "bias") if (name := f"{prefix}.{part}") in tensors}
    num_outputs, width = values["weight"].shape
    linear = nn.Linear(width, num_outputs, bias="bias" in values, dtype=torch.float32)
    linear.load_state_dict({part: value.float() for part, value in values.items()})
    return linear.requires_grad_(False)


def _value(name: str, tensors: Mapping[str, Stored]) -> torch.Tensor:
    with safe_open(tensors[name].file, framework="pt") as file:
        return file.get_tensor(name)


def _others(tensors: Mapping[str, Stored]) -> str:
    """The tensors that are small enough to be a head, for a message."""
    small = [name for name, stored in tensors.items() if len(stored.shape) == 2 and stored.shape[0] <= 32]
    return (
        f"Small tensors are {', '.join(small[:5])}: if one is its head, rename it score.weight" if small else "It is a base model"
    )
