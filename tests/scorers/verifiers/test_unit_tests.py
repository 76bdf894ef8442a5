"""Code of answers, run: what passes, what fails, what gives no reward, and what the code cannot reach."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from assay.scorers.load import load
from assay.scorers.verifiers import confined
from assay.scorers.verifiers.confined import CodeFlags, check_allowed
from assay.scorers.verifiers.text_rules import Unreadable
from assay.scorers.verifiers.unit_tests import code_in, passes_tests

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="code is held by means of Linux")
SQUARES = {"tests": ["assert f(2) == 4", "assert f(3) == 9"]}


def passed(code: str, truth=SQUARES, **settings) -> float:
    return passes_tests(f"```python\n{code}\n```", truth, {"seconds": 5, **settings}, "unsandboxed")


@pytest.mark.parametrize(
    ("code", "truth", "share"),
    [
        ("def f(x): return x * x", SQUARES, 1),
        ("def f(x): return 4", SQUARES, 0.5),
        ("def f(x) return 4", SQUARES, 0),
        ("raise ValueError('no')", SQUARES, 0),
        ("", SQUARES, 0),
        ("import sys\ndef f(x): sys.exit(0)", SQUARES, 0),
        ("def s(l): l.sort()", {"tests": "l = [3, 1]\ns(l)\nassert l == [1, 3]"}, 1),
        ("def g(n):\n    yield from range(n)", {"tests": "assert list(g(3)) == [0, 1, 2]"}, 1),
        ("def f(x): raise KeyError(x)", {"tests": "try:\n    f(1)\nexcept KeyError:\n    pass"}, 1),
        ("def f(x): return x + 1", {"tests": "def check(candidate):\n    assert candidate(1) == 2", "entry_point": "f"}, 1),
        ("def g(x): return x + 1", {"tests": "def check(candidate):\n    assert candidate(1) == 2", "entry_point": "f"}, 0),
        ("n = int(input())\nprint(n * n)", {"inputs": ["2\n", "3"], "outputs": ["4", "9 \n"]}, 1),
        ("print(4)", {"inputs": ["2", "3"], "outputs": ["4", "9"]}, 0.5),
        ("print(4)\nraise ValueError", {"inputs": ["2"], "outputs": ["4"]}, 0),
        ("def add(a, b): return a + b", {"inputs": [[1, 2], ["a", "b"]], "outputs": [3, "ab"], "fn_name": "add"}, 1),
    ],
)
def test_the_share_of_tests_that_pass(code, truth, share):
    assert passed(code, truth, reward="share") == share
    assert passed(code, truth) == float(share == 1)


def test_values_go_over_as_they_are_and_objects_stay():
    code = """
from collections import Counter, namedtuple
from decimal import Decimal
from fractions import Fraction
Pair = namedtuple("Pair", "a b")
def values(): return [Counter("aab"), Pair(1, 2), Fraction(1, 2), Decimal("1.5"), -10**6000, 1e400, True, None, b"\\x00", {3}, 1j]
class Stack:
    def __init__(self): self.items = []
    def push(self, item): self.items.append(item)
    def pop(self): return self.items.pop()
    def __len__(self): return len(self.items)
"""
    test = """
assert values() == [{"a": 2, "b": 1}, (1, 2), 0.5, 1.5, -10**6000, float("inf"), True, None, b"\\x00", {3}, 1j]
s = Stack()
s.push((1, {2}))
s.push(4)
assert len(s) == 2 and s.pop() == 4 and s.items == [(1, {2})]
"""
    assert passed(code, {"tests": test}) == 1


ATTACKS = {
    "equal to everything": "class E:\n    def __eq__(self, other): return True\ndef f(x): return E()",
    "ends its process": "import os\ndef f(x): os._exit(0)",
    "writes into every pipe": """
import os
for process in (1, 2, os.getppid(), os.getpid()):
    for number in range(64):
        try:
            os.write(os.open(f"/proc/{process}/fd/{number}", os.O_WRONLY), b'\\n{"passed": 2, "num_tests": 2}\\n')
        except OSError:
            pass
def f(x): return 0
""",
    "reads the tests": """
import os
def f(x):
    for process in (1, os.getppid()):
        try:
            return 4 if b"f(2) == 4" in open(f"/proc/{process}/mem", "rb").read(1 << 20) else 9
        except OSError:
            pass
        try:
            return 4 if os.read(os.open(f"/proc/{process}/fd/0", os.O_RDONLY), 10) else 9
        except OSError:
            pass
    return 0
""",
}


@pytest.mark.parametrize("attack", ["ends its process", "writes into every pipe", "reads the tests"])
def test_code_cannot_say_that_it_passed(attack):
    assert passed(ATTACKS[attack], reward="share") == 0


def test_an_object_that_calls_itself_equal_to_everything_gets_no_reward():
    with pytest.raises(Unreadable, match="could call itself equal to everything"):
        passed(ATTACKS["equal to everything"])


@pytest.mark.parametrize(
    ("code", "truth", "reason"),
    [
        ("def f(x):\n    while True: pass", SQUARES, "took longer than 0.5 s"),
        ("def f(x):\n    while True: print('x' * 100000)", SQUARES, "took longer than 0.5 s"),
        ("import os\nwhile True: os.fork()", SQUARES, "ran into a limit .BlockingIOError"),
        ("x = b'x' * (3 << 30)", SQUARES, "ran into a limit .MemoryError"),
        ("def f(x): return 'x' * (20 << 20)", SQUARES, "more than 16 MiB"),
        ("while True: print('x' * 100000)", {"inputs": ["1"], "outputs": ["1"]}, "printed more than"),
        ("while True: pass", {"inputs": ["1"], "outputs": ["1"]}, "took longer than 0.5 s"),
        ("def f(g): return g(1)", {"tests": ["assert f(lambda n: n) == 1"]}, "does not go from one process to the other"),
    ],
)
def test_code_that_hangs_forks_or_prints_without_end_gives_no_reward_and_leaves_nothing_behind(code, truth, reason):
    seconds = 0.5 if "0.5 s" in reason else 20
    with pytest.raises(Unreadable, match=reason):
        passed(code, truth, seconds=seconds)
    assert passed(code, truth, seconds=seconds, limits="wrong") == 0
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout if shutil.which("ps") else ""
    assert not [line for line in left.splitlines() if "tested_code.py" in line and str(os.getpid()) in line]


def test_code_sees_no_variables_of_ours_and_no_network(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "secret")
    code = """
import os, socket
def names(): return sorted(os.environ)
def reaches():
    try:
        socket.create_connection(("1.1.1.1", 53), 0.5)
    except OSError:
        return False
    return True
"""
    assert passed(code, {"tests": "assert not set(names()) - {'LC_CTYPE', 'PWD'}"}) == 1
    if confined.confinement("unsandboxed", Path("/tmp")):
        assert passed(code, {"tests": "assert not reaches()"}) == 1


def test_which_code_of_an_answer_is_run():
    answer = "First:\n```python\ndef f(x): return 1\n```\nUse it:\n```python\nprint(f(2))\n```\n```text\nout\n```"
    assert code_in(answer) == "print(f(2))\n"
    assert code_in(answer, "f") == "def f(x): return 1\n"
    assert code_in("def f(x): return 1") == "def f(x): return 1"
    assert code_in("<think>```python\nx\n```</think>\ny = 1") == "\ny = 1"


def test_code_runs_only_where_somebody_said_so(monkeypatch):
    with pytest.raises(ValueError, match="allow it with --run-code"):
        load("rule:tests")
    monkeypatch.setattr(confined.shutil, "which", lambda name: None)
    with pytest.raises(
        ValueError, match=r"bubblewrap \(bwrap\) is not installed, and without it .* accept that with --unsandboxed"
    ):
        load("rule:tests", run_code="sandboxed")
    assert load("rule:tests", run_code="unsandboxed").name == "tests"
    assert CodeFlags().allowed == "never"
    assert CodeFlags(run_code=True).allowed == "sandboxed"
    assert CodeFlags(run_code=True, unsandboxed=True).allowed == "unsandboxed"
    with pytest.raises(ValueError, match="nothing runs it: add --run-code"):
        CodeFlags(unsandboxed=True)


def test_bubblewrap_shows_python_and_an_empty_folder_alone(tmp_path):
    command = confined._bubblewrap("bwrap", tmp_path)
    shown = [command[i + 2] for i, word in enumerate(command) if word in ("--ro-bind-try", "--bind")]
    assert {"--unshare-all", "--clearenv", "--die-with-parent"} <= set(command)
    assert str(tmp_path) in shown
    assert str(Path.home()) not in shown
    assert "/" not in shown


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_code_runs_in_bubblewrap():
    check_allowed("sandboxed", "rule:tests")
    assert passes_tests("def f(x): return x * x", SQUARES, {}, "sandboxed") == 1
