"""Recorded judges replayed: what published figures count for verdicts that were never given, juries, cascades, and the time.

    python benchmarks/judge_replay.py --folder DATA            # the tables of docs/judges_evidence.md; last line: one JSON document

Claims, written before it was run:
1. Reading LLMBar's 10,228 records and answering every one of them through `RecordedJudge`, both orders, takes under 20 s.
2. The baseline in the same run, a plain loop over the JSON that counts right winners, gives the same numbers of right verdicts.
3. No jury of all judges is right more often than the best judge alone, beyond chance, on any of natural, mtbench and faireval.
4. Handing the pairs on which ChatGPT contradicts itself on to GPT-4 is right as often as GPT-4 alone for less than its price.
   (It did not hold: half the price, .838 against .852. It is printed as it comes out, and is no part of the exit status.)
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from assay.data.recorded import RecordedPairs, read_llmbar, read_pandalm, read_vicuna_reviews
from assay.evaluation.cascade_curve import Stage, cascade_curve
from assay.evaluation.verdict_figures import label_figures, order_figures
from assay.records import Metric
from assay.scorers.recorded_judge import RecordedJudge
from assay.stats.mean_intervals import change_interval, mean_interval
from assay.stats.votes import dawid_skene, log_odds_agreed, majority, right_of_two, weighted

JURIES = (("natural", "Metrics_Reference"), ("mtbench", "Vanilla_NoRules"), ("faireval", "Vanilla_NoRules"))
PRICES = {
    "ChatGPT": 1.0,
    "GPT-4": 20.0,
    "person": 400.0,
}  # of a pair, in units of ChatGPT's: list prices of 2023, a person's minute


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    folder: Path = Path(os.environ.get("ASSAY_DATA") or Path(__file__).parents[2] / "shared" / "data")


def main() -> int:
    config = tyro.cli(ReplayConfig)
    began = time.perf_counter()
    llmbar = read_llmbar(config.folder / "llmbar")
    read_seconds = time.perf_counter() - began
    right, answered = replay(llmbar)
    replay_seconds = time.perf_counter() - began
    plain = plain_count(config.folder / "llmbar")
    counted = counted_as(llmbar, config.folder)
    print_table("What published figures count for a verdict that was never given", counted)
    juries = [jury(llmbar[name], name, strategy) for name, strategy in JURIES]
    print_table("Juries of all judges, both orders", juries)
    cascades, findings = cascade(llmbar)
    print_table("ChatGPT -> GPT-4 -> person on natural and mtbench, Vanilla_NoRules", cascades)
    result: dict[str, Any] = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "records": answered // 2,
        "seconds": {"reading": round(read_seconds, 2), "reading and replay": round(replay_seconds, 2)},
        "right": {"through the scorer": right, "plain loop": plain},
        "juries": juries,
        "cascade": findings,
        "claims": {
            "1: under 20 s": replay_seconds < 20,
            "2: as the plain loop": right == plain,
            "3: no jury beats the best judge": all(row["jury - best low"] <= 0 for row in juries),
            "4: as good as GPT-4 for less": any(finding["level"] == "ok" for finding in findings if "alone" in finding["name"]),
        },
    }
    print(json.dumps(result))
    return 0 if all(holds for claim, holds in result["claims"].items() if not claim.startswith("4")) else 1


def replay(llmbar: Mapping[str, RecordedPairs]) -> tuple[int, int]:
    """Right winners over all records and both orders, as a scorer gives them, and how many verdicts were asked for."""
    right = asked = 0
    for recorded in llmbar.values():
        pairs = [pair for pair in recorded.pairs if pair is not None]
        for judge in recorded.judges:
            in_order_P2 = RecordedJudge(recorded, judge).compare_in_order(pairs)
            asked += in_order_P2.size
            right += int(np.sum(np.sign(in_order_P2 - 0.5) == np.sign(recorded.gold_N - 0.5)[:, None]))
    return right, asked


def plain_count(folder: Path) -> int:
    """The same by a loop over the lines; winners of tied scores, which are no verdicts, apart."""
    labels = {}
    for name in ("natural", "mtbench", "llmeval2", "faireval"):
        labels |= {row["id"]: str(row["label"]) for row in lines(folder / f"{name}.jsonl.gz")}
    right = 0
    for row in lines(folder / "judge_outputs.jsonl.gz"):
        last = row["results"][-1]
        if "score_1" in last and last["score_1"][0] == last["score_2"][0]:
            continue
        right += sum(last[order]["winner"] == labels[row["id"]] for order in ("swap = False", "swap = True"))
    return right


def lines(file: Path) -> list[dict[str, Any]]:
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def counted_as(llmbar: Mapping[str, RecordedPairs], folder: Path) -> list[dict[str, object]]:
    """A row for each figure that rests on verdicts that were not given: as published, and of what was said."""
    rows: list[dict[str, object]] = []
    for name, judge in (
        ("llmeval2", "PaLM2/Vanilla_NoRules"),
        ("llmeval2", "GPT-4/Vanilla_NoRules"),
        ("natural", "ChatGPT/Rating"),
    ):
        recorded = llmbar[name]
        verdicts = recorded.judges[judge]
        honest = order_figures(verdicts.first_N2, recorded.gold_N, recorded.prompts_N)
        as_wrong = order_figures(verdicts.counted_N2, recorded.gold_N, recorded.prompts_N, missing="wrong")
        as_second = order_figures(verdicts.counted_N2, recorded.gold_N, recorded.prompts_N, missing="second")
        num_tied = int(np.sum(verdicts.first_N2 == 0.5))
        what = f"{num_tied // 2} tied scores" if num_tied else f"{honest.num_missing} of {verdicts.first_N2.size} verdicts"
        counted = "a win of the answer shown second" if num_tied else "wrong"
        place = f"LLMBar {name}, {judge}"
        rows.append(row_of(place, "accuracy", what, counted, as_wrong.average, honest.average))
        rows.append(
            row_of(
                place,
                "same verdict in both orders",
                what,
                counted if num_tied else "unequal, two missing equal",
                as_wrong.equal,
                honest.equal,
            )
        )
        kappas = [Metric("kappa", found.value, found.low, found.high) for found in (as_second.kappa, honest.kappa)]
        rows.append(row_of(place, "kappa of the orders", what, counted if num_tied else 'a vote for "2"', *kappas))
    pandalm = read_pandalm(folder / "pandalm")
    verdicts = pandalm.judges["GPT-3.5"]
    found = [
        label_figures(verdicts.first_N2[:, 0], pandalm.gold_N, pandalm.prompts_N, missing=missing)
        for missing in ("tie", "left out")
    ]
    rows.append(row_of("PandaLM, GPT-3.5", "accuracy", "25 of 999 replies", "a tie", found[0].accuracy, found[1].accuracy))
    rows.append(row_of("PandaLM, GPT-3.5", "F1", "25 of 999 replies", "a tie", *(Metric("F1", one.f1) for one in found)))
    reviews = read_vicuna_reviews(folder / "vicuna-bench-reviews")
    recorded = reviews["vicuna-13b_20230322-clean-lang/review_gpt35_vicuna-13b.jsonl"]
    verdicts = recorded.judges["GPT-4"]
    both = [
        label_figures(column, recorded.gold_N, recorded.prompts_N)
        for column in (verdicts.counted_N2[:, 0], verdicts.first_N2[:, 0])
    ]
    stored = "scores that were read off by other means"
    rows.append(row_of("Vicuna-bench, GPT-4 and people", "accuracy", "3 of 80 reviews", stored, both[0].accuracy, both[1].accuracy))
    kappas = [Metric("kappa", one.kappa.value, one.kappa.low, one.kappa.high) for one in both]
    rows.append(row_of("Vicuna-bench, GPT-4 and people", "kappa", "3 of 80 reviews", stored, *kappas))
    return rows


def row_of(place: str, figure: str, what: str, counted: str, published: Metric, honest: Metric) -> dict[str, object]:
    return {
        "judge": place,
        "figure": figure,
        "not given": what,
        "counted as": counted,
        "published": shown(published, with_interval=False),
        "of what was said": shown(honest),
    }


def shown(metric: Metric, *, with_interval: bool = True) -> str:
    interval = f" [{metric.low:.3f}, {metric.high:.3f}]" if with_interval and not np.isnan(metric.low) else ""
    return f"{metric.value:.4f}{interval}"


def jury(recorded: RecordedPairs, name: str, strategy: str) -> dict[str, Any]:
    """All judges of a strategy, each order a vote: against the best one alone, in the order that suits it."""
    judges = [verdicts for judge, verdicts in recorded.judges.items() if judge.endswith(f"/{strategy}")]
    votes_NJ = np.concatenate([verdicts.first_N2 for verdicts in judges], axis=1)
    rights = {
        "majority": right_of_two(majority(votes_NJ), recorded.gold_N),
        "Dawid-Skene": right_of_two(dawid_skene(1 - votes_NJ, num_classes=2).posterior_NK[:, 0], recorded.gold_N),
        "Dawid-Skene, orders blind": right_of_two(weighted(votes_NJ, log_odds_agreed(votes_NJ)), recorded.gold_N),
    }
    alone = {
        f"{verdicts.judge.partition('/')[0]}, {order}": right_of_two(verdicts.first_N2[:, i], recorded.gold_N)
        for verdicts in judges
        for i, order in enumerate(("as given", "swapped"))
    }
    best = max(alone, key=lambda judge: float(np.nanmean(alone[judge])))
    low = max(change_interval(right_N - alone[best], recorded.prompts_N).low for right_N in rights.values())
    row: dict[str, Any] = {"set": f"{name}, {strategy}", "votes": votes_NJ.shape[1]}
    for way, right_N in rights.items():
        interval = mean_interval(right_N, recorded.prompts_N, seed=0)
        row[way] = f"{np.nanmean(right_N):.3f} [{interval.low:.3f}, {interval.high:.3f}]"
    return {**row, "best alone": f"{best} {np.nanmean(alone[best]):.3f}", "jury - best low": round(low, 4)}


def cascade(llmbar: Mapping[str, RecordedPairs]) -> tuple[list[dict[str, object]], list[dict[str, Any]]]:
    """From ChatGPT to GPT-4 to a person, each asked in both orders: sure is who says the same in both."""
    parts = [llmbar[name] for name in ("natural", "mtbench")]
    gold_N, prompts_N = (np.concatenate([getattr(part, name) for part in parts]) for name in ("gold_N", "prompts_N"))
    stages = [
        Stage(name, np.concatenate([part.judges[f"{name}/Vanilla_NoRules"].first_N2.mean(1) for part in parts]), PRICES[name])
        for name in ("ChatGPT", "GPT-4")
    ]
    without = cascade_curve(stages, gold_N, prompts_N)
    with_people = cascade_curve(stages, gold_N, prompts_N, person_cost=PRICES["person"], shares=(0.0, 0.1, 0.3, 0.5, 1.0))
    rows = [
        {
            "passed on": ", ".join(f"{share:.0%}" for share in point.passed),
            "settled by each": ", ".join(f"{share:.0%}" for share in point.settled),
            "cost": f"{point.cost:.3g}",
            "accuracy": shown(point.accuracy),
            "gain over random": shown(point.gain),
        }
        for point in (*without.points, *with_people.points[:: max(1, len(with_people.points) // 12)])
    ]
    findings = [finding._asdict() for finding in without.findings]
    return rows, [{key: finding[key] for key in ("level", "name", "why")} for finding in findings]


def print_table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    heads = list(rows[0])
    print(f"\n{title}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(str(row[head]) for head in heads)} |")


if __name__ == "__main__":
    sys.exit(main())
