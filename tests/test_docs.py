"""What the documentation shows is what there is: commands parse, flags exist, names can be imported."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from assay import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[tuple[str, list[str]]]:
    """(page, words) of every `assay ...` line in a code block, comments and variables before it apart."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^(?: {4})?(?:[A-Z_]+=\S+ )*assay ([a-z].*)$", text, re.MULTILINE):
            words = shlex.split(line, comments=True)
            cut = next((i for i, word in enumerate(words) if word in ("|", ">", "&&", "&")), len(words))
            if not words[1:2] or not words[1].endswith(":"):  # else a line that the demo prints
                found.append((page.name, words[:cut]))
    return found


def imports() -> list[tuple[str, str]]:
    lines = [(page.name, line) for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()]
    return [
        (name, line.partition("#")[0].strip()) for name, line in lines if re.match(r"(from assay[.\w]* import |import assay)", line)
    ]


def test_there_is_something_to_check():
    assert len(commands()) > 40
    assert len(imports()) > 10


@pytest.mark.parametrize(("page", "words"), [one for one in commands() if "..." not in one[1]], ids=lambda value: str(value)[:60])
def test_a_command_that_is_shown_whole_parses(page, words, monkeypatch):
    monkeypatch.setattr(cli, "run", lambda config: 0)
    assert cli.main(words) == 0


def test_the_flags_that_are_shown_exist(capsys):
    helps: dict[str, str] = {}
    wrong = []
    for page, words in commands():
        name = words[0]
        if name not in helps:
            with pytest.raises(SystemExit):
                cli.main([name, "--help"])
            helps[name] = capsys.readouterr().out
        wrong += [f"{page}: assay {name} {word}" for word in words[1:] if word.startswith("--") and word not in helps[name]]
    assert not wrong


@pytest.mark.parametrize(("page", "line"), sorted(set(imports())), ids=lambda value: str(value)[:60])
def test_a_name_that_is_shown_can_be_imported(page, line):
    shown = {alias.asname or alias.name.split(".")[0] for node in ast.parse(line).body for alias in node.names}
    found: dict[str, object] = {}
    exec(line, found)
    assert shown
    assert shown <= found.keys()
