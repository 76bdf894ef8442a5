"""A generative model that scores all answers to a prompt in one call, as DeepSeek-GRM does: `GenerativeLister`.

Sample after sample shows them in the other order, so that the place of an answer counts less. Suffixes: N completions, P pairs,
K samples, A answers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from assay.generation.generator import Estimate, Generator
from assay.records import Completion, PreferencePair, Rewards
from assay.scorers.base import Scope
from assay.scorers.generative.critics import Critic, GenerativeAsked, Opinion, Question, first_share
from assay.scorers.generative.form_prompts import FormPrompt
from assay.scorers.judges.pairwise import BACKWARD, FORWARD, Comparison, prompt_groups


class GenerativeLister:
    """Scores all answers to a prompt together. `value`: the sum of an answer's scores over the samples (or their mean), so that
    it is relative to what else is shown; `std`: of its scores. A `Comparer`: two answers are scored together.

    Where samples have no verdict, the sum is that of the others, brought to the whole number. Raises ValueError as `Critic`, and
    for a form that does not score several answers.
    """

    scope: Scope = "prompt"

    def __init__(self, generator: Generator, prompt: FormPrompt, asked: GenerativeAsked = GenerativeAsked()) -> None:  # noqa: B008
        self.critic = Critic(generator, prompt, asked)
        if self.critic.form.asks != "several":
            raise ValueError(f"#{self.critic.form.name} does not score several answers at once: use generative_scorer")
        self.generator, self.assumed = generator, self.critic.assumed
        self.fingerprint, self.tolerance = self.critic.fingerprint, 0.0
        if generator.backend.is_thread_safe:
            self.is_thread_safe = True

    @property
    def calls_per_answer(self) -> int:
        """Calls that all answers to a prompt take together, without tries."""
        return self.critic.samples

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N rewards. What cannot be asked about, or has no verdict, is NaN with the reason."""
        items = list(completions)
        problems = [self.critic.why_not([item]) for item in items]
        groups = [self._shown(items, places, problems) for places in prompt_groups(items)]
        groups = [places for places in groups if places]
        found = self._scored([[items[i] for i in places] for places in groups])
        value, std = np.full(len(items), np.nan), np.full(len(items), np.nan)
        error: list[str | None] = list(problems)
        text: list[str | None] = [None] * len(items)
        scale = self.critic.samples if self.critic.combine == "sum" else 1
        for places, opinion in zip(groups, found, strict=True):
            for column, i in enumerate(places):
                text[i], error[i] = opinion.text, opinion.error
                if opinion.error is None:
                    scores_K = opinion.found[opinion.is_read][:, column]
                    value[i] = scores_K.mean() * scale
                    std[i] = scores_K.std(ddof=1) * scale if len(scores_K) > 1 else np.nan
        return Rewards(
            value=value.astype(np.float32),
            std=std.astype(np.float32) if self.critic.samples > 1 else None,
            text=tuple(text),
            error=tuple(error),
        )

    def compare(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        """P pairs -> (P,) 1 where chosen has the higher sum of scores, 0 where rejected has, 0.5 for a tie; NaN without a verdict.
        With combine="vote" the share of samples."""
        return np.array([one.probability for one in self.comparisons([pair.completions() for pair in pairs])], np.float64)

    def comparisons(self, pairs: Sequence[tuple[Completion, Completion]]) -> list[Comparison]:
        """P pairs of answers to one prompt each -> what the replies said that showed the first one first, the others, and all."""
        problems = [self.critic.why_not(pair) for pair in pairs]
        asked = [list(pair) for pair, problem in zip(pairs, problems, strict=True) if problem is None]
        opinions = iter(self._scored(asked))
        return [
            Comparison(np.nan, np.nan, np.nan, False, problem) if problem else self._compared(next(opinions))
            for problem in problems
        ]

    def bill(self) -> str:
        """What this run's calls came to, in words."""
        return self.generator.bill.summary()

    def outside(self) -> None:
        """None: scores are read as they are written."""

    def estimate(self, completions: Sequence[Completion]) -> Estimate:
        """What scoring these would cost, at most."""
        items = list(completions)
        problems = [self.critic.why_not([item]) for item in items]
        groups = [self._shown(items, places, problems) for places in prompt_groups(items)]
        return self.critic.estimate([q for places in groups if places for q in self._questions([items[i] for i in places])])

    def _shown(self, items: Sequence[Completion], places: Sequence[int], problems: Sequence[str | None]) -> list[int]:
        """The answers of a prompt that can be shown, in an order that does not depend on how they came."""
        return sorted((i for i in places if problems[i] is None), key=lambda i: items[i].key)

    def _scored(self, groups: Sequence[Sequence[Completion]]) -> list[Opinion]:
        """What the samples say of each group, one column an answer, in the order of the group."""
        plans = [self._questions(group) for group in groups]
        opinions = iter(self.critic.opinions([question for plan in plans for question in plan]))
        return [_joined(plan, [next(opinions) for _ in plan]) for plan in plans]

    def _questions(self, group: Sequence[Completion]) -> list[Question]:
        """Every second sample shows the answers from behind; a lone answer has one order."""
        samples = tuple(range(self.critic.samples))
        if len(group) == 1:
            return [Question(tuple(group), FORWARD, samples)]
        orders = [(tuple(group), FORWARD, samples[::2]), (tuple(reversed(group)), BACKWARD, samples[1::2])]
        return [Question(answers, order, numbers) for answers, order, numbers in orders if numbers]

    def _compared(self, opinion: Opinion) -> Comparison:
        if opinion.error is not None:
            return Comparison(np.nan, np.nan, np.nan, False, opinion.error, opinion.text)
        form, combine = self.critic.form, self.critic.combine
        forward, backward = (first_share(_every_second(opinion, start), form, combine) for start in (0, 1))
        agree = bool(np.sign(forward - 0.5) == np.sign(backward - 0.5))
        return Comparison(forward, backward, first_share(opinion, form, combine), agree, None, opinion.text)


def _joined(plan: Sequence[Question], opinions: Sequence[Opinion]) -> Opinion:
    """The samples of all orders, by their numbers, with the answers in the order of the first one."""
    rows = []
    for place, (question, opinion) in enumerate(zip(plan, opinions, strict=True)):
        found_KA = opinion.found if place == 0 else opinion.found[:, ::-1]
        rows += list(zip(question.samples or (), found_KA, opinion.texts, opinion.errors, strict=True))
    _, found, texts, errors = zip(*sorted(rows, key=lambda row: row[0]), strict=True)
    return Opinion(np.array(found), texts, errors)


def _every_second(opinion: Opinion, start: int) -> Opinion:
    """The samples of one order; without any, one that has no verdict."""
    if start >= len(opinion.errors):
        return Opinion(np.full((1, opinion.found.shape[1]), np.nan), (None,), ("it was not shown in this order",))
    return Opinion(opinion.found[start::2], opinion.texts[start::2], opinion.errors[start::2])
