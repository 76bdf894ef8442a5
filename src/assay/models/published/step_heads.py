"""A published process model from its directory: backbone and head as a `RewardModel`, tokens by its `StepLayout`.

The head is rebuilt from the weights, and nothing of the publisher's code is run. A language model that judges by two tokens keeps
their two rows of its output matrix alone: the rest of the vocabulary is never computed. Shapes: K outputs, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoTokenizer

from assay.data.steps.step_layouts import StepRenderer
from assay.files import digest, file_sha256, json_digest
from assay.models.backbone import load_backbone
from assay.models.bases import no_progress_bars
from assay.models.published.checkpoints import Reading, known_config, longest_input, own_format, raw_config
from assay.models.published.foreign_heads import read_outputs
from assay.models.published.published_steps import StepForm, StepsAsked
from assay.models.published.weight_files import Stored, stored_tensors
from assay.models.reward_model import RewardModel

_OUTPUT_MATRIX = ("lm_head.weight", "model.embed_tokens.weight", "embed_tokens.weight", "transformer.wte.weight")
_OTHER_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale")
_NAMES = {"labels": ("score", 2), "value": ("v_head.summary", 1), "classes": ("score_head", 3)}


class PublishedSteps(NamedTuple):
    """A loaded process model. assumed: what -> how it is read. saved_dtype: number format of its weights. identity: digest of
    weights and reading."""

    model: RewardModel
    renderer: StepRenderer
    form: StepForm
    assumed: dict[str, str]
    saved_dtype: torch.dtype
    identity: str


@no_progress_bars()
def load_published_steps(
    path: Path,
    form: StepForm,
    reading: StepsAsked = StepsAsked(),  # noqa: B008  (immutable)
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> PublishedSteps:
    """A process model of others from its directory, to run in `dtype` (its own when left out; the head always in float32).

    Raises ValueError, with what to do, for weights that are pickled, damaged, not merged or quantised; for a class that
    transformers does not have; for a head that is not the form's; and for a tokenizer without the form's separator.
    """
    tensors, raw = stored_tensors(path), raw_config(path)
    config, saved = known_config(path, raw), own_format(tensors)
    tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    length, why = longest_input(config, tokenizer, Reading(max_length=reading.max_length), raw)
    try:
        renderer = StepRenderer(tokenizer, form.layout, max_length=length, template=reading.template)
    except ValueError as error:
        raise ValueError(f"{path} is not read as #{form.name}: {error}") from error
    before, last, said = _head(form, tensors, config, tokenizer, path)
    prefix = "pretrained_model." if any(name.startswith("pretrained_model.") for name in tensors) else None
    backbone = load_backbone(path, dtype=dtype or saved, drop_prefix=prefix)
    if last.in_features != backbone.hidden_size and before is None:
        raise ValueError(f"{path}: the head reads {last.in_features} numbers, and the model's states have {backbone.hidden_size}")
    model = RewardModel(backbone, last, outputs="labels", before=before, compute_dtype=dtype or saved)
    assumed = {"form": f"#{form.name}, {form.source}", "head": said, **_said_of_texts(renderer, form, reading, length, why)}
    weights = digest(b"".join(bytes.fromhex(file_sha256(file)) for file in sorted({stored.file for stored in tensors.values()})))
    identity = json_digest([weights, form.name, repr(form.layout), form.value, renderer.template, length])
    return PublishedSteps(model.to(device).eval(), renderer, form, assumed, saved, identity)


def _head(
    form: StepForm, tensors: Mapping[str, Stored], config: Any, tokenizer: Any, path: Path
) -> tuple[nn.Sequential | None, nn.Linear, str]:
    """(what stands before the last linear map or None, the last one, in words). Raises ValueError for another head."""
    if form.head == "vocabulary":
        return None, *_rows(form, tensors, config, tokenizer, path)
    name, num_outputs = _NAMES[form.head]
    prefix = "pretrained_model." if any(key.startswith(f"pretrained_model.{name}") for key in tensors) else ""
    found = read_outputs(tensors, prefix + name)
    if found is None:
        raise ValueError(f"{path} has no head {name}, which #{form.name} reads: name another form (docs/process-models.md)")
    before, last = found
    if last.out_features != num_outputs:
        raise ValueError(f"{path}: its head {name} gives {last.out_features} numbers, and #{form.name} reads {num_outputs}")
    hidden = "" if before is None else ", behind a hidden layer with ReLU"
    what = {"labels": "two labels, wrong and right", "value": "one logit", "classes": "three classes, bad, neutral and good"}
    return before, last, f"{name}, {what[form.head]}{hidden}"


def _rows(form: StepForm, tensors: Mapping[str, Stored], config: Any, tokenizer: Any, path: Path) -> tuple[nn.Linear, str]:
    """The two rows of the output matrix that the form reads: first `bad`, then `good`, as the labels of other heads."""
    if scaled := next((name for name in _OTHER_LOGITS if getattr(config.get_text_config(), name, None)), None):
        raise ValueError(f"{path}: its logits are changed by {scaled} of config.json, which #{form.name} does not know")
    name = next((name for name in _OUTPUT_MATRIX if name in tensors), None)
    if name is None:
        raise ValueError(f"{path} has no output matrix (lm_head.weight), whose rows #{form.name} reads: give the whole model")
    if name != "lm_head.weight" and not config.get_text_config().tie_word_embeddings:
        raise ValueError(f"{path} lacks lm_head.weight, and its configuration ties nothing to the embeddings: fetch it again")
    ids = []
    for token in (form.bad, form.good):
        found = [int(one) for one in tokenizer(token, add_special_tokens=False)["input_ids"]]
        if len(found) != 1 or found[0] >= tensors[name].shape[0]:
            raise ValueError(f"{path}: {token!r} is not one token of its tokenizer ({found}): it is no model of #{form.name}")
        ids.append(found[0])
    with safe_open(tensors[name].file, framework="pt") as file:
        rows = file.get_slice(name)
        weight = torch.cat([rows[one : one + 1] for one in ids]).float()
    last = nn.Linear(weight.shape[1], 2, bias=False)
    last.load_state_dict({"weight": weight})
    said = f"the rows {ids[1]} ({form.good!r}) and {ids[0]} ({form.bad!r}) of {name}, a softmax over these two"
    return last.requires_grad_(False), said


def _said_of_texts(renderer: StepRenderer, form: StepForm, reading: StepsAsked, length: int, why: str) -> dict[str, str]:
    layout, mark = form.layout, renderer.mark
    joined = {
        "text": "question and steps are one text",
        "ids": "question and steps are tokenised apart, their ids joined",
        "answer": "the chat template's answer holds the steps",
        "turns": "a user's turn a step",
    }
    where = {
        "mark": f"at {mark!r} behind each step",
        "before mark": f"before the {mark!r} that answers each step",
        "end of step": "at each step's end",
    }
    ids, each = ", ".join(map(str, renderer.mark_ids)), "a line" if layout.ends == "line" else "a paragraph"
    own = "the model's own chat template" if renderer.template else "none: the question as it is"
    if form.prompt:
        own += f"; {form.prompt} is not in the model's files: give it with template=FILE"
    return {
        "steps": f"{joined[layout.joined]}; read {where[layout.read]} (token {ids}); {each} a step where an answer has none",
        "template": own if reading.template is None else reading.template,
        "system turn": _system_turn(renderer),
        "truncation": f"{length} tokens, {why}; steps beyond have no reward",
    }


def _system_turn(renderer: StepRenderer) -> str:
    """What the template writes before the first question when no system turn is given."""
    if renderer.template is None:
        return "none"
    question = "a question that stands alone"
    turns = [{"role": "user", "content": question}]
    text = str(renderer.tokenizer.apply_chat_template(turns, chat_template=renderer.template, tokenize=False))
    return f"none is added; before the first question the template writes {text.partition(question)[0]!r}"
