"""The losses of reward models, one number an item; the training loop sums them and divides by the global number of items.

Shapes: P pairs, K answers of a ranking, N answers, A attributes, R steps. Rewards are float32.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import logsigmoid, softplus


def bradley_terry(
    chosen_P: torch.Tensor, rejected_P: torch.Tensor, preference_P: torch.Tensor, margin_P: torch.Tensor | None = None
) -> torch.Tensor:
    """Negative log-likelihood of the labels, one a pair: (P,).

    -p log sigmoid(r_chosen - r_rejected - m) - (1 - p) log sigmoid(r_rejected - r_chosen + m)

    preference_P: p, probability that chosen is the better one (1 for a plain label, 0.5 for a tie). margin_P: m, how much better,
    in logits, or None. Sources: Bradley & Terry (1952); Ouyang et al. (2022), equation 1; margin: Touvron et al. (2023, Llama 2),
    equation 2.
    """
    difference_P = _difference(chosen_P, rejected_P, margin_P)
    return -(preference_P * logsigmoid(difference_P) + (1 - preference_P) * logsigmoid(-difference_P))


def smooth_labels(preference_P: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Labels of which a share goes to the other answer: p (1 - e) + (1 - p) e, (P,), for `bradley_terry`.

    smoothing: e in [0, 0.5). Bounds the margin that a plain label asks for at log((1 - e) / e). Source: Mitchell (2023), the
    conservative loss of "A note on DPO with noisy preferences".
    """
    _check_rate("smoothing", smoothing)
    return preference_P * (1 - smoothing) + (1 - preference_P) * smoothing


def unflip_labels(preference_P: torch.Tensor, flip_rate: float) -> torch.Tensor:
    """Labels that undo, on average, that a share of them was turned round: (p - e) / (1 - 2 e), (P,), for `bradley_terry`.

    Its loss is linear in p, so this is ((1 - e) loss(p) - e loss(1 - p)) / (1 - 2 e): over the flips its mean is the loss of the
    true labels. A plain label becomes larger than 1, the loss of a single pair has no lower bound, and a model that is trained for
    long will follow it down: use few epochs. flip_rate: e in [0, 0.5). Source: Chowdhury et al. (2024), "Provably robust DPO",
    equation 12.
    """
    _check_rate("flip_rate", flip_rate)
    return (preference_P - flip_rate) / (1 - 2 * flip_rate)


def flipped_bradley_terry(
    chosen_P: torch.Tensor,
    rejected_P: torch.Tensor,
    preference_P: torch.Tensor,
    flip_rate: float,
    margin_P: torch.Tensor | None = None,
) -> torch.Tensor:
    """Negative log-likelihood of labels of which a known share was turned round: (P,).

    -p log q - (1 - p) log(1 - q), q = (1 - e) sigmoid(d) + e sigmoid(-d), d = r_chosen - r_rejected - m

    Never above -log e for a plain label, and without pull on a pair that the model is sure is mislabelled. flip_rate: e in
    [0, 0.5). Source: the forward correction of Patrini et al. (2017), theorem 2.
    """
    _check_rate("flip_rate", flip_rate)
    difference_P = _difference(chosen_P, rejected_P, margin_P)
    if not flip_rate:
        return bradley_terry(chosen_P, rejected_P, preference_P, margin_P)
    keep, turn = math.log(1 - flip_rate), math.log(flip_rate)
    won_P, lost_P = logsigmoid(difference_P), logsigmoid(-difference_P)
    chosen_log_P = torch.logaddexp(keep + won_P, turn + lost_P)
    rejected_log_P = torch.logaddexp(keep + lost_P, turn + won_P)
    return -(preference_P * chosen_log_P + (1 - preference_P) * rejected_log_P)


def sft_text(likelihood_P2: torch.Tensor, preference_P: torch.Tensor, beta: float | None) -> torch.Tensor:
    """Loss on the text of the better answer, one a pair: (P,).

    -log sigmoid(beta S), or -S with beta None; S = log p of the answer's tokens, their sum or their mean

    A soft label p mixes the two answers' losses by p and 1 - p. S of a whole answer is about -100 or less: the sigmoid is saturated
    there, and the loss is -beta S, so that long answers weigh more. Source: Yang et al. (2024), "Regularizing hidden states enables
    learning generalizable reward model for LLMs" (GRM), as its code has it, with a beta of 0.1.
    """
    loss_P2 = -likelihood_P2 if beta is None else -logsigmoid(beta * likelihood_P2)
    return preference_P * loss_P2[:, 0] + (1 - preference_P) * loss_P2[:, 1]


def dpo_text(
    likelihood_P2: torch.Tensor, preference_P: torch.Tensor, beta: float, reference_P2: torch.Tensor | None = None
) -> torch.Tensor:
    """Loss on the text of both answers, one a pair: (P,), Bradley-Terry of

    d = beta (S_chosen - S_rejected), less the same of a reference where there is one

    likelihood_P2: S, log p of the answer's tokens, their sum or their mean. Sources: Rafailov et al. (2023), equation 7; as GRM's
    code has it (Yang et al. 2024), which leaves the reference out; of means Meng et al. (2024, SimPO), without its target margin.
    """
    difference_P2 = likelihood_P2 if reference_P2 is None else likelihood_P2 - reference_P2
    return bradley_terry(beta * difference_P2[:, 0], beta * difference_P2[:, 1], preference_P)


def rao_kupper(chosen_P: torch.Tensor, rejected_P: torch.Tensor, preference_P: torch.Tensor, tie_width: float) -> torch.Tensor:
    """Negative log-likelihood of labels with ties, one a pair: (P,). A label of exactly 0.5 is a tie.

    P(win) = sigmoid(d - w), P(loss) = sigmoid(-d - w), P(tie) = (e^2w - 1) P(win) P(loss), d = r_chosen - r_rejected

    Any other p mixes win and loss. tie_width: w > 0, in logits; two equal answers tie with probability tanh(w / 2). Sources: Rao &
    Kupper (1967), equation 2.1 with w = log theta; for preference learning Chen et al. (2024), arXiv 2409.17431.
    """
    if not 0 < tie_width < math.inf:
        raise ValueError(f"tie_width {tie_width} must be above 0: without ties use bradley_terry")
    difference_P = chosen_P - rejected_P
    won_P, lost_P = logsigmoid(difference_P - tie_width), logsigmoid(-difference_P - tie_width)
    tied_P = won_P + lost_P + math.log(math.expm1(2 * tie_width))
    return _nll_with_ties(won_P, tied_P, lost_P, preference_P)


def davidson(chosen_P: torch.Tensor, rejected_P: torch.Tensor, preference_P: torch.Tensor, tie_log_weight: float) -> torch.Tensor:
    """Negative log-likelihood of labels with ties, one a pair: (P,). A label of exactly 0.5 is a tie.

    P(win) : P(tie) : P(loss) = e^(d/2) : n : e^(-d/2), d = r_chosen - r_rejected

    Any other p mixes win and loss. tie_log_weight: log n; two equal answers tie with probability n / (2 + n). Sources: Davidson
    (1970), equation 2.3; for preference learning Chen et al. (2024), arXiv 2409.17431.
    """
    if not math.isfinite(tie_log_weight):
        raise ValueError(f"tie_log_weight {tie_log_weight} must be finite: without ties use bradley_terry")
    half_P = (chosen_P - rejected_P) / 2
    logits_3P = torch.stack([half_P, torch.full_like(half_P, tie_log_weight), -half_P])
    won_P, tied_P, lost_P = torch.log_softmax(logits_3P, 0)
    return _nll_with_ties(won_P, tied_P, lost_P, preference_P)


def plackett_luce(rewards_PK: torch.Tensor, present_PK: torch.Tensor, below_PK: torch.Tensor | None = None) -> torch.Tensor:
    """Negative log-likelihood of P rankings, (P,): rewards in the order from best to worst, padded at the end.

    sum over k of log(e^(r_k) + sum over j below k of e^(r_j)) - r_k: the best is chosen among all, the next among the rest, and so
    on.

    present_PK: bool, False for padding. below_PK: place of the first answer that is ranked below each, K where there is none; left
    out, every next one is below. Answers of one rank are so compared with those below them, not with each other. A strict ranking
    of n answers has n - 1 terms that count; with two it is `bradley_terry`. Rankings of fewer have loss 0. Sources: Luce (1959);
    Plackett (1975), equation 2; with equal ranks the partial likelihood of Cox (1972), section 6.
    """
    if rewards_PK.shape != present_PK.shape or rewards_PK.ndim != 2:
        raise ValueError(f"rewards {tuple(rewards_PK.shape)} and present {tuple(present_PK.shape)} must both be (P, K)")
    lowest = torch.finfo(rewards_PK.dtype).min
    filled_PK = rewards_PK.masked_fill(~present_PK, lowest)
    rest_PK = filled_PK.flip(1).logcumsumexp(1).flip(1)
    if below_PK is None:
        return torch.where(present_PK, rest_PK - rewards_PK, 0.0).sum(1)
    lower_PK = torch.cat([rest_PK, torch.full_like(rest_PK[:, :1], lowest)], 1).gather(1, below_PK)
    return torch.where(present_PK, torch.logaddexp(filled_PK, lower_PK) - filled_PK, 0.0).sum(1)


def masked_regression(predicted_NA: torch.Tensor, target_NA: torch.Tensor, weight_A: torch.Tensor | None = None) -> torch.Tensor:
    """Squared error of several heads, averaged over the attributes that an answer has: (N,).

    sum over a of w_a (predicted_a - target_a)^2 / sum over a of w_a, over the attributes whose target is not NaN

    An answer without any has loss 0 and no gradient. weight_A: w, of each attribute, or None for equal ones. Sources: Wang et al.
    (2023), "HelpSteer", section 4; with missing attributes Wang et al. (2024), "Interpretable preferences" (ArmoRM), equation 1.
    """
    if predicted_NA.shape != target_NA.shape or predicted_NA.ndim != 2:
        raise ValueError(f"predicted {tuple(predicted_NA.shape)} and target {tuple(target_NA.shape)} must both be (N, A)")
    present_NA = ~torch.isnan(target_NA)
    weight_NA = present_NA.float() if weight_A is None else present_NA * weight_A
    error_NA = torch.where(present_NA, predicted_NA - torch.nan_to_num(target_NA), 0.0)
    return (weight_NA * error_NA**2).sum(1) / weight_NA.sum(1).clamp_min(torch.finfo(torch.float32).tiny)


def step_losses(log_odds_R: torch.Tensor, right_R: torch.Tensor, weight_2: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of steps, (R,): 0, and no gradient, where the label is NaN (nothing is known of the step).

    w_right y log(1 + e^-x) + w_wrong (1 - y) log(1 + e^x), for log-odds x and a probability y in [0, 1] that the step is right

    weight_2: (w_wrong, w_right), of the two classes. Sources: Lightman et al. (2023), "Let's verify step by step", section 2.6;
    soft targets: Wang et al. (2024), "Math-Shepherd", section 3.
    """
    if log_odds_R.shape != right_R.shape or log_odds_R.ndim != 1:
        raise ValueError(f"log-odds {tuple(log_odds_R.shape)} and labels {tuple(right_R.shape)} must both be (R,)")
    known_R = ~torch.isnan(right_R)
    y_R = torch.nan_to_num(right_R)
    loss_R = weight_2[1] * y_R * softplus(-log_odds_R) + weight_2[0] * (1 - y_R) * softplus(log_odds_R)
    return torch.where(known_R, loss_R, 0.0)


def centring(chosen_P: torch.Tensor, rejected_P: torch.Tensor) -> torch.Tensor:
    """Squared sum of the two rewards of a pair, (P,): keeps each prompt's mean reward near zero, which the labels leave open.

    (r_chosen + r_rejected)^2; Eisenstein et al. (2023), equation 2. Multiply by a small coefficient such as 0.01.
    """
    return (chosen_P + rejected_P) ** 2


def _difference(chosen_P: torch.Tensor, rejected_P: torch.Tensor, margin_P: torch.Tensor | None) -> torch.Tensor:
    return chosen_P - rejected_P if margin_P is None else chosen_P - rejected_P - margin_P


def _nll_with_ties(won_P: torch.Tensor, tied_P: torch.Tensor, lost_P: torch.Tensor, preference_P: torch.Tensor) -> torch.Tensor:
    """From the three log-probabilities."""
    return -torch.where(preference_P == 0.5, tied_P, preference_P * won_P + (1 - preference_P) * lost_P)


def _check_rate(name: str, rate: float) -> None:
    if not 0 <= rate < 0.5:
        raise ValueError(f"{name} {rate} must be at least 0 and below 0.5: at a half the labels say nothing")
