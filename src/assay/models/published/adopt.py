"""Another's reward model written as an artifact: a plain checkpoint with equal rewards, golden vectors, and what was assumed."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from assay.data.steps.laid_out import LaidOutRenderer
from assay.models.device import library_versions
from assay.models.encoder import EncoderModel
from assay.models.published.checkpoints import Published, Reading, load_published
from assay.models.published.published_steps import ProcessForm, StepsAsked, WrittenForm
from assay.models.published.step_heads import PublishedSteps, load_published_steps
from assay.models.reward_model import RewardModel
from assay.models.saved.artifact import save_artifact
from assay.models.saved.step_card import STEP_CARD
from assay.models.saved.step_policy import StepPolicy
from assay.run_files import ADOPTED, CARD, STEPS


def adopt(checkpoint: Path, out: Path, reading: Reading, *, name: str) -> dict[str, str]:
    """Write the artifact of a checkpoint to `out`, all or nothing; returns what was assumed. name: of the model, for the card.

    Raises ValueError as `load_published`, and for a head that transformers' classification classes do not have.
    """
    loaded = load_published(checkpoint, reading)
    refuse_unsavable(loaded, checkpoint)
    save_artifact(loaded.model, loaded.renderer, out, _description(loaded, loaded.assumed, name), dtype=loaded.saved_dtype)
    return loaded.assumed


def adopt_steps(checkpoint: Path, out: Path, form: ProcessForm, asked: StepsAsked, *, name: str) -> dict[str, str]:
    """Write the artifact of another's process model to `out`: token classification with two labels, whose difference of logits is
    the log-odds of the publisher's probability; returns what was assumed.

    Raises ValueError as `load_published_steps`, and for a head that is no linear map of two labels.
    """
    if isinstance(form, WrittenForm):
        raise ValueError(f"{checkpoint} writes its verdicts (#{form.name}): it has no head that an artifact could hold")
    loaded = load_published_steps(checkpoint, form, asked)
    model = RewardModel(loaded.model.backbone, two_labels(loaded, checkpoint), outputs="steps", compute_dtype=loaded.saved_dtype)
    layout = form.layout
    writes_prompt = loaded.renderer.template is not None and layout.joined in ("text", "ids")
    renderer = LaidOutRenderer(
        loaded.renderer.tokenizer, layout, max_length=loaded.renderer.max_length, writes_prompt=writes_prompt
    )
    policy = StepPolicy(rule="lines" if layout.ends == "line" else "blank-lines", reduction=asked.reduction or form.reduction)
    own = "twice its sigmoid less 1" if form.value == "difference" else "its sigmoid"
    value = f"log-odds that a step is right; the publisher's value is {own}"
    assumed = {**loaded.assumed, "value": value, "reduction": f"log of the {policy.reduction} of P(right) over steps"}
    description = {**_description(loaded, assumed, name), STEPS: policy.entry(), CARD: _step_card(form.name)}
    save_artifact(model, renderer, out, description, dtype=loaded.saved_dtype)
    return assumed


def two_labels(loaded: PublishedSteps, checkpoint: Path) -> nn.Linear:
    """The head as a linear map of two labels, wrong and right. Raises ValueError for one that is none."""
    head, form = loaded.model.head, loaded.form
    if loaded.model.before is not None:
        why = f"its head ({loaded.assumed['head']}) has a hidden layer, which no token-classification class of transformers has"
    elif form.head == "classes":
        why = f"its head gives three classes, and #{form.name} is no difference of two logits"
    elif head.out_features == 2:
        return head
    else:  # one logit: that of right, where that of wrong is 0
        both = nn.Linear(head.in_features, 2)
        with torch.no_grad():
            both.weight.copy_(torch.cat([torch.zeros_like(head.weight), head.weight]))
            both.bias.copy_(torch.zeros(2) if head.bias is None else torch.cat([torch.zeros(1), head.bias]))
        return both.requires_grad_(False)
    raise ValueError(f"{checkpoint} cannot become an artifact that others read: {why}; evaluate, audit or serve it as it is")


def _step_card(form: str) -> dict[str, str]:
    """The card of an adopted process model: tokens and places are those of golden.json, not of the chat template alone."""
    how = (
        f"Steps are joined and read as the publisher's form #{form} does (docs/process-models.md of Assay): `layout` in "
        "reward.json, and token ids with the rewards of their steps in golden.json."
    )
    return {**STEP_CARD, "load_transformers": f"{how} Give these ids to `AutoModelForTokenClassification`.", "reading": how}


def _description(loaded: Published | PublishedSteps, assumed: dict[str, str], name: str) -> dict[str, object]:
    return {
        "title": f"{name.rstrip('/').split('/')[-1]}, adopted",
        "base_model": name,
        "params": "adopted",
        ADOPTED: {"from": name, "identity": loaded.identity, "assumed": assumed},
        "data": [],
        "versions": library_versions(),
    }


def refuse_unsavable(loaded: Published, checkpoint: Path) -> None:
    """Raises ValueError for a model whose head no plain class has; it can be scored with as it lies."""
    if not isinstance(loaded.model, EncoderModel) and loaded.model.before is not None:
        why = f"its head ({loaded.assumed['head']}) has a hidden layer, which no sequence-classification class of transformers has"
        fix = "evaluate, audit or serve the checkpoint as it is"
        raise ValueError(f"{checkpoint} cannot become an artifact that others read: {why}; {fix}")
