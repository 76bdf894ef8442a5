"""Arms of benchmarks/overoptimization_rl.py whose reward model is refreshed twice: at a third and at two thirds of the steps new
pairs are labelled, as noisily as the first, and the model is trained anew on all pairs there are.

Half of the new pairs are two answers of the policy as it is, half one of it against one of the base that it started from, as in
`assay rl refresh`. "go on": the policy goes on under the new model. "restart": it begins anew, and behind the last refresh takes
all steps. There is no gate, and no rescaling: without a KL in the reward its scale is nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from assay import cli  # noqa: F401  first: it sets OpenMP up before torch is loaded

# isort: split
from overoptimization_arms import Arm, Replicate, made

from assay.data.pairs import read_pairs, write_pairs
from assay.recipes.worlds import errands as world
from assay.records import PreferencePair
from assay.rl.loop.beginnings import Beginning
from assay.rl.loop.train_policy import train_policy
from assay.scorers.base import Scorer
from assay.scorers.load import load

REFRESHES, NEW_SHARE = 2, 0.25  # new pairs of a refresh, as a share of the first ones
_NEW_ERRANDS = 8_000  # from this one of the errands for pairs on, which the first labels do not reach


def refreshed(replicate: Replicate, arm: Arm, out: Path) -> tuple[Scorer, Path]:
    """The last reward model, and the directory of the policy's last run."""
    sizes = replicate.sizes
    stops = [sizes.looks * max(1, round(sizes.steps * k / (REFRESHES + 1) / sizes.looks)) for k in range(1, REFRESHES + 1)]
    model, known, last = replicate.reward_model(), replicate.pairs(sizes.pairs), out / "0"
    for k, stop in enumerate([*stops, None]):
        scorer, last = load(model), out / str(k)
        run = replicate.policy_run(arm, scorer, last)
        if k and arm.refresh == "go on":
            run = replace(run, begin=Beginning(run=out / str(k - 1), step=stops[k - 1]))
        num_before = 0 if arm.refresh == "restart" or not k else stops[k - 1]
        since = stop - (stops[k - 1] if k else 0) if stop is not None else None
        train_policy(replace(run, stop_at=None if since is None else num_before + since))
        if stop is not None:
            known = new_pairs(replicate, known, last / "policy", k, replicate.home / "pairs-refreshed" / f"{arm.file}-{k}.jsonl")
            path = replicate.home / "models" / f"{arm.file}-{k}"
            model = replicate.trained_on(lambda data=known: data, path, base=lambda: replicate.base(0))  # type: ignore[misc]
    return scorer, last


def new_pairs(replicate: Replicate, known: Path, policy: Path, k: int, path: Path) -> Path:
    """The pairs so far with those of a refresh behind them."""
    num = round(NEW_SHARE * replicate.sizes.pairs)
    begin = min(_NEW_ERRANDS, len(replicate.errands)) + num * k
    some = replicate.errands[begin : begin + num]

    def make(out: Path) -> None:
        own = replicate.answers(some, 4, 50 + k, policy=policy)
        ours = {errand.prompt: texts for errand, texts in replicate.answers(some, 2, 60 + k, policy=policy)}
        base = replicate.answers(some, 2, 70 + k)
        mixed = [
            (errand, [text for both in zip(ours[errand.prompt], texts, strict=True) for text in both]) for errand, texts in base
        ]
        out.parent.mkdir(parents=True, exist_ok=True)
        write_pairs(out, chain(read_pairs(known), labelled(own, num // 2, 1), labelled(mixed, num - num // 2, 2)))

    def labelled(answers: list[tuple[world.Errand, list[str]]], count: int, part: int) -> Iterator[PreferencePair]:
        """As many as there are, at most `count`: a policy that has collapsed gives few pairs of unlike gold."""
        seed = 100 * (replicate.number + 1) + 10 * k + part
        for tried in range(count, 0, -max(1, count // 10)):
            try:
                found = world.labelled_pairs(answers, num=tried, flips=replicate.sizes.flips, seed=seed)
            except ValueError:
                continue
            yield from (replace(pair, id=f"refresh-{k}-{part}-{i}") for i, pair in enumerate(found))
            return

    return made(path, make)
