"""The arms of benchmarks/overoptimization_rl.py, and one run of an arm in a replicate, kept in a folder so that it goes on.

FOLDER/bases/SEED                       what policies start from (0), and what members of other pretraining start from
FOLDER/replicate-R/pairs-N.jsonl        labels, with their flips
FOLDER/replicate-R/models/NAME          reward models
FOLDER/replicate-R/arms/NAME.json       what came of an arm; its run directory beside it, without checkpoints
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from assay.console import say
from assay.data.pairs import read_pairs, write_pairs
from assay.evaluation.member_scales import measured_scales
from assay.files import write_text
from assay.models.device import pick_compute
from assay.models.saved.combine import join
from assay.recipes.worlds import errands as world
from assay.records import PreferencePair
from assay.rl.evaluations import read_evaluations
from assay.rl.kl_control import KLSettings
from assay.rl.loop.loop_settings import PolicySettings
from assay.rl.loop.policy_model import load_policy
from assay.rl.loop.policy_step import generator_of
from assay.rl.loop.rollouts import sample
from assay.rl.loop.train_policy import PolicyRun, train_policy
from assay.run_files import only_run
from assay.scorers.base import Scorer, margins
from assay.scorers.ensemble import PLAIN, Combination, Ensemble, members_as_scorers, members_of
from assay.scorers.load import load
from assay.scorers.opened import NamedPairs, open_scorer
from assay.scorers.rules import rule_scorer
from assay.stats.metrics import is_right
from assay.training.imitation import SmallModel, fitted, save_base, word_tokenizer
from assay.training.run import train
from assay.training.settings import Machine, Members, TrainConfig

GOLD_ITSELF, SINGLE = "gold itself", "single"
_PAIR_ERRANDS, _TRAINED_ERRANDS = 9_000, 4_000  # of one list, so that no prompt is in two uses


Refresh = Literal["", "go on", "restart"]
BASE = SmallModel(layers=3, width=64, heads=2, inner=2, spread=0.125, positions=64, batch=64, epochs=1)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the world is. texts: of the base's corpus. rate_of_reward: learning rate of a reward model; rate_of_policy: of a
    policy; looks: steps between looks; asked: held-out errands that are answered at each."""

    base: SmallModel = BASE
    texts: int = 160_000
    pairs: int = 2_000
    flips: float = 0.25
    held_pairs: int = 500
    members: int = 3
    params: str = "full"
    epochs: int | None = 2
    batch_pairs: int | None = 32
    rate_of_reward: float | None = 2e-4
    steps: int = 60
    prompts: int = 16
    samples: int = 4
    max_tokens: int = 24
    rate_of_policy: float = 7e-4
    looks: int = 4
    asked: int = 128


@dataclass(frozen=True, kw_only=True)
class Arm:
    """members: "one" reward model, "seeds": models of one base that differ by seed, or "bases" that differ by pretraining too;
    "gold": the gold itself. words: for the page. how: members are combined, None for one. pairs: labels, None for as many as the
    world's. width: of another base, as a factor. refresh: what the policy does behind each of two refreshes of its reward model
    (overoptimization_refresh.py), "" for none."""

    name: str
    words: str = ""
    members: str = "one"
    how: Combination | None = None
    kl: KLSettings = field(default_factory=lambda: KLSettings(beta=0.0))
    pairs: int | None = None
    width: int = 1
    refresh: Refresh = ""

    @property
    def file(self) -> str:
        return "".join(letter if letter.isalnum() else "-" for letter in self.name)


@contextmanager
def held(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Whether this process has the folder to itself; with `wait` it has it in the end."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        has = False
        while not has:
            try:
                stack.enter_context(only_run(folder))
                has = True
            except ValueError:
                if not wait:
                    break
                time.sleep(2)
        yield has


def made(path: Path, make: Callable[[Path], Any]) -> Path:
    """`path`, made if it is not there; another process that makes it is waited for."""
    if not path.exists():
        with held(path.parent / f".{path.name}", wait=True):
            if not path.exists():
                make(path)
    return path


@dataclass(frozen=True, kw_only=True)
class Replicate:
    """Labels, flips, reward models and draws of one number, shared by the arms. The policy's base is one for all replicates."""

    folder: Path
    number: int
    sizes: Sizes

    @property
    def home(self) -> Path:
        return self.folder / f"replicate-{self.number}"

    @cached_property
    def errands(self) -> list[world.Errand]:
        needed = _PAIR_ERRANDS + _TRAINED_ERRANDS + self.sizes.held_pairs + self.sizes.asked
        return world.errands(needed, seed=1_000 + self.number)

    def base(self, seed: int, width: int = 1) -> Path:
        """A base of that pretraining seed; 0 is the policy's."""
        name = str(seed) if width == 1 else f"{seed}-wide-{width}"

        def make(path: Path) -> None:
            say("base", f"{self.sizes.texts:,} texts, seed {seed}")
            shown = list(world.corpus(self.sizes.texts, seed=seed))
            tokenizer = word_tokenizer(world.WORDS)
            small = replace(self.sizes.base, seed=seed, width=self.sizes.base.width * width)
            save_base(fitted(tokenizer, shown, small), tokenizer, path)

        return made(self.folder / "bases" / name, make)

    def answers(
        self, errands: Sequence[world.Errand], samples: int, *numbers: int, policy: Path | None = None
    ) -> list[tuple[world.Errand, list[str]]]:
        """What a policy answers, so many times each; the base that all start from when left out."""
        model = load_policy(str(policy or self.base(0)), params="full", compute=pick_compute("cpu", "float32"))
        found, generator = [], generator_of(self.number, *numbers)
        for begin in range(0, len(errands), 256):
            some = errands[begin : begin + 256]
            rollouts = sample(
                model.causal,
                [model.tokens.prompt(prompt.messages) for prompt in world.as_prompts(some)],
                samples,
                ends=model.tokens.ends,
                pad_id=model.tokens.pad_id,
                max_tokens=self.sizes.max_tokens,
                temperature=1.0,
                generator=generator,
            )
            texts = model.tokens.texts(rollouts)
            found += [(errand, texts[i * samples : (i + 1) * samples]) for i, errand in enumerate(some)]
        return found

    def pairs(self, num: int) -> Path:
        """`num` noisy pairs of the base's answers."""

        def make(path: Path) -> None:
            enough = min(num + 100, _PAIR_ERRANDS)
            asked = self.answers(self.errands[:enough], 4, num)
            write_pairs(path, world.labelled_pairs(asked, num=num, flips=self.sizes.flips, seed=self.number))

        return made(self.home / f"pairs-{num}.jsonl", make)

    @property
    def held_pairs(self) -> list[PreferencePair]:
        """Pairs of other errands, all rightly labelled."""

        def make(path: Path) -> None:
            begin = _PAIR_ERRANDS + _TRAINED_ERRANDS
            asked = self.answers(self.errands[begin : begin + self.sizes.held_pairs], 4, 0)
            num = self.sizes.held_pairs
            write_pairs(path, world.labelled_pairs(asked, num=num, flips=0.0, seed=self.number))

        return list(read_pairs(made(self.home / "held.jsonl", make)))

    def reward_model(self, *, members: int = 1, base: int = 0, pairs: int | None = None, width: int = 1) -> Path:
        """A run of `assay train` on the pairs; of several members, those of `--ensemble`: each with a first head and an order
        of the pairs of its own."""
        num = pairs or self.sizes.pairs
        path = self.home / "models" / f"{num}-pairs-base-{base}-wide-{width}-of-{members}"
        return self.trained_on(lambda: self.pairs(num), path, base=lambda: self.base(base, width), members=members)

    def trained_on(self, data: Callable[[], Path], path: Path, *, base: Callable[[], Path], members: int = 1) -> Path:
        """A run of `assay train`, and what it reaches on the held-out pairs."""
        sizes = self.sizes

        def make(out: Path) -> None:
            began, work = time.process_time(), out.parent / f".{out.name}" / "run"
            train(
                TrainConfig(
                    data=(str(data()),),
                    base=str(base()),
                    out=work,
                    params=sizes.params,
                    depth="full",
                    epochs=sizes.epochs,
                    batch_pairs=sizes.batch_pairs,
                    learning_rate=sizes.rate_of_reward,
                    max_length=64,
                    calibration=0.05,
                    test=0.0,
                    seed=self.number,
                    members=Members(ensemble=members, penalty=0.0),
                    machine=Machine(dtype="float32", device="cpu", reference=0, overwrite=True),
                )
            )
            measured = {"held_out_accuracy": self.accuracy(load(work)), "cpu_seconds": round(time.process_time() - began, 1)}
            write_text(work / "measured.json", json.dumps(measured))
            for steps in list(work.rglob("checkpoints")):
                shutil.rmtree(steps)
            work.rename(out)

        return made(path, make)

    def accuracy(self, scorer: Scorer) -> float:
        """On the held-out pairs, which are rightly labelled, however near in gold they are."""
        pairs = self.held_pairs
        return float(np.nanmean(is_right(margins(scorer, pairs), np.array([pair.preference for pair in pairs]))))

    def accuracy_of(self, arm: Arm, scorer: Scorer) -> float | None:
        """Of the arm's reward; what was measured of a single model before is read."""
        if arm.members == "gold":
            return None
        if arm.members == "one":
            measured = self.reward_model(pairs=arm.pairs, width=arm.width) / "measured.json"
            return round(json.loads(measured.read_text(encoding="utf-8"))["held_out_accuracy"], 4)
        return round(self.accuracy(scorer), 4)

    def joined(self, models: Sequence[Path], name: str) -> Path:
        """An ensemble of models on one scale, that of their margins on the held-out pairs, in the unit of the first."""

        def make(path: Path) -> None:
            reference = NamedPairs(self.held_pairs, "held", "held", is_own=False)
            scales = measured_scales([open_scorer(str(model)) for model in models], reference)
            scales = [scale._replace(unit=scale.unit / scales[0].unit) for scale in scales]
            join(models, path, combination=PLAIN.entry, scales=scales, scaled_by="margins on held-out pairs")

        return made(self.home / "models" / name, make)

    def scorer(self, arm: Arm) -> Scorer:
        if arm.members == "gold":
            return rule_scorer(world.gold_rule)
        if arm.members == "one":
            return load(self.reward_model(pairs=arm.pairs, width=arm.width))
        if arm.members == "seeds":
            found = self.reward_model(members=self.sizes.members)
        else:
            found = self.joined([self.reward_model(base=k) for k in range(self.sizes.members)], arm.members)
        return Ensemble(members_of_file(found), arm.how)

    def kept(self, arm: Arm) -> dict[str, Any] | None:
        """What came of the arm before, None where it was not run. Raises ValueError where it was run with other settings."""
        path = self.home / "arms" / f"{arm.file}.json"
        if not path.exists():
            return None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["settings"] != self.settings_of(arm):
            raise ValueError(f"{path} was made with other settings: name another --keep, or delete it")
        return found

    def run(self, arm: Arm) -> dict[str, Any] | None:
        """What came of the arm: read, or made; None where another process makes it."""
        path = self.home / "arms" / f"{arm.file}.json"
        with held(path.parent / f".{arm.file}", wait=False) as has:
            found = self.kept(arm)
            if found is None and has:
                found = self._made(arm, path.with_suffix(""))
                write_text(path, json.dumps(found))
            return found

    def settings_of(self, arm: Arm) -> dict[str, Any]:
        how = None if arm.how is None else arm.how.entry
        said = {"arm": {**{name: getattr(arm, name) for name in ("members", "pairs", "width")}, "how": how}}
        said |= {"refresh": arm.refresh} if arm.refresh else {}
        return json.loads(json.dumps(said | {"kl": asdict(arm.kl), "sizes": asdict(self.sizes)}))

    def policy_run(self, arm: Arm, scorer: Scorer, out: Path) -> PolicyRun:
        """The arm's run of all steps under one scorer; it goes on where a checkpoint is there."""
        sizes = self.sizes
        trained = self.errands[_PAIR_ERRANDS : _PAIR_ERRANDS + _TRAINED_ERRANDS]
        if not any((out / "checkpoints").glob("step-*")):
            shutil.rmtree(out, ignore_errors=True)
        return PolicyRun(
            policy=str(self.base(0)),
            scorer=scorer,
            scorer_name=arm.name,
            prompts=world.as_prompts(trained),
            held_out=world.as_prompts(self.errands[-sizes.asked :]),
            out=out,
            settings=PolicySettings(
                steps=sizes.steps,
                prompts=sizes.prompts,
                samples=sizes.samples,
                max_tokens=sizes.max_tokens,
                learning_rate=sizes.rate_of_policy,
                kl=arm.kl,
                evaluate_every=sizes.looks,
                eval_prompts=sizes.asked,
                seed=self.number,
            ),
            gold=rule_scorer(world.gold_rule),
            against_past=False,
            resume=out.exists(),
            device="cpu",
            dtype="float32",
        )

    def _made(self, arm: Arm, out: Path) -> dict[str, Any]:
        began = time.process_time()
        say("arm", f"replicate {self.number}: {arm.name}")
        if arm.refresh:
            from overoptimization_refresh import refreshed  # imports this module

            scorer, last = refreshed(self, arm, out)
        else:
            scorer, last = self.scorer(arm), out
            train_policy(self.policy_run(arm, scorer, out))
        found = read_evaluations(last)
        for part in ("checkpoints", "past", "policy"):
            for left in list(out.rglob(part)):
                shutil.rmtree(left, ignore_errors=True)
        columns = {"kl": found.kl_EP, "reward": found.reward_EP, "gold": found.gold_EP}
        return {
            "settings": self.settings_of(arm),
            "steps": found.steps.tolist(),
            **{name: [mean_of(values_P) for values_P in values_EP] for name, values_EP in columns.items()},
            "scored": [round(float(np.mean(~np.isnan(values_P))), 4) for values_P in found.reward_EP],
            "accuracy": round(self.accuracy(scorer), 4) if arm.refresh else self.accuracy_of(arm, scorer),
            "cpu_seconds": round(time.process_time() - began, 1),
        }


def members_of_file(path: Path) -> list[Scorer]:
    """The members of a saved ensemble, each a scorer; they share every forward."""
    scorer = load(path)
    found = members_of(scorer)
    assert found is not None
    return list(members_as_scorers(found, found.num_members, fingerprint=scorer.fingerprint, tolerance=scorer.tolerance))


def mean_of(values_P: np.ndarray) -> float | None:
    """Of what was scored; None where nothing was."""
    kept = values_P[~np.isnan(values_P)]
    return round(float(kept.mean()), 5) if len(kept) else None


def combined(how: str) -> Combination:
    """mean, mean - std, min or robust."""
    ways = {
        "mean": PLAIN,
        "mean - std": Combination(penalty=1.0),
        "min": Combination(how="min"),
        "robust": Combination(how="robust", beta=0.5),
    }
    return ways[how]
