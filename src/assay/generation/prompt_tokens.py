"""Messages to the tokens that a reply follows. What a message says can never become a control token of the template."""

from __future__ import annotations

import re
from typing import Any

import jinja2
import numpy as np

from assay.generation.replies import Unreadable
from assay.messages import Messages

_MARK = "\ue000{}\ue001"  # private use: no template looks for it
_TAIL = 64  # characters on both sides of a word, in which it is looked for among the tokens
_MARKED = re.compile("\ue000(\\d+)\ue001")


class PromptTokens:
    """The chat template of a tokenizer, for prompts. max_length: tokens that the model takes, None for no limit.

    A text that holds a special token's spelling ("<|im_end|>") is encoded as the characters that it is, and the template around it
    as usual; any other is encoded whole, as transformers does. Reasoning is turned off in templates that have a switch for it. A
    last message of the assistant stands, as it is, where its reply would begin: what follows goes on with it.
    """

    def __init__(self, tokenizer: Any, max_length: int | None) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length
        added = [token.content for token in tokenizer.added_tokens_decoder.values()]
        self._special = tuple({*tokenizer.all_special_tokens, *added} - {""})

    def __call__(self, messages: Messages) -> np.ndarray:
        """(T,) int32. Raises `Unreadable` for what the template refuses, and for more tokens than the model takes."""
        turns = [turn.as_dict() for turn in messages]
        begun = str(turns.pop()["content"]) if turns and turns[-1]["role"] == "assistant" else ""
        holds_special = any(special in str(turn["content"]) for turn in [*turns, {"content": begun}] for special in self._special)
        try:
            tokens = self._in_parts(turns, begun) if holds_special else self._encode(self._templated(turns) + begun)
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise Unreadable(f"the chat template refuses the messages ({error})") from error
        if self.max_length is not None and len(tokens) >= self.max_length:
            raise Unreadable(f"the messages are {len(tokens):,} tokens, and the model takes {self.max_length:,} with its reply")
        return np.asarray(tokens, np.int32)

    def reply(self, text: str) -> list[int]:
        """The tokens of a whole reply behind a prompt: what it says, which is never a control token."""
        return self._encode(text, split_special_tokens=any(special in text for special in self._special))

    def before(self, text: str, offset: int) -> str:
        """The text up to where the token begins that says the word at `offset`: in most vocabularies " A" is one token, in others
        the space is a token of its own."""
        start = max(0, offset - _TAIL)
        spaced = text[start:offset]
        bare = spaced.rstrip(" \t")
        if bare == spaced:
            return text[:offset]
        whole = self._encode(text[start : offset + _TAIL], split_special_tokens=True)
        known = self._encode(bare, split_special_tokens=True)
        is_one = whole[: len(known)] == known and bool(str(self.tokenizer.decode(whole[len(known) : len(known) + 1])).strip())
        return text[:start] + (bare if is_one else spaced)

    def _templated(self, turns: list[dict[str, Any]]) -> str:
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False))

    def _in_parts(self, turns: list[dict[str, Any]], begun: str) -> list[int]:
        text = self._templated([{**turn, "content": _MARK.format(i)} for i, turn in enumerate(turns)])
        tokens: list[int] = []
        for place, part in enumerate(_MARKED.split(text)):
            is_content = place % 2 == 1
            tokens += (
                self._encode(str(turns[int(part)]["content"]), split_special_tokens=True) if is_content else self._encode(part)
            )
        return tokens + (self._encode(begun, split_special_tokens=True) if begun else [])

    def _encode(self, text: str, *, split_special_tokens: bool = False) -> list[int]:
        encoded = self.tokenizer(
            text, add_special_tokens=False, return_attention_mask=False, verbose=False, split_special_tokens=split_special_tokens
        )
        return list(encoded["input_ids"])
