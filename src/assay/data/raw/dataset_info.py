"""What LLaMA-Factory's dataset_info.json says of the files beside it: which are rankings, and what their columns are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from assay.data.raw.columns import NO_NAMES
from assay.data.raw.rows import is_hub
from assay.errors import DataError

FILE = "dataset_info.json"
_MEANINGS = {
    **{name: name for name in ("prompt", "messages", "history", "system", "tools", "chosen", "rejected")},
    "query": "input", "response": "completion", "kto_tag": "label",
}  # fmt: skip


def described(path: str | Path) -> tuple[str | Path, Mapping[str, str]]:
    """The file that is meant, and what its columns are (column -> meaning), where a dataset_info.json describes it.

    path: a file beside one; or the dataset_info.json or its folder, where it describes one set of preferences, or #NAME of it.
    Raises DataError where it describes several.
    """
    if is_hub(path):
        return path, NO_NAMES
    plain, _, name = str(path).partition("#")
    place = Path(plain)
    info = place if place.name == FILE else place / FILE if place.is_dir() else place.parent / FILE
    sets = _sets(info)
    if not sets:
        return path, NO_NAMES
    if place.is_dir() or place.name == FILE:
        found = [entry for key, entry in sets.items() if key == name or (not name and _is_preference(entry))]
        if len(found) != 1:
            names = ", ".join(f"{plain}#{key}" for key, entry in sets.items() if _is_preference(entry)) or "none is a ranking"
            raise DataError(f"{info} describes {len(found)} sets that could be meant: name one of them ({names})")
        return info.parent / found[0]["file_name"], _names(found[0])
    beside = [entry for entry in sets.values() if entry["file_name"] == place.name]
    return path, _names(beside[0]) if beside else NO_NAMES


def _sets(info: Path) -> dict[str, dict[str, Any]]:
    """name -> entry, of those that name a file; none where this is another kind of file, or where there is none."""
    try:
        content = json.loads(info.read_text(encoding="utf-8-sig")) if info.is_file() else {}
    except ValueError:
        return {}
    entries = content.items() if isinstance(content, dict) else ()
    return {name: entry for name, entry in entries if isinstance(entry, dict) and isinstance(entry.get("file_name"), str)}


def _is_preference(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("ranking")) or "kto_tag" in (entry.get("columns") or {})


def _names(entry: Mapping[str, Any]) -> Mapping[str, str]:
    columns = entry.get("columns") or {}
    return {column: _MEANINGS[name] for name, column in columns.items() if name in _MEANINGS and column}
