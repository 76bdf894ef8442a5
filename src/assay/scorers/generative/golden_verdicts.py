"""Golden verdicts of a generative model that was trained here: questions up to the verdict, with the log-odds of its two words.

They are saved with the artifact in float32, and replayed by `assay audit verify`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from assay.errors import ArtifactError
from assay.files import write_text
from assay.generation.generator import Generator
from assay.generation.replies import Ask, Sampling
from assay.messages import Message, as_messages
from assay.records import Completion
from assay.scorers.generative.own_forms import OwnForm
from assay.scorers.judges.verdict_tokens import masses_of

GOLDEN_FILE = "golden.json"
GOLDEN_SCHEMA = 1
_SPOON = "Which is heavier, a silver spoon or a wooden spoon of the same size?"
_TEXTS = (
    ("How long must an egg boil until it is hard?", "About ten minutes.", "It depends."),
    (_SPOON, "The silver one: silver is denser than wood.", "Spoons are made of wood."),
    ("Wie heisst die Hauptstadt von Österreich?", "Wien.", "Bern."),
    ("Add 17 and 25.", "42", "32"),
)


class GoldenVerdict(NamedTuple):
    """A question: its tokens up to the verdict, and the log-odds of the first word against the second; None with the reason."""

    name: str
    token_ids: tuple[int, ...]
    log_odds: float | None
    error: str | None


def golden_verdicts(path: Path, own: OwnForm) -> list[GoldenVerdict]:
    """The golden questions of a form, asked of the saved model in float32 on a CPU."""
    from assay.generation.local_model import load_language_model  # imports torch

    backend = load_language_model(path, dtype="float32", device="cpu")
    asks = [
        Ask(messages=(*own.prompt(*answers), Message("assistant", own.lead)), sampling=Sampling(choices=own.words))
        for answers in _answers(own)
    ]
    answered = Generator(backend).ask(asks, lambda ask, reply: list(masses_of(reply, own.words).choices))
    found = []
    for number, (ask, one) in enumerate(zip(asks, answered, strict=True), start=1):
        odds = None if one.error is not None else math.log(one.verdict[0]) - math.log(one.verdict[1])
        found.append(GoldenVerdict(f"question {number}", tuple(backend.tokens(ask.messages).tolist()), odds, one.error))
    return found


def plain_log_odds(path: Path, own: OwnForm, token_ids: Sequence[int]) -> float | None:
    """The same log-odds by plain transformers on those tokens; None where a word is several tokens of this model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from assay.generation.spellings import SpelledTokens
    from assay.models.bases import no_progress_bars

    with no_progress_bars():
        causal = AutoModelForCausalLM.from_pretrained(str(path), dtype=torch.float32, trust_remote_code=False).eval()
    spelled = SpelledTokens(AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)).of(own.words)
    if spelled.sequences():
        return None
    with torch.no_grad():
        logits_V = causal(input_ids=torch.tensor([list(token_ids)]), use_cache=False).logits[0, -1]
    good, bad = (float(torch.logsumexp(logits_V[torch.from_numpy(ids)], dim=0)) for ids in spelled.single)
    return good - bad


def write_golden_verdicts(path: Path, own: OwnForm) -> None:
    """Keep them beside the model."""
    items = [one._asdict() for one in golden_verdicts(path, own)]
    content = {"schema_version": GOLDEN_SCHEMA, "kind": "generative", "words": own.words, "items": items}
    write_text(path / GOLDEN_FILE, json.dumps(content, indent=1))


def read_golden_verdicts(path: Path) -> list[GoldenVerdict]:
    """What was kept. Raises ArtifactError for a file that is missing or damaged."""
    file = path / GOLDEN_FILE
    try:
        items = json.loads(file.read_text(encoding="utf-8"))["items"]
        return [GoldenVerdict(str(one["name"]), tuple(one["token_ids"]), one["log_odds"], one["error"]) for one in items]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{file} cannot be read ({error!r}): the artifact is damaged") from error


def largest_change(saved: Sequence[GoldenVerdict], again: Sequence[GoldenVerdict]) -> float:
    """Largest difference of log-odds; infinity where one has some and the other none."""
    both = zip(saved, again, strict=True)
    changes = [
        abs(one.log_odds - other.log_odds)
        if one.log_odds is not None and other.log_odds is not None
        else (0.0 if one.log_odds is other.log_odds else math.inf)
        for one, other in both
    ]
    return float(np.max(changes, initial=0.0))


def _answers(own: OwnForm) -> list[list[Completion]]:
    texts = [(question, (one, other)[: 1 if own.form.asks == "one" else 2]) for question, one, other in _TEXTS]
    return [[Completion(messages=as_messages(question), response=text) for text in shown] for question, shown in texts]
