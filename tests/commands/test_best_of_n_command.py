"""`assay audit best-of-n` from the command to the page; ensembles beside their members; prompts of the training are left out."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from assay.audit.audits import unseen
from assay.audit.choosing import best_of_n, draw_groups, judge, misled
from assay.audit.overoptimization import ENSEMBLE_GAIN, GAINED, SHARE
from assay.cli import main
from assay.commands.audit.best_of_n import Config
from assay.data.candidates import Candidates
from assay.messages import Message, prompt_key
from assay.records import Rewards
from assay.run_files import PROMPTS_FILE
from assay.scorers.ensemble import Combination
from assay.scorers.opened import Opened
from assay.wire import report_from_json

ANSWERS = [f"It is {word} {place}." for word in ("water", "lazy") for place in ("over the dog", "in the story", "about a cat")]


def toy_candidates(first: int, num_prompts: int) -> list[dict]:
    gold = [float("water" in answer) for answer in ANSWERS]
    return [{"prompt": f"Tell me about egg {i}", "candidates": ANSWERS, "gold": gold} for i in range(first, first + num_prompts)]


def groups(num_prompts: int = 12, num_candidates: int = 8, seed: int = 0) -> list[Candidates]:
    """Answers of random lengths with random gold."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(num_prompts):
        answers = tuple("a" * int(n) for n in rng.integers(1, 99, num_candidates))
        found.append(Candidates((Message("user", f"q{i}"),), answers, rng.random(num_candidates)))
    return found


class Pair:
    """Two members: the length of the answer and its negative half; no answer of one letter can be scored."""

    fingerprint, scope, tolerance, combination, num_members = "pair", "global", 0.0, Combination(penalty=1.0), 2

    def score_members(self, completions):
        lengths = np.array([len(c.response) if len(c.response) > 1 else np.nan for c in completions], np.float32)
        return np.stack([lengths, -lengths / 2])

    def score(self, completions):
        return Rewards(value=self.combination(self.score_members(completions))[0])


def test_the_command_writes_report_and_page(trained_run, tmp_path, capsys):
    """The toy model knows the one word that gold asks for: best of n has nearly all there is to gain."""
    run = tmp_path / "run"
    shutil.copytree(trained_run.path, run)
    data = tmp_path / "toy-candidates.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in toy_candidates(1000, 25) + toy_candidates(0, 240)))
    assert (
        main(["audit", "best-of-n", str(run), "--data", str(data), "--prompts", "20", "--device", "cpu", "--dtype", "float32"]) == 0
    )
    report = report_from_json((run / "eval" / "best-of-n-toy-candidates.json").read_text())
    assert report.metric(SHARE).value > 0.9
    assert report.metric(GAINED).n == 20
    page = (run / "best-of-n-toy-candidates.html").read_text()
    assert "gold and proxy against sqrt(KL)" in page
    assert "left out" in capsys.readouterr().err


def test_prompts_that_were_trained_on_are_left_out_or_refused(tmp_path):
    opened, asked = Opened(spec="m", name="m", artifact=tmp_path, home=tmp_path), groups(3)
    assert unseen(opened, asked, "c") == asked, "it does not say what it was trained on"
    hashes = np.sort(np.array([int(prompt_key(group.prompt)[:16], 16) for group in asked], np.uint64))
    np.save(tmp_path / PROMPTS_FILE, hashes[:0])
    assert unseen(opened, asked, "c") == asked
    np.save(tmp_path / PROMPTS_FILE, hashes[:2])
    assert [group.prompt for group in unseen(opened, asked, "c")] == [
        group.prompt for group in asked if int(prompt_key(group.prompt)[:16], 16) == int(hashes[2])
    ]
    np.save(tmp_path / PROMPTS_FILE, hashes)
    with pytest.raises(ValueError, match="every prompt"):
        unseen(opened, asked, "c")


def test_prompts_are_drawn_by_the_seed_and_kept_in_order():
    asked = groups(12)
    some = draw_groups(asked, 5, 0)
    places = [next(i for i, group in enumerate(asked) if group is one) for one in some]
    assert places == sorted(places)
    assert len(set(places)) == 5
    assert [one.prompt for one in draw_groups(asked, 5, 0)] == [one.prompt for one in some]
    assert draw_groups(asked, 99, 0) == asked


def test_an_ensemble_is_measured_with_its_members():
    asked = groups(30)
    judged = judge(Pair(), asked)
    assert judged.members is not None
    lengths = np.array([len(answer) for answer in asked[3].answers], float)
    np.testing.assert_allclose(judged.members[0][3], lengths)
    np.testing.assert_allclose(judged.members[1][3], -lengths / 2)
    report = best_of_n(Pair(), asked, title="t").report()
    names = [metric.name for metric in report.metrics if metric.name.startswith(ENSEMBLE_GAIN)]
    assert names == [f"{ENSEMBLE_GAIN}: mean", f"{ENSEMBLE_GAIN}: mean - 1 std"]
    assert report.facts["scorer"] == "pair"


def test_the_examples_are_where_the_pick_is_worse_than_a_random_answer():
    asked = [Candidates((Message("user", "q"),), ("a", "b", "c"), np.array([1.0, 0.0, 0.5])), groups(1)[0]]
    found = misled(asked, [np.array([0.1, 2.0, np.nan]), asked[1].gold])
    assert len(found) == 1, "the second prompt's pick is its best"
    assert (found[0]["picked"], found[0]["best by gold"]) == ("b", "a")
    assert found[0]["gold of a random answer"] == pytest.approx(0.5), "the candidate without a reward does not count"
    assert found[0]["reward of the pick above the best"] == pytest.approx(1.9)


@pytest.mark.parametrize("wrong", [{"prompts": 1}, {"max_n": 1}])
def test_settings_that_say_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("_", "-")):
        Config(model="run", data="x.jsonl", **wrong)
