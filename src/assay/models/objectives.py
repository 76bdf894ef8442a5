"""What reward models are trained to do. Every objective gives one loss a pair; the caller sums and divides by the global count.

Shapes: P pairs. Rewards are float32.
"""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid


def bradley_terry(
    chosen_P: torch.Tensor, rejected_P: torch.Tensor, preference_P: torch.Tensor, margin_P: torch.Tensor | None = None
) -> torch.Tensor:
    """Negative log-likelihood of the labels, one a pair: (P,).

    -p log sigmoid(r_chosen - r_rejected - m) - (1 - p) log sigmoid(r_rejected - r_chosen + m)

    preference_P: p, probability that chosen is the better one (1 for a plain label, 0.5 for a tie). margin_P: m, how much better,
    in logits, or None. Sources: Bradley & Terry (1952); Ouyang et al. (2022), equation 1; margin: Touvron et al. (2023, Llama 2),
    equation 2.
    """
    difference_P = chosen_P - rejected_P
    if margin_P is not None:
        difference_P = difference_P - margin_P
    return -(preference_P * logsigmoid(difference_P) + (1 - preference_P) * logsigmoid(-difference_P))


def centring(chosen_P: torch.Tensor, rejected_P: torch.Tensor) -> torch.Tensor:
    """Squared sum of the two rewards of a pair, (P,): keeps each prompt's mean reward near zero, which the labels leave open.

    (r_chosen + r_rejected)^2; Eisenstein et al. (2023), equation 2. Multiply by a small coefficient such as 0.01.
    """
    return (chosen_P + rejected_P) ** 2
