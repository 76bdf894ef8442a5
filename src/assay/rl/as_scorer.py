"""Reward functions of trainers as scorers, so that they can be evaluated, audited and served like any other.

    scorer = scorer_of_trl(accuracy_reward)       # (prompts, completions, **columns) -> list of numbers or None
    scorer = scorer_of_verl(compute_score)        # (data_source, solution_str, ground_truth, extra_info) -> number or {"score"}
    scorer = scorer_of_verifiers(correct_answer)  # any of (prompt, completion, answer, state, info, task) by name -> number

A command line takes them through a function of your own, `rule:module:function` (docs/rules.md). An exception, None and NaN are no
reward, with the reason; a function that counts its own failures as 0 still does.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from assay.records import Completion
from assay.scorers.rules import RuleScorer, rule_scorer


def scorer_of_trl(function: Callable[..., Any], *, conversational: bool = True) -> RuleScorer:
    """A reward function of TRL. Its columns are the fields of the ground truth, each a list, and `ground_truth` the whole of it.

    conversational: prompts and completions are lists of messages, as of TRL's conversational data sets, else strings.
    """

    def score(completions: list[Completion]) -> list[float | None]:
        truths = [dict(item.ground_truth or {}) for item in completions]
        names = {name for truth in truths for name in truth}
        columns = {name: [truth.get(name) for truth in truths] for name in names}
        prompts = [[turn.as_dict() for turn in item.messages] for item in completions]
        answers = [[item.answer.as_dict()] for item in completions]
        if not conversational:
            prompts = ["\n\n".join(turn.content for turn in item.messages) for item in completions]  # type: ignore[misc]
            answers = [item.answer.content for item in completions]  # type: ignore[misc]
        return list(function(prompts=prompts, completions=answers, **{"ground_truth": truths, **columns}))

    return _named(function, score)


def scorer_of_verl(
    function: Callable[..., Any], *, data_source: str = "", extra_info: Callable[[Completion], Mapping[str, Any]] | None = None
) -> RuleScorer:
    """A `compute_score` of verl. ground_truth is the ground truth's `answer`, or all of it where it has more.

    data_source: the name by which the function knows what it scores. extra_info: what it is told of an answer, the prompt when left
    out.
    """

    def score_one(item: Completion) -> float | None:
        info = {"prompt": [turn.as_dict() for turn in item.messages]} if extra_info is None else dict(extra_info(item))
        given = function(data_source=data_source, solution_str=item.answer.content, ground_truth=_answer(item), extra_info=info)
        return given["score"] if isinstance(given, Mapping) else given

    return _named(function, lambda completions: [score_one(item) for item in completions])


def scorer_of_verifiers(function: Callable[..., Any]) -> RuleScorer:
    """A reward function of verifiers, which is passed what it names: prompt, completion, answer, state, info, task.

    Raises ValueError for a function that is asynchronous, or that needs something else.
    """
    if inspect.iscoroutinefunction(function):
        raise ValueError(f"{function.__name__} is asynchronous: wrap it in a function that runs it to its end")
    signature = inspect.signature(function)
    known = {"prompt", "completion", "answer", "state", "info", "task"}
    needed = [one.name for one in signature.parameters.values() if one.default is one.empty and one.kind not in (2, 4)]
    if unknown := [name for name in needed if name not in known]:
        raise ValueError(f"{function.__name__} needs {unknown[0]!r}: of verifiers it can have {', '.join(sorted(known))}")
    takes_all = any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())

    def score_one(item: Completion) -> float | None:
        prompt, completion = [turn.as_dict() for turn in item.messages], [item.answer.as_dict()]
        info = dict(item.ground_truth or {})
        given = {"prompt": prompt, "completion": completion, "answer": _answer(item), "info": info, "task": "default"}
        given["state"] = {**given, "responses": []}
        return function(**{name: value for name, value in given.items() if takes_all or name in signature.parameters})

    return _named(function, lambda completions: [score_one(item) for item in completions])


def _answer(item: Completion) -> Any:
    """What trainers call the ground truth: its `answer`, or the whole mapping where that holds more or something else."""
    truth = item.ground_truth
    return truth["answer"] if truth is not None and set(truth) == {"answer"} else None if truth is None else dict(truth)


def _named(function: Callable[..., Any], score: Callable[[list[Completion]], list[float | None]]) -> RuleScorer:
    """The rule under the function's name; its fingerprint is of the function's source."""
    name = f"{function.__module__}:{getattr(function, '__qualname__', type(function).__name__)}"
    return rule_scorer(functools.wraps(function)(score), name=name)
