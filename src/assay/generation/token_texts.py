"""Where the text of each token ends in what a tokenizer decodes from all of them. Suffix: T tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

_UNFINISHED = "�"
"""How a decoder writes the bytes of a character that is not whole yet."""


def token_ends(decode: Callable[[list[int]], str], token_ids: Sequence[int]) -> np.ndarray:
    """(T,) characters of the response that are whole after each of its tokens; the last is the length of its text.

    decode: a tokenizer's, with skip_special_tokens where the text was decoded so. A token of which no character is whole yet (a
    part of an emoji) and a special token that is skipped add none. Only a few tokens are decoded at a time, as servers stream text.
    """
    ids = [int(token) for token in token_ids]
    ends, written, begin, known = [], 0, 0, 0  # ids[begin:known] are written, and stand before the next for its spaces
    for t in range(len(ids)):
        before, text = decode(ids[begin:known]), decode(ids[begin : t + 1])
        is_whole = not text.endswith(_UNFINISHED) or t + 1 == len(ids)
        if is_whole and len(text) >= len(before):
            written += len(text) - len(before)
            begin, known = begin if text == before else known, t + 1  # a token that adds none is no context for the next
        ends.append(written)
    return np.array(ends, np.int64)
