"""An SFT model of the relay world: the base cut after some layers, its last ones fitted to right solutions.

Reward models are trained from a model that was fine-tuned on the task, and here it decides what they can learn. Whom the key is
passed to is a look-up in the prompt, and SmolLM2-135M does not make it: its probability of the receiver tells right from wrong ones
with an AUROC of .56, and no layer's states do better than .67 by a linear model (dev/LOG.md). Labels of steps teach it in one seed
of three. Next-token prediction of right solutions teaches it within some hundreds of solutions.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from assay.console import say
from assay.files import digest
from assay.models.bases import load_tokenizer
from assay.recipes.worlds.first_errors import WorldSettings
from assay.recipes.worlds.relay import relay_world
from assay.training.generative.examples import Example, Writer
from assay.training.generative.generative_artifact import save_stage
from assay.training.generative.trl_fit import FitSettings, fit_replies

NOTE = "stage.json"  # what `save_stage` keeps beside the weights


@dataclass(frozen=True, kw_only=True)
class SftSettings:
    """problems: one right solution of each is learnt. blocks: the last ones of `depth` layers, which are trained. seed: of the
    world; no reward model is trained or tested on its problems."""

    problems: int = 480
    lengths: tuple[int, ...] = (1, 2, 3)
    depth: int = 22
    blocks: int = 6
    epochs: int = 2
    batch: int = 8
    learning_rate: float = 3e-4
    seed: int = 999


def sft_model(base: str, settings: SftSettings, out: Path) -> dict[str, Any]:
    """Make the model in `out`, unless it is there with the same settings; returns its settings, processor seconds and the loss of
    its first and last tenth of the steps, in nats a token of the solutions."""
    wanted = json.loads(json.dumps(asdict(settings)))
    if (out / NOTE).is_file() and (made := json.loads((out / NOTE).read_text())).get("settings") == wanted:
        return dict(made)
    began = time.process_time()
    found, tokenizer = load_tokenizer(base)
    causal = AutoModelForCausalLM.from_pretrained(found.path, dtype=torch.float32, trust_remote_code=False)
    causal.model.layers = causal.model.layers[: settings.depth]
    causal.config.num_hidden_layers = settings.depth
    losses: list[float] = []
    fit = FitSettings(
        params=f"blocks:{settings.blocks}",
        epochs=settings.epochs,
        batch_size=settings.batch,
        learning_rate=settings.learning_rate,
        weight_decay=0.0,
        seed=settings.seed,
        batch_tokens=4096,
        compute_dtype=torch.float32,
        device="cpu",
        checkpoint_every=1000,
        identity=digest(found.name + json.dumps(wanted)),
    )
    examples = solutions(Writer(tokenizer, max_length=1024), settings)
    fit_replies(
        causal,
        tokenizer,
        examples,
        fit,
        checkpoints=out.parent / "sft-checkpoints",
        resume=False,
        on_row=lambda row: losses.append(row["loss"]),
    )
    tenth = max(1, len(losses) // 10)
    made = {
        "settings": wanted,
        "seconds": round(time.process_time() - began, 1),
        "loss": [round(sum(part) / tenth, 4) for part in (losses[:tenth], losses[-tenth:])],
    }
    save_stage(causal, tokenizer, out, torch.float32, made)
    say(
        "SFT model",
        f"{len(examples)} right solutions, {made['seconds']} s, loss {made['loss'][0]} at first and {made['loss'][1]} at last",
    )
    return made


def solutions(writer: Writer, settings: SftSettings) -> list[Example]:
    """One right solution of each problem, as tokens; the prompt is not learnt."""
    world = WorldSettings(problems=2 * settings.problems, lengths=settings.lengths, solutions=4, names="first", seed=settings.seed)
    right = {item.id.partition(":")[0]: item.completion for item in relay_world(world) if item.first_error is None}
    chosen = list(right.values())[: settings.problems]
    examples = [writer.example(item.messages, str(item.response)) for item in chosen]
    assert len(examples) == settings.problems
    assert None not in examples
    return [example for example in examples if example is not None]
