"""Gold of policies trained against reward models, arm by arm, in a small world with paired replicates. Last line: one JSON
document; where a page is drawn, that lies beside it, and the last words are a summary.

    python benchmarks/overoptimization_rl.py --keep runs/errands                  # over night; goes on where it was stopped
    python benchmarks/overoptimization_rl.py --keep runs/errands --first 5       # in another process: from replicate 5 on
    python benchmarks/overoptimization_rl.py --keep runs/errands --there         # the table of what is there so far
    python benchmarks/overoptimization_rl.py --small --page runs/errands.html     # `make rl-demo`
    python benchmarks/overoptimization_rl.py --quick                              # to see that it runs

The world (src/assay/recipes/worlds/errands.py): a prompt asks for three things, an answer names some, gold is a program. A policy
that was fitted to plain demonstrations is trained by rloo against reward models of its own answers' noisy labels (a quarter turned
round), and gold is looked at beside. A replicate is new errands, labels, flips, reward models and draws, shared by the arms; the
policy's base is one and the same, so that nothing is said of other bases. Settings were chosen on replicates from 100 on, which are
not reported.

Arms: the gold itself (what there is to gain); one reward model; mean, mean - std, min and the KL-robust reward of members that
differ by the seed of their training, or by pretraining too; two betas; an adaptive KL; a wider model; fewer and more labels. Every
arm is looked at every few steps on held-out errands. Two outcomes, both gains over the start: gold at the end, and gold where a
gold-blind rule stops: at the KL that was best on the arm's other replicates. Tests: sign flips of the paired differences, Holm in
each family; with R replicates no p-value is below 2 / 2^R.

Claims, written before it was run (what there is so far: benchmarks/results/overoptimization-rl). Two things were changed after that
and before any run of record, on replicates from 100 on (dev/LOG.md): the base's corpus has checks and remarks, so that reward
models can be as good as was asked for; and reward models are trained whole, so that the members of claim 3 are whole models, each
with a first head and an order of the pairs of its own, not heads on frozen states:

1. There is something to show: where the rule stops, the single model has gained a third of what the gold itself gains, or more.
2. Then it falls: at the end its gold is below where the rule stops (interval below 0), and below its start.
3. Members that differ by head seed do not hold it: by mean, min and robust, gold at the end is below its start.
4. The larger beta does: at the end its gold is above the single model's (interval above 0).
5. No KL control beats early stopping: beta and adaptive KL at their end are not above the single model where the rule stops.

6. A refresh holds the fall that its labels alone do not: "refreshed, restarts" ends above "3,000 labels" (interval above 0), and
   "refreshed, goes on" does not (written after claims 1 to 5 were looked at in three replicates, before any refresh was run).

Not run here: refreshes by alarm or KL budget, stepping back (`assay rl refresh`); uncertainty by Laplace or LoRA.
"""

from __future__ import annotations

import json
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import torch
import tyro
from overoptimization_arms import GOLD_ITSELF, SINGLE, Arm, Replicate, Sizes, combined
from overoptimization_distance import best_of_n, chosen, distance_table, forms
from overoptimization_table import claims, comparisons, curves_page, examples_of, outcomes, refresh_claim, rounded, summary

from assay.console import print_lines, say
from assay.files import write_text
from assay.report.headline import summary_lines
from assay.report.html import write_html
from assay.rl.kl_control import KLSettings
from assay.run_files import COMPLETIONS
from assay.training.imitation import SmallModel

SEEDS = ("mean of seeds", "min of seeds", "robust of seeds")
KL_ARMS = ("beta low", "beta high", "adaptive KL")
ARMS = (
    Arm(name=SINGLE, words="one reward model of noisy labels, no penalty on the KL"),
    Arm(name="beta high", words="the same model, and a KL that costs 0.2 a nat", kl=KLSettings(beta=0.2)),
    Arm(
        name="min of seeds",
        words="the lowest of three models of other seeds",
        members="seeds",
        how=combined("min"),
    ),
    Arm(name="adaptive KL", kl=KLSettings(control="pi", beta=0.05, target=2.0)),
    Arm(name="mean of seeds", members="seeds", how=combined("mean")),
    Arm(name="robust of seeds", members="seeds", how=combined("robust")),
    Arm(name="beta low", kl=KLSettings(beta=0.05)),
    Arm(name=GOLD_ITSELF, words="the program that says what is right: what there is to gain", members="gold"),
    Arm(name="mean of bases", members="bases", how=combined("mean")),
    Arm(name="min of bases", members="bases", how=combined("min")),
    Arm(name="mean - std of seeds", members="seeds", how=combined("mean - std")),
    Arm(name="500 labels", pairs=500),
    Arm(name="8,000 labels", pairs=8_000),
    Arm(name="wider model", width=2),
    Arm(name="refreshed, goes on", words="500 new labels at a third and at two thirds of the steps", refresh="go on"),
    Arm(name="refreshed, restarts", words="the same, and the policy begins anew each time", refresh="restart"),
    Arm(name="3,000 labels", words="as many labels as the refreshed have in the end, all of the base's answers", pairs=3_000),
)
"""In the order in which they are run, so that what is stopped early has the plainest."""
FIGURES = {
    "penalties on the KL": (SINGLE, "beta low", "beta high", "adaptive KL", GOLD_ITSELF),
    "members by seed": (SINGLE, "mean of seeds", "mean - std of seeds", "min of seeds", "robust of seeds"),
    "members by pretraining, labels, width": (
        SINGLE,
        "mean of bases",
        "min of bases",
        "500 labels",
        "8,000 labels",
        "wider model",
    ),
    "refresh": (SINGLE, "3,000 labels", "refreshed, goes on", "refreshed, restarts"),
}
"""Arms that are drawn together; what is in none of these figures has one of its own."""
DEMO_ARMS = (SINGLE, "beta high", "min of seeds", GOLD_ITSELF)
QUICK = Sizes(
    base=SmallModel(layers=1, width=32, heads=2, positions=96, batch=64, epochs=1),
    texts=640,
    pairs=60,
    held_pairs=40,
    members=2,
    params="full",
    epochs=1,
    steps=3,
    prompts=2,
    samples=2,
    looks=1,
    asked=4,
)
Scale = Literal["full", "small", "quick"]


@dataclass(frozen=True, kw_only=True)
class RlConfig:
    keep: Path | None = None
    """What was made is kept here, and gone on with; several processes may share it."""
    replicates: int = 15
    first: int = 0
    """Replicates from this number on."""
    arms: tuple[str, ...] = ()
    """Some of the arms by name; all when left out."""
    small: bool = False
    """Three replicates of four arms: `make rl-demo`."""
    quick: bool = False
    """One replicate of a world too small for any figure: a check that it runs."""
    there: bool = False
    """Of what is kept, without running anything."""
    page: Path | None = None
    """Draw gold against the reward here; the figures go into a .json beside it."""


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(RlConfig, config=(tyro.conf.FlagCreatePairsOff,))
    began = time.process_time()
    torch.set_num_threads(1)
    arms = arms_of(config)
    with tempfile.TemporaryDirectory() as made:
        folder = config.keep or Path(made)
        numbers = range(config.first, config.first + num_replicates(config))
        kept = f"; kept in {config.keep}, and gone on with after a stop" if config.keep else ""
        say("to do", f"{len(arms)} ways to reward a policy, {len(numbers)} replicates of each{kept}")
        sizes = QUICK if config.quick else Sizes()
        found = run_all(folder, numbers, arms, sizes, there=config.there)
        if SINGLE not in found:
            raise ValueError(f"{config.keep} has no run of {SINGLE!r}, against which all are held: leave --there out")
        single = next(arm for arm in ARMS if arm.name == SINGLE)
        best = {}
        for number in found[SINGLE]:
            replicate = Replicate(folder=folder, number=number, sizes=sizes)
            if (one := best_of_n(replicate, single, there=config.there or config.small)) is not None:
                best[number] = one
        written = answers_of(folder / f"replicate-{config.first}" / "arms" / "single")
    families = comparisons(outcomes(found), SINGLE, KL_ARMS)
    result = {
        "machine": f"{platform.machine()}, 1 thread",
        "settings": asdict(sizes),
        "arms": summary(found),
        "comparisons": families,
        "claims": {
            **claims(found, single=SINGLE, gold=GOLD_ITSELF, strong="beta high", kl_arms=KL_ARMS, ensembles=SEEDS),
            **refresh_claim(found, anew="refreshed, restarts", on="refreshed, goes on", labels="3,000 labels"),
        },
        "gold against the distance, by Gao's form": forms(found),
        "best of n by the single model": chosen(best),
        "replicates": {arm: sorted(by_replicate) for arm, by_replicate in found.items()},
        "not run": [arm.name for arm in ARMS if arm.name not in found],
        "cpu_seconds": rounded(time.process_time() - began),
    }
    if config.page is None:
        print(json.dumps(result))
        return 0
    page = curves_page(
        found,
        families,
        words={arm.name: arm.words for arm in ARMS},
        figures=FIGURES,
        more=[distance_table(found, best, FIGURES["penalties on the KL"])],
        examples=examples_of(written, SINGLE),
    )
    write_html(config.page, [page], "Gold against the reward that was climbed")
    figures = config.page.with_suffix(".json")
    write_text(figures, json.dumps(result, indent=1) + "\n")
    print_lines(summary_lines([page], closing={"report": str(config.page), "figures": str(figures)}))
    return 0


def answers_of(run: Path) -> list[dict[str, Any]]:
    """The best and worst answers that an arm kept; none where it was not run."""
    path = run / COMPLETIONS
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def num_replicates(config: RlConfig) -> int:
    return 1 if config.quick else min(config.replicates, 3) if config.small else config.replicates


def arms_of(config: RlConfig) -> list[Arm]:
    """Raises ValueError for a name that no arm has."""
    names = config.arms or (DEMO_ARMS if config.small else tuple(arm.name for arm in ARMS))
    by_name = {arm.name: arm for arm in ARMS}
    if unknown := [name for name in names if name not in by_name]:
        raise ValueError(f"there is no arm {unknown[0]!r}: {', '.join(by_name)}")
    chosen = [by_name[name] for name in names]
    return [replace(arm, pairs=min(arm.pairs, 40)) if config.quick and arm.pairs else arm for arm in chosen]


def run_all(
    folder: Path, numbers: Sequence[int], arms: Sequence[Arm], sizes: Sizes, *, there: bool = False
) -> dict[str, dict[int, Mapping[str, Any]]]:
    """All replicates of an arm before those of the next. What another process has in hand is passed by, and taken if it is there at
    the end; else it is not in the table, and said. there: what is kept is read, and nothing is run."""
    found: dict[str, dict[int, Mapping[str, Any]]] = {}
    units = [(arm, number) for arm in arms for number in numbers]
    for arm, number in [*units, *units]:
        if number in found.get(arm.name, {}):
            continue
        replicate = Replicate(folder=folder, number=number, sizes=sizes)
        one = replicate.kept(arm) if there else replicate.run(arm)
        if one is not None:
            found.setdefault(arm.name, {})[number] = one
            say("gained", f"{arm.name}, replicate {number}: gold {one['gold'][-1] - one['gold'][0]:+.2f} at KL {one['kl'][-1]:.2f}")
    missing = [f"{arm.name} {number}" for arm, number in units if number not in found.get(arm.name, {})]
    if missing:
        say("missing", f"{len(missing)} of {len(units)} not run" if there else f"in hand elsewhere: {', '.join(missing)}")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
