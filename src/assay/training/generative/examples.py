"""Questions and replies as tokens, with what is learnt of them: the critique and the verdict, and the end of the reply.

The prompt's tokens are those that the model will be asked with, and the reply follows them as it will write it: a template that
drops or rewrites what the assistant said before never sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from assay.data.tokens.render import Renderer
from assay.generation.prompt_tokens import PromptTokens
from assay.generation.replies import Unreadable
from assay.messages import Messages
from assay.records import PreferencePair
from assay.scorers.generative.own_forms import OwnForm
from assay.training.generative.questions import LeftOut, PairQuestion

TOO_LONG = "longer than --max-length"


class Example(NamedTuple):
    """A conversation: tokens, of which those from `start` on are learnt. weight: of its tokens in the loss. key: conversations with
    the same one are about one prompt, whose tokens a step computes once; "" is about a prompt of its own. verdict: where the
    verdict's tokens are, of which each counts `stress` times."""

    tokens: tuple[int, ...]
    start: int
    weight: float = 1.0
    key: str = ""
    verdict: tuple[int, int] = (0, 0)
    stress: float = 1.0

    @property
    def weights(self) -> list[float]:
        """Of each learnt token."""
        first, end = self.verdict
        return [self.weight * (self.stress if first <= place < end else 1.0) for place in range(self.start, len(self.tokens))]

    def stressed(self, reply: Sequence[int], other: Sequence[int], closing: int, stress: float) -> Example:
        """With the verdict's tokens found: from where a reply with the other verdict differs up to what closes the reply."""
        first = self.start + next((i for i, (a, b) in enumerate(zip(reply, other, strict=False)) if a != b), len(reply))
        return self._replace(verdict=(first, len(self.tokens) - closing), stress=stress)


class Contrast(NamedTuple):
    """A prompt with a right and a wrong reply, as tokens."""

    prompt: tuple[int, ...]
    right: tuple[int, ...]
    wrong: tuple[int, ...]


class Written(NamedTuple):
    """A question with the reply that is to be learnt."""

    question: PairQuestion
    reply: str


class Writer:
    """Makes tokens of conversations. closing: the tokens behind a reply, up to the one that ends it.

    Raises ValueError for a template that opens a reply in a way that cannot be gone on with.
    """

    def __init__(self, tokenizer: Any, *, max_length: int) -> None:
        renderer = Renderer(tokenizer, max_length=max_length)
        self.tokenizer, self.max_length, self.template_changes = tokenizer, max_length, renderer.template_changes
        self.prompts = PromptTokens(tokenizer, max_length)
        self.pad_id = renderer.pad_id
        closing = tokenizer(renderer.closing.rstrip() or tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        self.closing = tuple(closing)

    def example(self, messages: Messages, reply: str, weight: float = 1.0, key: str = "") -> Example | None:
        """The tokens of a conversation; None where they are too many. Raises `Unreadable` for what the template refuses."""
        prompt, told = self.prompt(messages), self.reply(reply)
        if prompt is None or len(prompt) + len(told) > self.max_length:
            return None
        return Example((*prompt, *told), len(prompt), weight, key)

    def prompt(self, messages: Messages) -> tuple[int, ...] | None:
        """The tokens of a prompt; None where they are too many."""
        try:
            return tuple(self.prompts(messages).tolist())
        except Unreadable as reason:
            if "tokens, and the model takes" in str(reason):
                return None
            raise

    def reply(self, text: str) -> tuple[int, ...]:
        """The tokens of a reply, with what ends it."""
        return (*self.prompts.reply(text), *self.closing)


def reply_of(question: PairQuestion, own: OwnForm) -> str:
    """The reply that the row of a question teaches. Raises ValueError as `OwnForm.target`."""
    return own.target(question.right, question.critique or "")


def examples_of(written: Iterable[Written], writer: Writer, left_out: LeftOut, *, stress: float = 1.0) -> list[Example]:
    """Each conversation that fits, balanced: both verdicts have the same weight in all. stress: how often a verdict's token counts
    in the loss, where a critique's counts once."""
    kept: list[tuple[Written, Example]] = []
    for one in written:
        example = writer.example(one.question.messages, one.reply, one.question.weight, one.question.key)
        if example is None:
            left_out.add(TOO_LONG)
        elif one.question.weight > 0:
            kept.append((one, example if stress == 1 else _stressed(one, example, writer, stress)))
    return _balanced(kept)


def _stressed(one: Written, example: Example, writer: Writer, stress: float) -> Example:
    text, question = one.reply.rstrip(), one.question
    if not text.endswith(question.right):
        return example
    other = text.removesuffix(question.right) + question.wrong
    return example.stressed(writer.reply(text), writer.reply(other), len(writer.closing), stress)


def _balanced(kept: Sequence[tuple[Written, Example]]) -> list[Example]:
    """Weights so that each verdict has half of the whole. One that never occurs leaves them as they are."""
    totals: dict[str, float] = {}
    for one, example in kept:
        totals[one.question.right] = totals.get(one.question.right, 0.0) + example.weight
    if len(totals) < 2 or max(totals.values()) == min(totals.values()):
        return [example for _, example in kept]
    mean = sum(totals.values()) / len(totals)
    return [example._replace(weight=example.weight * mean / totals[one.question.right]) for one, example in kept]


def answer_examples(pairs: Sequence[PreferencePair], writer: Writer, weight: float, left_out: LeftOut) -> list[Example]:
    """The better answers themselves behind their prompts, at that weight.

    It is the lambda of GenRM, which learns to answer beside judging: Zhang et al. (2024).
    """
    found = []
    for pair in pairs:
        if pair.is_tie:
            continue
        better = pair.completions()[0 if pair.preference > 0.5 else 1]
        if not better.is_plain:
            left_out.add("a right answer with tools or reasoning, which is not trained on")
            continue
        example = writer.example(better.messages, better.answer.content, weight * pair.weight)
        if example is None:
            left_out.add(TOO_LONG)
        else:
            found.append(example)
    return found


def mean_length(examples: Sequence[Example]) -> float:
    """Tokens of an example in the mean."""
    return float(np.mean([len(one.tokens) for one in examples])) if examples else 0.0
