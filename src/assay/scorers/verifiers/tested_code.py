"""Two processes that test an answer's code: `answer` runs the code, `tester` runs the tests. Run by path, standard library alone.

The tester holds the tests and the pipe to Assay. It calls the answer's functions through another pipe: arguments go over as plain
values, results come back as plain values (plain_values, beside this file), and are compared in the tester. So the code under test
never sees an expected value and has no channel to say that it passed. What is no plain value (an instance, a generator) stays with
the answer, as a handle.

    python -I tested_code.py tester     stdin: the job, see scorers/verifiers/unit_tests; stdout: the outcome
    python -I tested_code.py answer     stdin: a line of settings and code, then a line a call; stdout: a line a reply
    python -I tested_code.py program    stdin: a line of settings and code, then the program's own input
"""

from __future__ import annotations

import builtins
import ctypes
import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from typing import Any


def _beside(name: str) -> Any:
    """A module beside this file, which is run by its path, isolated from the folder that it lies in."""
    spec = spec_from_file_location(name, os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_values = _beside("plain_values")
encode, decode, name_of = _values.encode, _values.decode, _values.name_of

LARGEST_LINE = 16 << 20
ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
OUT_OF_LIMITS = ("MemoryError", "BlockingIOError")  # memory and processes beyond the limits show as these


class Unpassable(Exception):
    """A value that does not go from one process to the other, or a comparison with one that stays: nothing can be told."""


class OverLimits(Exception):
    """The answer's process was ended, said too much, or ran into a limit."""


class Misbehaved(Exception):
    """The code ended its own process, or wrote into the pipe of its replies: what it was asked has failed."""


class Answer:
    """The process of the answer, as the tester sees it."""

    def __init__(self, command: list[str], settings: dict[str, Any]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={})
        self.names = self.ask(settings)

    def ask(self, message: dict[str, Any]) -> Any:
        """The value of a reply. Raises what the answer's code raised, under its name where it is one of Python's exceptions."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise self._ended() from None
        line = self.process.stdout.readline(LARGEST_LINE)
        if not line.endswith(b"\n"):
            raise OverLimits("the code gave a value of more than 16 MiB") if len(line) == LARGEST_LINE else self._ended()
        try:
            reply = json.loads(line)
            if "raised" not in reply:
                return decode(reply["value"], lambda kept: Handle(self, kept["h"], str(kept["is"])))
            name, text = str(reply["raised"]), str(reply["text"])
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError, ImportError):
            raise Misbehaved("the code wrote into the pipe of its replies") from None
        if name in OUT_OF_LIMITS:
            raise OverLimits(f"the code ran into a limit ({name})")
        kind = getattr(builtins, name, None)
        known = isinstance(kind, type) and issubclass(kind, Exception)
        raise (kind if known else type(name, (Exception,), {}))(text)  # type: ignore[misc]

    def _ended(self) -> Exception:
        """Why there is no reply: the code ended its process, or it was ended by a signal, as limits do it."""
        try:
            status = self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return Misbehaved("the code closed the pipe of its replies")
        return Misbehaved("the code ended its process") if status >= 0 else OverLimits(f"the code was ended by signal {-status}")

    def call(self, handle: Any, name: str | None, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """What a function, or the method `name`, of the answer returns."""

        def keep(value: Any) -> Any:
            if isinstance(value, Handle):
                return {"h": object.__getattribute__(value, "_handle")}
            raise Unpassable(f"a test gives the code a {name_of(value)}, which does not go from one process to the other")

        given = {"args": [encode(one, keep) for one in args], "named": {key: encode(one, keep) for key, one in named.items()}}
        value, after = self.ask({"handle": handle, "name": name, **given})
        for one, changed in zip(args, after, strict=True):
            _change(one, changed)
        return value


def _change(argument: Any, changed: Any) -> None:
    """Make a list, dict, set, deque or array what the code has made of its copy."""
    if type(argument) is not type(changed) or isinstance(argument, Handle):
        return
    if isinstance(argument, list | bytearray):
        argument[:] = changed
    elif isinstance(argument, deque):
        argument.clear()
        argument.extend(changed)
    elif type(argument).__module__ == "numpy" and argument.shape and argument.shape == changed.shape:
        argument[...] = changed
    elif isinstance(argument, dict | set):
        argument.clear()
        argument.update(changed)


class Handle:
    """Something that stays in the answer's process: it can be called, and asked for attributes, items and the next value."""

    def __init__(self, answer: Answer, handle: Any, kind: str = "object") -> None:
        object.__setattr__(self, "_answer", answer)
        object.__setattr__(self, "_handle", handle)
        object.__setattr__(self, "_kind", "".join(c for c in kind if c.isprintable())[:60])

    def __call__(self, *args: Any, **named: Any) -> Any:
        return object.__getattribute__(self, "_answer").call(object.__getattribute__(self, "_handle"), None, args, named)

    def __getattr__(self, name: str) -> Any:
        return self._method("__getattribute__", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._method("__setattr__", name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._method("__getitem__", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._method("__setitem__", key, value)

    def __contains__(self, value: Any) -> bool:
        return bool(self._method("__contains__", value))

    def __len__(self) -> int:
        return int(self._method("__len__"))

    def __bool__(self) -> bool:
        raise Unpassable("a test asks whether an object that stays with the code is true")

    def __str__(self) -> str:
        return str(self._method("__str__"))

    __repr__ = __str__

    def __iter__(self) -> Iterator[Any]:
        iterator = self._method("__iter__")
        while True:
            try:
                yield iterator._method("__next__")
            except StopIteration:
                return

    def __next__(self) -> Any:
        return self._method("__next__")

    def __eq__(self, other: object) -> bool:
        kind = object.__getattribute__(self, "_kind")
        raise Unpassable(
            f"a test compares a {kind}, which stays with the code and could call itself equal to everything: compare its "
            "attributes, or what it holds as a list, a number or a text"
        )

    def __hash__(self) -> int:
        return hash(str(object.__getattribute__(self, "_handle")))

    def _method(self, name: str, *args: Any) -> Any:
        try:
            return object.__getattribute__(self, "_answer").call(object.__getattribute__(self, "_handle"), name, args, {})
        except AttributeError as error:
            if name == "__getattribute__":
                raise
            raise TypeError(str(error)) from None  # as Python says it of an object without the method


def run_tester() -> None:
    """Run each test by itself and say how many passed: {"passed", "num_tests"}, or {"unscored": why} where none of it counts."""
    job = json.loads(sys.stdin.buffer.read())
    library = ctypes.CDLL(None)
    library.prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: nobody of the same user reads this memory or opens these pipes
    library.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what the answer leaves behind becomes a child of this process
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.setitimer(signal.ITIMER_REAL, job["seconds"])
    try:
        outcome = _tested(job)
    except _OutOfTime:
        outcome = {"unscored": f"the code took longer than {job['seconds']:g} s, and was ended"}
    except (OverLimits, Unpassable) as error:
        outcome = {"unscored": str(error)}
    signal.setitimer(signal.ITIMER_REAL, 0)
    _end_children()
    sys.stdout.write("\n" + json.dumps({**outcome, "nonce": job["nonce"]}) + "\n")
    sys.stdout.flush()
    os._exit(0)


class _OutOfTime(BaseException): ...


def _out_of_time(*_: Any) -> None:
    raise _OutOfTime


def _tested(job: dict[str, Any]) -> dict[str, Any]:
    tests: list[str] = job["tests"]
    for test in tests:
        try:
            compile(test, "<test>", "exec")
        except (SyntaxError, ValueError) as error:
            return {"gold": f"the test {test[:60]!r} is no Python: {error}"}
    try:
        answer = Answer(job["command"], {"code": job["code"], "limits": job["limits"]})
    except OverLimits:
        raise
    except Exception as error:
        return {"passed": 0, "num_tests": len(tests), "first": f"the code raised {type(error).__name__}: {error}"[:200]}
    functions = {name: Handle(answer, name) for name in answer.names if isinstance(name, str)}
    entry = job.get("entry_point")
    if entry and entry not in functions:
        return {"passed": 0, "num_tests": len(tests), "first": f"the code defines no {entry}"}
    shared: dict[str, Any] = {**functions, "candidate": functions[entry]} if entry else dict(functions)
    shared["__name__"] = "tests"
    passed, first = 0, None
    for test in tests:
        try:
            exec(compile(test, "<test>", "exec"), shared)
            if entry and callable(shared.get("check")) and not isinstance(shared["check"], Handle):
                shared.pop("check")(functions[entry])
            passed += 1
        except (OverLimits, Unpassable):
            raise
        except (Exception, SystemExit) as error:
            first = first or f"{test.strip()[:80]!r} raised {type(error).__name__}: {error}"[:200]
    return {"passed": passed, "num_tests": len(tests), "first": first}


def _end_children() -> None:
    """Kill what is left of the answer: it may have started processes, and those others."""
    for _ in range(100):
        children = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _parent_of(pid) == os.getpid()]
        if not children:
            return
        for pid in children:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except OSError:
                pass


def _parent_of(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def limit(limits: dict[str, int]) -> None:
    """Hold this process to limits of memory, time and file sizes; it starts no process and no thread, and has no capabilities.

    Libraries of linear algebra are told so: OpenBLAS interrupts a process in which it cannot start its threads.
    """
    import resource

    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))

    wanted = {
        resource.RLIMIT_AS: limits["memory"],
        resource.RLIMIT_CPU: limits["seconds"],
        resource.RLIMIT_FSIZE: limits["file"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,  # not for root, whom the filter below holds
    }
    for kind, most in wanted.items():
        resource.setrlimit(kind, (most, most))
    library = ctypes.CDLL(None)
    library.capset(
        (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    )  # who is root in a namespace could read the tester
    library.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    _forbid(library, _FORKS.get(os.uname().machine, ()))


_FORKS = {"x86_64": (56, 57, 58, 435), "aarch64": (220, 435)}  # clone, fork, vfork, clone3


def _forbid(library: Any, calls: tuple[int, ...]) -> None:
    """Let system calls fail with EAGAIN, by a filter that this process cannot take off."""

    class Step(ctypes.Structure):
        _fields_ = (("code", ctypes.c_uint16), ("yes", ctypes.c_uint8), ("no", ctypes.c_uint8), ("k", ctypes.c_uint32))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_uint16), ("steps", ctypes.POINTER(Step)))

    load, equal, give = 0x20, 0x15, 0x06
    compare = [(equal, len(calls) - i, 0, call) for i, call in enumerate(calls)]
    steps = [(load, 0, 0, 0), *compare, (give, 0, 0, 0x7FFF0000), (give, 0, 0, 0x00050000 | 11)]  # allow; fail with EAGAIN
    array = (Step * len(steps))(*(Step(*step) for step in steps))
    library.prctl(22, 2, ctypes.byref(Program(len(steps), array)), 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def run_answer() -> None:
    """Run the code, say what it defines, then make the calls that are asked for."""
    job = json.loads(sys.stdin.buffer.readline())
    calls, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    sys.stdin, nowhere = open(os.devnull, encoding="utf-8"), os.open(os.devnull, os.O_WRONLY)  # noqa: SIM115
    os.dup2(nowhere, 1)
    limit(job["limits"])
    kept: dict[Any, Any] = {}

    def keep(value: Any) -> Any:
        kept[len(kept)] = value
        return {"h": len(kept) - 1, "is": name_of(value)}

    def reply(make: Callable[[], Any]) -> None:
        try:
            line = json.dumps({"value": make()})
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            line = json.dumps({"raised": type(error).__name__, "text": str(error)[:500]})
        replies.write(line.encode() + b"\n")
        replies.flush()

    def start() -> Any:
        sys.modules["answer"] = module = ModuleType("answer")  # dataclasses look their module up
        space = module.__dict__
        exec(compile(job["code"], "<answer>", "exec"), space)
        kept.update({name: value for name, value in space.items() if not name.startswith("__")})
        return encode([name for name in kept if isinstance(name, str)], keep)

    def call(message: dict[str, Any]) -> Any:
        args = [decode(one, lambda handle: kept[handle["h"]]) for one in message["args"]]
        named = {key: decode(one, lambda handle: kept[handle["h"]]) for key, one in message["named"].items()}
        target = kept[message["handle"]]
        if message["name"] == "__getattribute__":
            value = getattr(target, args[0])
        else:
            value = (target if message["name"] is None else getattr(target, message["name"]))(*args, **named)
        return encode((value, args), keep)

    reply(start)
    for line in calls:
        message = json.loads(line)
        reply(lambda message=message: call(message))  # type: ignore[misc]


def run_program() -> None:
    """Run the code as a program whose input is what follows the first line."""
    line = b""
    while not line.endswith(b"\n"):  # byte by byte, so that nothing of the program's input is read
        line += os.read(0, 1)
    limit((job := json.loads(line))["limits"])
    exec(compile(job["code"], "<answer>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    {"tester": run_tester, "answer": run_answer, "program": run_program}[sys.argv[1]]()
