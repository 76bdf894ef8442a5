"""Which uncertainty of a reward earns its place, on real preferences. Last line: one JSON document.

python benchmarks/uncertainty.py --set truthful --pairs 400 --depth 8

One forward of the frozen base over everything; all heads (`head:mean`) are fitted on those states. Held out by prompt: every pair
is tested once, by what was fitted on the other folds. Members are heads of their own seed and order (with `--bootstrap` of their
own bootstrap of the pairs), with margins of one size and rewards of one level, as `assay train --ensemble` makes them. The Laplace
posterior is that of `assay train --laplace`, on the states that the saved model's head reads.

Claims, written before the first run; each is judged by a 95% interval, by prompt:

1. wrong pairs: the std of the margin by Laplace is larger where held-out pairs are wrong (AUROC above .5); that of members with one
   trunk is not. To earn its place a std also has to tell more than what is free: |margin| / std against |margin|, by AUROC, paired.
2. risk and coverage: the area by |margin| / std is below that by |margin|, and both are below chance (the share of wrong pairs).
3. other sets: Laplace's std is larger on pairs of other sets than on own held-out ones (AUROC above .5), and tells them apart
   better than the members' std does.
4. best of n, heads fitted to 25% flipped labels: no way of combining beats one model in gold (what was measured so far); one whose
   paired gain is above 0 earns its place. The KL-robust mean has its beta as a knob, in root mean square margins, 0.05 (the
   policy's usual KL coefficient) among them; members centred over all answers, as a service does, and in each prompt.

Baselines in the same run: one model, the size of its margin, the length gap of the two answers, the distance of their states (what
Laplace's std is without any pair), mean and lowest of the members, mean - std. Best-of-n: recorded answers to held-out questions,
gold their truth label (`--set truthful`).
Suffixes: K members, P pairs (2 chosen and rejected), R reads, D hidden size, Q questions, C candidates of a question.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
import torch
import tyro
from ensemble import EnsembleBenchConfig, candidates_of
from real import RealConfig, machine, read_set

from assay.audit.best_of_n import best_of_n_curve
from assay.commands.demo.run import packaged_base
from assay.console import say
from assay.data.pairs import write_pairs
from assay.evaluation.disagreement import error_correlation, risk_area
from assay.models.mean_layer import folded_states
from assay.models.reward_model import new_head
from assay.records import PreferencePair
from assay.rl.shaping import robust
from assay.scorers.ensemble import Combination, robust_mean
from assay.stats.auroc_intervals import auroc_gain_interval, auroc_interval
from assay.stats.bootstrap import cluster_bootstrap
from assay.stats.head_posterior import HeadPosterior, curvature, posterior_of, prior_by_evidence
from assay.stats.metrics import auroc, cluster_folds, is_right
from assay.training.checkpoint import trained_weights
from assay.training.loop import fit
from assay.training.prepare import Prepared, prepare
from assay.training.settings import Machine, Regularization, TrainConfig

BETAS = (0.05, 0.3, 1.0, 3.0)  # in root mean square margins
OTHERS = ("harmless", "alpaca")
SETTINGS = ("depth", "members", "bootstrap", "weight_decay", "flips", "max_length")  # that the result repeats
SIZES = (1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class UncertaintyConfig:
    set: Literal["truthful"] = "truthful"
    folder: Path = Path("../shared/data")
    pairs: int = 400
    depth: str = "8"
    members: int = 5
    folds: int = 4
    flips: float = 0.25
    """Share of the training labels that are turned, for best-of-n."""
    bootstrap: bool = False
    """Each member is fitted to its own bootstrap of the pairs."""
    questions: int = 50
    candidates: int = 8
    other_pairs: int = 30
    """Of each set that nothing was trained on."""
    weight_decay: float = 3.0
    max_length: int = 256
    seed: int = 0
    work: Path | None = None
    """Keeps the states of the frozen base between runs."""
    base: str | None = None


class Study(NamedTuple):
    """own, others, candidates: rows of the table. gold_QC: of the candidates, two to a row. fold_P: of own pairs."""

    prepared: Prepared
    own: np.ndarray
    others: dict[str, np.ndarray]
    candidates_QR: np.ndarray
    gold_QC: np.ndarray
    fold_P: np.ndarray
    fold_Q: np.ndarray


class Fitted(NamedTuple):
    """rewards_KR2: of every row of the table by each member, on one scale and level. posterior: of the first member; the states
    that it is of, states_R2D."""

    rewards_KR2: np.ndarray
    posterior: HeadPosterior
    states_R2D: np.ndarray


def main() -> int:
    cli.keep_freed_memory()
    config = tyro.cli(UncertaintyConfig)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        study = make_study(config, config.work or Path(directory))
        say("states", f"{time.perf_counter() - began:.0f} s")
        tested, picks = Tested(), Picks()
        for fold in range(config.folds):
            one_fold(config, study, fold, tested, picks)
            say(f"fold {fold}", f"{time.perf_counter() - began:.0f} s")
            result = {
                "set": config.set,
                "pairs": len(study.own),
                "folds_done": fold + 1,
                **{name: getattr(config, name) for name in SETTINGS},
                "wrong pairs": tested.figures(),
                "other sets": tested.shift(),
                "best of n": picks.figures(config.seed),
                "facts": tested.facts,
                "machine": machine(),
                "seconds": round(time.perf_counter() - began),
            }
            if fold + 1 < config.folds:
                say("so far", json.dumps(result))
    print(json.dumps(result))
    return 0


def make_study(config: UncertaintyConfig, work: Path) -> Study:
    """Everything in one table, so that the frozen base runs once. Candidates lie two to a row; their labels say nothing."""
    own = read_set(RealConfig(set=config.set, folder=config.folder, pairs=config.pairs))
    others = {name: read_set(RealConfig(set=name, folder=config.folder, pairs=config.other_pairs)) for name in OTHERS}
    asked = EnsembleBenchConfig(set=config.set, folder=config.folder, candidates=config.candidates, bon_prompts=config.questions)
    drawn = candidates_of(asked, {pair.prompt_key for pair in own})
    groups = [one for one in drawn if all(str(answer.response).strip() for answer in one[0])]  # a blank answer has no reward
    answers = [
        PreferencePair(prompt=list(two[0].messages), chosen=str(two[0].response), rejected=str(two[1].response))
        for group, _ in groups
        for two in zip(group[0::2], group[1::2], strict=True)
    ]
    parts = [own, *others.values(), answers]
    write_pairs(work / "pairs.jsonl", [pair for part in parts for pair in part])
    train = TrainConfig(
        data=(str(work / "pairs.jsonl"),),
        base=config.base or packaged_base(),
        out=work / "run",
        params="head:mean",
        depth=config.depth,
        max_length=config.max_length,
        regularization=Regularization(weight_decay=config.weight_decay),
        machine=Machine(dtype="float32", resume=config.work is not None),
        seed=config.seed,
    )
    prepared = prepare(train, split=lambda pair: "train")
    ends = np.cumsum([0, *map(len, parts)])
    assert len(prepared.table) == ends[-1], "pairs were set aside: rows and pairs no longer correspond"
    rows = [np.arange(start, end) for start, end in itertools.pairwise(ends)]
    fold_P = cluster_folds(prepared.table.prompt[rows[0]], config.folds, seed=config.seed)
    fold_of = dict(zip(prepared.table.prompt[rows[0]], fold_P, strict=True))
    candidates_QR = rows[-1].reshape(len(groups), -1)
    return Study(
        prepared,
        rows[0],
        dict(zip(others, rows[1:-1], strict=True)),
        candidates_QR,
        np.array([gold for _, gold in groups]),
        fold_P,
        np.array([fold_of[key] for key in prepared.table.prompt[candidates_QR[:, 0]]]),
    )


def one_fold(config: UncertaintyConfig, study: Study, fold: int, tested: Tested, picks: Picks) -> None:
    table, rows = study.prepared.table, study.own[study.fold_P != fold]
    held = study.own[study.fold_P == fold]
    clean = fit_members(config, study, rows, np.random.default_rng([config.seed, fold, 1]))
    tested.add(study, clean, held, fold)
    labels_P = table.preference[rows].copy()
    turned = np.random.default_rng([config.seed, fold, 2]).permutation(len(rows))[: round(config.flips * len(rows))]
    table.preference[rows[turned]] = 1 - labels_P[turned]
    noisy = fit_members(config, study, rows, np.random.default_rng([config.seed, fold, 3]))
    table.preference[rows] = labels_P
    picks.add(study, noisy, np.flatnonzero(study.fold_Q == fold))
    tested.facts.append({"fold": fold, "prior": clean.posterior.prior, "determined": round(clean.posterior.num_determined, 1)})


def fit_members(config: UncertaintyConfig, study: Study, rows: np.ndarray, rng: np.random.Generator) -> Fitted:
    """K heads from the same start, as `training.fits.members.fit_members`; scale and level are those of the training pairs."""
    prepared, model, task = study.prepared, study.prepared.model, study.prepared.task
    loop, start, everything = prepared.derived.loop, trained_weights(prepared.model), np.arange(len(prepared.table))
    rewards, posterior, states_R2D = [], None, np.empty(0)
    for number in range(config.members):
        model.load_state_dict(start, strict=False)
        with torch.no_grad():
            width = model.backbone.hidden_size
            model.head.weight.zero_()[:, :width].copy_(new_head(width, seed=config.seed + number).weight)
        drawn = np.sort(rng.choice(rows, len(rows))) if config.bootstrap and number else rows
        fit(model, task, drawn, replace(loop, seed=config.seed + number))
        found_R2 = task.rewards(model, everything).astype(np.float64)
        size = float(np.sqrt(np.square(found_R2[rows, 0] - found_R2[rows, 1]).mean()))
        rewards.append((found_R2 - found_R2[rows].mean()) / size)
        if number == 0:
            posterior, states_R2D = laplace(study, rows, found_R2, size)
    model.load_state_dict(start, strict=False)
    assert posterior is not None
    return Fitted(np.stack(rewards), posterior, states_R2D)


def laplace(study: Study, rows: np.ndarray, rewards_R2: np.ndarray, size: float) -> tuple[HeadPosterior, np.ndarray]:
    """Of the model as it is saved, in its own units; the states are divided by the size of its margins, so that a std is in units
    of the scaled rewards."""
    folded = study.prepared.model.folded()  # type: ignore[attr-defined]
    states_D = torch.from_numpy(np.asarray(study.prepared.task.source.states_RD))
    states_R2D = folded_states(folded.backbone, states_D).numpy().astype(np.float64).reshape(len(rewards_R2), 2, -1)
    weight_D = folded.head.weight.detach().numpy()[0].astype(np.float64)
    off = np.abs(states_R2D @ weight_D - rewards_R2).max() / size
    assert off < 0.05, f"the folded head gives other rewards, by {off:.3f} of a margin"
    differences_PD = states_R2D[rows, 0] - states_R2D[rows, 1]
    hessian_DD = curvature(differences_PD, differences_PD @ weight_D, study.prepared.table.weight[rows])
    return posterior_of(hessian_DD, prior_by_evidence(hessian_DD, weight_D)), states_R2D / size


class Tested:
    """What was found on held-out pairs, and on pairs of other sets, over the folds."""

    def __init__(self) -> None:
        self.columns: dict[str, list[np.ndarray]] = {}
        self.members: list[np.ndarray] = []
        self.std_of: dict[str, dict[str, list[np.ndarray]]] = {}
        self.facts: list[dict[str, Any]] = []

    def add(self, study: Study, fitted: Fitted, held: np.ndarray, fold: int) -> None:
        table = study.prepared.table
        margins_KR = fitted.rewards_KR2[:, :, 0] - fitted.rewards_KR2[:, :, 1]
        differences_RD = fitted.states_R2D[:, 0] - fitted.states_R2D[:, 1]
        laplace_R, distance_R = fitted.posterior.std(differences_RD), np.linalg.norm(differences_RD, axis=1)
        members_R = margins_KR.std(axis=0, ddof=1)
        self._keep(
            label=table.preference[held],
            prompt=table.prompt[held],
            single=margins_KR[0, held],
            mean=margins_KR[:, held].mean(axis=0),
            members=members_R[held],
            laplace=laplace_R[held],
            distance=distance_R[held],
            length=table.length_gap[held],
        )
        self.members.append(margins_KR[:, held])
        for name, rows in {"own": held, **study.others}.items():
            single_R, mean_R = margins_KR[0], margins_KR.mean(axis=0)
            doubts = (
                ("members", members_R, mean_R),
                ("laplace", laplace_R, single_R),
                ("distance of the states", distance_R, single_R),
            )
            for kind, std_R, margin_R in doubts:
                kept = self.std_of.setdefault(kind, {}).setdefault(name, [])
                kept.append(np.stack([std_R[rows], np.abs(margin_R[rows]), table.prompt[rows].astype(np.float64)]))

    def _keep(self, **columns: np.ndarray) -> None:
        for name, values in columns.items():
            self.columns.setdefault(name, []).append(values)

    def figures(self) -> dict[str, Any]:
        """AUROC of wrong pairs by each doubt, with the gain on the size of the same model's margin; the area under risk and
        coverage, with a paired interval of the difference."""
        c = {name: np.concatenate(parts) for name, parts in self.columns.items()}
        told = c["label"] != 0.5
        c = {name: values[told] for name, values in c.items()}
        right = {name: is_right(c[name], c["label"]) for name in ("single", "mean")}
        size = {name: np.abs(c[name]) for name in ("single", "mean")}
        doubts = {
            "single: small margin": ("single", -size["single"]),
            "single: small length gap": ("single", -np.abs(c["length"])),
            "single: distance of the states": ("single", c["distance"]),
            "laplace: std": ("single", c["laplace"]),
            "laplace: std / |margin|": ("single", -size["single"] / c["laplace"]),
            "members: std": ("mean", c["members"]),
            "members: std / |mean margin|": ("mean", -size["mean"] / np.maximum(c["members"], 1e-12)),
            "members: small mean margin": ("mean", -size["mean"]),
        }
        row: dict[str, Any] = {
            "tested": len(c["label"]),
            "accuracy": {name: rounded(values.mean()) for name, values in right.items()},
            "error correlation": rounded(error_correlation(self._right_of_members())),
        }
        for name, (model, doubt) in doubts.items():
            wrong, free = 1 - right[model], -size[model]
            found = {"auroc": interval(auroc(doubt, wrong), auroc_interval(doubt, wrong, c["prompt"]))}
            gain = auroc(doubt, wrong) - auroc(free, wrong)
            found["auroc less that of the margin"] = interval(gain, auroc_gain_interval(doubt, free, wrong, c["prompt"]))
            found["area"] = [rounded(risk_area(right[model], -doubt)), rounded(wrong.mean())]
            found["area less that of the margin"] = area_gain(right[model], -doubt, -free, c["prompt"])
            row[name] = found
        return row

    def _right_of_members(self) -> np.ndarray:
        labels = np.concatenate(self.columns["label"])
        return np.stack([is_right(margins, labels) for margins in np.concatenate(self.members, axis=1)])[:, labels != 0.5]

    def shift(self) -> dict[str, Any]:
        """Mean std and std over mean |margin| by set, and how well std and ratio tell other sets from own held-out pairs."""
        row: dict[str, Any] = {}
        for kind, by_set in self.std_of.items():
            sets = {name: np.concatenate(parts, axis=1) for name, parts in by_set.items()}
            for name, (std, size, prompt) in sets.items():
                found: dict[str, Any] = {"std": rounded(std.mean()), "std / margin": rounded(std.mean() / size.mean())}
                if name != "own":
                    own = sets["own"]
                    kinds = np.concatenate([np.zeros(own.shape[1]), np.ones(len(std))])
                    prompts = np.concatenate([own[2], prompt])
                    for what, values in (
                        ("auroc by std", (own[0], std)),
                        ("auroc by std / |margin|", (own[0] / own[1], std / np.maximum(size, 1e-9))),
                        ("auroc by a small margin", (-own[1], -size)),
                    ):
                        both = np.concatenate(values)
                        found[what] = interval(auroc(both, kinds), auroc_interval(both, kinds, prompts))
                row[f"{kind}: {name}"] = found
        return row


class Picks:
    """Gold of the best of n by each way to choose, heads fitted to turned labels."""

    def __init__(self) -> None:
        self.values: dict[str, list[np.ndarray]] = {}
        self.gold: list[np.ndarray] = []

    def add(self, study: Study, fitted: Fitted, questions: np.ndarray) -> None:
        rows_QR = study.candidates_QR[questions]
        members_KQC = fitted.rewards_KR2[:, rows_QR].reshape(len(fitted.rewards_KR2), len(questions), -1)
        states_QCD = fitted.states_R2D[rows_QR].reshape(len(questions), members_KQC.shape[2], -1)
        laplace_QC = np.stack([fitted.posterior.std_in_prompt(states_CD) for states_CD in states_QCD]).reshape(rows_QR.shape[0], -1)
        ways: dict[str, Callable[[], np.ndarray]] = {
            "mean": lambda: members_KQC.mean(axis=0),
            "mean - std": lambda: combined(members_KQC, Combination()),
            "min": lambda: combined(members_KQC, Combination(how="min")),
            "single - laplace std": lambda: members_KQC[0] - laplace_QC,
            "single - 3 laplace std": lambda: members_KQC[0] - 3 * laplace_QC,
        }
        for beta in BETAS:
            ways[f"robust {beta:g}"] = lambda beta=beta: robust_mean(members_KQC, beta)
            ways[f"robust {beta:g}, centred by prompt"] = lambda beta=beta: robust(members_KQC, beta)
        for number, member_QC in enumerate(members_KQC):
            self.values.setdefault(f"member {number}", []).extend(member_QC)
        for name, way in ways.items():
            self.values.setdefault(name, []).extend(way())
        self.gold.extend(study.gold_QC[questions])

    def figures(self, seed: int) -> dict[str, Any]:
        """Gold at n (unbiased) and, at the largest n, the gain on a member, paired by question; of Laplace on its own member."""
        num = len(self.gold)
        curves = {name: best_of_n_curve(values, self.gold, SIZES).gold.round(4).tolist() for name, values in self.values.items()}
        picked = {
            name: np.array([gold[np.argmax(value)] for value, gold in zip(values, self.gold, strict=True)])
            for name, values in self.values.items()
        }
        members = [name for name in picked if name.startswith("member ")]
        single_Q = np.mean([picked[name] for name in members], axis=0)
        row: dict[str, Any] = {"questions": num, "n": list(SIZES), "at random": rounded(np.mean([g.mean() for g in self.gold]))}
        row["a member"] = {"gold": np.mean([curves[name] for name in members], axis=0).round(4).tolist()}
        for name in picked:
            if name not in members:
                rival_Q = picked["member 0"] if "laplace" in name else single_Q
                gain_Q = picked[name] - rival_Q
                found = cluster_bootstrap(gain_Q, np.arange(num), seed=seed)
                row[name] = {"gold": curves[name], "gain": interval(gain_Q.mean(), found)}
        return row


def combined(members_KQC: np.ndarray, how: Combination) -> np.ndarray:
    return how(members_KQC.reshape(len(members_KQC), -1))[0].reshape(members_KQC.shape[1:])


def area_gain(right_P: np.ndarray, ours_P: np.ndarray, theirs_P: np.ndarray, prompts: np.ndarray, draws: int = 300) -> list[float]:
    """Area under risk and coverage by one sureness less that by another, and its interval, prompts drawn anew."""
    index_P = np.unique(prompts, return_inverse=True)[1]
    rows_of = [np.flatnonzero(index_P == number) for number in range(index_P.max() + 1)]
    rng = np.random.default_rng(0)

    def gain(rows: np.ndarray) -> float:
        return risk_area(right_P[rows], ours_P[rows]) - risk_area(right_P[rows], theirs_P[rows])

    found = [gain(np.concatenate([rows_of[i] for i in rng.integers(len(rows_of), size=len(rows_of))])) for _ in range(draws)]
    return [rounded(gain(np.arange(len(right_P)))), *map(rounded, np.quantile(found, [0.025, 0.975]))]


def interval(value: float, ends: Any) -> list[float]:
    return [rounded(value), rounded(ends.low), rounded(ends.high)]


def rounded(value: float) -> float:
    return round(float(value), 4)


if __name__ == "__main__":
    sys.exit(main())
