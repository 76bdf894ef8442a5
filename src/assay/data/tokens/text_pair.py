"""Question and answer as a pair of texts: the path from text to tokens of encoders, which have no chat template.

The tokenizer joins the two with its own marks: [CLS] question [SEP] answer [SEP], <s> question </s></s> answer </s>. The encoder
reads its first token, so that nothing depends on how the pair ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from assay.data.tokens.render import AnswerTokens, Overlong, Rendered
from assay.records import Completion

if TYPE_CHECKING:
    from assay.data.steps.laid_out import LaidOutRenderer
    from assay.data.tokens.render import Renderer

TextPath: TypeAlias = "Renderer | PairRenderer | LaidOutRenderer"  # from text to tokens, of a decoder, an encoder, another's steps

TEXT_PAIR = "text pair"  # the entry "input" of reward.json
JOINED_BY = "\n\n"  # turns of a prompt, where it has several
_RULE = "text pair: the contents of the prompt's turns, joined by a blank line; then the response"


class PairRenderer:
    """Tokenizer and length policy of an encoder, with what `Renderer` offers.

    tokenizer: a transformers tokenizer (fast). max_length, overlong: as in `Renderer`; "keep_end" cuts the question at its front.
    What a pair of texts has no place for in the answer (tool calls, reasoning), and rendered text, sets the completion aside with a
    reason; what it has no place for in the prompt is left out and named.
    """

    closing = ""
    closes = False
    template_changes: tuple[str, ...] = ()

    def __init__(self, tokenizer: Any, *, max_length: int = 512, overlong: Overlong = "keep_end") -> None:
        if max_length < 8:
            raise ValueError(f"max_length {max_length} leaves no room for an answer: give at least 8 tokens")
        if overlong not in ("keep_end", "set_aside"):
            raise ValueError(f"overlong {overlong!r} is unknown: use 'keep_end' or 'set_aside'")
        if tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer has no pad token, which an encoder's rows need: set one")
        self.tokenizer, self.max_length, self.overlong = tokenizer, max_length, overlong
        self.pad_id = int(tokenizer.pad_token_id)
        tokenizer.padding_side = "right"
        tokenizer.truncation_side = tokenizer.init_kwargs["truncation_side"] = "left"
        tokenizer.model_max_length = max_length

    @property
    def template(self) -> str:
        """What the template's digest in reward.json is of."""
        return _RULE

    def settings(self) -> dict[str, Any]:
        """What `reward.json` records of the length policy and the form of the input."""
        return {"max_length": self.max_length, "overlong": self.overlong, "template_changes": [], "input": TEXT_PAIR}

    def texts(self, completion: Completion) -> tuple[str, str] | None:
        """(question, answer); None for a completion that has no such form."""
        if completion.response is None or not completion.messages:
            return None
        return JOINED_BY.join(turn.content for turn in completion.messages), str(completion.response)

    def text(self, completion: Completion) -> str | None:
        """The pair as one text, for programs that take no pair; None where there is none."""
        pair = self.texts(completion)
        return None if pair is None else JOINED_BY.join(pair)

    def render(self, completions: Sequence[Completion]) -> list[Rendered]:
        """N completions -> N token sequences, in order. What cannot be rendered carries its reason; nothing is raised for it."""
        return [self._render(completion) for completion in completions]

    def answer_tokens(self, completion: Completion) -> AnswerTokens:
        """Raises ValueError: an encoder has no reward of a part of an answer."""
        raise ValueError("an encoder reads question and answer at once: it has no reward of a part of an answer")

    def _render(self, completion: Completion) -> Rendered:
        pair = self.texts(completion)
        if completion.token_ids:
            return self._fit_ids(np.asarray(completion.token_ids, dtype=np.int32))
        if pair is None:
            return _failed("an encoder takes a question and an answer: give messages and a response, not rendered text")
        if completion.answer.is_blank:
            return _failed("the response is empty")
        if completion.steps is not None:
            return _failed("an encoder has no reward of a step")
        if completion.answer.tool_calls or completion.answer.reasoning:
            return _failed("a pair of texts has no place for the answer's tool calls or reasoning: drop them")
        try:
            "".join(pair).encode()
        except UnicodeEncodeError as error:
            return _failed(f"the text is not valid Unicode: {error.reason} at character {error.start}")
        return self._fit(*pair)._replace(left_out=_left_out(completion))

    def _fit_ids(self, tokens: np.ndarray) -> Rendered:
        if int(tokens.min()) < 0 or int(tokens.max()) >= len(self.tokenizer):
            return _failed(f"token_ids hold {tokens.min()}..{tokens.max()}, the vocabulary is 0..{len(self.tokenizer) - 1}")
        if len(tokens) > self.max_length:
            return _failed(
                f"{len(tokens)} token ids are more than max_length {self.max_length}, and where the question is is not told"
            )
        return Rendered(tokens, np.array([len(tokens) - 1], dtype=np.int32))

    def _fit(self, question: str, answer: str) -> Rendered:
        encoded = self.tokenizer(question, answer, verbose=False)
        tokens = np.asarray(encoded["input_ids"], dtype=np.int32)
        excess = len(tokens) - self.max_length
        if excess <= 0:
            return Rendered(tokens, np.array([len(tokens) - 1], dtype=np.int32))
        if self.overlong == "set_aside":
            return _failed(f"{len(tokens)} tokens are more than max_length {self.max_length}")
        of_question = np.flatnonzero(np.array([part == 0 for part in encoded.sequence_ids(0)]))
        if len(of_question) <= excess:
            return _failed(f"the answer leaves no room for the question in max_length {self.max_length}: {len(tokens)} tokens")
        kept = np.delete(tokens, of_question[:excess])
        return Rendered(kept, np.array([len(kept) - 1], dtype=np.int32), is_cut=True)


def _left_out(completion: Completion) -> tuple[str, ...]:
    """The parts of the prompt that a pair of texts has no place for."""
    parts = ["the tools"] if completion.tools else []
    parts += ["the prompt's tool calls"] if any(turn.tool_calls for turn in completion.messages) else []
    parts += ["the prompt's reasoning"] if any(turn.reasoning for turn in completion.messages) else []
    return tuple(parts)


def _failed(error: str) -> Rendered:
    return Rendered(np.empty(0, np.int32), np.empty(0, np.int32), error=error)
