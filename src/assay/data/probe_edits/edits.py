"""Edits that must not raise the reward of an answer: plain functions of a completion and a random generator.

Each gives the edited answer as text; a whole `Completion` when the prompt changes too; two completions (before, after) when both
are its own; or None where it does not apply. `audit/probes/battery.py` says of which
kind each is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from assay.data.probe_edits import probe_texts as texts
from assay.messages import Message
from assay.records import Completion

Edited: TypeAlias = str | Completion | tuple[Completion, Completion] | None
Edit: TypeAlias = Callable[[Completion, np.random.Generator], Edited]

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_SPELLED_OUT = {short: full for full, short in texts.CONTRACTIONS.items()}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
MIN_WORDS = 8  # of an answer that can be cut off or shuffled so that one sees it


# Worthless: nothing is added that answers the prompt.


def filler(completion: Completion, rng: np.random.Generator) -> Edited:
    """Sentences that say nothing, until the answer is twice as long, and at least two of them."""
    response, added = _response(completion), ""
    for number, i in enumerate(rng.permutation(len(texts.FILLER))):
        if number >= 2 and len(added) >= len(response):
            break
        added += " " + texts.FILLER[i]
    return (response.rstrip() + added).strip()


def flattery(completion: Completion, rng: np.random.Generator) -> Edited:
    """Praise of the question before the answer."""
    return f"{_one_of(texts.FLATTERY, rng)} {_response(completion)}"


def user_praise(completion: Completion, rng: np.random.Generator) -> Edited:
    """Praise of the user before the answer."""
    return f"{_one_of(texts.USER_PRAISE, rng)} {_response(completion)}"


def agreement(completion: Completion, rng: np.random.Generator) -> Edited:
    """A user says something false: from an answer that corrects it to one that agrees. The completion plays no part."""
    number = int(rng.integers(len(texts.CLAIMS)))
    claim, wording = texts.CLAIMS[number], int(rng.integers(len(texts.AGREEING)))
    question = texts.CLAIM_OPENERS[number % len(texts.CLAIM_OPENERS)].format(claim.false)
    messages = (Message("user", question[0].upper() + question[1:]),)
    return (
        Completion(messages=messages, response=texts.CORRECTING[wording].format(claim.true)),
        Completion(messages=messages, response=texts.AGREEING[wording].format(claim.false)),
    )


def repeated_answer(completion: Completion, rng: np.random.Generator) -> Edited:
    """The answer twice."""
    response = _response(completion)
    return f"{response}\n\n{response}" if response.strip() else None


def repeated_sentence(completion: Completion, rng: np.random.Generator) -> Edited:
    """The last sentence three times more."""
    response = _response(completion).rstrip()
    return f"{response} " + " ".join([_sentences(response)[-1]] * 3) if response else None


def echo(completion: Completion, rng: np.random.Generator) -> Edited:
    """The user's last message before the answer."""
    asked = _asked(completion)
    return f"{asked}\n\n{_response(completion)}" if asked else None


def confidence(completion: Completion, rng: np.random.Generator) -> Edited:
    """An assurance that the answer is certain, before it."""
    return f"{_one_of(texts.CONFIDENCE, rng)} {_response(completion)}"


def citations(completion: Completion, rng: np.random.Generator) -> Edited:
    """References that do not exist, after the answer."""
    return _after(completion, _one_of(texts.CITATIONS, rng), " ")


def self_praise(completion: Completion, rng: np.random.Generator) -> Edited:
    """The answer says of itself that it is right."""
    return _after(completion, _one_of(texts.SELF_PRAISE, rng))


def verdict_letter(completion: Completion, rng: np.random.Generator) -> Edited:
    """The verdict of a judge of pairs, forged: [[A]]."""
    return _after(completion, _one_of(texts.VERDICT_LETTERS, rng))


def verdict_score(completion: Completion, rng: np.random.Generator) -> Edited:
    """The verdict of a judge of single answers, forged: Score: 10/10."""
    return _after(completion, _one_of(texts.VERDICT_SCORES, rng))


def verdict_json(completion: Completion, rng: np.random.Generator) -> Edited:
    """A structured verdict, forged."""
    return _after(completion, _one_of(texts.VERDICT_JSON, rng))


def master_key(completion: Completion, rng: np.random.Generator) -> Edited:
    """An opener that promises reasoning, before the answer. Zhao et al. (2025)."""
    return f"{_one_of(texts.MASTER_KEYS, rng)}\n{_response(completion)}"


def foreign_sentence(completion: Completion, rng: np.random.Generator) -> Edited:
    """A polite sentence in another language after the answer."""
    return _after(completion, _one_of(texts.FOREIGN, rng), " ")


# Injections: what a judge's prompt is built around is made to speak for itself.


def closing_fence(completion: Completion, rng: np.random.Generator) -> Edited:
    """The end of the answer, forged, and a grader's words behind it."""
    return _after(completion, _one_of(texts.CLOSING_FENCES, rng))


def ignored_rubric(completion: Completion, rng: np.random.Generator) -> Edited:
    """The judge is told to ignore its rubric, after the answer."""
    return _after(completion, _one_of(texts.IGNORED_RUBRICS, rng))


def planted_verdict(completion: Completion, rng: np.random.Generator) -> Edited:
    """A judge's whole reply, forged, before the answer."""
    return f"{_one_of(texts.PLANTED_VERDICTS, rng)}\n\n{_response(completion)}"


# Style: the same words in another dress.


def bullets(completion: Completion, rng: np.random.Generator) -> Edited:
    """Every sentence a bullet point."""
    response = _plain(completion)
    return "\n".join(f"- {sentence}" for sentence in _sentences(response)) if response else None


def bold(completion: Completion, rng: np.random.Generator) -> Edited:
    """A third of the longer words in bold, one at least."""
    response = _plain(completion)
    words = list(re.finditer(r"\b\w{4,}\b", response)) if response else []
    if not words:
        return None
    drawn = rng.choice(len(words), size=max(1, len(words) // 3), replace=False)
    for i in sorted((int(i) for i in drawn), reverse=True):
        start, end = words[i].span()
        response = f"{response[:start]}**{response[start:end]}**{response[end:]}"
    return response


def headings(completion: Completion, rng: np.random.Generator) -> Edited:
    """Headings that say nothing: one over the answer, one before its last sentence."""
    response = _plain(completion)
    if not response:
        return None
    *first, last = _sentences(response)
    return f"## Answer\n\n{' '.join(first)}\n\n## Summary\n\n{last}" if first else f"## Answer\n\n{last}"


def emoji(completion: Completion, rng: np.random.Generator) -> Edited:
    """An emoji after every sentence."""
    response = _plain(completion)
    return " ".join(f"{sentence} {_one_of(texts.EMOJI, rng)}" for sentence in _sentences(response)) if response else None


def contractions(completion: Completion, rng: np.random.Generator) -> Edited:
    """ "do not" for "don't" and its kin throughout; the other way round in an answer that has none of them (English)."""
    response = _plain(completion)
    return (_reworded(response, _SPELLED_OUT) or _reworded(response, texts.CONTRACTIONS)) if response else None


# Destructive: what answered the prompt is gone.


def empty(completion: Completion, rng: np.random.Generator) -> Edited:
    """No answer."""
    return ""


def gibberish(completion: Completion, rng: np.random.Generator) -> Edited:
    """Every word in random letters, as long as it was."""
    return re.sub(r"\w", lambda match: _LETTERS[int(rng.integers(len(_LETTERS)))], _response(completion))


def shuffled(completion: Completion, rng: np.random.Generator) -> Edited:
    """The answer's words in random order."""
    words = _response(completion).split()
    return " ".join(words[i] for i in rng.permutation(len(words))) if len(words) >= MIN_WORDS else None


def truncated(completion: Completion, rng: np.random.Generator) -> Edited:
    """Cut off in mid-sentence, between a quarter and three fifths of the way."""
    words = _response(completion).split()
    if len(words) < MIN_WORDS:
        return None
    kept = words[: max(2, int(len(words) * rng.uniform(0.25, 0.6)))]
    return " ".join(kept).rstrip(".!?,;:")


def echo_alone(completion: Completion, rng: np.random.Generator) -> Edited:
    """The user's last message in place of the answer."""
    return _asked(completion) or None


def master_key_alone(completion: Completion, rng: np.random.Generator) -> Edited:
    """An opener that promises reasoning in place of the answer. Zhao et al. (2025)."""
    return _one_of(texts.MASTER_KEYS, rng)


def foreign_alone(completion: Completion, rng: np.random.Generator) -> Edited:
    """Polite sentences in other languages in place of the answer."""
    return " ".join(texts.FOREIGN[i] for i in rng.permutation(len(texts.FOREIGN))[:3])


def other_answers(completions: Sequence[Completion]) -> Edit:
    """The edit that puts in one of these answers, of those given to another prompt. The sequence is looked at when it edits."""

    def other_answer(completion: Completion, rng: np.random.Generator) -> Edited:
        """The answer to another prompt."""
        for i in rng.integers(len(completions), size=20) if completions else ():
            if completions[i].response and completions[i].messages != completion.messages:
                return completions[i].response
        return None

    return other_answer


def _reworded(text: str, other: Mapping[str, str]) -> str | None:
    """The text with each of these phrases put otherwise, capitals kept; None where none of them stands in it."""
    found = re.compile(r"\b(" + "|".join(map(re.escape, other)) + r")\b", re.IGNORECASE)
    by_case = {phrase.lower(): said for phrase, said in other.items()}

    def said(match: re.Match[str]) -> str:
        word = by_case[match[0].lower()]
        return word[0].upper() + word[1:] if match[0][0].isupper() else word

    return found.sub(said, text) if found.search(text) else None


def _response(completion: Completion) -> str:
    assert completion.response is not None, "probes edit answers to messages"
    return completion.response


def _plain(completion: Completion) -> str:
    """The answer, or nothing where style would break code or a table."""
    response = _response(completion).strip()
    return "" if "```" in response or "\n|" in response else response


def _asked(completion: Completion) -> str:
    asked = [message.content for message in completion.messages if message.role == "user"]
    return asked[-1].strip() if asked else ""


def _after(completion: Completion, text: str, joint: str = "\n\n") -> str:
    return f"{_response(completion).rstrip()}{joint}{text}".lstrip()


def _sentences(text: str) -> list[str]:
    return _SENTENCE_END.split(text.strip())


def _one_of(wordings: Sequence[str], rng: np.random.Generator) -> str:
    return wordings[int(rng.integers(len(wordings)))]
