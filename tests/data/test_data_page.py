"""Every form stands on docs/data.md with an example, and every example there gives the one pair that all of them mean."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from assay.data.pairs import ALL_FORMS, read_pairs

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()
QUESTION, GOOD, BAD = "Why does bread go stale?", "The starch slowly crystallises again.", "The starch runs away at night."
BLOCK = re.compile(r"^\*\*(?P<title>.+)\*\*\n\n(?P<blocks>(?:```jsonl .+\n(?:.+\n)+?```\n\n?)+)", re.M)
PART = re.compile(r"```jsonl (?P<form>\S+)(?: (?P<file>\S+))?\n(?P<rows>(?:.+\n)+?)```")


def examples() -> list[tuple[str, str, dict[str, str]]]:
    """(title, form, file -> rows) of each example."""
    found = []
    for block in BLOCK.finditer(PAGE):
        parts = list(PART.finditer(block["blocks"]))
        found.append((block["title"], parts[0]["form"], {part["file"] or "": part["rows"] for part in parts}))
    return found


@pytest.mark.parametrize(("title", "form", "files"), examples(), ids=[title for title, _, _ in examples()])
def test_every_example_of_the_page_is_read_as_it_is_meant(tmp_path, title, form, files):
    for name, rows in files.items():
        assert 1 <= len(rows.splitlines()) <= 3
        (tmp_path / f"{name or 'rows'}.jsonl").write_text(rows)
    reader = read_pairs(tmp_path if len(files) > 1 else tmp_path / "rows.jsonl", strict=True)
    pairs = list(reader)
    assert list(reader.problems.forms) == [form]
    assert {(pair.chosen, pair.rejected) for pair in pairs} == {(GOOD, BAD)}
    assert {turn.content for pair in pairs for turn in pair.prompt[-1:]} in (
        {QUESTION},
        {f"POST: {QUESTION}\n\nTL;DR:"},
    )


def test_every_form_has_an_example():
    assert {form for _, form, _ in examples()} == {form.name for form in ALL_FORMS}


def test_every_form_stands_in_the_table():
    for form in ALL_FORMS:
        assert form.what
        assert f"| `{form.name}` | {', '.join(form.columns)} | {form.what} |" in PAGE
    assert all(json.loads(row) for _, _, files in examples() for rows in files.values() for row in rows.splitlines())
