"""What a run starts from: a base, or a reward model. What cannot be trained is refused here, before any data are read."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import AutoTokenizer

from assay.console import say
from assay.data.run_data import has_unknown_past
from assay.data.tokens.render import Renderer, choose_template
from assay.models.backbone import Backbone, cut_depth, split_backbone
from assay.models.base_checks import check_base, position_limit
from assay.models.bases import Base, no_progress_bars, resolve_base
from assay.models.encoder import EncoderModel
from assay.models.heads import Head
from assay.models.mean_layer import refuse_other_forms
from assay.models.published.checkpoints import Reading, load_published
from assay.models.reward_model import RewardModel
from assay.models.saved.artifact import load_artifact
from assay.run_files import ENSEMBLE, artifact_path, holds_checkpoint, read_description
from assay.training.settings import TrainConfig, parse_depth, top_blocks


class Start(NamedTuple):
    """base: what the run says that it starts from; its path may be that of a reward model. model: that model, with --init-from."""

    base: Base
    renderer: Renderer
    model: RewardModel | None


@no_progress_bars()
def starting_point(config: TrainConfig, head: Head) -> Start:
    """The base, with its tokenizer and chat template, or with --init-from the reward model to start from. head: what is trained.

    Raises ValueError, with a remedy, for what cannot be trained or saved (see `check_base`), and for a template that does not do.
    """
    if config.init_from is not None:
        return _from_reward_model(config, head)
    base = resolve_base(str(config.base))
    length = check_base(base.path, base.name, config.max_length, head=head)
    tokenizer = AutoTokenizer.from_pretrained(base.path, trust_remote_code=False)
    return Start(base, _renderer(config, tokenizer, length, head, closes=True), None)


def check_layers(backbone: Backbone, config: TrainConfig) -> None:
    """Raises ValueError for layers that --depth, --params blocks:K, lora:R:K or head:mean do not suit, before anything is run."""
    if config.reads_mean:
        refuse_other_forms(backbone)
    if (depth := parse_depth(config.depth_rule, backbone.num_layers)) is not None or config.depth == "auto":
        cut_depth(backbone, depth or backbone.num_layers)
    if num_blocks := top_blocks(config.params):
        split_backbone(backbone, num_blocks)


def _from_reward_model(config: TrainConfig, head: Head) -> Start:
    """An artifact of Assay's, adopted ones among them, or another's checkpoint as it lies."""
    path = config.init_from
    assert path is not None
    if has_unknown_past(path):
        say("note", f"{path} does not say which prompts it was trained on: an overlap with the held-out prompts would not be seen")
    if holds_checkpoint(path):
        loaded = load_published(path, Reading(template=config.template))
        for what, how in loaded.assumed.items():
            say(what, how)
        model, tokenizer, closes = loaded.model, loaded.renderer.tokenizer, False
        base = Base(str(path), path.name, f"from the reward model {path.name}")
    else:
        path = artifact_path(path)
        description = read_description(path)
        if description.get(ENSEMBLE):
            fix = "take a member out with assay model export, and go on from that"
            raise ValueError(f"--init-from {config.init_from} is an ensemble: {fix}")
        ours = load_artifact(path, dtype=getattr(torch, description["dtype"]))
        model, tokenizer, closes = ours.model, ours.renderer.tokenizer, ours.renderer.closes
        name, note = description.get("base_model", path.name), f"from the reward model {config.init_from.name}"  # type: ignore[union-attr]
        base = Base(str(path), str(name), note, str(description.get("base_license") or ""))
    if isinstance(model, EncoderModel) or model.before is not None:
        what = "an encoder" if isinstance(model, EncoderModel) else "a head with a hidden layer"
        raise ValueError(f"--init-from {config.init_from} has {what}, which Assay scores with and does not train")
    limit = position_limit(model.backbone.config)
    length = config.max_length if limit is None else min(config.max_length, limit)
    return Start(base, _renderer(config, tokenizer, length, head, closes=closes), model)


def _renderer(config: TrainConfig, tokenizer: Any, length: int, head: Head, *, closes: bool) -> Renderer:
    if length < config.max_length:
        say("max length", f"{length} tokens, not {config.max_length}: it is all that the base's positions hold")
    if config.template is not None:
        choose_template(tokenizer, config.template)
    overlong = head.overlong if config.overlong == "keep_end" else config.overlong
    renderer = Renderer(tokenizer, max_length=length, overlong=overlong, closes=closes)
    for change in renderer.template_changes:
        say("template", change)
    return renderer
