"""A judge that compares two answers in both orders: `PairwiseJudge`; and one that scores all answers to a prompt by such
comparisons.

A judge that prefers whatever stands first gives a tie, not a winner: verdicts that differ between the orders are a tie,
probabilities of tokens are averaged over the orders. How often the orders agreed is counted.

Suffixes: P pairs, A answers to one prompt.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from assay.generation.generator import Estimate, Generator
from assay.generation.replies import Answered, Ask, Reply, Sampling
from assay.records import Completion, PreferencePair, Rewards
from assay.rubrics.judge_settings import JudgeSettings
from assay.rubrics.rubric import Rubric
from assay.scorers.base import Scope
from assay.scorers.judges.outside_shares import OutsideShares
from assay.scorers.judges.pointwise import VERDICT_TOKENS, checked_features, judge_fingerprint, judge_tolerance
from assay.scorers.judges.verdict_text import numbered_verdict, whole_text
from assay.scorers.judges.verdict_tokens import masses_of
from assay.scorers.judges.wording import FIRST, SECOND, TIE, pairwise_question, why_unjudged
from assay.stats.linear import bradley_terry_weights

NO_OTHER = "there is no other answer to this prompt to compare with"
PRIOR = 0.5  # L2 on the strengths: without it an answer that wins every comparison would be infinitely strong
FORWARD, BACKWARD = "first shown first", "second shown first"


class Comparison(NamedTuple):
    """P(the first answer is better) in each order and together; NaN with the reason where an order has no verdict. agree: whether
    both orders favour the same answer (or both neither)."""

    forward: float
    backward: float
    probability: float
    agree: bool
    error: str | None = None
    text: str | None = None


class PairwiseJudge:
    """Compares answers by a rubric and a language model, in both orders: a `Comparer`, and a scorer of all answers to a prompt.

    num_compared, num_agreed: pairs that both orders had a verdict on, and where both favoured the same answer. Gates, weights and
    rules of the rubric are for judges of single answers: here its criteria are what the comparison is about.
    Raises as `PointwiseJudge`, and ValueError for a rubric with rules alone.
    """

    scope: Scope = "prompt"

    def __init__(self, generator: Generator, rubric: Rubric, *, settings: JudgeSettings | None = None) -> None:
        self.generator, self.rubric = generator, rubric
        self.settings = settings or rubric.judge
        if not rubric.asked:
            raise ValueError("the rubric has rules alone: a judge that compares needs a criterion to compare by")
        if self.settings.k > 1 and self.settings.reading == "tokens":
            raise ValueError(f'k = {self.settings.k}: probabilities are read once; give reading = "text" for samples with votes')
        self.features = checked_features(generator, self.settings)
        self.by_token = self.settings.reading == "tokens"
        self.fingerprint = judge_fingerprint("pairwise", generator, rubric, self.settings)
        self.tolerance = 8 * judge_tolerance(generator)  # a strength moves faster than the probabilities that it is fitted to
        self.num_compared = self.num_agreed = 0
        self._outside = OutsideShares()
        self._lock = threading.Lock()
        if generator.backend.is_thread_safe:
            self.is_thread_safe = True

    @property
    def reads_ground_truth(self) -> bool:
        """Whether the reference is shown."""
        return self.rubric.reads_ground_truth

    @property
    def calls_per_answer(self) -> int:
        """Calls that one answer of a pair takes, without tries: a pair takes two, one in each order."""
        return self.settings.k

    def compare(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        """P pairs -> (P,) P(chosen is better), NaN where an order has no verdict. See `comparisons`."""
        return np.array([one.probability for one in self.comparisons([pair.completions() for pair in pairs])], np.float64)

    def comparisons(self, pairs: Sequence[tuple[Completion, Completion]]) -> list[Comparison]:
        """P pairs of answers to one prompt each -> what both orders said."""
        problems = [self._problem(first, second) for first, second in pairs]
        plans = [[] if problem else self._asks(*pair) for pair, problem in zip(pairs, problems, strict=True)]
        answered = self.generator.ask([ask for plan in plans for ask in plan], self._read)
        self._outside.take(answered)
        found, start = [], 0
        for plan, problem in zip(plans, problems, strict=True):
            found.append(self._compared(answered[start : start + len(plan)], problem))
            start += len(plan)
        both = [one for one in found if one.error is None]
        with self._lock:
            self.num_compared += len(both)
            self.num_agreed += sum(one.agree for one in both)
        return found

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N strengths in logits, of the Bradley-Terry model of all pairs of a prompt's answers, mean 0 within a
        prompt.

        The prior (L2, `PRIOR`) keeps them finite. A prompt's only answer, and one that no comparison came to, are NaN with a
        reason. Source: Bradley & Terry (1952); the prior is that of a Gaussian on the strengths.
        """
        items = list(completions)
        edges = [edge for places in prompt_groups(items) for edge in itertools.combinations(places, 2)]
        found = dict(zip(edges, self.comparisons([(items[i], items[j]) for i, j in edges]), strict=True))
        return strengths_in_prompts(items, found, self._problem)

    def bill(self) -> str:
        """What this run's calls came to, and how often the orders agreed, in words."""
        return f"{self.generator.bill.summary()}; {self.consistency()}"

    def outside(self) -> str | None:
        """How much probability lay outside of the verdicts so far, in words; None of verdicts in text."""
        return self._outside.summary()

    def consistency(self) -> str:
        """How often the orders agreed so far, in words."""
        return f"both orders agreed on {self.num_agreed:,} of {self.num_compared:,} pairs"

    def estimate(self, completions: Sequence[Completion]) -> Estimate:
        """What comparing all answers to each prompt would cost, at most."""
        items, by_prompt = list(completions), dict[object, list[Completion]]()
        for item in items:
            by_prompt.setdefault(item.messages, []).append(item)
        pairs = [pair for group in by_prompt.values() for pair in itertools.combinations(group, 2) if self._problem(*pair) is None]
        return self.generator.estimate([ask for pair in pairs for ask in self._asks(*pair)])

    def _problem(self, *answers: Completion) -> str | None:
        reads = self.rubric.reads_ground_truth
        return next((why for answer in answers if (why := why_unjudged(answer, reads_ground_truth=reads)) is not None), None)

    def _asks(self, first: Completion, second: Completion) -> list[Ask]:
        """Both orders, each with its samples."""
        asks = []
        for order, (one, other) in ((FORWARD, (first, second)), (BACKWARD, (second, first))):
            question = pairwise_question(self.rubric, one, other, by_token=self.by_token, ties=not self.by_token)
            settings = self.settings
            sampling = Sampling(
                temperature=settings.temperature,
                max_tokens=min(settings.max_tokens, VERDICT_TOKENS) if self.by_token else settings.max_tokens,
                seed=settings.seed,
                choices=(FIRST, SECOND) if self.by_token else (),
            )
            asks += [
                Ask(
                    messages=question.messages,
                    sampling=sampling,
                    sample=k,
                    order=order,
                    rubric=self.rubric.digest,
                    shared=question.shared,
                )
                for k in range(settings.k)
            ]
        return asks

    def _read(self, ask: Ask, reply: Reply) -> Any:
        """The verdict on the answers as they were shown: P(A is better). Raises `Unreadable`."""
        if self.by_token:
            masses = masses_of(reply, (FIRST, SECOND))
            return {"first": masses.choices[0], "outside": masses.outside}
        said = numbered_verdict(whole_text(reply), (FIRST, SECOND, TIE)).choice
        return {"first": {FIRST: 1.0, SECOND: 0.0, TIE: 0.5}[said], "said": said}

    def _compared(self, answered: Sequence[Answered], problem: str | None) -> Comparison:
        errors = [problem] if problem else [one.error for one in answered if one.error is not None]
        if errors:
            return Comparison(np.nan, np.nan, np.nan, False, errors[0])
        k = self.settings.k
        forward = float(np.mean([one.verdict["first"] for one in answered[:k]]))
        backward = 1 - float(np.mean([one.verdict["first"] for one in answered[k:]]))
        agree = np.sign(forward - 0.5) == np.sign(backward - 0.5)
        together = (forward + backward) / 2 if agree or self.by_token else 0.5
        text = None if self.by_token else "\n\n".join(one.reply.text or "" for one in (answered[0], answered[k]))
        return Comparison(forward, backward, together, bool(agree), None, text)


class PromptJudge:
    """Scores all answers to a prompt by a `PairwiseJudge`'s comparisons, and compares by those scores alone (mode "listwise")."""

    scope: Scope = "prompt"

    def __init__(self, judge: PairwiseJudge) -> None:
        self.judge, self.generator, self.rubric = judge, judge.generator, judge.rubric
        self.fingerprint, self.tolerance = f"{judge.fingerprint}:listwise", judge.tolerance
        self.calls_per_answer = judge.calls_per_answer
        if judge.generator.backend.is_thread_safe:
            self.is_thread_safe = True

    @property
    def reads_ground_truth(self) -> bool:
        """Whether the reference is shown."""
        return self.judge.reads_ground_truth

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """See `PairwiseJudge.score`."""
        return self.judge.score(completions)

    def bill(self) -> str:
        """What this run's calls came to, and how often the orders agreed, in words."""
        return self.judge.bill()

    def outside(self) -> str | None:
        """How much probability lay outside of the verdicts so far, in words; None of verdicts in text."""
        return self.judge.outside()

    def estimate(self, completions: Sequence[Completion]) -> Estimate:
        """What comparing all answers to each prompt would cost, at most."""
        return self.judge.estimate(completions)


def prompt_groups(items: Sequence[Completion]) -> list[list[int]]:
    """The places of the answers to each prompt; what was rendered already is alone."""
    by_prompt: dict[object, list[int]] = {}
    for i, item in enumerate(items):
        by_prompt.setdefault((item.messages, item.ground_truth_digest, i if item.response is None else -1), []).append(i)
    return list(by_prompt.values())


def strengths_in_prompts(
    items: Sequence[Completion], found: Mapping[tuple[int, int], Comparison], problem: Callable[[Completion], str | None]
) -> Rewards:
    """N completions and the comparisons of all pairs of a prompt's answers, by their places -> N strengths in logits, mean 0 within
    a prompt; NaN with the reason for an answer that has none. problem: why an answer cannot be asked about."""
    value = np.full(len(items), np.nan)
    error = [problem(item) for item in items]
    for places in prompt_groups(items):
        open_ones = [place for place in places if error[place] is None]  # what is wrong with an answer is no reason for another one
        strengths, failures = _strengths(open_ones, {edge: found[edge] for edge in itertools.combinations(open_ones, 2)})
        for place, strength in zip(open_ones, strengths, strict=True):
            value[place] = strength
            error[place] = None if np.isfinite(strength) else failures.get(place, NO_OTHER)
    return Rewards(value=value.astype(np.float32), error=tuple(error))


def _strengths(places: Sequence[int], found: dict[tuple[int, int], Comparison]) -> tuple[np.ndarray, dict[int, str]]:
    """(A,) strengths, NaN for an answer that was in no comparison, and why each of those has none."""
    column_of = {place: column for column, place in enumerate(places)}
    good = [(edge, one.probability) for edge, one in found.items() if one.error is None]
    failures = {place: one.error for edge, one in found.items() if one.error is not None for place in edge}
    strengths_A = np.full(len(places), np.nan)
    if not good:
        return strengths_A, failures
    rows = np.repeat(np.arange(len(good)), 2)
    columns = np.array([column_of[place] for edge, _ in good for place in edge])
    differences = csr_matrix((np.tile([1.0, -1.0], len(good)), (rows, columns)), shape=(len(good), len(places)))
    fitted_A = bradley_terry_weights(differences, np.array([p for _, p in good]), np.ones(len(good)), l2=PRIOR)
    compared = np.unique(columns)
    strengths_A[compared] = fitted_A[compared] - fitted_A[compared].mean()
    return strengths_A, failures
