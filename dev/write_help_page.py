"""Write docs/commands.md: what `assay --help` and the help of every command say, as plain text.

make help-page
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path

from assay import cli

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
WIDTH = 100
_HEAD = """# Commands

Written by `make help-page` from the commands themselves; a test says whether it is up to date. MODEL is a run directory, an
artifact, a URL or `rule:module:function` where a command measures, a run directory or an artifact where it changes what is saved.

Exit status: 0 when a command did what was asked; 1 when some rows have no reward; 2 for a mistake in what was asked; 3 for a
failure; 4 to 8 for a finding, 9 when people have to do something first, as the command's own help says.
"""


def page() -> str:
    """The content of docs/commands.md."""
    parts = [_HEAD, f"```text\n{chr(10).join(cli.help_lines())}\n```\n"]
    with _plain_terminal():
        for group, commands in cli.COMMANDS.items():
            for name in commands:
                words = [word for word in (group, name) if word]
                parts.append(f"## assay {' '.join(words)}\n\n```text\n{_without_rules(_help_of(words))}\n```\n")
    return "\n".join(parts)


def _help_of(words: list[str]) -> str:
    printed = io.StringIO()  # a stream without an encoding: groups are drawn in ASCII
    with redirect_stdout(printed), suppress(SystemExit):
        cli.main([*words, "--help"])
    return printed.getvalue()


def _without_rules(text: str) -> str:
    """The help without the rules that are drawn under the names of its groups of flags."""
    lines = [re.sub(r"^ (?=\S)(.*)", r"\1:", line.rstrip()) for line in text.splitlines() if not re.fullmatch(r" *-{5,} *", line)]
    return "\n".join(lines).strip()


@contextmanager
def _plain_terminal() -> Iterator[None]:
    """Help of a fixed width, without colours, whatever terminal this is."""
    before = dict(os.environ)
    os.environ.pop("FORCE_COLOR", None)
    os.environ.update(COLUMNS=str(WIDTH), NO_COLOR="1", TERM="xterm")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
