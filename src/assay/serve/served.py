"""A served name: its current model behind an engine, the previous model, and a candidate that may shadow the current one."""

from __future__ import annotations

import itertools
import logging
import math
import threading
from collections.abc import Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from assay.data.tokens.score_template import added_specials
from assay.records import Completion
from assay.scorers.base import (
    HasRenderer,
    LabelsTokens,
    Scorer,
    TellsStepMeaning,
    capability,
    closed,
    closing_of,
    padding_of,
    reads_ground_truth,
)
from assay.serve.batcher import Batcher, EngineDown, QueueFull
from assay.serve.metrics.prometheus import RewardWindow
from assay.serve.queue import Row

log = logging.getLogger("assay.serve")

_MOST_ANSWERS = 64  # answers to one prompt whose order is compared: the number of pairs grows with the square


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRules:
    """How engines would read a text for this model, so that the engines' APIs give the same rewards as the engines.

    has_sigmoid: whether vLLM's `use_activation` applies a sigmoid; not when config.json has "problem_type": "regression", as in
    Assay's artifacts. before, after: special tokens that the tokenizer adds to a text. marks: special tokens; a text that has one
    counts as rendered. closing: what the template writes after an answer. padding: tokens that rows are filled with. label: name of
    the single class. token_labels: names of what the model says of every token, () for a model that gives one reward. max_length:
    largest number of tokens of a text, None when it is not known.
    """

    has_sigmoid: bool = False
    before: str = ""
    after: str = ""
    marks: tuple[str, ...] = ()
    closing: str = ""
    padding: tuple[str, ...] = ()
    label: str | None = None
    token_labels: tuple[str, ...] = ()
    max_length: int | None = None

    def with_specials(self, text: str) -> str:
        """The text with the special tokens that an engine adds, but never twice."""
        text = text if text.startswith(self.before) else self.before + text
        return text if text.endswith(self.after) else text + self.after

    def closed(self, text: str) -> str:
        """A trainer's text without padding, ended as the template ends an answer."""
        return closed(text, self.closing, self.padding)

    def is_rendered(self, text: str) -> bool:
        return any(mark in text for mark in self.marks)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loaded:
    """One scorer behind its engine thread. source: what it was loaded from. rewards: its last rewards. scale: the factor of its
    rewards, and how it was measured."""

    source: str
    batcher: Batcher
    text_rules: TextRules
    rewards: RewardWindow
    scale: dict[str, Any] | None = None

    @property
    def fingerprint(self) -> str:
        return self.batcher.fingerprint

    def describe(self) -> dict[str, Any]:
        scorer = self.batcher.scorer
        telling = capability(scorer, TellsStepMeaning, of_same_rewards=True)
        meaning = None if telling is None else telling.step_meaning
        return {
            "source": self.source,
            "fingerprint": self.fingerprint,
            "is_alive": self.batcher.is_alive,
            "scope": scorer.scope,
            "tolerance": scorer.tolerance,
            "steps": None if meaning is None else meaning._asdict(),
            "reads_ground_truth": reads_ground_truth(scorer),
            "max_length": self.text_rules.max_length,
            "closing": self.text_rules.closing,
            "padding": list(self.text_rules.padding),
            "batch_tokens": self.batcher.batch_tokens,
            "scale": self.scale,
        }


class Served:
    """One name in requests. current answers; previous is kept for rolling back; candidate waits to be promoted.

    A request is answered by the model that was current when it began, even if another model is promoted meanwhile.
    """

    def __init__(self, name: str, current: Loaded) -> None:
        self.name, self.current = name, current
        self.previous: Loaded | None = None
        self.candidate: Loaded | None = None
        self.shadow: Shadow | None = None
        self._lock = threading.Lock()

    def submit(
        self,
        loaded: Loaded,
        completions: Sequence[Completion],
        deadline: float,
        groups: Sequence[Hashable] | None = None,
        *,
        with_tokens: bool = False,
        of_tokens: bool = False,
    ) -> Future[list[Row]]:
        """Queue the completions for `loaded`, the current model when the request began, and for the shadow, if there is one. The
        shadow is not asked for tokens."""
        answer = loaded.batcher.submit(completions, deadline=deadline, groups=groups, with_tokens=with_tokens, of_tokens=of_tokens)
        if (shadow := self.shadow) is not None and loaded is self.current and not of_tokens:
            shadow.follow(answer, completions, deadline, groups)
        return answer

    def propose(self, candidate: Loaded) -> None:
        """Make a model the candidate; an earlier candidate is dropped."""
        with self._lock:
            dropped, self.candidate, self.shadow = self.candidate, candidate, None
        _retire(dropped)

    def set_shadow(self, is_on: bool) -> None:
        """Begin or end scoring with the candidate too. Raises ValueError when there is no candidate."""
        with self._lock:
            if is_on and self.candidate is None:
                raise ValueError(f"{self.name} has no candidate to shadow it: load one first")
            self.shadow = Shadow(self.name, self.candidate) if is_on and self.candidate is not None else None

    def promote(self) -> None:
        """Make the candidate current; running requests are answered by the old model. Raises ValueError without a candidate."""
        with self._lock:
            if self.candidate is None:
                raise ValueError(f"{self.name} has no candidate to promote: load one first")
            if not self.candidate.batcher.is_alive:
                raise ValueError(f"the candidate of {self.name} has failed: load it again")
            dropped, self.previous, self.current = self.previous, self.current, self.candidate
            self.candidate = self.shadow = None
        _retire(dropped)

    def roll_back(self) -> None:
        """Make the previous model current again, and the promoted one the candidate. Raises ValueError without a previous model."""
        with self._lock:
            if self.previous is None:
                raise ValueError(f"{self.name} has no earlier model to go back to")
            if not self.previous.batcher.is_alive:
                raise ValueError(f"the earlier model of {self.name} has failed: load it again")
            dropped, self.candidate, self.current = self.candidate, self.current, self.previous
            self.previous = self.shadow = None
        _retire(dropped)

    def drop(self) -> None:
        """Drop the candidate. Raises ValueError when there is no candidate."""
        with self._lock:
            if self.candidate is None:
                raise ValueError(f"{self.name} has no candidate to drop")
            dropped, self.candidate, self.shadow = self.candidate, None, None
        _retire(dropped)

    def loaded(self) -> list[Loaded]:
        return [model for model in (self.current, self.candidate, self.previous) if model is not None]

    def describe(self) -> dict[str, Any]:
        roles = {"current": self.current, "candidate": self.candidate, "previous": self.previous}
        described = {role: None if model is None else model.describe() for role, model in roles.items()}
        return {"name": self.name, **described, "shadow": None if self.shadow is None else self.shadow.summary()}


class Shadow:
    """The candidate scores the same requests, and its rewards are compared with the current model's. No request waits for it;
    requests that it cannot score in time are left out.

    Differences are candidate less current. flips: pairs of answers to one prompt in one request that the two order differently.
    """

    def __init__(self, name: str, candidate: Loaded) -> None:
        self.name, self.candidate = name, candidate
        self._lock = threading.Lock()
        self._num_requested = self._num_both = self._num_pairs = self._num_flips = 0
        self._sum = self._squares = self._largest = 0.0

    def follow(
        self, answer: Future[list[Row]], completions: Sequence[Completion], deadline: float, groups: Sequence[Hashable] | None
    ) -> None:
        with self._lock:
            self._num_requested += len(completions)
        try:
            theirs = self.candidate.batcher.submit(completions, deadline=deadline, groups=groups)
        except (QueueFull, EngineDown):
            return
        answer.add_done_callback(lambda _: theirs.cancel() if answer.cancelled() else None)  # the client has gone
        if groups is None:
            groups = [c.messages if c.response is not None else c.key for c in completions]
        theirs.add_done_callback(lambda _: answer.add_done_callback(lambda _: self._compare(answer, theirs, groups)))

    def summary(self) -> dict[str, Any]:
        """n: rewards requested; n_scored: rewards given by both; mean, root mean square and largest difference; flips of pairs."""
        with self._lock:
            n = self._num_both
            return {
                "n": self._num_requested,
                "n_scored": n,
                "mean_difference": self._sum / n if n else None,
                "rms_difference": math.sqrt(self._squares / n) if n else None,
                "largest_difference": self._largest if n else None,
                "flips": self._num_flips,
                "pairs": self._num_pairs,
            }

    def _compare(self, answer: Future[list[Row]], theirs: Future[list[Row]], prompts: Sequence[Hashable]) -> None:
        if any(future.cancelled() or future.exception() is not None for future in (answer, theirs)):
            return
        rows = [(prompt, a["value"], b["value"]) for prompt, a, b in zip(prompts, answer.result(), theirs.result(), strict=True)]
        scored = [(prompt, a, b) for prompt, a, b in rows if a is not None and b is not None]
        differences = [b - a for _, a, b in scored]
        by_prompt: dict[Hashable, list[tuple[float, float]]] = {}
        for prompt, a, b in scored:
            by_prompt.setdefault(prompt, []).append((a, b))
        pairs = [pair for answers in by_prompt.values() for pair in itertools.combinations(answers[:_MOST_ANSWERS], 2)]
        flips = sum((one[0] - other[0]) * (one[1] - other[1]) < 0 for one, other in pairs)
        with self._lock:
            self._num_both += len(scored)
            self._sum += sum(differences)
            self._squares += sum(d * d for d in differences)
            self._largest = max([self._largest, *(abs(d) for d in differences)])
            self._num_pairs, self._num_flips = self._num_pairs + len(pairs), self._num_flips + flips
        examples = ", ".join(f"{a:.4g} -> {b:.4g}" for _, a, b in scored[:8])
        counts = f"{len(scored)} of {len(rows)} rewards by both, {flips} of {len(pairs)} pairs flip"
        log.info("shadow of %s: %s: %s", self.name, counts, examples)


def text_rules_of(scorer: Scorer) -> TextRules:
    """The text rules of a scorer with a tokenizer; for other scorers no special tokens are added."""
    local = capability(scorer, HasRenderer)
    labelling = capability(scorer, LabelsTokens, of_same_rewards=True)
    labels = () if labelling is None else labelling.token_labels
    if local is None:
        return TextRules(closing=closing_of(scorer), padding=padding_of(scorer), token_labels=labels)
    renderer, config = local.renderer, local.config
    tokenizer = renderer.tokenizer
    before, after = added_specials(tokenizer)
    return TextRules(
        has_sigmoid=config is not None and getattr(config, "problem_type", None) != "regression",
        before=before,
        after=after,
        marks=tuple(token for token in tokenizer.all_special_tokens if token.strip()),
        closing=renderer.closing,
        padding=padding_of(scorer),
        label=(getattr(config, "id2label", None) or {}).get(0),
        token_labels=labels,
        max_length=renderer.max_length,
    )


def _retire(loaded: Loaded | None) -> None:
    """End an engine in the background, after its waiting requests."""
    if loaded is not None:
        threading.Thread(target=loaded.batcher.close, daemon=True).start()
