"""What each stage is worth on held-out pairs, and what it gained over the one before: also when that is nothing.

Suffix: P pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from assay.console import progress
from assay.generation.ledger import Bill
from assay.records import Finding, Metric, PreferencePair, Report, Table
from assay.scorers.generative.generative import GenerativeComparer, GenerativeScorer
from assay.stats.mean_intervals import change_interval, share_interval
from assay.stats.metrics import brier, sigmoid

ACCURACY, RIGHT, CONSISTENT, UNREAD = "accuracy", "right verdicts", "consistent on swap", "pairs without a verdict"
MAX_UNREAD = 0.05
_AT_ONCE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class StageFigures:
    """How a stage judged P pairs. stage: its name. probabilities: P(chosen is better), None where there is no verdict. agree:
    whether both orders favour the same answer, None of single answers and where an order has no verdict. judgements: questions
    that were asked; tokens_read, tokens_written, seconds: of all. errors: reason -> pairs."""

    stage: str
    probabilities: tuple[float | None, ...]
    agree: tuple[bool | None, ...]
    judgements: int
    tokens_read: int
    tokens_written: int
    seconds: float
    errors: dict[str, int]

    @property
    def probability_P(self) -> np.ndarray:
        return np.array([math.nan if one is None else one for one in self.probabilities])

    def right_P(self, preference_P: np.ndarray) -> np.ndarray:
        """1 where the verdict is the label's, 0.5 where it is undecided, 0 where it is wrong or there is none."""
        said_P = self.probability_P
        right_P = np.where((said_P - 0.5) * (preference_P - 0.5) > 0, 1.0, np.where(said_P == 0.5, 0.5, 0.0))
        return np.where(np.isnan(said_P), 0.0, right_P)

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> StageFigures:
        """What `to_json` gave."""
        return cls(**{**content, "probabilities": tuple(content["probabilities"]), "agree": tuple(content["agree"])})


def judge_pairs(stage: str, scorer: GenerativeScorer | GenerativeComparer, pairs: Sequence[PreferencePair]) -> StageFigures:
    """Ask a model about P pairs. The price is of this call alone: what the ledger knows costs nothing."""
    probabilities, agree, errors = list[float | None](), list[bool | None](), dict[str, int]()
    before = scorer.generator.bill
    with progress(f"judging {stage}", len(pairs), "pairs") as advance:
        for start in range(0, len(pairs), _AT_ONCE):
            part = pairs[start : start + _AT_ONCE]
            for probability, both, error in _judged(scorer, part):
                probabilities.append(None if math.isnan(probability) else probability)
                agree.append(both)
                if error is not None:
                    errors[error] = errors.get(error, 0) + 1
            advance(len(part))
    bill: Bill = scorer.generator.bill
    return StageFigures(
        stage=stage,
        probabilities=tuple(probabilities),
        agree=tuple(agree),
        judgements=2 * len(pairs),
        tokens_read=bill.input_tokens - before.input_tokens,
        tokens_written=bill.output_tokens - before.output_tokens,
        seconds=bill.seconds - before.seconds,
        errors=errors,
    )


def _judged(
    scorer: GenerativeScorer | GenerativeComparer, pairs: Sequence[PreferencePair]
) -> list[tuple[float, bool | None, str | None]]:
    if isinstance(scorer, GenerativeComparer):
        found = scorer.comparisons([pair.completions() for pair in pairs])
        return [(one.probability, one.agree if one.error is None else None, one.error) for one in found]
    rewards = scorer.score([side for pair in pairs for side in pair.completions()])
    value_P2 = rewards.value.astype(np.float64).reshape(-1, 2)
    errors = rewards.error or (None,) * len(rewards)
    probability_P = sigmoid(value_P2[:, 0] - value_P2[:, 1])
    return [(float(p), None, errors[2 * i] or errors[2 * i + 1]) for i, p in enumerate(probability_P)]


def stage_report(figures: Sequence[StageFigures], pairs: Sequence[PreferencePair], *, name: str) -> Report:
    """A table of the stages, what each gained over the one before with an interval by prompt, and findings. name: of the pairs."""
    preference_P, prompts_P = np.array([pair.preference for pair in pairs]), np.array([pair.prompt_key for pair in pairs])
    last = figures[-1]
    metrics = _metrics(last, preference_P, prompts_P)
    rows = tuple(_row(one, preference_P, prompts_P) for one in figures)
    columns = ("stage", RIGHT, "low", "high", ACCURACY, CONSISTENT, UNREAD, "Brier", "tokens read", "tokens written", "seconds")
    note = (
        f"{len(pairs):,} pairs of {name}. {RIGHT}: of all pairs, one without a verdict is not right; {ACCURACY}: of those with "
        "a verdict. Tokens and seconds are of one judgement; where the ledger knew the reply, it cost nothing"
    )
    table = Table(title="Stages", columns=columns, rows=rows, note=note)
    changes = [_change(before, after, preference_P, prompts_P) for before, after in pairwise(figures)]
    finding = _unread_finding(last)
    return Report(
        title="Stages of training",
        metrics=metrics,
        tables=(table,),
        findings=(*(one for one in changes), finding),
        facts={"pairs": f"{len(pairs):,} of {name}"},
    )


def _metrics(last: StageFigures, preference_P: np.ndarray, prompts_P: np.ndarray) -> tuple[Metric, ...]:
    right_P, said_P = last.right_P(preference_P), last.probability_P
    read_P = ~np.isnan(said_P)
    num, num_read = len(said_P), int(read_P.sum())
    shares = [(RIGHT, right_P, prompts_P)]
    if num_read:
        shares.append((ACCURACY, right_P[read_P], prompts_P[read_P]))
    agree = [(i, float(one)) for i, one in enumerate(last.agree) if one is not None]
    if agree:
        shares.append((CONSISTENT, np.array([value for _, value in agree]), prompts_P[[i for i, _ in agree]]))
    found = [
        Metric(what, float(values.mean()), *share_interval(values, clusters), len(values), num) for what, values, clusters in shares
    ]
    unread = Metric(UNREAD, 1 - num_read / num, *share_interval((~read_P).astype(float), prompts_P), num, num)
    each = {"tokens read": last.tokens_read, "tokens written": last.tokens_written, "seconds": last.seconds}
    price = [Metric(f"{what} a judgement", total / max(1, last.judgements), n=last.judgements) for what, total in each.items()]
    return (*found, unread, *price)


def _row(one: StageFigures, preference_P: np.ndarray, prompts_P: np.ndarray) -> tuple[object, ...]:
    right_P, said_P = one.right_P(preference_P), one.probability_P
    read_P = ~np.isnan(said_P)
    agree = [float(both) for both in one.agree if both is not None]
    low, high = share_interval(right_P, prompts_P)
    return (
        one.stage,
        float(right_P.mean()),
        low,
        high,
        float(right_P[read_P].mean()) if read_P.any() else math.nan,
        float(np.mean(agree)) if agree else math.nan,
        float((~read_P).mean()),
        brier(said_P, preference_P),
        one.tokens_read / max(1, one.judgements),
        one.tokens_written / max(1, one.judgements),
        one.seconds / max(1, one.judgements),
    )


def _change(before: StageFigures, after: StageFigures, preference_P: np.ndarray, prompts_P: np.ndarray) -> Finding:
    """What a stage gained in right verdicts over the one before; "no gain" where 0 lies in the interval."""
    change_P = after.right_P(preference_P) - before.right_P(preference_P)
    gain, (low, high) = float(change_P.mean()), change_interval(change_P, prompts_P)
    seen = f"{RIGHT} {gain:+.3f} [{low:+.3f}, {high:+.3f}] against {before.stage}, on the same pairs"
    what = f"gain of {after.stage}"
    if low > 0:
        return Finding("ok", what, gain, 0.0, seen)
    if high < 0:
        return Finding("fail", what, gain, 0.0, f"a loss: {seen}; stop at the stage before, whose model is kept under checkpoints/")
    return Finding("warn", what, gain, 0.0, f"no gain that these pairs could show: {seen}")


def _unread_finding(last: StageFigures) -> Finding:
    share = sum(one is None for one in last.probabilities) / max(1, len(last.probabilities))
    why = "; ".join(f"{count:,} x {reason}" for reason, count in sorted(last.errors.items(), key=lambda item: -item[1])[:3])
    if share > MAX_UNREAD:
        return Finding("warn", UNREAD, share, MAX_UNREAD, f"they have no reward, and are not counted as halves: {why}")
    return Finding("ok", UNREAD, share, MAX_UNREAD, why or "every pair has a verdict")
