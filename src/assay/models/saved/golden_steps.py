"""Solutions in steps that prove a head which reads them: the golden texts of process reward models."""

from __future__ import annotations

from assay.messages import Message
from assay.records import Completion

_JARS = "A shelf holds 4 jars of 12 buttons. Nine buttons are lost. How many are left?"
_PRIMES = "Name the primes below 8 and add them up."


def _solution(name: str, question: str, *steps: str) -> Completion:
    return Completion(id=name, messages=(Message("user", question),), steps=steps)


STEP_TEXTS = (
    _solution("three steps", _JARS, "4 jars of 12 are 48 buttons.\n\n", "48 - 9 = 39.\n\n", "So 39 buttons are left."),
    _solution("the second step wrong", _JARS, "4 jars of 12 are 48 buttons.\n\n", "48 - 9 = 37.\n\n", "So 37 buttons are left."),
    _solution("one step", _JARS, "39, since 48 - 9 = 39."),
    _solution("a step with blank lines of its own", _PRIMES, "The primes:\n\n2, 3, 5\n\nand 7.\n", "Their sum is 17.\n"),
    _solution("steps that are lines", _PRIMES, "2 + 3 = 5\n", "5 + 5 = 10\n", "10 + 7 = 17\n", "\\boxed{17}"),
    _solution("steps that no white space parts", _PRIMES, "2+3=5;", "5+5=10;", "10+7=17."),
    _solution("steps in other scripts", "二と二で?", "二と二を足す。\n\n", "答えは四です 🙂"),
)
