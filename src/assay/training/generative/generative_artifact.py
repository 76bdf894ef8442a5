"""The artifact of a model that writes its verdict: a plain causal language model with its tokenizer, and `reward.json`.

Golden texts are questions up to the verdict, with the log-odds of its two words in float32 from the saved files.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from assay.files import digest, new_directory, write_text
from assay.models.bases import no_progress_bars
from assay.models.saved.artifact import weights_digest
from assay.models.saved.older_readers import with_old_names
from assay.run_files import CARD, PROMPTS_FILE, SCHEMA_VERSION, write_description
from assay.scorers.generative.golden_verdicts import write_golden_verdicts
from assay.scorers.generative.own_forms import OwnForm

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
        write_golden_verdicts(work, own)
    return written


def _linked(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
