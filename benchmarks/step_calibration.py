"""What the prior of P(right) buys where few problems are there to calibrate on. Last line: one JSON.

    python benchmarks/step_calibration.py
    python benchmarks/step_calibration.py --runs 1000 --problems 8 16

Steps are drawn by the laws of levels_of_steps.py: a model whose log-odds are a line in the true ones, often too sure. Three lines
are fitted on the steps of so many problems and held against the best one (fitted on 3,000 new problems) on those: the log-odds as
they are, the line of highest likelihood (Platt 1999, from 30 steps with 3 of each kind on, else as they are), and `fit_platt`, with
a prior towards the log-odds as they are. Figures: log loss above the best line's, and how far P(right) is off in the mean over
steps (its mean and its 90% quantile over data sets), and how far the threshold, in standard deviations of the log-odds.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import tyro
from levels_of_steps import STEP_LAWS, labelled
from sklearn.linear_model import LogisticRegression

from assay.stats.metrics import sigmoid
from assay.stats.steps.platt import fit_platt

MANY = 3000
RAW, LIKELIEST, PRIOR = "as they are", "highest likelihood", "with a prior"
Line = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    problems: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128)
    runs: int = 200
    """Data sets of each number of problems and law."""
    seed: int = 0


def main() -> None:
    config = tyro.cli(CalibrationConfig)
    rows = []
    for num in config.problems:
        rng = np.random.default_rng([config.seed, num])
        found = [one(rng, num, law) for law in STEP_LAWS for _ in range(config.runs)]
        for name in (RAW, LIKELIEST, PRIOR):
            excess, off, moved = np.array([each[name] for each in found]).T
            row = {"problems": num, "line": name, "log loss above the best": excess.mean(), "P(right) off": off.mean()}
            row |= {"off, 90%": np.quantile(off, 0.9), "threshold off, median": np.median(moved)}
            rows.append({key: round(float(value), 4) if isinstance(value, float) else value for key, value in row.items()})
            print("  ".join(f"{key}: {value}" for key, value in rows[-1].items()), flush=True)
    print(json.dumps({"machine": platform.processor() or platform.machine(), "runs": config.runs, "rows": rows}))


def one(rng: np.random.Generator, num_problems: int, law: tuple[float, float, float, int, int]) -> dict[str, tuple[float, ...]]:
    """Of one data set the figures of each line."""
    truth = float(np.exp(rng.normal(-0.3, 0.5))), float(rng.normal(0, 0.8))
    x_T, right_T, problem_T = labelled(rng, num_problems, law, *truth)
    new_T, new_right_T, _ = labelled(rng, MANY, law, *truth)
    best = likeliest(new_T, new_right_T)
    fitted = fit_platt(x_T, right_T, problem_T)
    lines = {RAW: (1.0, 0.0), LIKELIEST: likeliest(x_T, right_T), PRIOR: (fitted.scale, fitted.shift)}
    return {name: held_against(line, best, new_T, new_right_T) for name, line in lines.items()}


def likeliest(x_T: np.ndarray, right_T: np.ndarray) -> Line:
    """The line of highest likelihood; 1 and 0 for too few steps, and where it would fall."""
    if len(right_T) < 30 or min(right_T.sum(), (1 - right_T).sum()) < 3:
        return 1.0, 0.0
    model = LogisticRegression(C=np.inf, max_iter=1000).fit(x_T[:, None], right_T)
    return (float(model.coef_[0, 0]), float(model.intercept_[0])) if model.coef_[0, 0] > 0 else (1e-6, float(model.intercept_[0]))


def held_against(line: Line, best: Line, x_T: np.ndarray, right_T: np.ndarray) -> tuple[float, float, float]:
    mine_T, best_T = (scale * x_T + shift for scale, shift in (line, best))
    losses = [float(np.mean(np.logaddexp(0, logit_T) - right_T * logit_T)) for logit_T in (mine_T, best_T)]
    moved = abs(line[1] / line[0] - best[1] / best[0]) / float(x_T.std())
    return losses[0] - losses[1], float(np.abs(sigmoid(mine_T) - sigmoid(best_T)).mean()), moved


if __name__ == "__main__":
    main()
