"""Reward models of others: a checkpoint without reward.json, loaded as it is, with a note of all that had to be assumed.

The rewards are those of plain transformers on the checkpoint, or of the publisher's own class where it has a head of another name;
`foreign_heads` knows the heads, `weight_files` looks at the files first. Nothing of the publisher's code is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from assay.data.tokens.render import Renderer, choose_template
from assay.data.tokens.text_pair import PairRenderer, TextPath
from assay.files import digest, file_sha256, json_digest
from assay.models.backbone import load_backbone
from assay.models.base_checks import form_of, position_limit
from assay.models.bases import no_progress_bars
from assay.models.encoder import EncoderModel, last_linear, replace_last_linear, separator_of
from assay.models.published.foreign_heads import find_head, good_label, head_names, read_head, with_one_output
from assay.models.published.weight_files import Stored, stored_tensors
from assay.models.reward_model import RewardModel

LONGEST = 4096  # tokens, where neither the checkpoint nor the user asks for less
_FORMATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float32}


class Reading(NamedTuple):
    """What a user may say of a checkpoint that does not say it itself. template: a name or a file; label: of two, the better
    answer's."""

    max_length: int | None = None
    template: str | None = None
    label: str | None = None


class Published(NamedTuple):
    """A loaded checkpoint of others. assumed: what -> how it is read. saved_dtype: number format of its weights. identity: digest
    of weights and reading."""

    model: RewardModel | EncoderModel
    renderer: TextPath
    assumed: dict[str, str]
    saved_dtype: torch.dtype
    identity: str


@no_progress_bars()
def load_published(
    path: Path,
    reading: Reading = Reading(),  # noqa: B008  (immutable)
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Published:
    """A reward model of others from its directory, to run in `dtype` (its own when left out; the head always in float32).

    Raises ValueError, with what to do, for weights that are pickled, damaged, not merged or quantised; for a class that
    transformers does not have; for a head that is no reward; and for a label, template or length that the checkpoint lacks.
    """
    tensors, raw = stored_tensors(path), raw_config(path)
    config = known_config(path, raw)
    saved = own_format(tensors)
    tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    form = form_of(config)
    if form is None and not head_names(tensors):
        raise ValueError(
            f"{path}: transformers has no sequence-classification class for {type(config).__name__}, nor is there a head"
        )
    if form is not None and not form.reads_last_token:
        found: tuple[RewardModel | EncoderModel, TextPath, dict[str, str]] = _encoder(
            path, config, tokenizer, reading, dtype or saved
        )
    else:
        found = _decoder(path, config, raw, tensors, tokenizer, reading, dtype or saved)
    model, renderer, assumed = found
    weights = digest(b"".join(bytes.fromhex(file_sha256(file)) for file in sorted({stored.file for stored in tensors.values()})))
    identity = json_digest([weights, renderer.template, renderer.settings(), assumed.get("label")])
    return Published(model.to(device).eval(), renderer, assumed, saved, identity)


def _decoder(
    path: Path,
    config: Any,
    raw: Mapping[str, Any],
    tensors: Mapping[str, Stored],
    tokenizer: Any,
    reading: Reading,
    dtype: torch.dtype,
) -> tuple[RewardModel, Renderer, dict[str, str]]:
    head = find_head(tensors, raw, path)
    assumed = {"head": f"{head.name}, {head.origin}"}
    good = 1
    if head.num_outputs == 2:
        names = label_names(config)
        good, why = good_label(names, reading.label)
        assumed["label"] = f"the reward is the logit of {names[good]!r} less that of {names[1 - good]!r}: {why}"
    before, last = read_head(head, tensors, good)
    if last.bias is not None:
        assumed["constant"] = f"the head adds {float(last.bias.detach()):g} to every reward"
    if head.std != 1.0 or head.mean != 0.0:
        assumed["scale"] = f"(output - {head.mean:g}) / {head.std:g}, as config.json says (normalize_reward)"
    prefix = "pretrained_model." if any(name.startswith("pretrained_model.") for name in tensors) else None
    backbone = load_backbone(path, dtype=dtype, drop_prefix=prefix)
    pad = config.get_text_config().pad_token_id
    if reading.template is not None:
        choose_template(tokenizer, reading.template)
    if not head.reads_last and pad is not None and (left_out := leave_out_unread(tokenizer, int(pad))):
        assumed["end"] = left_out
    length, why = longest_input(config, tokenizer, reading, raw)
    renderer = Renderer(tokenizer, max_length=length, closes=False)
    if len(tokenizer) > backbone.model.get_input_embeddings().num_embeddings:
        backbone.model.resize_token_embeddings(len(tokenizer))
    assumed |= {
        "template": _of_template(renderer, reading),
        "system turn": _system_turn(tokenizer),
        "truncation": f"{length} tokens, {why}; longer texts are cut at the front",
        "padding": f"token {renderer.pad_id}, {tokenizer.convert_ids_to_tokens(renderer.pad_id)!r}",
    }
    return RewardModel(backbone, last, before=before, compute_dtype=dtype), renderer, assumed


def _encoder(
    path: Path, config: Any, tokenizer: Any, reading: Reading, dtype: torch.dtype
) -> tuple[EncoderModel, TextPath, dict[str, str]]:
    if config.is_encoder_decoder:
        raise ValueError(f"{path} is not adopted: {type(config).__name__} is an encoder with a decoder, which Assay does not run")
    if config.num_labels > 2:
        why = "classes or attributes, of which no one rule makes a reward"
        raise ValueError(f"{path}: its head gives {config.num_labels} numbers, {why}: it is not adopted")
    try:
        plain, loading = AutoModelForSequenceClassification.from_pretrained(
            str(path), config=config, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be loaded: {error}") from error
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise ValueError(
            f"{path} lacks weights of {type(plain).__name__} ({missing}): it is a base model, or another class saved it"
        )
    assumed = {"head": f"the classification head of {type(plain).__name__}"}
    if config.num_labels == 2:
        names = label_names(config)
        good, why = good_label(names, reading.label)
        assumed["label"] = f"the reward is the logit of {names[good]!r} less that of {names[1 - good]!r}: {why}"
        replace_last_linear(plain, with_one_output(last_linear(plain), good))
    config.num_labels = plain.config.num_labels = 1
    length, why = longest_input(config, tokenizer, reading, {})
    if reading.template is not None:
        choose_template(tokenizer, reading.template)
    renderer: TextPath
    if tokenizer.chat_template:
        renderer = Renderer(tokenizer, max_length=length, closes=False)
        assumed["template"] = _of_template(renderer, reading)
    else:
        renderer = PairRenderer(tokenizer, max_length=length)
        assumed["template"] = "none: question and answer are a pair of texts; the turns of a prompt are joined by a blank line"
    assumed["truncation"] = f"{length} tokens, {why}; longer questions are cut at the front"
    assumed["padding"] = f"token {renderer.pad_id}, {tokenizer.convert_ids_to_tokens(renderer.pad_id)!r}"
    return EncoderModel(plain, separator=separator_of(tokenizer, config)), renderer, assumed


def label_names(config: Any) -> list[str]:
    """The names of a configuration's labels, in the order of the head's outputs."""
    return [str(config.id2label.get(number, number)) for number in range(config.num_labels)]


def leave_out_unread(tokenizer: Any, pad: int) -> str | None:
    """Take the padding token off the end of the template's answers, and say so; None where they do not end in it.

    transformers reads the rightmost token that is not padding: where the end token is the padding, it is never read.
    """
    if not isinstance(tokenizer.chat_template, str):
        return None
    probe = [{"role": "user", "content": "a question"}, {"role": "assistant", "content": "an answer"}]
    text = str(tokenizer.apply_chat_template(probe, tokenize=False))
    mark, num = str(tokenizer.convert_ids_to_tokens(pad)), 0
    while mark and text.endswith(mark):
        text, num = text.removesuffix(mark), num + 1
    if not num:
        return None
    # a set block catches what the template writes; the empty expressions keep white space beside the block's own tags
    body = tokenizer.chat_template.removesuffix("\n")
    tokenizer.chat_template = (
        f"{{% set rendered %}}{{{{ '' }}}}{body}{{{{ '' }}}}{{% endset %}}"
        f"{{{{ rendered if add_generation_prompt else rendered[:-{num * len(mark)}] }}}}"
    )
    return f"{mark!r} after an answer is left out: it is also the padding, so that transformers reads the token before it"


def longest_input(config: Any, tokenizer: Any, reading: Reading, raw: Mapping[str, Any]) -> tuple[int, str]:
    """(length policy, why). Raises ValueError for a length that the positions do not hold."""
    limit = position_limit(config)
    if reading.max_length is not None:
        if limit is not None and reading.max_length > limit:
            raise ValueError(f"--max-length {reading.max_length} is more than the {limit} positions of this checkpoint")
        return reading.max_length, "as given"
    said = {"its positions": limit, "its tokenizer's model_max_length": int(tokenizer.model_max_length)}
    known = {why: length for why, length in said.items() if length is not None and 8 <= length < LONGEST}
    if not known:
        return LONGEST, "the most that is taken unless --max-length says more"
    why = min(known, key=lambda name: known[name])
    return known[why], why


def _of_template(renderer: Renderer, reading: Reading) -> str:
    if renderer.template_changes:
        return "; ".join(renderer.template_changes)
    return "the checkpoint's own" if reading.template is None else reading.template


def _system_turn(tokenizer: Any) -> str:
    """What the template writes before the first question when no system turn is given."""
    question = "a question that stands alone"
    text = str(tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False))
    return f"none is added; before the first question the template writes {text.partition(question)[0]!r}"


def raw_config(path: Path) -> dict[str, Any]:
    """config.json as it stands. Raises ValueError for what no reading can mend."""
    if (path / "adapter_config.json").is_file():
        merge = "AutoPeftModelForSequenceClassification.from_pretrained(...).merge_and_unload().save_pretrained(...)"
        raise ValueError(f"{path} holds an adapter, not a whole model: merge it first with peft's {merge}")
    try:
        raw: dict[str, Any] = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}/config.json cannot be read ({error}): give a whole checkpoint") from error
    if raw.get("quantization_config"):
        method = raw["quantization_config"].get("quant_method", "an unknown method")
        raise ValueError(f"{path} has quantised weights ({method}): give the checkpoint that they were made from")
    return raw


def known_config(path: Path, raw: Mapping[str, Any]) -> Any:
    try:
        return AutoConfig.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        kind = raw.get("model_type", "no model_type")
        why = f"transformers has no model of the type {kind!r}, only the publisher's own code has it, which Assay never runs"
        raise ValueError(f"{path} is not adopted: {why}") from error


def own_format(tensors: Mapping[str, Stored]) -> torch.dtype:
    """Number format of most of the weights. Raises ValueError for one that is none of ordinary weights."""
    sizes: dict[str, int] = {}
    for stored in tensors.values():
        count = 1
        for length in stored.shape:
            count *= length
        sizes[stored.dtype] = sizes.get(stored.dtype, 0) + count
    most = max(sizes, key=lambda name: sizes[name])
    if most not in _FORMATS:
        raise ValueError(f"the weights are saved as {most}: give them as float32, bfloat16 or float16")
    return _FORMATS[most]
