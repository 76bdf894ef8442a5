"""Rules by name: a built-in one, `rule:answer` (scorers/verifiers/built_in), or a plain Python function, `rule:module:function`.

The function takes a list of `Completion` and returns one number or None for each. Its code is run, so it may be named only on the
command line or in Python, never in a file that Assay reads or in a request.
"""

from __future__ import annotations

import importlib
import inspect
import math
import numbers
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from assay.files import json_digest
from assay.records import Completion, Rewards
from assay.rubrics.rubric import BUILT_IN_RULES
from assay.scorers.base import Scope, Scorer
from assay.scorers.verifiers.built_in import built_in_rule, read_spec
from assay.scorers.verifiers.confined import RunCode

RULE = "rule:"
Rule: TypeAlias = Callable[[list[Completion]], Sequence[float | None]]
NO_REWARD = "the rule gave no reward"


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleScorer:
    """Rewards by a function. An exception, None, NaN and infinity become NaN with the reason.

    If the call for all completions raises, the function is called for each completion alone, so that one bad answer does not lose
    the others. fingerprint: digest of the module's source, the function's name and its optional `__version__`. versioned: whether
    it has a `__version__`. Without one, a change in another module that it calls would go unnoticed, so `Cached` refuses it.
    """

    function: Rule
    name: str
    fingerprint: str
    versioned: bool
    scope: Scope = "global"
    tolerance: float = 0.0
    reads_ground_truth: bool = True

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N rewards."""
        items = list(completions)
        if not items:
            return Rewards(value=np.empty(0, np.float32), error=())
        try:
            given = _values(self.function(list(items)))
        except (Exception, SystemExit):
            outcomes = [self._alone(item) for item in items]
        else:
            outcomes = _outcomes(given, len(items))
        return Rewards(value=np.array([value for value, _ in outcomes], np.float32), error=tuple(error for _, error in outcomes))

    def _alone(self, item: Completion) -> tuple[float, str | None]:
        try:
            return _outcomes(_values(self.function([item])), 1)[0]
        except (Exception, SystemExit) as error:
            return math.nan, f"{self.name} raised {type(error).__name__}: {error}"


def load_rule(spec: str, *, run_code: RunCode = "never") -> Scorer:
    """The scorer of `rule:NAME` for a built-in rule, or of `rule:module:function`, whose module is looked for as by `python -m`.

    run_code: whether the built-in rule `tests` may run code of answers. Raises ValueError for another form, a module that cannot be
    imported, a function that the module does not have, and as `built_in_rule` does.
    """
    if (built_in := read_spec(spec.removeprefix(RULE))) is not None:
        return built_in_rule(*built_in, run_code=run_code)
    module_name, _, name = spec.removeprefix(RULE).partition(":")
    if not module_name or not name:
        built_in_names = ", ".join(BUILT_IN_RULES)
        raise ValueError(
            f"{spec!r}: a rule is named rule:MODULE:FUNCTION, such as rule:my_rules:exact_match, or rule:NAME for a built-in one: "
            f"{built_in_names}"
        )
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{spec!r}: the module {module_name} cannot be imported from {here}: {error!r}") from error
    function = getattr(module, name, None)
    if not callable(function):
        known = ", ".join(key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_"))
        raise ValueError(f"{spec!r}: {module_name} has no function {name} (it has {known or 'none'})")
    return rule_scorer(function, name=f"{module_name}:{name}")


def rule_scorer(function: Rule, *, name: str | None = None) -> RuleScorer:
    """A function as a scorer. Raises ValueError when its source, which the fingerprint is a digest of, cannot be read."""
    name = name or f"{function.__module__}:{getattr(function, '__qualname__', type(function).__name__)}"
    version = getattr(function, "__version__", None)
    digest = json_digest([_source(function, name), name, None if version is None else str(version)])
    return RuleScorer(function=function, name=name, fingerprint=f"rule:{digest}", versioned=version is not None)


def _source(function: Rule, name: str) -> str:
    """The source of the function's module."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:  # a callable object: the module of its class
        file = inspect.getsourcefile(type(function))
    if file is None or not Path(file).is_file():
        raise ValueError(f"the source of {name} cannot be read: put the function into a file, its digest is the fingerprint")
    return Path(file).read_text(encoding="utf-8")


def _values(given: Any) -> list[Any]:
    """What a rule returned, in order. Raises TypeError for what has no order, or is one text or number."""
    if isinstance(given, Mapping | Set | str | bytes) or not isinstance(given, Iterable):
        raise TypeError(f"it returned {type(given).__name__}, and not one number or None for each completion, in order")
    return list(given)


def _outcomes(given: list[Any], num_items: int) -> list[tuple[float, str | None]]:
    if len(given) == num_items:
        return [_outcome(value) for value in given]
    return [(math.nan, f"the rule gave {len(given)} values for {num_items} completions: one for each is needed")] * num_items


def _outcome(given: Any) -> tuple[float, str | None]:
    """A reward, rounded to float32, or NaN and the reason."""
    if given is None:
        return math.nan, NO_REWARD
    if not isinstance(given, numbers.Real | np.generic):
        return math.nan, f"the rule gave {type(given).__name__} {given!r:.40}, which is no number"
    with np.errstate(over="ignore"):
        value = float(np.float32(given))
    return (value, None) if math.isfinite(value) else (math.nan, f"the rule gave {float(given)}, which float32 does not hold")
