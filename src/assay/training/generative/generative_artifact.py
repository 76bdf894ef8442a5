"""The artifact of a model that writes its verdict: a plain causal language model with its tokenizer, and `reward.json`.

Golden texts are questions up to the verdict, with the log-odds of its two words in float32 from the saved files.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from assay.files import digest, new_directory, write_text
from assay.generation.generator import Generator
from assay.generation.local_model import load_language_model
from assay.generation.replies import Ask, Sampling
from assay.messages import Message, as_messages
from assay.models.bases import no_progress_bars
from assay.models.saved.artifact import weights_digest
from assay.models.saved.golden import GOLDEN_FILE, GOLDEN_SCHEMA
from assay.models.saved.older_readers import with_old_names
from assay.records import Completion
from assay.run_files import CARD, PROMPTS_FILE, SCHEMA_VERSION, write_description
from assay.scorers.generative.own_forms import OwnForm
from assay.scorers.judges.verdict_tokens import masses_of

_SPOON = "Which is heavier, a silver spoon or a wooden spoon of the same size?"
_TEXTS = (
    ("How long must an egg boil until it is hard?", "About ten minutes.", "It depends."),
    (_SPOON, "The silver one: silver is denser than wood.", "Spoons are made of wood."),
    ("Wie heisst die Hauptstadt von Österreich?", "Wien.", "Bern."),
    ("Add 17 and 25.", "42", "32"),
)

_LOAD_TRANSFORMERS = """\
```python
from transformers import AutoTokenizer

path = "path/to/this/directory"
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForCausalLM.from_pretrained(path)
# ask with the text of assay.scorers.generative.own_forms, and read the last line "Verdict: ..." of the reply
```"""


def card_entry(own: OwnForm, stages: str, more: str) -> dict[str, str]:
    """What the model card says of such a model in place of what it says of a scalar reward. more: of its training."""
    asked = "two answers to a prompt" if own.form.asks == "two" else "an answer"
    writes = "writes a critique and then its verdict" if own.critique else "gives its verdict alone, without a critique"
    return {
        "lead": f"It is shown {asked} and {writes}: {' or '.join(own.words)}. It was trained in stages: {stages}.{more}",
        "load_transformers": _LOAD_TRANSFORMERS,
        "pipeline_tag": "text-generation",
        "reading": "The reward is the log-odds of the verdict's words where the verdict stands. A reply without a verdict has no "
        "reward: it is neither a tie nor a loss. A critique is written to give a verdict; it is no proof of it.",
    }


@no_progress_bars()
def save_stage(causal: Any, tokenizer: Any, path: Path, dtype: torch.dtype, note: Mapping[str, Any]) -> None:
    """Write a stage's model as a plain directory, all or nothing. note: kept beside it as stage.json."""
    with new_directory(path) as work:
        causal.config.dtype = dtype
        state = {name: value.detach().to(dtype) for name, value in causal.state_dict().items()}
        causal.save_pretrained(work, state_dict=state)
        tokenizer.save_pretrained(work)
        config = json.loads((work / "config.json").read_text(encoding="utf-8"))
        for name in ("sentence_transformers", "sbert_ce_default_activation_function"):
            config.pop(name, None)
        named = {name: value for name, value in with_old_names(config).items() if name not in _OF_CLASSIFIERS}
        write_text(work / "config.json", json.dumps({**named, "dtype": str(dtype).removeprefix("torch.")}, indent=2))
        write_text(work / "stage.json", json.dumps(dict(note), indent=1))


_OF_CLASSIFIERS = ("sentence_transformers", "sbert_ce_default_activation_function")


def save_generative(
    stage: Path, path: Path, own: OwnForm, description: Mapping[str, Any], *, max_length: int, train_prompts: np.ndarray
) -> dict[str, Any]:
    """Make the artifact of the model of a stage, all or nothing; returns the content of reward.json. Its weights are those of the
    stage's directory, linked where the file system can."""
    with new_directory(path) as work:
        for file in stage.iterdir():
            if file.name != "stage.json":
                _linked(file, work / file.name)
        np.save(work / PROMPTS_FILE, train_prompts)
        tokenizer = AutoTokenizer.from_pretrained(str(work), trust_remote_code=False)
        written = write_description(
            work,
            {
                "schema_version": SCHEMA_VERSION,
                "kind": "generative",
                **description,
                CARD: description[CARD],
                "max_length": max_length,
                "overlong": "set_aside",
                "weights_digest": weights_digest(work),
                "template_digest": digest(str(tokenizer.chat_template)),
                "calibration": None,
            },
        )
        _write_golden(work, own)
    return written


def _linked(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def golden_verdicts(path: Path, own: OwnForm) -> list[dict[str, Any]]:
    """The golden questions of a form, begun up to the verdict: their tokens, and the log-odds of the first word against the second.

    In float32 on a CPU; a question whose verdict has too little probability has none, with the reason.
    """
    backend = load_language_model(path, dtype="float32", device="cpu")
    asks = [
        Ask(messages=(*own.prompt(*answers), Message("assistant", own.lead)), sampling=Sampling(choices=own.words))
        for answers in _answers(own)
    ]
    answered = Generator(backend).ask(asks, lambda ask, reply: list(masses_of(reply, own.words).choices))
    found = []
    for number, (ask, one) in enumerate(zip(asks, answered, strict=True), start=1):
        odds = None if one.error is not None else math.log(one.verdict[0]) - math.log(one.verdict[1])
        tokens = backend.tokens(ask.messages).tolist()
        found.append({"id": f"question {number}", "token_ids": tokens, "log_odds": odds, "error": one.error})
    return found


def _answers(own: OwnForm) -> list[list[Completion]]:
    texts = [(question, (one, other)[: 1 if own.form.asks == "one" else 2]) for question, one, other in _TEXTS]
    return [[Completion(messages=as_messages(question), response=text) for text in shown] for question, shown in texts]


def _write_golden(path: Path, own: OwnForm) -> None:
    items = golden_verdicts(path, own)
    content = {"schema_version": GOLDEN_SCHEMA, "kind": "generative", "words": own.words, "items": items, "left_out": {}}
    write_text(path / GOLDEN_FILE, json.dumps(content, indent=1))
