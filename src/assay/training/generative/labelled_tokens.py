"""The loss of a causal language model at the tokens that are learnt, and nowhere else.

TRL's trainers ask a model for the log-probabilities of all labels (`fused_lm_head=True`). On a GPU its kernel projects labelled
places alone; elsewhere it projects every place and computes the logits a second time on the way back. A prompt is most of a row
here, and the output matrix a fifth of a small model: so off the GPU the labelled places are taken out first.

There a micro-batch is packed as well: conversations about one prompt, as of the answers of a pair, compute its tokens once.

Shapes: B rows, L columns, R labelled places, D hidden size, V tokens of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from assay.data.tokens.packing import PackedBatch, make_group, pack, predictors, siblings
from assay.models.backbone import Backbone

IGNORED = -100  # the label of a token that is not learnt
_PLACES_AT_ONCE = 512  # whose logits are in memory together


@dataclass(slots=True)
class Labelled:
    """What TRL's trainers read of a forward. log_probs (B, L - 1): of the next token, 0 where it is not learnt; label_mask: where
    it is. is_top1: whether it is the likeliest. entropy, mean_logits: 0, not computed. Of a packed batch all are (1, R)."""

    loss: torch.Tensor
    log_probs: torch.Tensor
    label_mask: torch.Tensor
    is_top1: torch.Tensor
    entropy: torch.Tensor
    mean_logits: torch.Tensor
    aux_loss: None = None


class Packed(NamedTuple):
    """Makes one packed batch of the rows of a micro-batch: prompts that rows share stand once where the backbone can branch.

    `labels` (1, 1 + R) are the learnt tokens of all rows, behind one that is not, since transformers never counts the first;
    `places` (R,) the flat index of the token that predicts each.
    """

    backbone: Backbone
    pad_id: int

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        tokens = [np.array(row["input_ids"], np.int32) for row in rows]
        starts = [row["labels"].count(IGNORED) for row in rows]
        layout = self.backbone.layout
        together = siblings(tokens) if self.backbone.can_branch else [[number] for number in range(len(rows))]
        groups = [make_group([tokens[i] for i in each], [np.arange(starts[i], len(tokens[i])) for i in each]) for each in together]
        (batch,) = pack(groups, len(rows) * max(len(group.tokens) for group in groups), pad_id=self.pad_id, layout=layout)
        order = [i for number in batch.order for i in together[number]]
        return {
            "input_ids": torch.from_numpy(batch.tokens.astype(np.int64)),
            "attention_mask": torch.from_numpy((batch.group >= 0).astype(np.int64)),
            "labels": torch.tensor([[IGNORED, *(token for i in order for token in rows[i]["labels"][starts[i] :])]]),
            "weights": torch.tensor([weight for i in order for weight in rows[i]["weights"]], dtype=torch.float32),
            "places": torch.from_numpy(predictors(batch)),
            "packed": batch,
        }


def learn_labelled_alone(causal: Any, backbone: Backbone | None = None) -> None:
    """Give the model a forward that computes logits at labelled places alone, in place; call it behind TRL, which gives it its own.

    A batch may have `weights` (B, L - 1): of the log-probabilities. One of `Packed` is run by the backbone. Every
    other call goes to the forward that was there.
    """
    theirs = causal.forward

    def forward(
        *args: Any,
        fused_lm_head: bool = False,
        labels: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
        packed: PackedBatch | None = None,
        places: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if packed is not None and backbone is not None and labels is not None and places is not None:
            states_RD = backbone(packed).flatten(0, 1).index_select(0, places)
            found = _labelled(causal, states_RD[None], labels[:, 1:])
            found.log_probs = found.log_probs if weights is None else found.log_probs * weights
            return found
        if not fused_lm_head or labels is None:
            return theirs(*args, **({} if labels is None else {"labels": labels}), **kwargs)
        if labels.device.type == "cuda":
            found = theirs(*args, fused_lm_head=True, labels=labels, **kwargs)
        else:
            kwargs.pop("num_items_in_batch", None)
            hidden_BLD = causal.base_model(*args, **{**kwargs, "use_cache": False}).last_hidden_state
            found = _labelled(causal, hidden_BLD[:, :-1], labels[:, 1:])
        if weights is not None:
            found.log_probs = found.log_probs * weights
        return found

    causal.forward = forward


@torch.no_grad()
def reply_log_probs(causal: Any, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]) -> list[float]:
    """Log-probability of each reply behind its prompt, summed over its tokens; rows run one by one."""
    found = []
    for prompt, reply in zip(prompts, replies, strict=True):
        tokens = torch.tensor([[*prompt, *reply]], device=causal.device)
        labels = torch.tensor([[*[IGNORED] * len(prompt), *reply]], device=causal.device)
        states = causal.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        found.append(float(_labelled(causal, states[:, :-1], labels[:, 1:]).log_probs.sum()))
    return found


def _labelled(causal: Any, hidden_BLD: torch.Tensor, labels_BL: torch.Tensor) -> Labelled:
    mask_BL = labels_BL != IGNORED
    states_RD, labels_R = hidden_BLD[mask_BL], labels_BL[mask_BL]
    parts = [
        _of_places(causal, states_RD[start : start + _PLACES_AT_ONCE], labels_R[start : start + _PLACES_AT_ONCE])
        for start in range(0, len(labels_R), _PLACES_AT_ONCE)
    ]
    log_probs_R = torch.cat([part[0] for part in parts]) if parts else states_RD.sum(dim=1).float()
    is_top1_R = torch.cat([part[1] for part in parts]) if parts else log_probs_R > 0
    none_BL = torch.zeros(mask_BL.shape, device=mask_BL.device)
    log_probs_BL = none_BL.masked_scatter(mask_BL, log_probs_R)
    loss = -log_probs_R.sum() / max(1, len(labels_R))
    return Labelled(loss, log_probs_BL, mask_BL, torch.zeros_like(mask_BL).masked_scatter(mask_BL, is_top1_R), none_BL, none_BL)


def _of_places(causal: Any, states_RD: torch.Tensor, labels_R: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(R,) log-probability of each label, and whether it is the likeliest token."""
    logits_RV = causal.get_output_embeddings()(states_RD).float()
    if cap := getattr(causal.config.get_text_config(), "final_logit_softcapping", None):
        logits_RV = cap * torch.tanh(logits_RV / cap)
    log_probs_R = -torch.nn.functional.cross_entropy(logits_RV, labels_R, reduction="none")
    return log_probs_R, logits_RV.detach().argmax(dim=1) == labels_R
