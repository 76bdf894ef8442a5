"""Whether an answer's code passes tests. The code runs in another process than the tests (scorers/verifiers/tested_code)."""

from __future__ import annotations

import json
import re
import secrets
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from assay.scorers.verifiers.confined import SCRIPT, OutOfLimits, RunCode, run_confined
from assay.scorers.verifiers.final_answer import without_thought
from assay.scorers.verifiers.text_rules import Settings, Truth, Unreadable

SECONDS, MEMORY_MB = 10.0, 1024
MOST_OUTPUT = 4 << 20
_FENCED = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)


def passes_tests(text: str, truth: Truth, settings: Settings, run_code: RunCode) -> float:
    """1 where the answer's code passes every test; with reward = "share" the share that it passes.

    The ground truth has `tests`, Python statements as text or a list of texts (with `entry_point` the function that they call
    `candidate`), or `inputs` and `outputs`: of a program, or with `fn_name` the arguments and results of a function.
    Raises Unreadable for a ground truth that has neither, and for code that ran into a limit, which is no verdict: with
    limits = "wrong" it counts as 0.
    """
    inputs, outputs, function = _listed(truth.get("inputs")), _listed(truth.get("outputs")), truth.get("fn_name")
    tests = truth.get("tests")
    if tests is None and (inputs is None or outputs is None or not inputs or len(inputs) != len(outputs)):
        raise Unreadable("the ground truth has no tests: give tests, or inputs and as many outputs")
    try:
        if tests is None and not function:
            passed = [
                _program(text, given, wanted, settings, run_code) for given, wanted in zip(inputs or (), outputs or (), strict=True)
            ]
            share = sum(passed) / len(passed)
        else:
            listed = _statements(tests) if tests is not None else _calls(str(function), inputs or (), outputs or ())
            share = _tested(text, listed, str(truth.get("entry_point") or function or ""), settings, run_code)
    except OutOfLimits as error:
        if settings.get("limits") == "wrong":
            return 0.0
        raise Unreadable(str(error)) from error
    return share if settings.get("reward") == "share" else float(share == 1)


def code_in(text: str, entry_point: str = "") -> str:
    """The code of an answer: its last fenced block of Python, of those that define `entry_point` where some do; else all of it."""
    said = without_thought(text)
    blocks = [code for language, code in _FENCED.findall(said) if language.lower() in ("", "py", "python", "python3")]
    defining = [code for code in blocks if entry_point and re.search(rf"\b(?:def|class)\s+{re.escape(entry_point)}\b", code)]
    return (defining or blocks or [said])[-1]


def _listed(value: Any) -> Sequence[Any] | None:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return value if isinstance(value, list | tuple) else None


def _statements(tests: Any) -> list[str]:
    listed = [tests] if isinstance(tests, str) else tests
    if not isinstance(listed, list | tuple) or not listed or not all(isinstance(test, str) and test.strip() for test in listed):
        raise Unreadable(f"the tests are {tests!r:.60}: give Python statements as text, or a list of texts")
    return list(listed)


def _calls(function: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> list[str]:
    if not function.isidentifier() or not all(isinstance(given, list | tuple) for given in inputs):
        raise Unreadable(f"fn_name {function!r:.40} needs inputs that are lists of its arguments")
    return [f"assert {function}(*{list(given)!r}) == {wanted!r}" for given, wanted in zip(inputs, outputs, strict=True)]


def _limits(settings: Settings) -> tuple[float, dict[str, int]]:
    seconds = float(settings.get("seconds", SECONDS))
    memory = int(settings.get("memory_mb", MEMORY_MB)) << 20
    return seconds, {"memory": memory, "seconds": int(seconds) + 1, "file": 16 << 20}


def _tested(text: str, tests: list[str], entry_point: str, settings: Settings, run_code: RunCode) -> float:
    seconds, limits = _limits(settings)
    job = {
        "code": code_in(text, entry_point),
        "tests": tests,
        "entry_point": entry_point,
        "seconds": seconds,
        "limits": limits,
        "command": [sys.executable, "-I", str(SCRIPT), "answer"],
        "nonce": secrets.token_hex(16),
    }
    with tempfile.TemporaryDirectory(prefix="assay-tests-") as folder:
        given = json.dumps(job).encode()
        _, output = run_confined("tester", given, Path(folder), seconds=seconds + 3, most=MOST_OUTPUT, run_code=run_code)
    outcome = _verdict(output, str(job["nonce"]))
    if "gold" in outcome:
        raise Unreadable(outcome["gold"])
    if "unscored" in outcome:
        raise OutOfLimits(outcome["unscored"])
    return float(outcome["passed"] / outcome["num_tests"])


def _verdict(output: bytes, nonce: str) -> Mapping[str, Any]:
    """What the tester said, known by the number that it alone was given."""
    for line in output.splitlines():
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if isinstance(said, dict) and said.get("nonce") == nonce:
            return said
    raise OutOfLimits("the process of the tests ended without a verdict")


def _program(text: str, given: Any, wanted: Any, settings: Settings, run_code: RunCode) -> bool:
    """Whether the program prints what is wanted, white space at the ends of lines apart, and ends without an error."""
    seconds, limits = _limits(settings)
    job = json.dumps({"code": code_in(text), "limits": limits}).encode() + b"\n" + _input(given).encode()
    with tempfile.TemporaryDirectory(prefix="assay-tests-") as folder:
        status, output = run_confined("program", job, Path(folder), seconds=seconds, most=MOST_OUTPUT, run_code=run_code)
    if status < 0 or status > 128:
        raise OutOfLimits(f"the code was ended by signal {-status if status < 0 else status - 128}")
    return status == 0 and _lines(output.decode("utf-8", "replace")) == _lines(_input(wanted))


def _input(value: Any) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().splitlines()]
