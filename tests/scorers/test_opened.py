"""The one door: what a name opens, what is known of it, and prompts that were trained on."""

from __future__ import annotations

import numpy as np
import pytest

from assay.data.cases import Case
from assay.data.split import prompt_hashes
from assay.errors import DataError
from assay.evaluation.suites.answers import score_cases
from assay.messages import as_messages
from assay.records import Completion, PreferencePair, Rewards, concatenate
from assay.run_files import CALIBRATION_PROMPTS_FILE, PROMPTS_FILE
from assay.scorers.base import ThreadSafe, capability
from assay.scorers.baselines import LengthScorer
from assay.scorers.ensemble import Ensemble, HasMembers, members_of
from assay.scorers.opened import OVERLAP, open_scorer, overlap, refuse_seen
from assay.scorers.wrappers.counted import Counted
from assay.scorers.wrappers.scaled import Scaled
from tiny import toy_pairs


def test_a_run_opens_to_its_artifact_and_keeps_its_reports(trained_run):
    opened = open_scorer(trained_run.path)
    assert opened.artifact == trained_run.path / "artifact"
    assert opened.report_home(None) == trained_run.path
    assert opened.name == trained_run.path.name
    assert "scorer" not in opened.__dict__, "nothing is loaded before it is asked for"


@pytest.mark.parametrize("spec", ["rule:json:dumps", "http://127.0.0.1:1/t/secret", "vllm+http://127.0.0.1:1"])
def test_what_is_no_directory_needs_out_and_says_what_it_lacks(spec, tmp_path):
    opened = open_scorer(spec)
    assert opened.artifact is None
    assert "secret" not in opened.label
    with pytest.raises(ValueError, match="give --out DIRECTORY"):
        opened.report_home(None)
    assert opened.report_home(tmp_path) == tmp_path
    with pytest.raises(ValueError, match=r"states .* needs the model's own files"):
        opened.need_artifact("states of the model")
    with pytest.raises(ValueError, match="has no data of its own: give --data"):
        opened.own_pairs("test")


def test_a_name_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is neither an artifact"):
        open_scorer(tmp_path / "nothing")


def test_prompts_that_were_trained_on_are_refused_warned_of_or_unknown(trained_run, tmp_path, capsys):
    (tmp_path / "reward.json").write_text((trained_run.path / "artifact" / "reward.json").read_text())
    pairs = toy_pairs(6)
    opened = open_scorer(tmp_path)
    unknown = overlap(opened, pairs, "six pairs")
    assert "does not say what it was trained on" in unknown.fact
    assert "does not say" in capsys.readouterr().err
    refuse_seen(opened, pairs, "six pairs")  # nothing is known, so nothing is refused

    np.save(tmp_path / PROMPTS_FILE, prompt_hashes(pairs[:2]))
    np.save(tmp_path / CALIBRATION_PROMPTS_FILE, prompt_hashes(pairs[3:4]))
    seen = overlap(opened, pairs, "six pairs")
    assert seen.is_seen.tolist() == [True, True, False, False, False, False]
    assert (seen.findings[0].name, seen.findings[0].value) == (OVERLAP, 2)
    assert [finding.failure for finding in seen.findings] == [None, "calibration"]
    with pytest.raises(DataError, match="2 of the 6 prompts of six pairs are also in the training set"):
        refuse_seen(opened, pairs, "six pairs")
    refuse_seen(opened, pairs[2:], "four pairs")

    assert not overlap(open_scorer("rule:json:dumps"), pairs, "six pairs").is_seen.any()


class WithColumns:
    """Every column there is, by the length of the answer."""

    fingerprint, scope, tolerance = "columns", "global", 0.0

    def __init__(self, offset: float = 0.0) -> None:
        self.offset, self.fingerprint = offset, f"columns {offset}"

    def score(self, completions):
        sizes = [len(completion.response) for completion in completions]
        return Rewards(
            value=np.array(sizes, float) + self.offset,
            std=np.ones(len(sizes)),
            steps=tuple(np.arange(size) + self.offset for size in sizes),
            text=tuple(f"{size} characters" for size in sizes),
        )


def test_std_steps_and_text_pass_through_wrappers_and_ensembles():
    items = [Completion(messages="q", response="x" * n) for n in (2, 3)]
    told: list[int] = []
    counted = Counted(scorer=WithColumns(), advance=told.append).score(items)
    assert told == [2]
    assert counted.std.tolist() == [1, 1]
    assert [steps.tolist() for steps in counted.steps] == [[0, 1], [0, 1, 2]]
    assert counted.text == ("2 characters", "3 characters")
    scaled = Scaled(scorer=WithColumns(), factor=2.0).score(items)
    assert scaled.steps[1].tolist() == [0, 2, 4]
    joint = Ensemble([WithColumns(0.0), WithColumns(1.0)]).score(items)
    assert [steps.tolist() for steps in joint.steps] == [[0.5, 1.5], [0.5, 1.5, 2.5]]
    assert joint.text[0] == "member 0: 2 characters\n\nmember 1: 2 characters"
    mixed = Ensemble([WithColumns(), LengthScorer()]).score(items)
    assert mixed.steps is None, "a member without steps leaves none to average"
    assert mixed.text[1] == "member 0: 3 characters"


def test_concatenated_rewards_keep_each_column_that_any_part_has():
    items = [Completion(messages="q", response="ab")]
    both = concatenate([LengthScorer().score(items), WithColumns().score(items)])
    assert both.value.tolist() == [2, 2]
    assert np.isnan(both.std[0])
    assert both.std[1] == 1
    assert both.steps[0].tolist() == []
    assert both.text == (None, "2 characters")
    assert len(concatenate([])) == 0


def test_a_capability_is_found_through_wrappers_and_members_only_on_the_same_scale():
    joint = Ensemble([WithColumns(0.0), WithColumns(1.0)])
    assert capability(Counted(scorer=joint, advance=print), HasMembers) is joint
    assert members_of(Counted(scorer=joint, advance=print)) is joint
    assert members_of(Scaled(scorer=joint, factor=2.0)) is None
    assert members_of(LengthScorer()) is None
    assert capability(joint, ThreadSafe) is None


class Judge:
    """Prefers the answer that its scores do not: what it compares counts."""

    fingerprint, scope, tolerance = "judge", "prompt", 0.0

    def score(self, completions):
        assert not completions, "a scorer that compares by itself is not asked for scores"
        return Rewards(value=np.empty(0))

    def compare(self, pairs):
        return np.array([1.0 if len(pair.chosen) < len(pair.rejected) else 0.25 for pair in pairs])


def test_the_evaluator_takes_the_preferences_of_a_scorer_that_compares_by_itself():
    from assay.evaluation.evaluate import evaluate

    pairs = [PreferencePair(prompt=f"q{i}", chosen="x" * (1 if i % 4 else 9), rejected="y" * 5) for i in range(40)]
    result = evaluate(Judge(), pairs, title="judge")
    assert result.accuracy.value == 0.75
    assert result.page.facts["probabilities"] == "the scorer's own comparisons"
    assert np.isfinite(result.margins).all()
    np.testing.assert_allclose(result.margins[0], np.log(0.25 / 0.75))


def test_the_suite_evaluator_does_so_too_through_wrappers_and_scores_only_lists():
    short, long = "x", "yyyyy"
    cases = [Case(prompt=as_messages(f"p{i}"), candidates=(short, long), gold=(1.0, 0.0)) for i in range(3)]
    scored = score_cases(Counted(scorer=Judge(), advance=print), cases, skipped={2})
    assert [rewards.tolist() for rewards in scored.rewards[:2]] == [[pytest.approx(np.log(1e6), rel=1e-6), 0.0]] * 2
    assert np.isnan(scored.rewards[2]).all()
    assert scored.num_completions == 4
