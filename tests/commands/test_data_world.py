"""`assay data world` writes what the world gives, and refuses what it does not have."""

from __future__ import annotations

import pytest

from assay.cli import main
from assay.data.steps.step_rows import read_labelled_steps
from assay.recipes.worlds.first_errors import WorldSettings
from assay.recipes.worlds.relay import relay_world
from assay.recipes.worlds.tool_use import tool_world


@pytest.mark.parametrize(("name", "world"), [("relay", relay_world), ("tools", tool_world)])
def test_the_file_holds_the_world_of_its_settings(tmp_path, capsys, name, world):
    out = tmp_path / "world.jsonl"
    flags = ["--problems", "5", "--lengths", "1", "4", "--solutions", "2", "--seed", "7", "--names", "second"]
    assert main(["data", "world", name, "--out", str(out), *flags]) == 0
    settings = WorldSettings(problems=5, lengths=(1, 4), solutions=2, seed=7, names="second")
    assert list(read_labelled_steps(out)) == list(world(settings))
    assert "10 solutions of 5 prompts" in capsys.readouterr().out


def test_what_a_world_does_not_have_is_refused(tmp_path, capsys):
    out = tmp_path / "world.jsonl"
    assert main(["data", "world", "tools", "--out", str(out), "--lucky", "0.5"]) == 2
    assert main(["data", "world", "relay", "--out", str(out), "--lengths", "9"]) == 2
    assert "at most 6 passes" in capsys.readouterr().err
    assert not out.exists()
