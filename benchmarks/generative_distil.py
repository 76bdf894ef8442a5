"""The part distil of benchmarks/generative.py: what a scalar model keeps of the model that writes, from which it learns."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from assay import cli  # noqa: F401  first: it sets OpenMP up before torch is loaded

# isort: split
from generative_arms import kept_or_new, rounded, train_arm
from generative_relay import all_tested, file_name, scalar_words, without_pairs
from generative_worlds import CRITIQUE, SCALAR, RelaySettings, epochs_of, relay_of_seed

from assay.bulk.relabel import relabel
from assay.console import say
from assay.data.pairs import write_pairs
from assay.recipes.worlds.relay_pairs import PairWorldSettings, relay_pairs
from assay.scorers.load import load

STUDENTS = ("labels of the critique model", "true labels")
KEPT = 0.7  # what the student of the critique model is right in at most, at three passes and more, says the claim


def distil_part(settings: RelaySettings, seed: int, runs: Path, keep: Path | None) -> dict[str, Any]:
    """Two scalar models of new pairs on the tests of the relay part: of what the critique model says, and of the true labels.

    The critique model is that of the relay part in `runs`. Raises ValueError where it is not there.
    """
    path = None if keep is None else keep / f"distil-{seed}.json"
    found = kept_or_new(path, asdict(settings), lambda: _distilled(settings, seed, runs))
    return {**found, "students": {name: without_pairs(one) for name, one in found["students"].items()}}


def _distilled(settings: RelaySettings, seed: int, runs: Path) -> dict[str, Any]:
    teacher = runs / f"relay-{seed}" / file_name(CRITIQUE)
    if not teacher.exists():
        raise ValueError(
            f"{teacher} is not there: the part distil needs the critique model of --parts relay, in one run or with --runs"
        )
    fresh = list(relay_pairs(PairWorldSettings(pairs=settings.pairs, lengths=settings.lengths, seed=9000 + seed)))
    labelled = relabel(load(teacher, dtype=settings.dtype), [one.pair for one in fresh])  # type: ignore[arg-type]
    say("labelled", labelled.summary())
    world, epochs = relay_of_seed(settings, seed), epochs_of(settings, SCALAR, fresh)
    students = {}
    for name, pairs in zip(STUDENTS, (labelled.pairs, [one.pair for one in fresh]), strict=True):
        data, out = (runs / f"distil-{seed}" / f"{file_name(name)}{suffix}" for suffix in (".jsonl", ""))
        data.parent.mkdir(parents=True, exist_ok=True)
        if not write_pairs(data, pairs):
            return {"labels": labelled.summary(), "students": {}, "not run": "the critique model labelled no pair"}
        run = train_arm(scalar_words(settings, SCALAR, data, seed, settings.scalars[0], epochs), out)
        students[name] = {"seconds": run.seconds, **all_tested(settings, SCALAR, run, world.tests)}
    tests = students[STUDENTS[0]]["tests"]
    hard = [tests[str(m)]["right of all"][0] for m in settings.test_lengths if m >= 3]
    return {
        "labels": labelled.summary(),
        "labels right": rounded(labelled.agreement.value),
        "epochs": epochs,
        "students": students,
        "claim: at most .70 at 3 passes or more": all(share <= KEPT for share in hard) if hard else None,
    }
