"""What the documentation shows is what there is: commands parse, flags exist, names can be imported."""

from __future__ import annotations

import ast
import re
import shlex
from importlib import import_module
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
            if not any(word.endswith(":") for word in words[:3]):  # else a line that the demo prints
                found.append((page.name, words[:cut]))
    return found


def imports() -> list[tuple[str, str]]:
    lines = [(page.name, line) for page in PAGES for line in page.read_text(encoding="utf-8").splitlines()]
    return [
        (name, line.partition("#")[0].strip()) for name, line in lines if re.match(r"(from assay[.\w]* import |import assay)", line)
    ]


def texts() -> dict[Path, str]:
    """Every text that names files: pages, and modules with their help texts and comments."""
    more = [ROOT / f"{name}.md" for name in ("DESIGN", "CONTRIBUTING", "CHANGELOG")]
    files = [*PAGES, *more, *sorted((ROOT / "src").rglob("*.md")), *sorted((ROOT / "src").rglob("*.py"))]
    return {file: file.read_text(encoding="utf-8") for file in files}


def string_constants() -> set[str]:
    """Those of the code, docstrings apart, parts of f-strings too."""
    found: set[str] = set()
    for file in (ROOT / "src").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        found |= {
            node.value
            for node in nodes
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
        }
    return found


def test_there_is_something_to_check():
    assert len(commands()) > 40
    assert len(imports()) > 10


def called(words: list[str]) -> tuple[str, cli.Command, list[str]]:
    """(group and word, its entry in the table, the words after it) of a command line. Raises KeyError for a word that is none."""
    group = words[0] if words[0] in cli.GROUPS else ""
    name = words[1] if group else words[0]
    return f"{group} {name}".strip(), cli.COMMANDS[group][name], words[2 if group else 1 :]


@pytest.mark.parametrize(("page", "words"), [one for one in commands() if "..." not in one[1]], ids=lambda value: str(value)[:60])
def test_a_command_that_is_shown_whole_parses(page, words, monkeypatch):
    module = import_module(f"assay.commands.{called(words)[1].module}")
    monkeypatch.setattr(module, "run", lambda config: 0)
    assert cli.main(words) == 0


def test_the_flags_that_are_shown_exist(capsys):
    helps: dict[str, str] = {}
    wrong = []
    for page, words in commands():
        name, _, others = called(words)
        if name not in helps:
            with pytest.raises(SystemExit):
                cli.main([*name.split(), "--help"])
            helps[name] = capsys.readouterr().out
        wrong += [f"{page}: assay {name} {word}" for word in others if word.startswith("--") and word not in helps[name]]
    assert not wrong


def test_the_commands_that_texts_name_exist():
    named = [
        (file, words) for file, text in texts().items() for words in re.findall(r"`assay ([a-z][a-z-]*(?: [a-z][a-z-]*)?)", text)
    ]
    wrong = []
    for file, found in named:
        first, _, second = found.partition(" ")
        if first not in cli.COMMANDS[""] and not (first in cli.GROUPS and (not second or second in cli.COMMANDS[first])):
            wrong.append(f"{file.relative_to(ROOT)}: assay {found}")
    assert len(named) > 50
    assert not [line for line in wrong if not line.startswith("CHANGELOG.md")]  # it names what there was


@pytest.mark.parametrize(("page", "line"), sorted(set(imports())), ids=lambda value: str(value)[:60])
def test_a_name_that_is_shown_can_be_imported(page, line):
    shown = {alias.asname or alias.name.split(".")[0] for node in ast.parse(line).body for alias in node.names}
    found: dict[str, object] = {}
    exec(line, found)
    assert shown
    assert shown <= found.keys()
