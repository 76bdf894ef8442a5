"""Solutions that grow step by step, and what a scorer says of each as far as it has come.

A language model writes up to the text that ends a step, the scorer rewards what is there, and the search says with which to go on.
Draws are set by the seed, the text so far and the number of the sample, so that a run repeats and goes on from its ledger.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from assay.generation.generator import Generator
from assay.generation.replies import Answered, Ask, Reply, Sampling, text_of
from assay.messages import Message, Messages
from assay.records import Completion, Rewards
from assay.stats.steps.step_figures import reduced
from assay.stats.steps.step_reductions import REDUCED

Method = Literal["best-of-n", "beam", "dvts", "rejection"]
Reduce = Literal["last", "min", "product", "mean", "own"]
Score: TypeAlias = Callable[[Sequence[Completion]], Rewards]
"""Rewards of solutions as far as they have come: `Scorer.score`, or a cheaper function that keeps what it has read."""
Probability: TypeAlias = Callable[[np.ndarray], np.ndarray]

STUCK = (
    "nothing but ends of steps is written any more: does the endpoint's chat template take white space off the text to go on with?"
)
CUT, FAILED, UNSCORED, REJECTED, UNFINISHED = "cut off", "not written", "not scored", "rejected", "not finished"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchSettings:
    """How solutions are looked for.

    n: solutions at once (and at the end, at most). width: continuations of each prefix that is kept, of beam and dvts. rounds:
    steps, the last of which writes what is left to its end. stop: texts that end a step. reduce: one number of a solution's step
    rewards; "own" takes the scorer's. threshold: of rejection; a prefix whose number is not above it is dropped. max_tokens: of one
    call, which writes a step, or all that is left. Raises ValueError for settings that do not go together.
    """

    method: Method = "best-of-n"
    n: int = 4
    width: int = 4
    rounds: int = 40
    stop: tuple[str, ...] = ("\n\n",)
    reduce: Reduce = "min"
    threshold: float | None = None
    temperature: float = 0.8
    max_tokens: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n", "width", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if self.method in ("beam", "dvts") and self.n % self.width:
            raise ValueError(f"n {self.n} must be a multiple of width {self.width}: {self.method} keeps n / width prefixes")
        if self.n > 1 and not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature:g} must be positive: at 0 the {self.n} solutions are one")
        if (self.method == "rejection") != (self.threshold is not None):
            raise ValueError("a threshold and the method rejection go together: give both, or neither")
        if self.reduce != "own" and self.reduce not in REDUCED:
            raise ValueError(f"reduce {self.reduce!r} is none of own, {', '.join(REDUCED)}")
        Sampling(temperature=self.temperature, max_tokens=self.max_tokens, stop=self.stop)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A solution as far as it has come. steps: joined they are its text. rewards: of the steps, as the scorer gave them; value: one
    number of them, NaN where there is none, and error says why. ended: "" while it grows, "stop" at its end, else `CUT` or
    `FAILED`."""

    steps: tuple[str, ...] = ()
    rewards: tuple[float, ...] = ()
    value: float = math.nan
    ended: str = ""
    error: str | None = None

    @property
    def text(self) -> str:
        return "".join(self.steps)

    @property
    def is_growing(self) -> bool:
        return not self.ended

    @property
    def is_finished(self) -> bool:
        return self.ended == "stop"

    @property
    def is_scored(self) -> bool:
        return not math.isnan(self.value)

    @property
    def rank(self) -> tuple[float, ...]:
        """What the better of two is told by: the value, and of equal values the worst step, the next worst, and so on. Under `min`
        all continuations of a prefix that are better than its worst step have one value."""
        return (self.value, *sorted(-math.inf if math.isnan(one) else one for one in self.rewards))


def ranked_values(candidates: Sequence[Candidate]) -> np.ndarray:
    """(N,) values in the order of the ranks: of equal values that of the better one is raised by the last bit. NaN stays."""
    value_N = np.array([one.value for one in candidates], np.float64)
    above = -math.inf  # of the one before, as its rank is
    rank: tuple[float, ...] = ()
    for i in sorted(np.flatnonzero(~np.isnan(value_N)).tolist(), key=lambda i: candidates[i].rank):
        if candidates[i].rank != rank:
            above, rank = max(value_N[i], np.nextafter(above, math.inf)), candidates[i].rank
        value_N[i] = above
    return value_N


class Found(NamedTuple):
    """What a search found for one prompt. candidates: finished solutions, in the order in which they were finished; those without a
    value are among them, and are never chosen. left_out: why others are not -> how many. written, read: tokens; calls: of the
    model."""

    candidates: tuple[Candidate, ...]
    left_out: dict[str, int]
    written: int
    read: int
    calls: int

    @property
    def best(self) -> Candidate | None:
        """The finished one of the highest rank, the first of equals; None where none has a value."""
        scored = [one for one in self.candidates if one.is_scored]
        return max(scored, key=lambda one: one.rank) if scored else None


class Grown:
    """The growing of solutions to P prompts: what every method does, and what it costs.

    probability: rewards of steps -> P(right), where the scorer knows it, see `values_of`. advance: is told of every reply.
    """

    def __init__(
        self,
        generator: Generator,
        score: Score,
        prompts: Sequence[Messages],
        settings: SearchSettings,
        probability: Probability | None = None,
        advance: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.generator, self.score, self.prompts, self.settings = generator, score, list(prompts), settings
        self.probability, self.advance = probability, advance
        self.finished: list[list[Candidate]] = [[] for _ in self.prompts]
        self.left_out: list[Counter[str]] = [Counter() for _ in self.prompts]
        self.spent = [[0, 0, 0] for _ in self.prompts]

    def step(self, rows: Sequence[tuple[int, Candidate]], *, whole: bool = False) -> list[Candidate]:
        """Each candidate (with the number of its prompt) one step further, or with `whole` at its end; with its value."""
        answers = self._asked(rows, whole)
        stop = self.settings.stop
        grown = [_with(candidate, one, stop, whole=whole) for (_, candidate), one in zip(rows, answers, strict=True)]
        return self._scored([place for place, _ in rows], grown)

    def put_aside(self, place: int, candidates: Iterable[Candidate], why: str = "") -> None:
        """Keep what is finished; count what is not, under `why` or the way in which it ended."""
        for one in candidates:
            if one.is_finished and not why:
                self.finished[place].append(one)
                self.left_out[place][UNSCORED] += not one.is_scored
            else:
                self.left_out[place][why or one.ended or UNFINISHED] += 1

    def found(self) -> list[Found]:
        """What there is of each prompt."""
        return [
            Found(tuple(done), {why: number for why, number in left_out.items() if number}, *spent)
            for done, left_out, spent in zip(self.finished, self.left_out, self.spent, strict=True)
        ]

    def _asked(self, rows: Sequence[tuple[int, Candidate]], whole: bool) -> list[Answered]:
        settings, seen = self.settings, Counter[tuple[int, str]]()
        sampling = Sampling(
            temperature=settings.temperature,
            max_tokens=settings.max_tokens,
            seed=settings.seed,
            stop=() if whole else settings.stop,
        )
        asks = []
        for place, candidate in rows:
            begun = (Message("assistant", candidate.text),) if candidate.text else ()
            sample = seen[place, candidate.text]  # equal prefixes get draws of their own
            seen[place, candidate.text] += 1
            messages = (*self.prompts[place], *begun)
            asks.append(Ask(messages=messages, sampling=sampling, sample=sample, shared=f"{place}/{candidate.text}"))

        def read(ask: Ask, reply: Reply) -> str:
            self.advance(1)
            return text_of(ask, reply)

        answers = self.generator.ask(asks, read)
        for (place, _), one in zip(rows, answers, strict=True):
            for k, number in enumerate((one.reply.output_tokens, one.reply.input_tokens, 1)):
                self.spent[place][k] += number or 0
        return answers

    def _scored(self, places: Sequence[int], grown: Sequence[Candidate]) -> list[Candidate]:
        """With values, from one call of the scorer; what failed or was cut off is not scored."""
        chosen = [i for i, one in enumerate(grown) if one.ended in ("", "stop") and one.steps]
        result = list(grown)
        if not chosen:
            return result
        rewards = self.score([Completion(messages=self.prompts[places[i]], steps=grown[i].steps) for i in chosen])
        values = values_of(rewards, self.settings.reduce, self.probability)
        for i, k in zip(chosen, range(len(chosen)), strict=True):
            steps = () if rewards.steps is None else tuple(float(one) for one in rewards.steps[k])
            error = None if not math.isnan(values[k]) else (rewards.error or ())[k] or "a step has no reward"
            result[i] = replace(grown[i], rewards=steps, value=float(values[k]), error=error)
        return result


def values_of(rewards: Rewards, reduce: Reduce, probability: Probability | None = None) -> np.ndarray:
    """(N,): one number of the rewards of each solution's steps, NaN where a step has none; of a scorer without steps its reward.

    probability: rewards of steps -> P(right); where it is known, the number is of these. Raises ValueError for a product of rewards
    that are no probabilities.
    """
    if rewards.steps is None or reduce == "own":
        return rewards.value.astype(np.float64)
    steps = rewards.steps if probability is None else [probability(one) for one in rewards.steps]
    return reduced(steps, reduce)


def _with(candidate: Candidate, answered: Answered, stop: tuple[str, ...], *, whole: bool) -> Candidate:
    """The candidate with what was written behind it."""
    if answered.error is not None or answered.reply.text is None:
        return replace(candidate, ended=FAILED, error=answered.error, value=math.nan)
    text, finish = answered.reply.text, answered.reply.finish
    if not whole and text in stop and candidate.text.endswith(2 * text):
        return replace(candidate, ended=FAILED, error=STUCK, value=math.nan)
    steps = with_pieces(candidate.steps, text, stop)
    if finish == "length":
        return replace(candidate, steps=steps, ended=CUT, value=math.nan)
    return replace(candidate, steps=steps, ended="stop" if whole or not text.endswith(stop) else "")


def with_pieces(steps: Sequence[str], text: str, stop: Sequence[str]) -> tuple[str, ...]:
    """The steps with a text behind them, in pieces that end with one of the texts of `stop`; joined they are what they were.

    No step is blank: blank pieces belong to the step before them, at the beginning to the one behind.
    """
    found, start = list(steps), 0
    while start < len(text):
        ends = [place + len(one) for one in stop if (place := text.find(one, start)) >= 0]
        piece = text[start : min(ends, default=len(text))]
        if found and not (piece.strip() and found[-1].strip()):
            found[-1] += piece
        else:
            found.append(piece)
        start += len(piece)
    return tuple(found)
