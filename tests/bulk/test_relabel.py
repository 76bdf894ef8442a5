"""A teacher's labels on pairs that are there: what is written, what is counted, and a scalar model that is trained on them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from assay.bulk.label import INCONSISTENT, TIED
from assay.bulk.relabel import GIVEN, relabel
from assay.cli import main
from assay.commands.data.label import Config
from assay.data.pairs import read_pairs, write_pairs
from assay.data.tokens.table import PairTable
from assay.generation.policy import Policy
from assay.messages import Message
from assay.records import PreferencePair, Rewards
from assay.scorers.judges.pairwise import Comparison
from assay.scorers.wrappers.calibrated import Calibrated, fit_calibration
from assay.training.objective import Objective, pair_losses
from tiny import save_tiny_base, toy_pairs


class Water:
    """A strong and slow teacher: 2 for water, 0 for anything else; what says nothing has no reward."""

    fingerprint, scope, tolerance = "water", "global", 0.0

    def score(self, completions):
        return Rewards(value=[np.nan if one.response == "?" else 2.0 * ("water" in one.response) for one in completions])


class Swayed:
    """A judge of pairs that is unsure, and of two words of one length says what their place says."""

    fingerprint, scope, tolerance = "swayed", "prompt", 0.0

    def score(self, completions):
        return Rewards(value=np.full(len(completions), np.nan, np.float32))

    def comparisons(self, pairs):
        return [self.of(len(first.response) - len(second.response)) for first, second in pairs]

    def of(self, gap):
        p = 0.7 if gap > 0 else 0.2
        return Comparison(p, p - 0.1, p - 0.05, True) if gap else Comparison(0.9, 0.1, 0.5, False)


def test_the_teacher_s_probability_is_the_label_and_its_choice_is_chosen():
    message = Message(role="assistant", content="no", reasoning="hm")
    pairs = [
        PreferencePair(prompt="q", chosen="water", rejected="lazy", id="a", source="s", weight=2.0, tags={"axis": "x"}),
        PreferencePair(prompt="q", chosen="no", rejected="water", chosen_message=message, preference=0.9, id="b"),
        PreferencePair(prompt="p", chosen="one", rejected="two"),
        PreferencePair(prompt="p", chosen="?", rejected="two"),
    ]
    found = relabel(Water(), pairs)
    same, turned = found.pairs
    p = 1 / (1 + math.exp(-2))
    assert (same.chosen, same.rejected, same.id, same.source, same.weight) == ("water", "lazy", "a", "s", 2.0)
    assert [same.preference, turned.preference] == pytest.approx([p, p])
    assert same.margin == turned.margin == 2.0
    assert same.tags == {"axis": "x", "judge": "water", GIVEN: "1"}
    assert (turned.chosen, turned.rejected, turned.rejected_message) == ("water", "no", message)
    assert turned.tags[GIVEN] == "0.1"  # of the answer that is chosen now
    assert found.unwritten == {TIED: 1, "no reward": 1}
    assert (found.agreement.value, found.agreement.n_scored) == (0.5, 2)
    assert "4 pairs judged" in found.summary()
    assert {pair.preference for pair in relabel(Water(), pairs, hard=True).pairs} == {1.0}


def test_a_judge_of_pairs_is_asked_in_both_orders():
    pairs = [PreferencePair(prompt="q", chosen=a, rejected=b) for a, b in (("aaa", "b"), ("a", "bbb"), ("aa", "bb"))]
    found = relabel(Swayed(), pairs)
    assert [(pair.chosen, round(pair.preference, 3)) for pair in found.pairs] == [("aaa", 0.65), ("bbb", 0.85)]
    assert found.unwritten == {INCONSISTENT: 1}


def test_a_calibrated_teacher_gives_its_calibrated_probability():
    rng = np.random.default_rng(0)
    margins_P = rng.normal(size=400) * 3
    labels_P = (rng.random(400) < 1 / (1 + np.exp(-margins_P / 4))).astype(np.float64)  # far less sure than its margins
    calibration = fit_calibration(margins_P, preference_P=labels_P, split="made up", scorer="water")
    (pair,) = relabel(Calibrated(scorer=Water(), calibration=calibration), toy_pairs(1)).pairs
    assert pair.preference == pytest.approx(float(calibration.probability(np.array([2.0]), "temperature")[0]))
    assert pair.preference < 0.75


def test_soft_labels_of_a_scalar_teacher_are_learnt_where_the_student_has_its_margins():
    """The loss of a pair is least at the teacher's own margin: the student learns how sure it is, not only what it prefers."""
    margins_P = torch.tensor([0.3, -1.2, 4.0], requires_grad=True)
    labels_P = torch.sigmoid(margins_P.detach())
    pair_losses(margins_P, torch.zeros(3), labels_P, None, Objective()).sum().backward()
    torch.testing.assert_close(margins_P.grad, torch.zeros(3), atol=1e-6, rtol=0)


def test_a_student_is_trained_on_them_by_two_commands(tmp_path, monkeypatch, capsys):
    """The labels that were there are wrong throughout: what the student knows, it knows from the teacher."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "teacher.py").write_text("def water(items):\n    return [1.5 * ('water' in item.response) for item in items]\n")
    wrong = [replace(pair, chosen=pair.rejected, rejected=pair.chosen) for pair in toy_pairs(120)]
    write_pairs(tmp_path / "pairs.jsonl", wrong)
    save_tiny_base(tmp_path / "base")
    assert main(["data", "label", "pairs.jsonl", "--out", "soft.jsonl", "--judge", "rule:teacher:water", "--dry-run"]) == 0
    assert not (tmp_path / "soft.jsonl").exists()
    assert main(["data", "label", "pairs.jsonl", "--out", "soft.jsonl", "--judge", "rule:teacher:water"]) == 0
    told = " ".join(capsys.readouterr().err.split())
    assert "120 pairs judged" in told
    assert "with 0.000 [0.000, 0.0" in told  # of the labels that were there
    kept = json.loads((tmp_path / "soft.jsonl.label.json").read_text())
    assert (kept["pairs written"], kept["agreement with the labels"], kept["hard"]) == (120, 0.0, False)
    assert {round(pair.preference, 4) for pair in read_pairs("soft.jsonl")} == {0.8176}
    words = ["train", "--data", "soft.jsonl", "--base", "base", "--out", "run", "--params", "head", "--depth", "full"]
    assert main([*words, "--dtype", "float32", "--device", "cpu", "--reference", "0"]) == 0
    table = PairTable(tmp_path / "run" / "cache" / "tokens.arrow")
    assert set(table.preference.round(4)) == {np.float32(0.8176)}
    report = json.loads((tmp_path / "run" / "eval" / "test.json").read_text())
    (right,) = [metric for metric in report["metrics"] if metric["name"] == "accuracy"]
    assert right["value"] > 0.9


def test_what_cannot_be_meant_is_refused(tmp_path, capsys):
    write_pairs(tmp_path / "pairs.jsonl", toy_pairs(2))
    words = ["data", "label", str(tmp_path / "pairs.jsonl"), "--judge", "rule:json:dumps"]
    with pytest.raises(ValueError, match=r"pairs are written as .jsonl or .jsonl.gz"):
        Config(prompts="pairs.jsonl", out=tmp_path / "soft.csv", judge="helpfulness")
    with pytest.raises(ValueError, match="--temperature and --max-tokens are of a policy that answers: give --policy"):
        Config(prompts="pairs.jsonl", out=tmp_path / "soft.jsonl", judge="helpfulness", k=2)
    with pytest.raises(ValueError, match="--hard is of pairs that are labelled"):
        Config(prompts="p.jsonl", out=tmp_path / "soft.jsonl", judge="helpfulness", policy=Policy(policy="m"), hard=True)
    with pytest.raises(ValueError, match="--policy-url and --policy-budget are of --policy"):
        Policy(policy_url="http://127.0.0.1:1/v1")
    assert main([*words, "--out", str(tmp_path / "soft.jsonl"), "--judge-model", "m"]) == 2
    assert "is no rubric" in " ".join(capsys.readouterr().err.split())
