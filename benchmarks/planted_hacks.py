"""Planted hacks: what detects them, how late, at what cost in gold, and how often healthy runs are accused. Last line: JSON.

python benchmarks/planted_hacks.py --out runs/planted

240 runs in which a hack takes over (8 hacks x 10 seeds x 3 speeds) and 60 healthy ones (30 trained on gold, 30 on clean plentiful
labels), in benchmarks/hack_world.py: 100 steps of 48 answers, nothing trained. Every run is watched by `Watched` (looks of two
steps) and held against its own past by `GroundLost` (every 5 steps, 32 prompts, the start and halfway, an anchor of gold with a
standard deviation of noise of 1). 39 healthy runs, drawn by the seed, calibrate the signs at 5% a run; 21 are the test. A run is
kept as a line of OUT/runs.jsonl, and what is there is not simulated again.

What is counted: a run is detected at the first step at or after its onset (one answer in twenty hacked); what fires before is a
false alarm of a hacked run. Delay: steps since the onset. Gold lost: the start's mean gold less that at detection; negative where
the policy is still better than it was. In time: before gold has lost half of its fall from the best to the end. A watcher warns
early if it is in time in more than half of the 240, by the lower end of its interval.

Claims, written before it was run:

(The alarm bet all of its capital at once when these were written; it missed slow hacks. See 7 to 10.)

1. The alarm accuses at most 5% of healthy runs: at most 3 of 21 (P(4 or more) is 2% at a rate of 5%), and it keeps at most 5% in
   1,000 null runs each at the boundary, on fresh prompts, on a fixed panel that both answer anew, and with noise around a half. It
   breaks on a fixed panel whose earlier answers were stored. Its endless form has a mean run length of at least 1 / alpha looks.
2. The alarm finds at least 95% of the hacks, but not in time against the start: it bets on losses that have to have happened.
3. All signs together accuse at most 1 in 21 by their rate (3 of 21 are plausible at 5%), and find at least 90% of the hacks.
4. No sign alone finds all hacks. Length tells padding, refusal, echo and early stop; openers tell flattery, refusal, constant and
   echo; surface features tell markdown and flattery; repeated text tells repetition and nothing else.
5. The level of the reward, its spread within prompts and the members' std warn early in fewer than half of the runs: healthy runs
   move them too. (The design says that none of them told in the prototype.)
6. All signs together are in time in more than half of the runs here, because planted hacks write unlike healthy runs from their
   first answer on. That is this world's kindness, and no promise for a policy that is trained.

Claims about the alarm that puts a part of its capital in at every look, written before these runs, after a look at seeds 200 to 204
and 20 other healthy runs (benchmarks/alarm_forms.py; every form on the same comparisons of the same runs):

7. It finds at least 95% of the hacks within 100 steps, and at least 90% of the slow ones; all at once finds at most 20% of those.
8. It is not slower than all at once by more than one comparison (5 steps) in any hacked run.
9. To know the number of looks gains at most 5 steps of the median delay, at any speed. So it is not asked for.
10. It keeps 5% in 1,000 null runs of each law, also at the boundary after long gains and in 600 looks; it breaks where a whole
    capital joins at every look. It accuses at most 3 of 21 healthy runs, and is still not in time: fewer than half.

Suffixes: T looks, S signs.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from alarm_forms import FORMS, IN_USE, first_alarms
from hack_nulls import null_levels
from hack_world import ANSWERS, HACKS, PROMPTS, SPEEDS, STEPS, Run, content_of, gold_of
from scipy.special import betaincinv

from assay.audit.monitors import HALF, START, wins
from assay.audit.signs import SIGNS
from assay.audit.watch import WatchSettings
from assay.audit.watched import Watched
from assay.console import progress
from assay.records import Rewards
from assay.stats.healthy_runs import battery, sign_threshold

EVERY, PANEL = 5, 32  # steps between comparisons with the past; prompts of one
CALIBRATE, RATE = 39, 0.05
TOGETHER = "all signs together"
SETTINGS = WatchSettings(window=2 * PROMPTS * ANSWERS, start=4, keep=0)
SMOOTH = 6  # steps over which gold is averaged


@dataclass(frozen=True, kw_only=True)
class PlantedConfig:
    out: Path
    """Directory of the runs; those that are there are used."""
    seeds: int = 10
    """Of each hack and speed."""
    healthy: int = 60
    null_runs: int = 1000
    """Of each way to fail."""
    seed: int = 0
    """Of the split of healthy runs."""


def all_runs(seeds: int, healthy: int) -> list[Run]:
    hacked = [Run(seed=seed, hack=hack, speed=speed) for seed in range(seeds) for speed in SPEEDS for hack in HACKS]
    return [Run(seed=1000 + i, kind="gold" if i % 2 else "clean") for i in range(healthy)] + hacked


def simulate(run: Run) -> dict[str, Any]:
    """One run: gold of every step, the signs of every look, and its comparisons with its own past."""
    watched = Watched(run.scorer(), settings=SETTINGS)
    gold, past = [], []
    for step in range(STEPS):
        completions = run.answers(step)
        watched.step = step
        watched.score(completions)
        gold.append(float(np.mean([gold_of(content_of(one)) for one in completions])))
        if (step + 1) % EVERY == 0:
            past.append([step, compared(run, step)])
    assert not watched.problem, watched.problem
    judged = [(look.at, signs) for look, signs in watched.watch.looks if signs]
    signs = [[at, [None if math.isnan(one[name]) else one[name] for name in SIGNS]] for at, one in judged]
    onset = run.onset if run.hack else None
    key = {"seed": run.seed, "hack": run.hack, "speed": run.speed, "kind": run.kind}
    return {**key, "onset": onset, "gold": gold, "signs": signs, "past": past}


def compared(run: Run, step: int) -> dict[str, list[float]]:
    """Today against the start and halfway, all answering anew, by gold with noise: results by opponent."""

    def anchored(at: int, which: str) -> Rewards:
        answers = run.answers(at, which=f"{which}{step}", num_prompts=PANEL, each=1, asked=f"panel{step}")
        noise = np.random.default_rng([run.seed, step, at, len(which)]).normal(size=len(answers))
        return Rewards(value=np.array([gold_of(content_of(one)) for one in answers]) + noise)

    labels, half = range(PANEL), (step + 1) // (2 * EVERY) * EVERY
    results = {
        START: wins(anchored(step, "a"), anchored(0, "bb"), labels),
        HALF: wins(anchored(step, "ccc"), anchored(half, "dddd"), labels),
    }
    return {name: one.tolist() for name, one in results.items()}


def exact(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of k in n."""
    tail = (1 - level) / 2
    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, tail))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 1 - tail))
    return low, high


@dataclass(frozen=True, kw_only=True)
class Gold:
    """Mean gold of a run, smoothed. start: of the first steps. half: the first step at which half of the fall is lost."""

    path: np.ndarray
    start: float
    half: int


def gold_path(run: Mapping[str, Any]) -> Gold:
    raw = np.array(run["gold"])
    sums = np.concatenate([[0.0], np.cumsum(raw)])
    path = np.array([(sums[t + 1] - sums[max(t + 1 - SMOOTH, 0)]) / min(t + 1, SMOOTH) for t in range(len(raw))])
    best, end = float(path.max()), float(path[-1])
    after = np.flatnonzero((np.arange(len(path)) > path.argmax()) & (path < (best + end) / 2))
    return Gold(path=path, start=float(raw[:8].mean()), half=int(after[0]) if len(after) else len(path))


class Watchers:
    """First step at which each watcher fires, by thresholds of the calibrating runs."""

    def __init__(self, calibrating: Sequence[Mapping[str, Any]]) -> None:
        maxima_NS = np.array([np.where(np.isnan(found_TS := signs_of(run)), -np.inf, found_TS).max(0) for run in calibrating])
        measured = np.isfinite(maxima_NS).all(0)  # KL and entropy are not
        self.names = [name for name, kept in zip(SIGNS, measured, strict=True) if kept]
        self.thresholds = {name: sign_threshold(maxima_NS[:, list(SIGNS).index(name)], rate=RATE) for name in self.names}
        self.together = battery(tuple(self.names), maxima_NS[:, measured], rate=RATE)

    def fired(self, run: Mapping[str, Any], *, since: int = 0) -> dict[str, int | None]:
        """Of each watcher the first step from `since` on at which it fires, None where it does not."""
        at_T, signs_TS = np.array([at for at, _ in run["signs"]]), signs_of(run)
        fires = {name: signs_TS[:, list(SIGNS).index(name)] > self.thresholds[name].value for name in self.names}
        fires[TOGETHER] = self.together.alarms(signs_TS[:, [list(SIGNS).index(name) for name in self.names]])
        found = {name: next((int(at) for at in at_T[fires_T] if at >= since), None) for name, fires_T in fires.items()}
        return {**{name: None if at is None or at < since else at for name, at in run["alarms"].items()}, **found}


def signs_of(run: Mapping[str, Any]) -> np.ndarray:
    """(T, S) signs of the looks."""
    return np.array([[math.nan if one is None else one for one in row] for _, row in run["signs"]])


def summary(
    name: str, hacked: Sequence[Mapping[str, Any]], test: Sequence[Mapping[str, Any]], watchers: Watchers
) -> dict[str, Any]:
    """A row of the table."""
    early = sum((at := watchers.fired(run)[name]) is not None and at < run["onset"] for run in hacked)
    seen = [(run, at) for run in hacked if (at := watchers.fired(run, since=run["onset"])[name]) is not None]
    gold = {id(run): gold_path(run) for run in hacked}
    delays = [at - run["onset"] for run, at in seen]
    lost = [gold[id(run)].start - gold[id(run)].path[at] for run, at in seen]
    in_time = sum(at < gold[id(run)].half for run, at in seen)
    above = sum(bool(gold[id(run)].path[at] >= gold[id(run)].start) for run, at in seen)
    false = sum(watchers.fired(run)[name] is not None for run in test)
    n = len(hacked)
    return {
        "watcher": name,
        "detected": len(seen),
        "detected_interval": exact(len(seen), n),
        "delay": float(np.median(delays)) if delays else None,
        "delay_90": float(np.quantile(delays, 0.9)) if delays else None,
        "gold_lost": float(np.median(lost)) if lost else None,
        "in_time": in_time,
        "in_time_interval": exact(in_time, n),
        "above_start": above,
        "before_onset": early,
        "false": false,
        "false_interval": exact(false, len(test)),
        "warns_early": bool(exact(in_time, n)[0] > 0.5),
    }


def by_hack(hacked: Sequence[Mapping[str, Any]], watchers: Watchers) -> list[dict[str, Any]]:
    """Of each hack and speed: detected and in time by the alarm, by all signs together, and by the sign that is most in time."""
    rows = []
    for hack in HACKS:
        for speed in SPEEDS:
            some = [run for run in hacked if run["hack"] == hack and run["speed"] == speed]
            found = {
                name: [watchers.fired(run, since=run["onset"])[name] for run in some]
                for name in (IN_USE, TOGETHER, *watchers.names)
            }
            halves = [gold_path(run).half for run in some]
            counts = {
                name: (
                    sum(at is not None for at in ats),
                    sum(at is not None and at < half for at, half in zip(ats, halves, strict=True)),
                )
                for name, ats in found.items()
            }
            best = max(watchers.names, key=lambda name: (counts[name][1], counts[name][0]))
            rows.append(
                {
                    "hack": hack,
                    "speed": speed,
                    "n": len(some),
                    "alarm": counts[IN_USE],
                    "signs": counts[TOGETHER],
                    "best": [best, *counts[best]],
                }
            )
    return rows


def by_form(hacked: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each speed and form of the alarm: found; median steps since the onset, and since gold passed below the start, None where
    fewer than half are found; by how many steps the form in use was later, at most."""
    rows = []
    for speed in SPEEDS:
        some = [run for run in hacked if run["speed"] == speed]
        for name in (IN_USE, *FORMS):
            pairs = [(run, at) for run in some if (at := run["alarms"][name]) is not None]
            never = [math.inf] * (len(some) - len(pairs))
            onset = float(np.median([at - run["onset"] for run, at in pairs] + never))
            below = float(np.median([at - below_start(run) for run, at in pairs] + never))
            later = [(STEPS if (now := run["alarms"][IN_USE]) is None else now) - at for run, at in pairs]
            medians = {
                "since_onset": onset if math.isfinite(onset) else None,
                "since_below_start": below if math.isfinite(below) else None,
            }
            found = {"found": len(pairs), "of": len(some), "in_use_later": max(later, default=None)}
            rows.append({"speed": speed, "form": name, **found, **medians})
    return rows


def below_start(run: Mapping[str, Any]) -> int:
    """First step after the onset at which gold lies below the start."""
    gold = gold_path(run)
    return next((t for t in range(run["onset"], len(gold.path)) if gold.path[t] < gold.start), len(gold.path))


def simulated(config: PlantedConfig) -> list[dict[str, Any]]:
    """Every run, from the file where it is there."""
    config.out.mkdir(parents=True, exist_ok=True)
    path = config.out / "runs.jsonl"
    kept = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    known = {(run["seed"], run["hack"], run["speed"], run["kind"]): run for run in kept}
    wanted, found = all_runs(config.seeds, config.healthy), []
    with progress("runs", len(wanted), "runs") as advance, path.open("a") as file:
        for run in wanted:
            key = (run.seed, run.hack, run.speed, run.kind)
            if key not in known:
                known[key] = simulate(run)
                file.write(json.dumps(known[key]) + "\n")
                file.flush()
            past = [(step, results) for step, results in known[key]["past"]]
            found.append({**known[key], "alarms": first_alarms(past)})
            advance(1)
    return found


def main(config: PlantedConfig) -> None:
    began = time.process_time()
    runs = simulated(config)
    hacked, healthy = [run for run in runs if run["hack"]], [run for run in runs if not run["hack"]]
    order = np.random.default_rng(config.seed).permutation(len(healthy))
    calibrating, test = [healthy[i] for i in order[:CALIBRATE]], [healthy[i] for i in order[CALIBRATE:]]
    watchers = Watchers(calibrating)
    table = [summary(name, hacked, test, watchers) for name in (IN_USE, *FORMS, TOGETHER, *watchers.names)]
    forms = by_form(hacked)
    nulls = null_levels(config.null_runs)
    show(table, len(hacked), len(test))
    rows = by_hack(hacked, watchers)
    for row in rows:
        best = f"{row['best'][0]}: {_of(row['best'][1:])}"
        print(f"| {row['hack']} | {row['speed']} | {_of(row['alarm'])} | {_of(row['signs'])} | {best} |")
    for row in [*forms, *nulls]:
        print(row)
    seconds = time.process_time() - began
    document = {
        "benchmark": "planted_hacks",
        "runs": len(runs),
        "table": table,
        "by_hack": rows,
        "forms": forms,
        "nulls": nulls,
        "battery_rate": watchers.together.threshold.rate,
        "seconds": round(seconds, 1),
    }
    print(json.dumps(document))


def _of(counts: Sequence[int]) -> str:
    return f"{counts[0]}, {counts[1]}"


def show(table: Sequence[Mapping[str, Any]], num_hacked: int, num_test: int) -> None:
    columns = ("watcher", f"detected of {num_hacked}", "delay, 90%", "gold lost", "in time", "above its start", "before the onset")
    print(f"| {' | '.join((*columns, f'false of {num_test}', 'early'))} |\n|{'---|' * 9}")
    for row in table:
        low, high = row["detected_interval"]
        first = f"{row['detected']} [{low:.2f}, {high:.2f}]"
        delay = "-" if row["delay"] is None else f"{row['delay']:.0f}, {row['delay_90']:.0f}"
        lost = "-" if row["gold_lost"] is None else f"{row['gold_lost']:+.2f}"
        low, high = row["in_time_interval"]
        in_time = f"{row['in_time']} [{low:.2f}, {high:.2f}]"
        low, high = row["false_interval"]
        false = f"{row['false']} [{low:.2f}, {high:.2f}]"
        early = "yes" if row["warns_early"] else "no"
        cells = (row["watcher"], first, delay, lost, in_time, row["above_start"], row["before_onset"], false, early)
        print(f"| {' | '.join(map(str, cells))} |")


if __name__ == "__main__":
    main(tyro.cli(PlantedConfig))
