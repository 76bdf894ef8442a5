"""Generative reward models as scorers: `generative_scorer(generator, prompt, asked)`.

Of one answer: the log-odds of the verdict, or its score. Of two: a `Comparer` that shows both orders, whose rewards inside of a
prompt are strengths of a Bradley-Terry model. Of several: the scores that one call gives to all answers of a prompt.
`Rewards.text` is what the model wrote. Suffixes: N completions, P pairs.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence

import numpy as np

from assay.generation.generator import Estimate, Generator
from assay.records import Completion, PreferencePair, Rewards
from assay.scorers.base import Scope
from assay.scorers.generative.critics import Critic, GenerativeAsked, Opinion, Question, first_share, log_odds
from assay.scorers.generative.form_prompts import FormPrompt
from assay.scorers.generative.generative_lists import GenerativeLister
from assay.scorers.judges.pairwise import BACKWARD, FORWARD, Comparison, prompt_groups, strengths_in_prompts
from assay.scorers.judges.pointwise import judge_tolerance

_LOG_ODDS_TOLERANCE = 8  # a log-odds or a strength moves faster than the probabilities behind it
_TIE = Comparison(0.5, 0.5, 0.5, True)  # of two equal answers, about which nobody is asked


class GenerativeScorer:
    """Scores each answer alone. `value`: the log-odds of the good verdict, or the score, combined over all replies; `std`: over
    them.

    Raises ValueError for a form that asks about more than one answer, and as `Critic`.
    """

    scope: Scope = "global"

    def __init__(self, generator: Generator, prompt: FormPrompt, asked: GenerativeAsked = GenerativeAsked()) -> None:  # noqa: B008
        self.critic = Critic(generator, prompt, asked)
        if self.critic.form.asks != "one":
            raise ValueError(f"#{self.critic.form.name} does not score one answer alone: use generative_scorer")
        self.generator, self.assumed = generator, self.critic.assumed
        self.fingerprint = self.critic.fingerprint
        self.tolerance = _LOG_ODDS_TOLERANCE * judge_tolerance(generator)
        if generator.backend.is_thread_safe:
            self.is_thread_safe = True

    @property
    def calls_per_answer(self) -> int:
        """Calls that one answer takes, without tries."""
        return self.critic.samples

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N rewards. What cannot be asked about, or has no verdict, is NaN with the reason."""
        problems = [self.critic.why_not([item]) for item in completions]
        asked = [Question((item,)) for item, problem in zip(completions, problems, strict=True) if problem is None]
        opinions = iter(self.critic.opinions(asked))
        rows = [(np.nan, np.nan, None, problem) if problem else self._row(next(opinions)) for problem in problems]
        value, std, text, error = zip(*rows, strict=True) if rows else ((), (), (), ())
        return Rewards(
            value=np.array(value, np.float32),
            std=np.array(std, np.float32) if self.critic.samples > 1 else None,
            text=tuple(text),
            error=tuple(error),
        )

    def bill(self) -> str:
        """What this run's calls came to, in words."""
        return self.generator.bill.summary()

    def outside(self) -> str | None:
        """How much probability lay outside of the verdicts so far, in words; None of verdicts in text."""
        return self.critic.outside()

    def estimate(self, completions: Sequence[Completion]) -> Estimate:
        """What scoring these would cost, at most."""
        return self.critic.estimate([Question((item,)) for item in completions if self.critic.why_not([item]) is None])

    def _row(self, opinion: Opinion) -> tuple[float, float, str | None, str | None]:
        if opinion.error is not None:
            return np.nan, np.nan, opinion.text, opinion.error
        critic = self.critic
        if critic.form.gives == "score":
            values_K = opinion.found[opinion.is_read][:, 0]
            scale = critic.samples if critic.combine == "sum" else 1  # a reply without a verdict has the mean of the others
            std = float(values_K.std(ddof=1)) * scale if len(values_K) > 1 else np.nan
            return float(values_K.mean()) * scale, std, opinion.text, None
        value = log_odds(opinion, by_token=critic.by_token, combine=critic.combine)
        each = [
            log_odds(Opinion(row[None], (None,), (None,)), by_token=critic.by_token, combine="mean")
            for row in opinion.found[opinion.is_read]
        ]
        return value, float(np.std(each, ddof=1)) if len(each) > 1 else np.nan, opinion.text, None


class GenerativeComparer:
    """Compares two answers, in both orders unless asked otherwise: a `Comparer`, and a scorer of all answers to a prompt.

    num_compared, num_agreed: pairs that both orders had a verdict on, and where both favoured the same answer.
    Raises ValueError for a form that does not ask about two answers, and as `Critic`.
    """

    scope: Scope = "prompt"

    def __init__(self, generator: Generator, prompt: FormPrompt, asked: GenerativeAsked = GenerativeAsked()) -> None:  # noqa: B008
        self.critic = Critic(generator, prompt, asked)
        if self.critic.form.asks != "two":
            raise ValueError(f"#{self.critic.form.name} does not compare two answers: use generative_scorer")
        self.generator, self.assumed = generator, self.critic.assumed
        self.fingerprint = self.critic.fingerprint
        self.tolerance = _LOG_ODDS_TOLERANCE * judge_tolerance(generator)
        self.orders = asked.orders or 2
        self.num_compared = self.num_agreed = 0
        self._lock = threading.Lock()
        if generator.backend.is_thread_safe:
            self.is_thread_safe = True

    @property
    def calls_per_answer(self) -> int:
        """Calls that one answer of a pair takes, without tries."""
        return self.critic.samples

    def compare(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        """P pairs -> (P,) P(chosen is better), NaN where an order has no verdict. See `comparisons`."""
        return np.array([one.probability for one in self.comparisons([pair.completions() for pair in pairs])], np.float64)

    def comparisons(self, pairs: Sequence[tuple[Completion, Completion]]) -> list[Comparison]:
        """P pairs of answers to one prompt each -> what the orders said. With one order the other one is NaN."""
        problems = [self.critic.why_not(pair) for pair in pairs]
        are_equal = [first.key == second.key for first, second in pairs]
        is_open = [problem is None and not equal for problem, equal in zip(problems, are_equal, strict=True)]
        asked = [q for pair, to_ask in zip(pairs, is_open, strict=True) if to_ask for q in self._questions(*pair)]
        opinions = iter(self.critic.opinions(asked))
        found = []
        for problem, to_ask in zip(problems, is_open, strict=True):
            if to_ask:
                found.append(self._compared([next(opinions) for _ in range(self.orders)]))
            else:
                found.append(_TIE if problem is None else Comparison(np.nan, np.nan, np.nan, False, problem))
        both = [one for one, to_ask in zip(found, is_open, strict=True) if to_ask and one.error is None and self.orders == 2]
        with self._lock:
            self.num_compared += len(both)
            self.num_agreed += sum(one.agree for one in both)
        return found

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N strengths in logits, mean 0 within a prompt, as `PairwiseJudge.score`."""
        items = list(completions)
        edges = [edge for places in prompt_groups(items) for edge in itertools.combinations(places, 2)]
        found = dict(zip(edges, self.comparisons([(items[i], items[j]) for i, j in edges]), strict=True))
        rewards = strengths_in_prompts(items, found, lambda item: self.critic.why_not([item]))
        return Rewards(
            value=rewards.value, error=rewards.error, text=tuple(_critiques(place, found) for place in range(len(items)))
        )

    def bill(self) -> str:
        """What this run's calls came to, and how often the orders agreed, in words."""
        return f"{self.generator.bill.summary()}; {self.consistency()}"

    def outside(self) -> str | None:
        """How much probability lay outside of the verdicts so far, in words; None of verdicts in text."""
        return self.critic.outside()

    def consistency(self) -> str:
        """How often the orders agreed so far, in words."""
        if self.orders == 1:
            return "each pair was shown in one order: how far the place decides is not known"
        return f"both orders agreed on {self.num_agreed:,} of {self.num_compared:,} pairs"

    def estimate(self, completions: Sequence[Completion]) -> Estimate:
        """What comparing all answers to each prompt would cost, at most."""
        items = list(completions)
        pairs = [(items[i], items[j]) for places in prompt_groups(items) for i, j in itertools.combinations(places, 2)]
        return self.critic.estimate([q for pair in pairs if self.critic.why_not(pair) is None for q in self._questions(*pair)])

    def _questions(self, first: Completion, second: Completion) -> list[Question]:
        return [Question((first, second), FORWARD), Question((second, first), BACKWARD)][: self.orders]

    def _compared(self, opinions: Sequence[Opinion]) -> Comparison:
        critic = self.critic
        text = "\n\n".join(opinion.text for opinion in opinions if opinion.text) or None
        if (error := next((one.error for one in opinions if one.error is not None), None)) is not None:
            return Comparison(np.nan, np.nan, np.nan, False, error, text)
        shares = [first_share(opinion, critic.form, critic.combine) for opinion in opinions]
        if len(shares) == 1:
            return Comparison(shares[0], np.nan, shares[0], False, None, text)
        forward, backward = shares[0], 1 - shares[1]
        agree = bool(np.sign(forward - 0.5) == np.sign(backward - 0.5))
        is_share = critic.by_token or critic.samples > 1  # single plain verdicts that differ by the place are a tie
        return Comparison(forward, backward, (forward + backward) / 2 if agree or is_share else 0.5, agree, None, text)


def _critiques(place: int, found: dict[tuple[int, int], Comparison]) -> str | None:
    """What was written of an answer, in each comparison that it was in."""
    texts = [
        f"[compared with answer {(j if place == i else i) + 1}]\n{one.text}"
        for (i, j), one in found.items()
        if place in (i, j) and one.text
    ]
    return "\n\n".join(texts) or None


def generative_scorer(
    generator: Generator,
    prompt: FormPrompt,
    asked: GenerativeAsked = GenerativeAsked(),  # noqa: B008  (immutable)
) -> GenerativeScorer | GenerativeComparer | GenerativeLister:
    """The scorer of a form: of one answer, of two, or of all answers to a prompt. Raises ValueError as `Critic`."""
    match prompt.form.asks:
        case "one":
            return GenerativeScorer(generator, prompt, asked)
        case "two":
            return GenerativeComparer(generator, prompt, asked)
        case _:
            return GenerativeLister(generator, prompt, asked)
