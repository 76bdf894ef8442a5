"""Labels of counter-examples: where the line crosses zero, who shares one, and that a planted habit ends up worth nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from assay.data.pairs import write_pairs
from assay.data.probe_edits.edits import flattery
from assay.training.fits.neutral import (
    NEAR,
    SURE,
    TIE,
    Neutral,
    Rise,
    Tried,
    find_labels,
    groups_of,
    labelled,
    next_labels,
    off_neutral,
    rises_of,
    some_rows,
    with_neutral_labels,
)
from assay.training.loop import fit
from assay.training.prepare import prepare
from assay.training.rows.augment import AUGMENTED
from tiny import toy_pairs
from toy_runs import config_of


def tried(label: float, **rises: float) -> Tried:
    return Tried(dict.fromkeys(rises, label), {habit: Rise(rise, 0.1, 10) for habit, rise in rises.items()})


def test_the_next_label_lies_where_the_line_through_both_sides_crosses_zero():
    two = [tried(1.0, a=-1.0, b=-0.2), tried(0.5, a=1.0, b=-0.1)]
    found = next_labels(two)
    assert found["a"] == pytest.approx(0.75)
    assert found["b"] == 0.5, "no rise on the other side: the label that came nearest"
    third = [*two, Tried({"a": 0.75, "b": 0.5}, {"a": Rise(0.2, 0.1, 10), "b": Rise(-0.1, 0.1, 10)})]
    assert next_labels(third)["a"] == pytest.approx(0.75 + 0.25 * 0.2 / 1.2)
    assert next_labels([tried(1.0, a=-NEAR / 2), tried(0.5, a=0.9)])["a"] == 1.0, "near enough: it is not moved"


def test_an_edit_with_many_counter_examples_has_a_label_of_its_own_and_others_share_one():
    parts = {"worthless/filler": np.arange(50), "worthless/echo": np.arange(50, 60), "worthless/flattery": np.arange(60, 72)}
    parts |= {"style/bold": np.arange(100, 110)}
    groups = groups_of(parts)
    assert {name: rows.tolist() for name, rows in groups.items()} == {
        "filler": list(range(50)),
        "other worthless edits": list(range(50, 72)),
    }, "ten of a style are too few to find a label by"
    assert list(groups_of({name: rows[:20] for name, rows in parts.items()})) == ["worthless edits"]
    assert list(groups_of({"style/bold": np.arange(20)})) == ["bold"]


def test_some_rows_are_whole_prompts():
    prompts = np.repeat(np.arange(30, dtype=np.uint64), 4)
    drawn = some_rows(np.arange(120), prompts, 50, seed=0)
    assert 44 <= len(drawn) <= 50
    assert all(np.sum(prompts[drawn] == prompt) == 4 for prompt in prompts[drawn])
    assert some_rows(np.arange(40), prompts, 50, seed=0).tolist() == list(range(40))


def test_a_warning_says_which_way_an_edit_is_off():
    found = list(
        off_neutral({"a": Rise(0.5, 0.1, 20), "b": Rise(-0.4, 0.1, 20), "c": Rise(0.5, 0.3, 20), "d": Rise(0.02, 0.0, 20)})
    )
    assert [(finding.name, finding.level) for finding in found] == [("a: not neutral", "warn"), ("b: not neutral", "warn")]
    assert ("pays for" in found[0].why, "fines" in found[1].why) == (True, True)


def praised(pairs, share: float):
    """A share of the labels go to the worse answer with praise in front; and for each third pair a contrast to set that right."""
    rng = np.random.default_rng(0)
    planted = [
        replace(pair, chosen=flattery(pair.completions()[1], rng), rejected=pair.chosen) if rng.random() < share else pair
        for pair in pairs
    ]
    contrasts = [
        replace(
            pair, rejected=flattery(pair.completions()[0], rng), preference=0.9, id=f"{pair.id}:c", tags={AUGMENTED: "flattery"}
        )
        for pair in pairs[::2]
    ]
    return planted, contrasts


def test_a_planted_habit_ends_up_worth_nothing_where_a_sure_label_fines_it(tmp_path):
    planted, contrasts = praised(toy_pairs(240), 0.25)
    config = config_of(tmp_path, [*planted, *contrasts], params="head")
    write_pairs(config.run_data.files[0], [*planted, *contrasts])
    prepared = prepare(config, split=lambda pair: "added" if AUGMENTED in pair.tags else "train")
    table = prepared.table
    added = table.rows("added")
    assert len(added) == len(contrasts)
    rows, habits = np.arange(len(table)), {"flattery": added}

    def fit_rows(run, on):
        fit(run.model, run.task, on, run.derived.loop)

    found = find_labels(prepared, rows, habits, fit_rows)
    sure, tie = (
        next(one.rises["flattery"].mean for one in found.tried if one.labels["flattery"] == label) for label in (SURE, TIE)
    )
    assert sure < -0.1 < 0.1 < tie, "a sure label fines praise, a tie leaves some of what was planted"
    assert TIE < found.labels["flattery"] < SURE
    nearest = min(abs(one.rises["flattery"].mean) for one in found.tried)
    assert nearest < min(0.1, -sure / 2, tie / 2)
    before = np.array(table.preference)
    assert labelled(prepared, habits, found.labels).table.preference[added] == pytest.approx(found.labels["flattery"])
    assert np.array_equal(table.preference, before), "the table of the run is not changed"
    assert rises_of(prepared, table.rows("train"), habits)["flattery"].num_prompts == len(np.unique(table.prompt[added]))


def test_a_run_that_is_resumed_takes_the_labels_that_it_found(tmp_path, monkeypatch):
    config = config_of(tmp_path, toy_pairs(200), params="head")
    config = replace(config, regularization=replace(config.regularization, augment="probes", augment_share=0.5))
    prepared = prepare(config)
    start = {name: value.clone() for name, value in prepared.model.state_dict().items()}
    first = with_neutral_labels(prepared)
    assert isinstance(first.neutral, Neutral)
    assert all((value == start[name]).all() for name, value in prepared.model.state_dict().items()), "it is left as it was"
    assert first.identity != prepared.identity, "other labels are another run"
    monkeypatch.setattr("assay.training.fits.neutral.find_labels", lambda *args, **kwargs: pytest.fail("looked for again"))
    again = with_neutral_labels(replace(prepared, config=replace(config, machine=replace(config.machine, resume=True))))
    assert again.neutral == first.neutral
    assert np.array_equal(again.table.preference, first.table.preference)
