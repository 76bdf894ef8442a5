"""Gold against the distance that a policy went: the arms of benchmarks/overoptimization_rl.py, and best-of-n by the same reward
models, in one figure; and Gao's form of each arm, refused where it misses.

Everything is a mean over replicates, and intervals resample replicates.

Suffixes: E looks, R replicates, M values of n.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assay import cli  # noqa: F401  first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
from overoptimization_arms import Arm, Replicate, made
from overoptimization_table import Kept, interval_of, rounded

from assay.audit.best_of_n import best_of_n_curve, best_of_n_kl
from assay.audit.rl_fit import fit_rl
from assay.files import write_text
from assay.recipes.worlds import errands as world
from assay.records import Completion, Table
from assay.rl.rl_curves import against_distance

BEST_OF_N = "best of n by single"
ERRANDS, LARGEST = 64, 256
"""Held-out errands that are answered so many times."""


def best_of_n(replicate: Replicate, arm: Arm, *, there: bool) -> dict[str, Any] | None:
    """The base's answers chosen by the arm's reward model: gold of each n. None where it was not made and may not be."""
    path = replicate.home / "arms" / f"best-of-n-{arm.file}.json"
    if there and not path.exists():
        return None
    asked = replicate.errands[-min(ERRANDS, replicate.sizes.asked) :]
    largest = LARGEST if len(asked) == ERRANDS else 8

    def make(out: Path) -> None:
        answers, scorer = replicate.answers(asked, largest, 9), replicate.scorer(arm)
        proxy, right = [], []
        for errand, texts in answers:
            prompt = world.as_prompts([errand])[0].messages
            proxy.append(scorer.score([Completion(messages=prompt, response=text) for text in texts]).value)
            right.append(np.array([world.gold(errand.things, text) for text in texts]))
        sizes = [2**k for k in range(int(math.log2(largest)) + 1)]
        found = best_of_n_curve(proxy, right, sizes, seed=replicate.number)
        write_text(out, json.dumps({"n": sizes, "gold": [round(float(one), 5) for one in found.gold]}))

    kept: dict[str, Any] = json.loads(made(path, make).read_text(encoding="utf-8"))
    return kept


def gains_of(by_replicate: Mapping[int, Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """(E,) the square root of the mean KL, and (E, R) gold gained over the start; as far as all replicates went."""
    shortest = min(len(one["kl"]) for one in by_replicate.values())
    kl_ER = np.array([one["kl"][:shortest] for one in by_replicate.values()]).T
    gold_ER = np.array([one["gold"][:shortest] for one in by_replicate.values()]).T
    return np.sqrt(np.maximum(kl_ER.mean(1), 0.0)), gold_ER - gold_ER[:1]


def forms(found: Kept, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Gao's form of each arm, with why it says nothing where it does not."""
    table = {}
    for arm, by_replicate in found.items():
        fit = fit_rl(*gains_of(by_replicate), seed=seed)
        shown = {name: [rounded(x) for x in (getattr(fit, name), *getattr(fit, f"{name}_interval"))] for name in ("alpha", "beta")}
        holds = {"holds": fit.holds, "misses by": rounded(fit.misses), "limit": rounded(fit.limit)}
        table[arm] = {**shown, **holds, "peak": rounded(fit.peak), **({"caveat": fit.caveat} if fit.caveat else {})}
    return table


def chosen(best: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Best-of-n: gold gained at each n over the replicates, with the distance, an upper bound; nothing where none was made."""
    if not best:
        return {}
    sizes = next(iter(best.values()))["n"]
    gain_RM = np.array([one["gold"] for one in best.values()])
    gain_RM = gain_RM - gain_RM[:, :1]
    rows = [{"n": n, "gain": interval_of(gain_RM[:, i].tolist())} for i, n in enumerate(sizes)]
    return {"replicates": len(best), "sizes": rows}


def distance_table(found: Kept, best: Mapping[int, Mapping[str, Any]], arms: Sequence[str] = ()) -> Table:
    """Gold gained against the square root of the KL, of the arms (all when left out) and of best-of-n."""
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for arm in arms or tuple(found):
        if arm in found:
            distance_E, gain_ER = gains_of(found[arm])
            curves[arm] = distance_E, gain_ER.mean(1)
    if best:
        rows = chosen(best)["sizes"]
        curves[BEST_OF_N] = (
            np.sqrt(best_of_n_kl(np.array([one["n"] for one in rows]))),
            np.array([one["gain"][0] for one in rows], dtype=np.float64),
        )
    note = "gains over the start, means of the replicates; the distance of best-of-n is an upper bound"
    return against_distance(curves, title="gold against the distance", note=note)
