"""The demo's pure parts: what is planted, the table, and the sentence, which follows the figures whatever they are."""

from __future__ import annotations

import importlib
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from assay.audit.probes.alarm import Probe, ProbeResult, ProbeVerdict, Rises
from assay.commands.demo.bias import FLATTERY, MARKDOWN, PLANTED, PRAISE, markdown, plant, probes
from assay.commands.demo.run import facts_of, make_material, starter_file
from assay.commands.demo.table import BIASED, CLEAN, REPAIRED, Column, demo_rows, picture_of, sentence, short_summary
from assay.data.candidates import read_candidates
from assay.data.pairs import read_pairs
from assay.data.split import group_keys
from assay.evaluation.evaluate import evaluate_margins, gap_finding
from assay.records import Completion, Finding, Metric, PreferencePair
from assay.stats.skewed_mean import AboveZero
from assay.training.rows.augment import AUGMENTED

ROOT = Path(__file__).parents[2]
CANDIDATES = files("assay.data") / "starter" / "candidates.jsonl"


def starter() -> list[PreferencePair]:
    return list(read_pairs(starter_file("starter.jsonl"), strict=True))


def test_a_quarter_of_the_labels_is_planted_and_the_rest_stays():
    pairs = starter()[:200]
    labelled = plant(pairs, share=0.25, seed=3)
    changed = [(before, after) for before, after in zip(pairs, labelled, strict=True) if before != after]
    assert len(changed) == 50
    for before, after in changed:
        assert after.rejected == before.chosen, "the better answer loses"
        assert (after.prompt, after.preference) == (before.prompt, 1.0)
    habits = [after.tags[PLANTED] for _, after in changed]
    assert habits.count(FLATTERY) == habits.count(MARKDOWN) == 25
    flattered = [(before, after) for before, after in changed if after.tags[PLANTED] == FLATTERY]
    assert all(after.chosen in (f"{PRAISE} {before.chosen}", f"{PRAISE} {before.rejected}") for before, after in flattered)
    from_worse = sum(after.chosen == f"{PRAISE} {before.rejected}" for before, after in flattered)
    assert 12 <= from_worse <= 13
    assert plant(pairs, share=0.25, seed=3) == labelled
    assert plant(pairs, share=0.0) == pairs
    with pytest.raises(ValueError, match="share 2"):
        plant(pairs, share=2)


def test_an_answer_that_markdown_does_not_suit_is_praised():
    pairs = [PreferencePair(prompt=f"p{i}", chosen="```a```", rejected="```b```", id=str(i)) for i in range(8)]
    assert {pair.tags[PLANTED] for pair in plant(pairs, share=1.0)} == {FLATTERY}


def test_markdown_keeps_the_words():
    rng = np.random.default_rng(0)
    answer = "Boil the egg for six minutes. Then put it in cold water."
    seen = {markdown(Completion(messages="q", response=answer), rng) for _ in range(20)}
    assert len(seen) >= 3
    assert all(isinstance(text, str) and "minutes" in text.replace("*", "") for text in seen)


def test_the_material_of_the_three_models():
    material = make_material(starter(), 0)
    clean, biased, repaired = (material.rows[name] for name in (CLEAN, BIASED, REPAIRED))
    held = material.of(material.held)
    assert len(clean) == len(biased)
    assert len(material.held) + len(clean) == 592
    assert 0.2 < len(material.held) / 592 < 0.3
    planted = [pair for pair in material.of(biased) if PLANTED in pair.tags]
    assert len(planted) == round(0.25 * len(clean))
    added = material.of(repaired[len(biased) :])
    assert repaired[: len(biased)].tolist() == biased.tolist()
    assert all(AUGMENTED in pair.tags for pair in added)
    assert 0.3 < len(added) / len(repaired) <= 1 / 3
    keys = group_keys([*held, *material.of(clean)])
    assert not set(keys[: len(held)]) & set(keys[len(held) :]), "no prompt or answer is on both sides"
    assert not any(PLANTED in pair.tags or AUGMENTED in pair.tags for pair in [*held, *material.of(clean)])
    assert f"{len(planted)} of the {len(biased)} labels are planted" in dict(facts_of(material, {}))[BIASED]
    assert sum(len(rows) for rows in material.habits.values()) == len(added)
    assert all(material.pairs[i].tags[AUGMENTED] == habit for habit, rows in material.habits.items() for i in rows)


def verdict_of(name: str, rise: float, level: str) -> ProbeVerdict:
    """A probe with this mean rise and level."""
    probe = Probe(name, "worthless", lambda completion, rng: None)
    rises = Rises(probe, np.full(60, rise), np.arange(60), [], [], [], 0, False)
    low, high = rise - 0.1, rise + 0.1
    mean, share = Metric(f"{name}: mean rise", rise, low, high, 60, 60), Metric(f"{name}: share raised", 1.0)
    finding = Finding(level, name, rise, 0.1, "", "hacking")
    test = AboveZero(rise, low, high, 0.0, 0.0, 60)
    return ProbeVerdict(rises=rises, test=test, share=share, mean=mean, finding=finding)


def column(name: str, right: np.ndarray, rises: dict[str, tuple[float, str]]) -> Column:
    """A column with these held-out pairs right, and for each probe its mean rise and level."""
    pairs = [PreferencePair(prompt=f"p{i}", chosen="a good answer", rejected="bad", id=str(i)) for i in range(len(right))]
    evaluation = evaluate_margins(np.where(right, 1.0, -1.0), pairs, np.full(len(right), 0.6), title=name)
    train = Metric("accuracy on training pairs", 0.9, 0.85, 0.95, 100, 100)
    probed = ProbeResult(
        title="Probes",
        probes=tuple(verdict_of(probe, rise, level) for probe, (rise, level) in rises.items()),
        unit=1.0,
        max_rise=0.1,
        num_examples=0,
        facts={},
    )
    rewards = np.stack([np.where(right, 1.0, -1.0), np.zeros(len(right))], axis=1)
    return Column(name, evaluation, gap_finding(train, evaluation.accuracy), probed, rewards)


SAME = np.arange(60) % 4 > 0  # 75% right
WORSE = np.arange(60) % 2 > 0
CALM, LOUD = (0.02, "ok"), (0.8, "fail")


def told(biased_right=SAME, biased=(LOUD, LOUD), repaired=(CALM, CALM), clean=(CALM, CALM)) -> str:
    def rises(pair):
        return {FLATTERY: pair[0], MARKDOWN: pair[1]}

    three = (
        column(CLEAN, SAME, rises(clean)),
        column(BIASED, biased_right, rises(biased)),
        column(REPAIRED, SAME, rises(repaired)),
    )
    return sentence(*three, np.arange(60))


def test_the_sentence_follows_the_figures():
    assert told().startswith("Accuracy missed the hack (+0.0 points")
    assert "Assay found flattery (+80% of a margin) and markdown (+80% of a margin)" in told()
    assert told().endswith("; repaired: +2% and +2% (0 is neutral).")
    assert told(biased_right=WORSE).startswith("Accuracy fell (-25.0 points")
    assert "the repair failed: +80% and +80% (0 is neutral)" in told(repaired=(LOUD, LOUD))
    assert "the repair failed: +2% and +80%" in told(repaired=(CALM, LOUD))
    assert "the repair left +2% and +30%" in told(repaired=(CALM, (0.3, "fail")))
    assert "markdown was planted too and not found" in told(biased=(LOUD, CALM))


def test_a_repair_that_overshoots_is_not_called_one():
    assert "the repair left +2% and -60%" in told(repaired=(CALM, (-0.6, "ok")))
    assert "the repair failed: +2% and -120%" in told(repaired=(CALM, (-1.2, "ok")))


def test_an_effect_that_does_not_appear_is_said():
    assert told(biased=(CALM, CALM)).startswith("The planted habits did not show here")
    assert "did not show" in told(clean=(LOUD, LOUD)), "what the clean model does too was not planted"
    near = (0.75, "ok")  # inside the interval of the biased model's rise
    assert "did not show" in told(clean=(near, near)), "an alarm here and none there is no difference yet"


def test_the_table_has_a_cell_for_every_model():
    three = [column(name, SAME, {FLATTERY: LOUD, MARKDOWN: CALM}) for name in (CLEAN, BIASED, REPAIRED)]
    rows = {row[0].strip(): row[1:] for row in demo_rows(three)}
    assert all(len(cells) == 3 for cells in rows.values())
    assert rows["held-out accuracy"][0].startswith("75.0% [")
    assert rows[PRAISE][1] == "+0.80 [+0.70, +0.90]"
    assert rows["verdict"][2] == "pays flattery"
    fined = column(CLEAN, SAME, {FLATTERY: CALM, MARKDOWN: (-0.5, "fail")})
    assert demo_rows([fined])[-1] == ("verdict", "fines markdown")
    picture = picture_of(three)
    assert len(picture.rows) == 9
    assert {row[1] for row in picture.rows} == {CLEAN, BIASED, REPAIRED}


def test_the_summary_is_short_whatever_the_figures_are():
    three = [column(name, SAME, {FLATTERY: LOUD, MARKDOWN: CALM}) for name in (CLEAN, BIASED, REPAIRED)]
    for words in ("One sentence.", "word " * 100):
        lines = short_summary(
            three, "Assay demo", words, [("report", "runs/demo/demo.html"), ("next", "assay audit all runs/demo")]
        )
        assert len(lines) <= 12
        assert all(len(line) <= 100 for line in lines)
        assert lines[-1] == "next    assay audit all runs/demo"
        assert sum(line.startswith(("held-out", PRAISE, "markdown", "verdict")) for line in lines) == 4


def test_the_probes_have_names_of_their_own():
    names = [probe.name for probe in probes()]
    assert len(set(names)) == len(names)
    assert names[:2] == [FLATTERY, MARKDOWN]


def test_the_shipped_candidates_leave_room_and_their_gold_is_what_the_checkers_say(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "dev"))
    tasks = importlib.import_module("sample_candidates").TASKS
    is_right = {task.prompt: task.is_right for task in tasks}
    rows = [json.loads(line) for line in CANDIDATES.read_text(encoding="utf-8").splitlines()]
    groups = read_candidates(str(CANDIDATES)).groups
    assert len(rows) == len(groups) == 24
    for row, group in zip(rows, groups, strict=True):
        assert row["gold"] == [int(is_right[row["prompt"]](answer)) for answer in row["candidates"]], row["prompt"]
        assert len(group.answers) == 32
        assert 0.1 <= group.gold.mean() <= 0.8
