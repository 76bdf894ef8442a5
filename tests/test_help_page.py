"""docs/commands.md says what the commands' own help says."""

from __future__ import annotations

import runpy
from pathlib import Path

from assay.cli import COMMANDS

ROOT = Path(__file__).parents[1]


def test_the_help_page_is_up_to_date():
    shown = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert shown == runpy.run_path(str(ROOT / "dev" / "write_help_page.py"))["page"](), "run make help-page"
    for group, commands in COMMANDS.items():
        for name in commands:
            assert f"\n## assay {f'{group} {name}'.strip()}\n" in shown
