"""What built-in rules agree with, and what they cost.

    python benchmarks/rules.py ../shared/data/gsm8k/model_solutions.jsonl.gz

Claims, written before the first run:
1. `rule:answer` agrees with all 2,636 labels of GSM8K's model solutions, and leaves none without a reward.
2. The pool costs little: with two workers it takes no longer than math-verify called in a row in this process, with its own
   timeouts (the baseline, on the same texts, the final answer of each behind "A:" being given to it).
3. Code that hangs holds nobody up: eight answers of which one never ends take less than its deadline and two seconds.

The last line is one JSON document. benchmarks/results/rules_*.md has what was seen.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import time
from pathlib import Path

from math_verify import parse, verify

from assay.records import Completion
from assay.scorers.verifiers.built_in import built_in_rule

DEADLINE = 2.0


def solutions(path: Path) -> tuple[list[Completion], list[float]]:
    """The model solutions with their gold answer, and whether each was labelled correct."""
    items, labels = [], []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            for cell in row.values():
                if isinstance(cell, dict):
                    truth = {"answer": row["ground_truth"]}
                    items.append(Completion(messages=row["question"], response=cell["solution"], ground_truth=truth))
                    labels.append(float(cell["is_correct"]))
    return items, labels


def in_a_row(items: list[Completion]) -> tuple[list[float], float]:
    """math-verify itself, one answer after the other: values, and seconds."""
    start, values = time.perf_counter(), []
    for item in items:
        assert item.ground_truth is not None
        gold, said = (text.rpartition("A:")[2].strip() for text in (item.ground_truth["answer"], item.response or ""))
        values.append(float(verify(parse(gold), parse(said))))
    return values, time.perf_counter() - start


def hanging() -> float:
    """Seconds for eight answers with code, one of which never ends."""
    good, endless = "```python\ndef f(x):\n    return x\n```", "```python\ndef f(x):\n    while True: pass\n```"
    truth = {"tests": ["assert f(1) == 1"]}
    items = [Completion(messages="q", response=endless if i == 0 else good, ground_truth=truth) for i in range(8)]
    rule = built_in_rule("tests", {"seconds": DEADLINE}, run_code="unsandboxed")
    start = time.perf_counter()
    rewards = rule.score(items)
    assert rewards.value[1:].tolist() == [1.0] * 7
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("solutions", type=Path)
    items, labels = solutions(parser.parse_args().solutions)
    rule = built_in_rule("answer")
    rule.score(items[:16])  # the workers start
    parse("$1$")
    start = time.perf_counter()
    rewards = rule.score(items)
    seconds = time.perf_counter() - start
    baseline_values, baseline_seconds = in_a_row(items)
    code_seconds = hanging()
    agreed = sum(value == label for value, label in zip(rewards.value.tolist(), labels, strict=True))
    result = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "answers": len(items),
        "agreed": agreed,
        "unscored": int((~rewards.ok).sum()),
        "ms_each": round(1000 * seconds / len(items), 3),
        "baseline_agreed": sum(value == label for value, label in zip(baseline_values, labels, strict=True)),
        "baseline_ms_each": round(1000 * baseline_seconds / len(items), 3),
        "seconds_with_hanging_code": round(code_seconds, 2),
        "claims": {
            "agrees with all": agreed == len(labels),
            "no slower than math-verify in a row": seconds <= baseline_seconds,
            "hanging code holds nobody up": code_seconds < DEADLINE + 2,
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
