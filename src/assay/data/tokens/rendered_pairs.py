"""Preference pairs through the chat template and the length policy: what is trained on, and what is counted and set aside."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from assay.data.tokens.answer_starts import with_answer_starts
from assay.data.tokens.render import Rendered, Renderer
from assay.errors import DataError
from assay.records import PreferencePair

CHUNK_PAIRS = 512
SAME_AFTER_TEMPLATE = "chosen and rejected are the same tokens: the chat template leaves out what they differ in"
SAME_AFTER_CUT = "chosen and rejected are the same tokens: what they differ in was cut off to fit max_length"
_SHOWN = 160  # characters of each text of an example


@dataclass(kw_only=True)
class RenderCount:
    """What rendering did to the pairs: how many are left, were cut to fit, or were set aside, by reason; left_out: parts that the
    chat template does not render -> in how many pairs. examples: of each reason the first pair that was set aside."""

    num_pairs: int = 0
    num_cut: int = 0
    num_tokens: int = 0
    set_aside: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    examples: dict[str, PreferencePair] = field(default_factory=dict)

    @property
    def num_set_aside(self) -> int:
        return sum(self.set_aside.values())

    def summary(self) -> str:
        parts = [f"{self.num_pairs:,} pairs", f"{self.num_tokens:,} tokens"]
        if self.num_cut:
            parts.append(f"{self.num_cut:,} pairs cut at the front to fit")
        parts += [f"{count:,} pairs in which the chat template leaves out {part}" for part, count in sorted(self.left_out.items())]
        parts += [f"{count:,} pairs set aside: {reason}" for reason, count in sorted(self.set_aside.items())]
        return "; ".join(parts)


class NothingLeft(DataError):
    """No pair is left after rendering. count: what became of them."""

    def __init__(self, count: RenderCount) -> None:
        super().__init__(f"no pair is left to train on: {count.summary()}{examples_of(count)}")
        self.count = count


class RenderedPair(NamedTuple):
    """A pair, and both of its answers as tokens."""

    pair: PreferencePair
    chosen: Rendered
    rejected: Rendered


def render_pairs(
    pairs: Iterable[PreferencePair], renderer: Renderer, count: RenderCount, *, with_starts: bool = False
) -> Iterator[RenderedPair]:
    """The pairs as tokens, streaming; `count` is brought up to date. with_starts: also where the answers begin.

    A pair is set aside when either answer cannot be rendered, and when both give the same tokens, so that nothing could be learnt.
    """
    stream = iter(pairs)
    while chunk := list(itertools.islice(stream, CHUNK_PAIRS)):
        completions = [completion for pair in chunk for completion in pair.completions()]
        rendered = renderer.render(completions)
        rendered = with_answer_starts(renderer, completions, rendered) if with_starts else rendered
        for i, pair in enumerate(chunk):
            chosen, rejected = rendered[2 * i], rendered[2 * i + 1]
            if reason := _unusable(chosen, rejected):
                count.set_aside[reason] = count.set_aside.get(reason, 0) + 1
                count.examples.setdefault(reason, pair)
                continue
            count.num_pairs += 1
            count.num_cut += chosen.is_cut or rejected.is_cut
            count.num_tokens += len(chosen.tokens) + len(rejected.tokens)
            for part in {*chosen.left_out, *rejected.left_out}:
                count.left_out[part] = count.left_out.get(part, 0) + 1
            yield RenderedPair(pair, chosen, rejected)


def _unusable(chosen: Rendered, rejected: Rendered) -> str:
    """Why a pair cannot be trained on, "" where it can."""
    if error := chosen.error or rejected.error:
        return "longer than max_length" if "max_length" in error else error
    if np.array_equal(chosen.tokens, rejected.tokens):
        return SAME_AFTER_CUT if chosen.is_cut or rejected.is_cut else SAME_AFTER_TEMPLATE
    return ""


def examples_of(count: RenderCount) -> str:
    """For each reason a pair that was set aside for it, as lines of text; "" where none was."""
    return "".join(
        f"\n  for example, {reason}: {' '.join(filter(None, (pair.source, pair.id)))}: "
        f"prompt {_short(pair.prompt[-1].content)}, chosen {_short(pair.chosen)}, rejected {_short(pair.rejected)}"
        for reason, pair in sorted(count.examples.items())
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}...")
