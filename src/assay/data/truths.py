"""What a row says is right: its ground truth, with the rubric and the instructions that stand in columns of their own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from assay.data.critiques import CRITIQUE_FIELDS
from assay.data.raw.cells import ground_truth_of
from assay.data.raw.columns import RowView, plain

_CRITERION_FIELDS = ({"criterion", "points"}, {"title", "description"}, {"requirement"}, {"name", "text"}, {"description", "type"})


def truth_of(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The ground truth (see `ground_truth_of`), with what columns of their own hold; None where there is none of it.

    A column `rubric` or `rubrics` of criteria, as of HealthBench and Rubrics as Rewards, becomes its field `rubric`. IFEval's
    columns `instruction_id_list` and `kwargs` become fields of these names, and so do critiques (`data/critiques`).
    """
    known = ground_truth_of(row)
    beside: dict[str, Any] = {}
    cells = plain(row)
    for name in ("rubric", "rubrics"):
        if (criteria := _criteria_in(cells.get(name))) is not None:
            beside["rubric"] = criteria
            _mark(row, name)
    kinds, given = cells.get("instruction_id_list"), cells.get("kwargs")
    if isinstance(kinds, list) and isinstance(given, list) and len(kinds) == len(given):
        beside |= {"instruction_id_list": kinds, "kwargs": given}
        _mark(row, "instruction_id_list", "kwargs")
    for name in CRITIQUE_FIELDS:
        if isinstance(text := cells.get(name), str) and text.strip():
            beside[name] = text
            _mark(row, name)
    return {**(known or {}), **beside} if beside else known


def _criteria_in(cell: Any) -> Any:
    """The criteria that a cell holds, itself or as JSON text; None where it holds something else, such as a rubric in prose."""
    if isinstance(cell, str):
        if not cell.lstrip().startswith(("[", "{")):
            return None
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return None
    inner = cell.get("criteria", cell.get("rubrics", cell.get("rubric"))) if isinstance(cell, Mapping) else cell
    if not isinstance(inner, list) or not inner or not isinstance(inner[0], Mapping):
        return None
    return cell if any(fields <= inner[0].keys() for fields in _CRITERION_FIELDS) else None


def _mark(row: Mapping[str, Any], *names: str) -> None:
    if isinstance(row, RowView):
        row.mark(*names)
