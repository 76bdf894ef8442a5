"""The built-in rules as scorers: `rule:answer`, `rule:length?max_words=120`, or `built_in_rule("length", {"max_words": 120})`.

    answer        a mathematical answer agrees with the right one (math-verify)
    exact         the text is the right one
    choice        the letter that is chosen is the right one
    json-schema   the answer is JSON that fits the ground truth's `schema`
    format        the answer matches a regex, or has tags in an order
    constraints   the instructions of IFEval are followed
    tests         the answer's code passes tests (only where code may run)
    length        words or characters are within limits

Rewards are in [0, 1]. A ground truth that is missing or cannot be read is NaN with the reason, and so is a check that failed,
hung or was ended; an answer that cannot be read is wrong, 0.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl

import numpy as np

from assay.files import json_digest
from assay.records import Completion, Rewards
from assay.rubrics.rubric import BUILT_IN_RULES
from assay.scorers.base import Scope
from assay.scorers.verifiers import text_rules
from assay.scorers.verifiers.confined import RunCode, check_allowed
from assay.scorers.verifiers.pool import CheckFailed, shared_pool
from assay.scorers.verifiers.text_rules import LIMITS, Settings, Truth, Unreadable, golds_of
from assay.scorers.verifiers.unit_tests import passes_tests

VERSION = 2
"""Counts up when a rule gives other rewards: a part of every fingerprint."""

_SECONDS = 5.0
_CODE_AT_ONCE = 4
_KNOWN: Mapping[str, Mapping[str, type]] = {
    "answer": {"seconds": float},
    "exact": {"ignore_case": bool, "final": bool},
    "choice": {},
    "json-schema": {"schema": dict, "seconds": float},
    "format": {"pattern": str, "whole": bool, "tags": list, "seconds": float},
    "constraints": {"reward": str},
    "tests": {"reward": str, "limits": str, "seconds": float, "memory_mb": float},
    "length": {**dict.fromkeys(LIMITS, float), "fade": float},
}
_WORDS: Mapping[str, tuple[str, ...]] = {"reward": ("all", "share"), "limits": ("unscored", "wrong")}
_PACKAGES = {"answer": ("math_verify", "math-verify"), "json-schema": ("jsonschema", "jsonschema")}


class Outcome(NamedTuple):
    """A reward, or NaN and why there is none."""

    value: float
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltInRule:
    """A built-in rule as a scorer, see the head of this module. Several threads may call it at once.

    settings: what the rule is given; see docs/rules.md for each. run_code: whether code of answers may run (`tests` alone).
    """

    name: str
    settings: Settings = field(default_factory=dict, hash=False)
    run_code: RunCode = "never"
    fingerprint: str = ""
    scope: Scope = "global"
    tolerance: float = 0.0
    reads_ground_truth: bool = True
    is_thread_safe: Literal[True] = True
    versioned: bool = True

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N rewards in [0, 1]."""
        outcomes = _outcomes(self, list(completions))
        return Rewards(value=np.array([one.value for one in outcomes], np.float32), error=tuple(one.error for one in outcomes))


def built_in_rule(name: str, settings: Settings | None = None, *, run_code: RunCode = "never") -> BuiltInRule:
    """The built-in rule of that name. Raises ValueError for a name, a setting or a value that it does not have, for a package that
    is not installed, and for `tests` where code may not run."""
    settings = dict(settings or {})
    if name not in BUILT_IN_RULES:
        raise ValueError(f"{name!r} is no built-in rule: use one of {', '.join(BUILT_IN_RULES)}")
    for key, value in settings.items():
        settings[key] = _setting(name, key, value)
    if name in _PACKAGES and find_spec(_PACKAGES[name][0]) is None:
        raise ValueError(f"rule:{name} needs {_PACKAGES[name][1]}, which is not installed: pip install 'assay-rm[rules]'")
    if name == "tests":
        check_allowed(run_code, "rule:tests")
    digest = json_digest([name, VERSION, settings, _package_version(name)])
    return BuiltInRule(name=name, settings=settings, run_code=run_code, fingerprint=f"rule:{name}:{digest}")


def read_spec(spec: str) -> tuple[str, dict[str, Any]] | None:
    """Name and settings of a built-in rule as a command line has it, "length?max_words=120&fade=0.5"; None for another's rule.

    A value is JSON (120, true, ["think", "answer"]) or else text. Raises ValueError for a setting without a value.
    """
    name, _, query = spec.partition("?")
    if name not in BUILT_IN_RULES:
        return None
    try:
        given = parse_qsl(query.replace("+", "%2B"), keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise ValueError(f"rule:{spec}: settings are written as in rule:length?max_words=120&fade=0.5") from None
    return name, {key: _json_or_text(value) for key, value in given}


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError:
        return value


def _setting(name: str, key: str, value: Any) -> Any:
    """A setting's value in its type. Raises ValueError for one that the rule does not have or that is of another type."""
    known = _KNOWN[name]
    if key not in known:
        raise ValueError(f"rule:{name} has no setting {key!r} (it has {', '.join(known) or 'none'})")
    kind = known[key]
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and math.isfinite(value):
        return float(value)
    if kind is list and isinstance(value, str):
        value = value.split(",")
    fits = isinstance(value, kind) and kind is not float and (not isinstance(value, list) or _is_texts(value))
    if not fits or (key in _WORDS and value not in _WORDS[key]):
        wanted = " or ".join(_WORDS[key]) if key in _WORDS else _SAID[kind]
        raise ValueError(f"rule:{name}: {key} is {value!r:.60}: give {wanted}")
    return value


_SAID: Mapping[type, str] = {
    float: "a number that is not negative", bool: "true or false", str: "text", dict: "a JSON schema",
    list: "names of tags, such as think,answer",
}  # fmt: skip


def _package_version(name: str) -> str:
    try:
        return version(_PACKAGES[name][1]) if name in _PACKAGES else ""
    except PackageNotFoundError:
        return ""


def _outcomes(rule: BuiltInRule, items: list[Completion]) -> list[Outcome]:
    """The outcome of each completion: those of checks in other processes are made together."""
    if rule.name in ("answer", "json-schema", "format"):
        return _pooled(rule, items)
    if rule.name != "tests":
        return [_in_place(rule, item, _IN_PLACE[rule.name]) for item in items]

    def tested(item: Completion) -> Outcome:
        return _in_place(rule, item, lambda text, truth, settings: passes_tests(text, truth, settings, rule.run_code))

    if len(items) <= 1:
        return [tested(item) for item in items]
    with ThreadPoolExecutor(_CODE_AT_ONCE) as threads:
        return list(threads.map(tested, items))


_IN_PLACE: Mapping[str, Callable[[str, Truth, Settings], float]] = {
    "exact": text_rules.exact,
    "choice": text_rules.choice,
    "constraints": text_rules.constraints,
    "length": text_rules.length,
}


def _in_place(rule: BuiltInRule, item: Completion, check: Callable[[str, Truth, Settings], float]) -> Outcome:
    try:
        return Outcome(check(_text_of(item), item.ground_truth or {}, rule.settings))
    except Unreadable as error:
        return Outcome(math.nan, str(error))
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError, OSError) as error:
        return Outcome(math.nan, f"rule:{rule.name} failed with {type(error).__name__}: {error}")


def _text_of(item: Completion) -> str:
    """The text of an answer. Raises Unreadable for a completion that does not say where its answer begins."""
    if item.response is None:
        raise Unreadable("a completion as text or token ids does not say where its answer begins: give messages and response")
    return item.response


def _pooled(rule: BuiltInRule, items: list[Completion]) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}
    checks: dict[int, Mapping[str, Any]] = {}
    for i, item in enumerate(items):
        try:
            checks[i] = {"kind": rule.name, "text": _text_of(item), **_given(rule, item.ground_truth or {})}
            json.dumps(checks[i])
        except Unreadable as error:
            outcomes[i] = Outcome(math.nan, str(error))
        except (TypeError, ValueError, RecursionError) as error:
            outcomes[i] = Outcome(math.nan, f"the ground truth is no JSON: {error}")
    asked = [i for i in checks if i not in outcomes]
    replies = shared_pool().run([checks[i] for i in asked], float(rule.settings.get("seconds", _SECONDS)))
    outcomes |= {i: _outcome(reply) for i, reply in zip(asked, replies, strict=True)}
    return [outcomes[i] for i in range(len(items))]


def _outcome(reply: Any) -> Outcome:
    if isinstance(reply, CheckFailed):
        return Outcome(math.nan, str(reply))
    why = reply.get("gold") or reply.get("failed")
    return Outcome(math.nan, why) if why else Outcome(float(reply["value"]))


def _given(rule: BuiltInRule, truth: Truth) -> Mapping[str, Any]:
    """What a check in another process is given beside the text. Raises Unreadable where it is missing."""
    match rule.name:
        case "answer":
            return {"golds": golds_of(truth)}
        case "json-schema":
            schema = truth.get("schema", rule.settings.get("schema"))
            schema = _json_or_text(schema) if isinstance(schema, str) else schema
            if not isinstance(schema, Mapping | bool):
                raise Unreadable("the ground truth has no schema: give a JSON schema as a mapping")
            return {"schema": schema}
    pattern = truth.get("pattern", rule.settings.get("pattern"))
    tags = truth.get("tags", rule.settings.get("tags"))
    if pattern is None and not tags:
        raise Unreadable("there is no pattern and there are no tags: give one of them")
    if (pattern is not None and not isinstance(pattern, str)) or (tags is not None and not _is_texts(tags)):
        raise Unreadable(f"pattern {pattern!r:.40} must be text, tags {tags!r:.40} a list of texts")
    return {"pattern": pattern, "tags": tags, "whole": bool(truth.get("whole", rule.settings.get("whole", False)))}


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, str) and one for one in value)
