"""The relay part of benchmarks/generative.py: arms on the same pairs, tested at each number of passes, and negative controls.

Suffixes: P pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from assay import cli  # noqa: F401  first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
from generative_arms import Judged, Trained, as_array, as_list, costs, judge, kept_or_new, of_right, rounded, train_arm
from generative_worlds import (
    CRITIQUE,
    DIRECT,
    GENERATIVE,
    GRM,
    SCALAR,
    RelaySettings,
    World,
    control_of_seed,
    epochs_of,
    relay_of_seed,
    seen_pairs,
    write,
)

from assay.console import say
from assay.recipes.worlds.brevity import brevity_pairs
from assay.recipes.worlds.relay_pairs import CritiquedPair, relay_pairs
from assay.scorers.baselines import fit_bag_of_words
from assay.scorers.load import load

CONTROLS = {"one pass": relay_pairs, "brevity": brevity_pairs}
ENOUGH = 0.95  # the scalar model of a control is trained until it is right that often on dev pairs, if it comes to it
MOST_FACTOR = 4  # times the tokens of the critique arm, at most, to come to it
WORDS = "bag of words"


def relay_part(
    settings: RelaySettings, seeds: Sequence[int], arms: Sequence[str], folder: Path, keep: Path | None
) -> dict[str, Any]:
    """Every arm of every seed, all seeds together, and what became of the claims. folder: for runs; keep: for what was found."""
    found: dict[int, dict[str, Any]] = {}
    for seed in seeds:
        world = relay_of_seed(settings, seed)
        found[seed] = {}
        for arm in arms:
            path = None if keep is None else keep / f"relay-{seed}-{file_name(arm)}.json"
            place = folder / f"relay-{seed}"
            found[seed][arm] = kept_or_new(path, settings_of(settings, arm), lambda: one_arm(settings, arm, world, seed, place))  # noqa: B023
        found[seed][WORDS] = bag_of_words(world)
    together = joined(list(found.values()))
    return {
        "settings": asdict(settings) | {"base": Path(settings.base).name},
        "seeds": {seed: {arm: without_pairs(one) for arm, one in of.items()} for seed, of in found.items()},
        "all seeds": together,
        "claims": claims(together, settings.test_lengths),
    }


def settings_of(settings: RelaySettings, arm: str) -> dict[str, Any]:
    """Those that decide what an arm is found to be: no scalar try is made for a model that writes."""
    return {name: value for name, value in asdict(settings).items() if not (arm in GENERATIVE and name in ("scalars", "dev_pairs"))}


def control_part(settings: RelaySettings, seeds: Sequence[int], folder: Path, keep: Path | None) -> dict[str, Any]:
    """Scalar and critique in worlds in which a critique has nothing to add: it may be at most 3 points ahead."""
    result: dict[str, Any] = {}
    for name in CONTROLS:
        found = {}
        for seed in seeds:
            path = None if keep is None else keep / f"control-{file_name(name)}-{seed}.json"
            place = folder / f"control-{file_name(name)}-{seed}"
            found[seed] = kept_or_new(path, asdict(settings), lambda: one_control(settings, name, seed, place))  # noqa: B023
        together = joined(list(found.values()))
        ahead = together[CRITIQUE]["test"]["right of all"][0] - together[SCALAR]["test"]["right of all"][0]
        result[name] = {
            "seeds": {seed: {arm: without_pairs(one) for arm, one in of.items()} for seed, of in found.items()},
            "all seeds": together,
            "critique ahead by": rounded(ahead),
            "claim: at most .03": bool(ahead <= 0.03),
        }
    return result


def one_arm(settings: RelaySettings, arm: str, world: World, seed: int, place: Path) -> dict[str, Any]:
    """Train an arm and judge every test: seconds, and of each test figures and (P,) values of being right."""
    data = place / f"{file_name(arm)}.jsonl"
    write(data, arm, world.train)
    if arm in GENERATIVE:
        epochs = epochs_of(settings, arm, world.train)
        trained, chosen = train_arm(generative_words(settings, arm, data, seed, epochs), place / file_name(arm)), {"epochs": epochs}
    else:
        trained, chosen = best_scalar(settings, arm, world, data, seed, place)
    return {"seconds": trained.seconds, **chosen, **all_tested(settings, arm, trained, world.tests)}


def all_tested(settings: RelaySettings, arm: str, trained: Trained, tests: Mapping[str, Sequence[CritiquedPair]]) -> dict[str, Any]:
    """What a trained arm says of every test, and what a judged pair costs."""
    scorer = load(trained.path, dtype=settings.dtype)  # type: ignore[arg-type]
    found, seconds, num = {}, 0.0, 0
    for name, made in tests.items():
        judged = judge(scorer, seen_pairs(arm, made))
        found[name] = figures_of_test(judged, made)
        seconds, num = seconds + judged.seconds, num + len(made)
        say("tested", f"{arm}, passes {name}: right {found[name]['right of all']}, critiques exact {found[name]['critique exact']}")
    whole = judged._replace(seconds=seconds, margins=np.zeros(num))  # the bill is of all tests
    return {"costs": costs(whole, settings.priced_as), "tests": found}


def figures_of_test(judged: Judged, made: Sequence[CritiquedPair]) -> dict[str, Any]:
    """Figures of one test, twins as clusters; by kind of the wrong answer; how often the critique is the true one, word by word."""
    twins = np.array([one.pair.tags["twins"] for one in made])
    kinds = np.array([one.pair.tags.get("kind", "") for one in made])
    right_P = judged.right
    by_kind = {str(kind): rounded(np.nan_to_num(right_P[kinds == kind]).mean()) for kind in np.unique(kinds) if kind}
    gold = [(one.chosen, one.rejected) for one in made]
    written = [(text, true) for texts, both in zip(judged.texts, gold, strict=True) for text, true in zip(texts, both, strict=True)]
    exact = [text.strip().startswith(true) for text, true in written if text]
    return {
        **of_right(right_P, twins),
        "by kind": by_kind,
        "critique exact": rounded(np.mean(exact)) if exact else None,
        "right": as_list(right_P),
        "twins": twins.tolist(),
    }


def best_scalar(
    settings: RelaySettings, arm: str, world: World, data: Path, seed: int, place: Path
) -> tuple[Trained, dict[str, Any]]:
    """Of the tries, each with at least the tokens of the critique arm, the one that is right most often on the dev pairs. The other
    scalar arms have the first try that keeps all layers."""
    whole = [one for one in settings.scalars if one.split("@")[1] == "full"]
    epochs = epochs_of(settings, arm, world.train)
    tries: dict[str, tuple[float, Trained]] = {}
    for one in settings.scalars if arm == SCALAR else whole[:1]:
        run = train_arm(scalar_words(settings, arm, data, seed, one, epochs), place / f"{file_name(arm)}-{file_name(one)}")
        dev = judge(load(run.path, dtype=settings.dtype), seen_pairs(arm, world.dev))  # type: ignore[arg-type]
        tries[one] = (rounded(np.nanmean(dev.right)), run)
    best = max(tries, key=lambda name: tries[name][0])
    shown = {name: {"dev": dev, "seconds": run.seconds} for name, (dev, run) in tries.items()}
    return tries[best][1], {"epochs": epochs, "chosen": best, "tries": shown}


def one_control(settings: RelaySettings, name: str, seed: int, place: Path) -> dict[str, Any]:
    """Scalar and critique of one seed of a control. The scalar is given more epochs until it is right in 95% of the dev pairs."""
    made = control_of_seed(settings, CONTROLS[name], seed)
    data = place / "scalar.jsonl"
    write(data, SCALAR, made.train)
    found = {CRITIQUE: one_arm(settings, CRITIQUE, made, seed, place)}
    epochs, tries = epochs_of(settings, SCALAR, made.train), {}
    for factor in range(1, MOST_FACTOR + 1):
        words = scalar_words(settings, SCALAR, data, seed, settings.scalars[0], factor * epochs)
        run = train_arm(words, place / f"scalar-{factor}")
        right_P = judge(load(run.path, dtype=settings.dtype), seen_pairs(SCALAR, made.dev)).right  # type: ignore[arg-type]
        tries[factor * epochs] = rounded(np.nanmean(right_P))
        if tries[factor * epochs] >= ENOUGH:
            break
    found[SCALAR] = {"seconds": run.seconds, "dev by epochs": tries, **all_tested(settings, SCALAR, run, made.tests)}
    return found


def generative_words(settings: RelaySettings, arm: str, data: Path, seed: int, epochs: int) -> list[str]:
    """Of `assay train`."""
    stress = f",verdict={settings.verdict:g}" if settings.verdict != 1 and arm != DIRECT else ""
    kind = f"generative:pointwise,{GENERATIVE[arm]}{stress},judged={settings.judged}"
    words = ["--kind", kind, "--params", settings.params, "--learning-rate", f"{settings.learning_rate:g}", "--epochs", str(epochs)]
    return [*words, *common_words(settings, data, seed)]


def scalar_words(settings: RelaySettings, arm: str, data: Path, seed: int, tried: str, epochs: int) -> list[str]:
    """Of `assay train`, for params@depth[@rate]."""
    params, depth, *rate = tried.split("@")
    words = ["--params", params, "--depth", depth, *(["--learning-rate", rate[0]] if rate else [])]
    words += [] if params.startswith("head") else ["--epochs", str(epochs)]  # a head takes its own number of cheap passes
    words += ["--text-loss", "sft"] if arm == GRM else []
    return [*words, *common_words(settings, data, seed), "--reference", "0"]


def common_words(settings: RelaySettings, data: Path, seed: int) -> list[str]:
    words = ["--data", str(data), "--base", settings.base, "--batch-pairs", str(settings.batch), "--seed", str(seed)]
    return [*words, "--test", "0", "--calibration", "0.1", "--dtype", settings.dtype, *settings.extra]


def bag_of_words(world: World) -> dict[str, Any]:
    """What the words of the answers say: on whole twins a fit gives no word a weight, and every pair is a tie."""
    scorer = fit_bag_of_words([one.pair for one in world.train])
    return {"tests": {name: figures_of_test(judge(scorer, [one.pair for one in made]), made) for name, made in world.tests.items()}}


def joined(of_seeds: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By arm and test the pairs of all seeds, which are different ones."""
    result: dict[str, dict[str, Any]] = {}
    for arm in of_seeds[0]:
        result[arm] = {}
        for test in of_seeds[0][arm]["tests"]:
            right_P = np.concatenate([as_array(one[arm]["tests"][test]["right"]) for one in of_seeds])
            twins_P = np.concatenate(
                [[f"{i}:{name}" for name in one[arm]["tests"][test]["twins"]] for i, one in enumerate(of_seeds)]
            )
            result[arm][test] = of_right(right_P, twins_P)
    return result


def claims(together: Mapping[str, Mapping[str, Any]], lengths: Sequence[int]) -> dict[str, bool | None]:
    """What became of the claims; None for what was not run. A pair without a verdict is not right."""

    def share(arm: str, passes: int, end: int = 0) -> float:
        return float(together[arm][str(passes)]["right of all"][end])

    has = {arm: arm in together for arm in (CRITIQUE, SCALAR, DIRECT)}
    near, far = [m for m in (2, 3) if m in lengths], [m for m in (4, 5) if m in lengths]
    hard = [m for m in lengths if m >= 3]
    rivals = [arm for arm in (SCALAR, DIRECT) if has[arm]]
    both = has[CRITIQUE] and bool(rivals) and bool(hard)
    return {
        "critique at least .90 at 2 and 3 passes": all(share(CRITIQUE, m) >= 0.9 for m in near) if has[CRITIQUE] and near else None,
        "critique at least .80 at 4 and 5 passes": all(share(CRITIQUE, m) >= 0.8 for m in far) if has[CRITIQUE] and far else None,
        **{
            f"{arm} at most .70 at 3 passes or more": all(share(arm, m) <= 0.7 for m in hard) if has[arm] and hard else None
            for arm in (SCALAR, DIRECT)
        },
        "intervals apart at 3 passes or more": all(share(CRITIQUE, m, 1) > share(arm, m, 2) for m in hard for arm in rivals)
        if both
        else None,
    }


def without_pairs(one: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of an arm without its columns."""
    tests = {
        name: {key: value for key, value in test.items() if key not in ("right", "twins")} for name, test in one["tests"].items()
    }
    return {**one, "tests": tests}


def file_name(name: str) -> str:
    """A name as that of a file."""
    return "".join(char if char.isalnum() else "-" for char in name)
