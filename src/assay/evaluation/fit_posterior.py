"""Fit the posterior of an artifact's head on pairs, and keep it beside the artifact.

Suffixes: P pairs, N answers, D size of a state.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from assay.console import progress, say
from assay.models.saved.posterior_files import save_posterior
from assay.records import Metric, PreferencePair
from assay.run_files import ENSEMBLE, read_description
from assay.scorers.base import HasStates, Scorer
from assay.scorers.opened import NamedPairs, Opened
from assay.scorers.wrappers.counted import AT_ONCE
from assay.stats.head_posterior import curvature, posterior_of, prior_by_evidence

MIN_PAIRS = 20
MAX_PAIRS = 20_000  # of a run's own
REFERENCE = "I do not know."
_BY_EVIDENCE = "the highest marginal likelihood of the pairs"
_UNLIKE = 0.02  # by which a reward may differ from head x state, as a share of the rewards' spread


class Curved(NamedTuple):
    """curvature_DD: of the loss of the scored pairs in the head. num_pairs: how many those are."""

    curvature_DD: np.ndarray
    num_pairs: int


def fit_posterior(opened: Opened, named: NamedPairs, *, prior: float | None = None, reference: str = REFERENCE) -> Metric:
    """Fit on the pairs that the model was trained on, or on others; returns the precision of the prior.

    prior: its precision; None for the one of the highest marginal likelihood. reference: the answer that a reward is compared with
    for its std, see `HeadStd`. Raises ValueError for a scorer without an artifact, an ensemble, a model whose reward is no linear
    head over one state, for fewer than 20 scored pairs, and for a reference that is empty.
    """
    artifact = opened.need_artifact("a posterior of the head")
    if not reference.strip():
        raise ValueError(f"the reference answer is empty: give a short one, such as {REFERENCE!r}")
    if read_description(artifact).get(ENSEMBLE):
        raise ValueError(f"{opened.label} is an ensemble, whose members give a std already: a posterior is of one model's head")
    weight_D = _linear_head(opened.raw, opened.label)
    found = _curved(opened.raw, named.pairs, weight_D)
    if found.num_pairs < MIN_PAIRS:
        raise ValueError(f"{found.num_pairs} of {len(named.pairs)} pairs are scored: give a posterior at least {MIN_PAIRS}")
    why = "given" if prior is not None else _BY_EVIDENCE
    posterior = posterior_of(found.curvature_DD, prior_by_evidence(found.curvature_DD, weight_D) if prior is None else prior)
    facts = {"prior_by": why, "num_pairs": found.num_pairs, "pairs": named.name, "reference": reference}
    save_posterior(artifact, posterior, facts)
    say("posterior", f"prior precision {posterior.prior:.3g} ({why}); {found.num_pairs:,} pairs of {named.name}")
    say("posterior", f"they determine {posterior.num_determined:.0f} of the {len(weight_D):,} weights of the head")
    return Metric("prior precision", posterior.prior, n_scored=found.num_pairs, n=len(named.pairs), note=why)


def _linear_head(scorer: Scorer, label: str) -> np.ndarray:
    """(D,) weights of the one linear head that gives the scorer's rewards. Raises ValueError where there is none."""
    from assay.models.reward_model import RewardModel  # imports torch
    from assay.scorers.local import LocalScorer

    model = scorer.model if isinstance(scorer, LocalScorer) else None
    if not isinstance(model, RewardModel) or model.outputs != "members" or model.num_members > 1 or model.before is not None:
        raise ValueError(f"{label} gives no single reward by a linear head over one state, which a posterior of it needs")
    return np.asarray(model.head.weight.detach().float().cpu().numpy()[0], np.float64)


def _curved(scorer: Scorer, pairs: Sequence[PreferencePair], weight_D: np.ndarray) -> Curved:
    """The curvature at the margins of the saved head. Raises ValueError where margins are not head x difference of states."""
    assert isinstance(scorer, HasStates)
    whole_DD, num_scored, off, size = np.zeros((len(weight_D), len(weight_D))), 0, 0.0, 0.0
    with progress("posterior", 2 * len(pairs), "answers") as advance:
        for start in range(0, len(pairs), AT_ONCE // 2):
            part = pairs[start : start + AT_ONCE // 2]
            rewards, states_ND = scorer.score_with_states([one for pair in part for one in pair.completions()])
            value_N = rewards.value.astype(np.float64)
            margins_P, differences_PD = value_N[0::2] - value_N[1::2], (states_ND[0::2] - states_ND[1::2]).astype(np.float64)
            kept_P = np.isfinite(margins_P) & np.isfinite(differences_PD).all(axis=1)
            margins_P, differences_PD = margins_P[kept_P], differences_PD[kept_P]
            weights_P = np.array([pair.weight for pair in part], np.float64)[kept_P]
            whole_DD += curvature(differences_PD, margins_P, weights_P)
            off += float(np.square(differences_PD @ weight_D - margins_P).sum())
            size += float(np.square(margins_P).sum())
            num_scored += len(margins_P)
            advance(2 * len(part))
    if off > _UNLIKE**2 * size:
        raise ValueError("the rewards are not the head times the states that it reads: a posterior of the head is of such alone")
    return Curved(whole_DD, num_scored)
