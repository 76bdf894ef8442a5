"""A rubric from a file: Assay's own TOML, read strictly, or one of the forms of other programs (rubrics/formats).

[judge]
model = "HuggingFaceTB/SmolLM2-360M-Instruct"
instructions = "You grade answers of a support desk."

[[criterion]]
name = "complete"
text = "Does the answer do everything that was asked?"
weight = 2

[[criterion]]
name = "polite"
kind = "scale"
text = "How polite is it?"
min = 1
max = 5
anchors = { 1 = "rude", 5 = "warm" }

[[criterion]]
name = "short"
kind = "rule"
rule = "length"
settings = { max_words = 120 }
weight = 0.5
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from assay.rubrics.formats import rubric_of_form
from assay.rubrics.judge_settings import JudgeSettings
from assay.rubrics.rubric import NOT_APPLICABLE, Choice, Criterion, Rubric

_Reader = Callable[[Any], Any]
_TABLES = ("judge", "criterion")


def read_rubric(path: str | Path) -> Rubric:
    """The rubric of a .toml or .json file. Raises ValueError that names the file, what was found and what is needed."""
    path = Path(path)
    if path.suffix.lower() not in (".toml", ".json"):
        raise ValueError(
            f"{path} is no rubric: a rubric is a .toml file with [judge] and [[criterion]], or another program's .json"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: name a rubric file, or a shipped rubric") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as UTF-8 text ({error})") from error
    try:
        content = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no valid {path.suffix[1:].upper()}: {error}") from error
    try:
        return rubric_from(content, name=path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def rubric_from(content: Any, name: str = "") -> Rubric:
    """The rubric that parsed TOML or JSON holds, in Assay's form or another program's. Raises ValueError for anything else."""
    if (found := rubric_of_form(content, name)) is not None:
        return found
    if not (isinstance(content, Mapping) and any(table in content for table in _TABLES)):
        raise ValueError(f"this is no rubric: it holds {_said(content)}, and neither [judge] nor [[criterion]]")
    if unknown := [key for key in content if key not in _TABLES]:
        raise ValueError(f"unknown table or field {unknown[0]!r}: a rubric has [judge] and [[criterion]]")
    judge, criteria = content.get("judge", {}), content.get("criterion", [])
    if not isinstance(judge, Mapping):
        raise ValueError(f"judge is {judge!r:.40}: give a table, [judge]")
    if not isinstance(criteria, list) or not all(isinstance(one, Mapping) for one in criteria):
        raise ValueError("criterion is no list of tables: give each criterion a table of its own, [[criterion]]")
    whole = {**_WHOLE, **_JUDGE}
    read = _fields(judge, whole, {}, "[judge]")
    settings = {key: value for key, value in read.items() if key in _JUDGE}
    if settings.get("url") and "backend" not in settings:
        settings["backend"] = "endpoint"  # whoever names a URL means it
    rest = {"name": name, **{key: value for key, value in read.items() if key in _WHOLE}}
    return Rubric(criteria=tuple(_criterion(one) for one in criteria), judge=JudgeSettings(**settings), **rest)


def _criterion(content: Mapping[str, Any]) -> Criterion:
    where = f"criterion {content.get('name', '')!r}"
    read = _fields(content, _CRITERION, _OTHER_NAMES, where)
    criterion = Criterion(**{"name": "", **read})
    if criterion.kind == "scale":
        if not {"low", "high"} <= read.keys():
            raise ValueError(f"{where}: a scale needs min and max")
        if not {criterion.low, criterion.high} <= criterion.anchors.keys():
            ends = f"{criterion.low:g} and {criterion.high:g}"
            raise ValueError(
                f"{where}: a scale needs anchors at both ends: say what {ends} mean, anchors = {{ {criterion.low:g} = ... }}"
            )
    elif unused := [key for key in ("low", "high", "whole_numbers") if key in read]:
        raise ValueError(f"{where}: {unused[0]} is for the kind 'scale', and this is {criterion.kind!r}")
    return criterion


def _fields(content: Mapping[str, Any], known: Mapping[str, _Reader], others: Mapping[str, str], where: str) -> dict[str, Any]:
    """The fields that a table gives, under our names. Raises ValueError for one that is unknown, given twice or of another type."""
    read: dict[str, Any] = {}
    for key, value in content.items():
        name = others.get(key, key)
        if name not in known:
            names = sorted({*known, *others})
            raise ValueError(f"{where}: unknown field {key!r}; known are {', '.join(names)}")
        if name in read:
            raise ValueError(f"{where}: {key!r} says what another field already says: give one of them")
        try:
            read[name] = known[name](value)
        except ValueError as error:
            raise ValueError(f"{where}: {key} is {value!r:.60}: {error}") from None
    return read


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("give text")
    return value


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("give a number")
    return float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("give a whole number")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("give true or false")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("give a list of texts")
    return tuple(value)


def _table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("give a table, such as { max_words = 120 }")
    return dict(value)


def _not_applicable(value: Any) -> str:
    if value is True:
        return NOT_APPLICABLE
    return "" if value is False else _text(value)


def _anchors(value: Any) -> Mapping[float, str]:
    if not isinstance(value, Mapping) or not all(isinstance(text, str) and text.strip() for text in value.values()):
        raise ValueError('give a table of numbers and what they mean, such as { 1 = "rude", 5 = "warm" }')
    try:
        return {float(number): text for number, text in value.items()}
    except ValueError:
        raise ValueError("the names in the table must be numbers of the scale") from None


def choices_of(value: Any) -> tuple[Choice, ...]:
    """Choices from worst to best: labels, which are evenly spaced from 0 to 1, or tables of label, value and perhaps text.

    Raises ValueError for anything else, and where only some have a value.
    """
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) < 2:
        raise ValueError("give at least two choices, from worst to best")
    tables = [one if isinstance(one, Mapping) else {"label": one} for one in value]
    if any(not isinstance(one.get("label"), str) or one.keys() - {"label", "value", "text"} for one in tables):
        raise ValueError("give each choice as a label, or as { label, value, text }")
    valued = ["value" in one for one in tables]
    if any(valued) and not all(valued):
        raise ValueError("give all choices a value, or none")
    return tuple(
        Choice(one["label"], _float(one["value"]) if all(valued) else i / (len(tables) - 1), _text(one.get("text", "")))
        for i, one in enumerate(tables)
    )


def _said(content: Any) -> str:
    if isinstance(content, Mapping):
        return (
            ", ".join(f"[{key}]" if isinstance(value, Mapping) else str(key) for key, value in list(content.items())[:6])
            or "nothing"
        )
    return f"a list of {len(content)}" if isinstance(content, list) else repr(content)[:40]


def _by_default(kind: type[JudgeSettings]) -> dict[str, _Reader]:
    """A reader for each field of the settings, by the type of its default; None stands for a number."""
    readers: Mapping[type, _Reader] = {str: _text, int: _whole, float: _float, type(None): _float}
    return {one.name: readers[type(one.default)] for one in fields(kind)}


_JUDGE = _by_default(JudgeSettings)
_WHOLE: Mapping[str, _Reader] = {
    "name": _text, "instructions": _text, "formula": _text, "threshold": _float, "per_row": _truth, "reads_ground_truth": _truth,
}  # fmt: skip
_CRITERION: Mapping[str, _Reader] = {
    "name": _text, "text": _text, "weight": _float, "kind": _text, "choices": choices_of, "low": _float, "high": _float,
    "whole_numbers": _truth, "anchors": _anchors, "rule": _text, "settings": _table, "gate": _float, "needs": _text,
    "not_applicable": _not_applicable, "negated": _truth, "is_optional": _truth, "tags": _texts,
}  # fmt: skip
_OTHER_NAMES = {"points": "weight", "min": "low", "max": "high"}
