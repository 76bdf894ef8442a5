"""Ranked lists as lists: the loss and the figures by hand, and a run from a file to a model that knows the order."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import assay
from assay.commands.train import train_all
from assay.data.cases import Case
from assay.data.pairs import read_pairs
from assay.data.tokens.answer_lists import ranking_of
from assay.errors import DataError
from assay.records import as_messages
from assay.run_files import read_description, read_report
from assay.scorers.baselines import kept_bag_of_words
from assay.training.objective import Objective
from assay.training.run import train
from assay.training.settings import Regularization
from assay.training.tasks.rankings import accuracies, list_loss, list_losses, lists_of
from toy_runs import config_of

WORDS = ("lazy", "story", "cat", "water")  # from worst to best


class _Table:
    """Two lists: three answers of ranks 0, 1, 1, and two of ranks 0, 1."""

    values = np.array([[0], [1], [1], [0], [1]], np.float32)
    num_reward_positions = np.array([3, 2])

    def places(self, rows):
        return np.concatenate([[[0, 1, 2], [3, 4]][row] for row in rows])


def test_lists_are_laid_out_with_what_is_below_each_answer():
    lists = lists_of(_Table(), np.array([1, 0]))
    assert lists.index_PK.tolist() == [[0, 1, 0], [2, 3, 4]]
    assert lists.present_PK.tolist() == [[True, True, False], [True, True, True]]
    assert lists.below_PK.tolist() == [[1, 3, 3], [1, 3, 3]]
    assert np.argwhere(lists.above_PKK).tolist() == [[0, 0, 1], [1, 0, 1], [1, 0, 2]]


def test_the_loss_and_the_accuracy_of_lists_by_hand():
    lists = lists_of(_Table(), np.array([0, 1]))
    rewards = torch.tensor([math.log(2), 0.0, 0.0, -1.0, 1.0])
    chosen_of_three, chosen_of_two = math.log(4 / 2), math.log1p(math.exp(2))
    torch.testing.assert_close(list_losses(rewards, lists), torch.tensor([chosen_of_three, chosen_of_two]))
    assert accuracies(rewards.numpy(), lists).tolist() == [1.0, 0.0]
    loss = list_loss(rewards, lists, centring=0.5)
    centred = 0.5 * ((2 * math.log(2) / 3) ** 2 + 0.0)
    assert loss.total.item() == pytest.approx(chosen_of_three + chosen_of_two + centred, abs=1e-6)
    assert loss.columns.tolist() == pytest.approx([chosen_of_three + chosen_of_two, 1.0, math.log(2) / 3 + 1.0], abs=1e-6)


def case(*gold: float, **more) -> Case:
    answers = tuple(f"answer {i}" for i in range(len(gold)))
    return Case(prompt=as_messages("q"), candidates=answers, gold=gold, **more)


def test_a_case_becomes_a_ranking_in_the_order_of_gold():
    found = ranking_of(case(2.0, math.nan, 5.0, 2.0, faults={}))
    assert not isinstance(found, str)
    completions, ranks = found
    assert [completion.response for completion in completions] == ["answer 2", "answer 0", "answer 3"]
    assert ranks.tolist() == [[0], [1], [1]]
    assert ranking_of(case(1.0, 1.0)) == "no two answers of unequal rank"
    assert ranking_of(case(1.0, 0.0, faults={0: "empty"})) == "empty"


def ranked_rows(num: int) -> list[dict]:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(num):
        order = rng.permutation(len(WORDS))[: 2 + i % 3]
        answers = [f"It is {WORDS[word]} over the dog, {i % 7} of two." for word in order]
        ranks = [sorted(order.tolist(), reverse=True).index(word) for word in order]
        rows.append({"prompt": f"Tell me about egg {i}", "responses": answers, "ranks": ranks})
    return rows


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(("params", "epochs"), [("head", 20), ("head:mean", 20), ("blocks:2", 3)])
def test_a_run_learns_the_order_and_is_evaluated_as_pairs(tmp_path, params, epochs, capsys):
    file = write(tmp_path / "lists.jsonl", [*ranked_rows(200), {"prompt": "q", "responses": ["a", "b"], "ranks": [1, 1]}])
    settings = {"params": params, "epochs": epochs, "learning_rate": 1e-2 if params.startswith("head") else 1e-3, "depth": "full"}
    settings |= {"regularization": Regularization(weight_decay=0.1)}
    config = config_of(tmp_path, [], kind="rankings", data=(file,), **settings)
    out = train_all(config)
    printed = " ".join(capsys.readouterr().err.split())
    assert "201 rows -> 200 lists; 1 set aside: 1 no two answers of unequal rank (line 201)" in printed
    assert "answers in 200 rows" in printed
    training = read_report(out, "training")
    assert training is not None
    heldout = training.metric("accuracy within calibration lists")
    assert heldout.value > 0.85
    assert 0.5 < heldout.low < heldout.value  # an interval, also where every list is right
    assert kept_bag_of_words(out / "artifact") is not None
    assert training.metric("reload check: largest difference").value < 1e-4
    test = read_report(out, "test")
    assert test is not None
    assert test.metric("accuracy").value > 0.85
    assert read_description(out / "artifact")["objective"] == "plackett-luce"
    answers = [f"It is {word} over the dog, 1 of two." for word in WORDS]
    rewards = assay.load(out).score([assay.Completion(messages="Tell me about egg 999", response=text) for text in answers]).value
    assert rewards.argmin() == 0
    assert rewards.argmax() == 3


def test_a_limit_draws_whole_lists_and_the_depth_probe_reads_them(tmp_path, capsys):
    file = write(tmp_path / "lists.jsonl", ranked_rows(120))
    config = config_of(tmp_path, [], kind="rankings", data=(file,), limit=80, depth="auto")
    train_all(config)
    printed = " ".join(capsys.readouterr().err.split())
    assert "120 rows -> 120 lists; 80 of 120 lists drawn at random, whole prompts, seed 0" in printed
    assert "held-out log loss" in printed


def test_flags_of_pairs_are_refused_by_name(tmp_path):
    file = write(tmp_path / "lists.jsonl", ranked_rows(20))
    config = config_of(tmp_path, [], kind="rankings", data=(file,))
    with pytest.raises(ValueError, match="--use-margin is of pairs, and says nothing to --kind rankings"):
        train(replace(config, objective=Objective(use_margin=True)))


def test_a_file_without_lists_says_why(tmp_path):
    file = write(tmp_path / "lists.jsonl", [{"prompt": "q", "responses": ["a", "b"], "ranks": [1, 1]}] * 3)
    assert len(list(read_pairs(file))) == 3  # ties
    with pytest.raises(DataError, match=r"no list of answers is left.*\n.*3 rows -> 0 pairs.*\n.*no two answers of unequal rank"):
        train_all(config_of(tmp_path, [], kind="rankings", data=(file,)))
