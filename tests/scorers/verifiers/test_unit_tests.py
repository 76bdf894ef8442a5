"""Code of answers, run: what passes, what fails, what gives no reward, and what the code cannot reach."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from assay.scorers.load import load
from assay.scorers.verifiers import confined, plain_values
from assay.scorers.verifiers.confined import CodeFlags, check_allowed
from assay.scorers.verifiers.tested_code import ONE_THREAD
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


@pytest.mark.parametrize(
    ("code", "tests"),
    [
        (
            "import numpy as np\ndef f(n): return np.arange(n) / 2",
            "import numpy as np\nassert np.array_equal(f(3), [0, 0.5, 1])\nassert f(3).dtype == float and f(0).shape == (0,)",
        ),
        (
            "import numpy as np\ndef f(n):\n"
            "    return [np.eye(n, dtype=np.int8), np.bool_(n > 2), np.float32(n), np.int64(n), np.array(['ab', 'c'])]",
            "a, b, c, d, e = f(3)\nassert a.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]] and str(a.dtype) == 'int8'\n"
            "assert b and c == 3 and d == 3 and d / 2 == 1.5 and list(e) == ['ab', 'c']",
        ),
        (
            "def double(a): a *= 2\ndef total(a): return a.sum()",
            "import numpy as np\na = np.array([[1.5, 2.0]])\ndouble(a)\nassert a.tolist() == [[3, 4]] and total(a) == 7",
        ),
        (
            "from collections import deque\ndef f(q):\n    q.append(3)\n    return deque(q, maxlen=9)",
            "from collections import deque\nq = deque([1])\nassert f(q) == deque([1, 3]) and q == deque([1, 3])",
        ),
        (
            "import datetime as d\ndef f():\n"
            "    return [d.date(2024, 2, 29), d.datetime(2024, 1, 1, 12), d.time(1, 2), d.timedelta(days=-1, seconds=5)]",
            "from datetime import *\n"
            "assert f() == [date(2024, 2, 29), datetime(2024, 1, 1, 12), time(1, 2), timedelta(days=-1, seconds=5)]",
        ),
        ("def f(): return [range(0, 9, 2), bytearray(b'ab')]", "assert f() == [range(0, 10, 2), bytearray(b'ab')]"),
        (
            "from dataclasses import dataclass, astuple\n@dataclass\nclass P:\n    x: int\n    y: int\n"
            "def f(): return P(1, 2)\ndef g(): return astuple(f())",
            "p = f()\nassert (p.x, p.y) == (1, 2) and g() == (1, 2)",
        ),
    ],
    ids=["array", "scalars", "changed in place", "deque", "dates", "range", "attributes of a dataclass"],
)
def test_plain_data_are_compared_by_their_values(code, tests):
    assert passed(code, {"tests": tests}) == 1
    assert passed(code, {"tests": tests + "\nassert False"}) == 0


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(x): return P(x)", "P"),
        (
            "import numpy as np\nclass E(np.ndarray):\n    def __eq__(self, o): return True\ndef f(x): return np.eye(2).view(E)",
            "E",
        ),
        ("import numpy as np\ndef f(x): return np.array([f, None])", "numpy.ndarray"),
        ("from fractions import Fraction\nimport uuid\ndef f(x): return uuid.UUID(int=4)", "uuid.UUID"),
    ],
)
def test_what_is_no_plain_data_is_named(code, name):
    with pytest.raises(Unreadable, match=f"compares a {name}, which stays with the code .* compare its attributes"):
        passed(code)


ARRAY = {"t": "array", "dtype": "<i4", "shape": [2], "scalar": False, "v": "0100000002000000"}


def test_nothing_but_plain_data_is_made_of_what_the_code_sends():
    assert plain_values.decode(ARRAY, None).tolist() == [1, 2]
    for wrong in (
        *({"dtype": kind} for kind in ("O", "|O", "V8", "<M8[s]", "i4,i4", "int32", "<f16", "<i4\n")),
        *({"shape": shape} for shape in ([3], [-1, -2], [2, 2**63], [1e400], "x", [[2]])),
        *({"t": tag} for tag in ("type", "eval", "object", "__class__", None, ["list"])),
        {"v": "zz"},
        {"v": None},
    ):
        with pytest.raises((ValueError, TypeError, KeyError, AttributeError, OverflowError)):
            plain_values.decode(ARRAY | wrong, None)


@pytest.mark.parametrize("kind", [list, tuple, set, frozenset, deque])
def test_values_come_back_as_they_went(kind):
    rows = [kind([1, "a", 2.5]), {(1, 2): kind([None, True])}, np.float32([[1, np.nan]]), np.array(["ä"]), np.array(3), np.uint8(7)]
    for value in rows:
        sent = json.loads(json.dumps(plain_values.encode(value, None)))
        back = plain_values.decode(sent, None)
        assert type(back) is type(value)
        np.testing.assert_equal(back, value)


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
    assert passed(code, {"tests": f"assert not set(names()) - {{'LC_CTYPE', 'PWD', *{ONE_THREAD}}}"}) == 1
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
