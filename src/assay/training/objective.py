"""The objective of a preference pair: which loss, with which options, and what the length of an answer alone says of the labels.

The formulas are in training/losses.py. Shapes: P pairs; 2 is chosen, rejected. Rewards are float32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import numpy as np
import torch
import tyro

from assay.data.tokens.table import PairTable
from assay.training.losses import (
    bradley_terry,
    centring,
    davidson,
    dpo_text,
    flipped_bradley_terry,
    rao_kupper,
    sft_text,
    smooth_labels,
    unflip_labels,
)
from assay.training.tasks.task import BatchLoss

if TYPE_CHECKING:
    from assay.training.settings import TrainConfig

Loss = Literal["bradley-terry", "rdpo", "flips", "rao-kupper", "davidson"]
Text = Literal["sft", "sft:sum", "sft:per-token", "dpo", "dpo:per-token", "dpo:reference"]
BETA = 0.1  # of a text loss of summed log-probabilities: GRM's
BETA_OF_MEANS = 2.0  # of dpo:per-token: SimPO's
TEXT_WEIGHT = 0.01  # GRM's


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The loss of a pair."""

    loss: Loss = "bradley-terry"
    """rdpo, flips: wrong labels; the last two: ties."""
    label_smoothing: float = 0.0
    """Probability moved from each label to the other answer."""
    flip_rate: Annotated[float, tyro.conf.arg(metavar="N")] = 0.0
    """Known share of wrong labels, for rdpo and flips."""
    tie_share: Annotated[float, tyro.conf.arg(metavar="N")] = 0.5
    """Probability that equal answers tie (rao-kupper, davidson)."""
    use_margin: bool = False
    """Use the margins of the data, which must be in logits."""
    centring: float = 0.01
    """Coefficient of the penalty on each prompt's mean reward."""
    debias_length: bool = False
    """Leave out of the reward what length alone says."""
    text_loss: Text | None = None
    """Also learn to write the answers (docs/training.md)."""
    text_weight: Annotated[float, tyro.conf.arg(metavar="N")] = TEXT_WEIGHT
    """Share of the text loss in the whole."""

    def __post_init__(self) -> None:
        for name in ("label_smoothing", "flip_rate"):
            if not 0 <= getattr(self, name) < 0.5:
                raise ValueError(f"--{name.replace('_', '-')} {getattr(self, name)} must be at least 0 and below 0.5")
        if not 0 < self.tie_share < 1:
            raise ValueError(f"--tie-share {self.tie_share} must lie between 0 and 1")
        if not 0 <= self.centring < math.inf:
            raise ValueError(f"--centring {self.centring} must be 0 or more")
        if self.flip_rate and self.loss not in ("rdpo", "flips"):
            raise ValueError(f"--flip-rate {self.flip_rate} says nothing to --loss {self.loss}: use --loss flips or rdpo")
        if self.debias_length and self.loss in ("rao-kupper", "davidson"):
            raise ValueError(f"--debias-length cannot be joined with --loss {self.loss}: its ties stand for equal answers")
        if self.use_margin and self.loss in ("rao-kupper", "davidson"):
            raise ValueError(f"--use-margin cannot be joined with --loss {self.loss}: its ties stand for small margins")
        if not 0 < self.text_weight < 1:
            raise ValueError(f"--text-weight {self.text_weight} must lie between 0 and 1")
        if self.text_loss is None and self.text_weight != TEXT_WEIGHT:
            raise ValueError(f"--text-weight {self.text_weight} says nothing without --text-loss: give sft, or leave it out")

    @property
    def name(self) -> str:
        """For cards: the loss, and what is added to it."""
        return self.loss if self.text_loss is None else f"{self.loss}, and {self.text_weight:g} of a text loss ({self.text_loss})"

    @property
    def reads_rejected_text(self) -> bool:
        """Whether the text loss of a plain label needs the rejected answer too."""
        return self.text_loss is not None and self.text_loss.startswith("dpo")


def refuse_text_loss(config: TrainConfig) -> None:
    """Raises ValueError, with the fix, for what a text loss cannot be joined with: it is read from the base's own last layer."""
    form = config.objective.text_loss
    if form is None:
        return
    mode = config.params.partition(":")[0]
    if config.machine.quick or mode in ("head", "auto"):
        what = "--quick" if config.machine.quick else f"--params {config.params}"
        trains = "may train a head alone" if mode == "auto" else "trains a head alone"
        raise ValueError(f"--text-loss {form}: {what} {trains}, which writes no text: give --params blocks:4, lora:16 or full")
    if config.init_from is not None:
        raise ValueError(f"--text-loss {form}: a reward model has no language model's head: give --base in place of --init-from")
    if config.depth not in (None, "full"):
        why = "the base predicts tokens from its last layer"
        raise ValueError(f"--text-loss {form} cannot be joined with --depth {config.depth}: {why}, leave --depth out")
    if config.machine.shard:
        raise ValueError(f"--text-loss {form} cannot be joined with --shard: leave one of the two out, or train --params blocks:K")


def refuse_pair_flags(config: TrainConfig) -> None:
    """Raises ValueError, naming it, for a flag that says nothing where no pairs are trained on."""
    plain, asked, regularization = Objective(), config.objective, config.regularization
    given = {
        f"--{name.replace('_', '-')}": getattr(asked, name) != getattr(plain, name)
        for name in ("loss", "label_smoothing", "flip_rate", "tie_share", "use_margin", "debias_length", "text_loss")
    }
    given |= {"--augment": regularization.augment is not None, "--replay": regularization.replay > 0}
    for flag, is_given in given.items():
        if is_given:
            raise ValueError(f"{flag} is of pairs, and says nothing to --kind {config.kind}: leave it out")


def batch_loss(
    rewards_P2: torch.Tensor,
    table: PairTable,
    rows: np.ndarray,
    objective: Objective,
    length_slope: float = 0.0,
    text: AnswerText | None = None,
) -> BatchLoss:
    """Summed loss of P pairs; columns are the sums of the loss without centring, of right pairs, of margins and of |rewards|, and
    with `text` of the text loss, which then has the share `text_weight` of the whole.

    length_slope: b of `length_log_odds`. The loss is that of d + b x length gap instead of d, so that the reward learns what length
    does not say: a product of experts (Hinton 2002; Clark et al. 2019, equation 3, "Don't take the easy way out").
    """
    device = rewards_P2.device
    chosen_P, rejected_P = rewards_P2.float().unbind(1)
    preference_P = torch.from_numpy(table.preference[rows]).to(device)
    weight_P = torch.from_numpy(table.weight[rows]).to(device)
    margin_P = torch.from_numpy(np.nan_to_num(table.margin[rows])).to(device) if objective.use_margin else None
    if length_slope:
        known_P = torch.from_numpy(length_slope * table.length_gap[rows]).to(device)
        margin_P = -known_P if margin_P is None else margin_P - known_P
    nll_P = pair_losses(chosen_P, rejected_P, preference_P, margin_P, objective) * weight_P
    loss = nll_P.sum()
    if objective.centring:
        loss = loss + objective.centring * (centring(chosen_P, rejected_P) * weight_P).sum()
    difference_P = (chosen_P - rejected_P).detach()
    right = (difference_P * (preference_P - 0.5) > 0).sum()
    sums = [nll_P.detach().sum(), right.float(), difference_P.sum(), rewards_P2.detach().abs().mean(1).sum()]
    if text is not None:
        text_P = text_losses(text, preference_P, objective) * weight_P
        loss = (1 - objective.text_weight) * loss + objective.text_weight * text_P.sum()
        sums.append(text_P.detach().sum())
    return BatchLoss(loss, torch.stack(sums))


class AnswerText(NamedTuple):
    """likelihood_P2: log p of each answer's tokens, summed, float32; 0 of an answer that the loss does not need. num_tokens_P2: how
    many they are. reference_P2: the same of the base before training, where there is a reference."""

    likelihood_P2: torch.Tensor
    num_tokens_P2: torch.Tensor
    reference_P2: torch.Tensor | None = None


def text_losses(text: AnswerText, preference_P: torch.Tensor, objective: Objective) -> torch.Tensor:
    """Text loss of each pair, (P,), before weights."""
    form = objective.text_loss
    is_mean = form is not None and form.endswith(":per-token")
    likelihood_P2 = text.likelihood_P2 / text.num_tokens_P2.clamp(min=1) if is_mean else text.likelihood_P2
    if objective.reads_rejected_text:
        return dpo_text(likelihood_P2, preference_P, BETA_OF_MEANS if is_mean else BETA, text.reference_P2)
    return sft_text(likelihood_P2, preference_P, BETA if form == "sft" else None)


def pair_losses(
    chosen_P: torch.Tensor,
    rejected_P: torch.Tensor,
    preference_P: torch.Tensor,
    margin_P: torch.Tensor | None,
    objective: Objective,
) -> torch.Tensor:
    """Loss of each pair, (P,), before weights and centring."""
    if objective.loss in ("rao-kupper", "davidson"):
        # Between equals the probability of a tie is tanh(width / 2) and w / (2 + w).
        share = objective.tie_share
        if objective.loss == "rao-kupper":
            return rao_kupper(chosen_P, rejected_P, preference_P, 2 * math.atanh(share))
        return davidson(chosen_P, rejected_P, preference_P, math.log(2 * share / (1 - share)))
    if objective.label_smoothing:
        preference_P = smooth_labels(preference_P, objective.label_smoothing)
    if objective.loss == "flips":
        return flipped_bradley_terry(chosen_P, rejected_P, preference_P, objective.flip_rate, margin_P)
    if objective.loss == "rdpo":
        preference_P = unflip_labels(preference_P, objective.flip_rate)
    return bradley_terry(chosen_P, rejected_P, preference_P, margin_P)


def length_log_odds(gap_P: np.ndarray, preference_P: np.ndarray, weight_P: np.ndarray, *, l2: float = 1.0) -> float:
    """Slope b of a model of the labels that sees length only: P(chosen wins) = sigmoid(b x gap), in logits.

    gap_P: log length of chosen minus that of rejected, (P,). Logistic regression without an intercept, by Newton steps; l2 keeps b
    finite where length decides every label. First step of fitting the residual of a known bias: He et al. (2019), "Unlearn dataset
    bias in natural language inference by fitting the residual"; Clark et al. (2019).
    """
    gap_P, weight_P = gap_P.astype(np.float64), weight_P.astype(np.float64)
    slope = 0.0
    for _ in range(50):
        p_P = 1 / (1 + np.exp(-np.clip(slope * gap_P, -30, 30)))
        gradient = float(np.sum(weight_P * (p_P - preference_P) * gap_P)) + l2 * slope
        curvature = float(np.sum(weight_P * p_P * (1 - p_P) * gap_P**2)) + l2
        step = gradient / curvature
        slope -= max(-1.0, min(1.0, step))
        if abs(step) < 1e-9:
            break
    return slope
