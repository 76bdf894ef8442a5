"""An edit that changes the length of an answer and nothing else: what it says, said in fewer words and in more. English.

A short form and its long form mean the same and stand in the same sentences, so that a difference of their rewards is the worth of
length, free of what longer answers gain by saying more.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from assay.data.probe_edits.edits import Edited
from assay.records import Completion

_LONG_OF: Mapping[str, str] = {
    "although": "despite the fact that",
    "can use": "can make use of",
    "currently": "at the present time",
    "decide to": "make the decision to",
    "despite": "in spite of",
    "every": "each and every",
    "for example": "to give just one example",
    "including": "including, among other things,",
    "instead of": "in the place of",
    "it can": "it has the ability to",
    "several": "a number of different",
    "sometimes": "from time to time",
    "so that": "in such a way that",
    "such as": "such as, to name just some,",
    "they can": "they have the ability to",
    "this means that": "what this means is that",
    "to use": "to make use of",
    "try to": "make an attempt to",
    "usually": "in most cases",
    "you can": "you have the ability to",
    "you need to": "what you need to do is",
    "you should": "what you should do is",
    "aren't": "are not",
    "can't": "cannot",
    "couldn't": "could not",
    "didn't": "did not",
    "doesn't": "does not",
    "don't": "do not",
    "hasn't": "has not",
    "haven't": "have not",
    "isn't": "is not",
    "it's": "it is",
    "shouldn't": "should not",
    "that's": "that is",
    "there's": "there is",
    "they're": "they are",
    "wasn't": "was not",
    "we're": "we are",
    "weren't": "were not",
    "won't": "will not",
    "wouldn't": "would not",
    "you'll": "you will",
    "you're": "you are",
    "you've": "you have",
}
_SHORT_OF: Mapping[str, str] = {
    **{long: short for short, long in _LONG_OF.items()},
    "in order to": "to",
    "due to the fact that": "because",
    "as a matter of fact": "in fact",
}
# "It's" before more words only ("what it is." has no short form), and nothing that a hyphen or an apostrophe goes on with.
_ENDS = r"(?![\w'’-])(?=[ ,])"


def _pattern(phrases: Mapping[str, str]) -> re.Pattern[str]:
    longest_first = sorted(phrases, key=len, reverse=True)
    return re.compile(rf"(?<![\w'’-])(?:{'|'.join(map(re.escape, longest_first))}){_ENDS}", re.IGNORECASE)


_SHORT, _LONG = _pattern(_LONG_OF), _pattern(_SHORT_OF)


def shortened(text: str) -> str:
    """The same in fewer words."""
    return _replaced(_LONG, _SHORT_OF, text.replace("’", "'"))


def lengthened(text: str) -> str:
    """The same in more words."""
    return _replaced(_SHORT, _LONG_OF, text.replace("’", "'"))


def rewording(completion: Completion, rng: np.random.Generator) -> Edited:
    """Before: the answer in fewer words; after: in more. None where none of the phrases stands in it, and for code and tables."""
    response = completion.response or ""
    before = shortened(response)
    after = lengthened(before)
    if before == after or "```" in response or "\n|" in response:
        return None
    return _saying(completion, before), _saying(completion, after)


def _saying(completion: Completion, response: str) -> Completion:
    return replace(completion, response=response, steps=None, id="")


def _replaced(pattern: re.Pattern[str], by: Mapping[str, str], text: str) -> str:
    def other(match: re.Match[str]) -> str:
        found = match.group()
        new = by[found.lower()]
        return new[:1].upper() + new[1:] if found[:1].isupper() else new

    return pattern.sub(other, text)
