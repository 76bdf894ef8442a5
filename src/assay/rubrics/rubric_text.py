"""A rubric as the text of a file: TOML of Assay's own form, which `read_rubric` reads back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any

from assay.rubrics.judge_settings import JudgeSettings
from assay.rubrics.rubric import NOT_APPLICABLE, Criterion, Rubric

_FILE_NAMES = {"low": "min", "high": "max"}
_WHOLE = ("name", "instructions", "formula", "threshold", "per_row", "reads_ground_truth")


def rubric_to_toml(rubric: Rubric) -> str:
    """The text of a rubric file. Fields that are as they are by default are left out."""
    judge = {**_changed(rubric, _WHOLE), **_changed(rubric.judge, [one.name for one in fields(JudgeSettings)])}
    if rubric.judge.url and rubric.judge.backend == "local":
        judge["backend"] = "local"  # a URL alone would mean an endpoint
    tables = [_table("[judge]", judge), *[_table("[[criterion]]", _criterion(one)) for one in rubric.criteria]]
    return "\n\n".join(tables) + "\n"


def _criterion(criterion: Criterion) -> dict[str, Any]:
    content = _changed(criterion, [one.name for one in fields(Criterion)])
    if criterion.choices:
        content["choices"] = [{key: part for key, part in choice._asdict().items() if part != ""} for choice in criterion.choices]
    if criterion.kind == "scale":
        content |= {"low": criterion.low, "high": criterion.high}
        ends = {criterion.low: "the worst", criterion.high: "the best"}  # a file must say what the ends mean
        content["anchors"] = {f"{number:g}": text for number, text in sorted({**ends, **criterion.anchors}.items())}
    if criterion.not_applicable == NOT_APPLICABLE:
        content["not_applicable"] = True
    return {_FILE_NAMES.get(name, name): value for name, value in content.items()}


def _changed(thing: Any, names: Sequence[str]) -> dict[str, Any]:
    """The fields that are not as they are by default."""
    found = {}
    for one in fields(thing):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        if one.name in names and (value := getattr(thing, one.name)) != default:
            found[one.name] = value
    return found


def _table(head: str, content: Mapping[str, Any]) -> str:
    return "\n".join([head, *(f"{_key(name)} = {_value(value)}" for name, value in content.items())])


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name, ensure_ascii=False)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, int):
        return repr(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(name)} = {_value(one)}" for name, one in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
