"""`assay data world` writes what the world gives, and refuses what it does not have."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from assay.cli import main
from assay.data.pairs import read_pairs
from assay.data.steps.step_rows import read_labelled_steps
from assay.recipes.worlds.brevity import brevity_pairs
from assay.recipes.worlds.first_errors import WorldSettings
from assay.recipes.worlds.relay import relay_world
from assay.recipes.worlds.relay_pairs import PairWorldSettings, relay_pairs
from assay.recipes.worlds.tool_use import tool_world


@pytest.mark.parametrize(("name", "world"), [("relay", relay_world), ("tools", tool_world)])
def test_the_file_holds_the_world_of_its_settings(tmp_path, capsys, name, world):
    out = tmp_path / "world.jsonl"
    flags = ["--problems", "5", "--lengths", "1", "4", "--solutions", "2", "--seed", "7", "--names", "second"]
    assert main(["data", "world", name, "--out", str(out), *flags]) == 0
    settings = WorldSettings(problems=5, lengths=(1, 4), solutions=2, seed=7, names="second")
    assert list(read_labelled_steps(out)) == list(world(settings))
    assert "10 solutions of 5 prompts" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "world"), [("relay-pairs", relay_pairs), ("brevity", brevity_pairs)])
def test_worlds_of_pairs_have_a_critique_of_each_answer_beside_them(tmp_path, capsys, name, world):
    out = tmp_path / "pairs.jsonl"
    flags = ["--problems", "8", "--lengths", "1", "4", "--seed", "7", "--names", "second"]
    assert main(["data", "world", name, "--out", str(out), *flags]) == 0
    made = list(world(PairWorldSettings(pairs=8, lengths=(1, 4), seed=7, names="second")))
    truths = [{**(one.pair.ground_truth or {}), **one.columns} for one in made]
    assert list(read_pairs(out)) == [replace(one.pair, ground_truth=truth) for one, truth in zip(made, truths, strict=True)]
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["chosen_critique"] for row in rows] == [one.chosen for one in made]
    assert [row["rejected_critique"] for row in rows] == [one.rejected for one in made]
    printed = capsys.readouterr().err
    assert "8 pairs" in printed
    assert ("1 pass, wrong answer other chain: 4" in printed) == (name == "relay-pairs")


def test_what_a_world_does_not_have_is_refused(tmp_path, capsys):
    out = tmp_path / "world.jsonl"
    assert main(["data", "world", "tools", "--out", str(out), "--lucky", "0.5"]) == 2
    assert main(["data", "world", "relay", "--out", str(out), "--lengths", "9"]) == 2
    assert "at most 6 passes" in capsys.readouterr().err
    assert main(["data", "world", "brevity", "--out", str(out), "--error-rate", "0.5"]) == 2
    assert "--error-rate 0.5 goes with worlds of solutions" in capsys.readouterr().err
    assert not out.exists()
