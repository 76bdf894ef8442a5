"""Attributes: standardised targets, several heads, a stated combination that is saved as the one reward; by hand and in a run."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

import assay
from assay.commands.train import train_all
from assay.data.cases import Case
from assay.data.tokens.answer_lists import attributes_in, attributes_of, rated_answers
from assay.errors import ArtifactError
from assay.models.attribute_heads import AttributeHeads, read_attribute_heads
from assay.models.saved.artifact import verify_digest
from assay.models.saved.plain import plain_scores
from assay.records import Completion, as_messages
from assay.run_files import read_description, read_report
from assay.scorers.local import load_local
from assay.training.prepare import prepare
from assay.training.rows.rating_figures import rating_metrics
from assay.training.run import train
from assay.training.settings import Regularization, TrainConfig
from assay.training.tasks.attributes import combination
from tiny import toy_pairs
from toy_runs import config_of

NAN = math.nan


def case(**attributes: tuple[float, ...]) -> Case:
    num = len(next(iter(attributes.values())))
    return Case(prompt=as_messages("q"), candidates=("a", "b", "c")[:num], gold=(0.0,) * num, attributes=attributes)


def test_the_ratings_of_a_case_with_those_that_are_missing():
    found = rated_answers(
        case(helpfulness=(1.0, NAN, 3.0), verbosity=(NAN, NAN, 2.0), other=(9.0, 9.0, 9.0)), ["helpfulness", "verbosity"]
    )
    assert not isinstance(found, str)
    completions, values = found
    assert [completion.response for completion in completions] == ["a", "c"]
    np.testing.assert_array_equal(values, [[1, NAN], [3, 2]])
    assert rated_answers(case(other=(1.0,)), ["helpfulness"]) == "none of helpfulness"
    assert attributes_in(iter([(1, case(a=(1.0, NAN))), (2, "not JSON"), (3, case(a=(1.0,), b=(2.0,)))])) == {"a": 2, "b": 1}


def test_a_score_is_an_attribute_unless_it_is_one_of_them():
    scored = replace(case(helpfulness=(1.0,)), gold=(3.0,), is_scored=True)
    assert attributes_of(scored) == {"score": (3.0,), "helpfulness": (1.0,)}
    assert attributes_of(replace(scored, gold=(1.0,))) == {"helpfulness": (1.0,)}


def test_the_reward_is_the_stated_combination_in_the_units_of_the_data():
    """Heads (1, 0) and (1, 1) of scales 2 and 4, weights 1 and -0.5: 2 x (1, 0) - 2 x (1, 1) = (0, -2)."""
    heads = AttributeHeads(
        names=("good", "long"),
        weight_AD=np.array([[1, 0], [1, 1]], np.float32),
        mean_A=np.array([3.0, 1.0]),
        scale_A=np.array([2.0, 4.0]),
        combination_A=np.array([1.0, -0.5]),
    )
    assert heads.reward_D.tolist() == [0, -2]

    class States:
        def states(self, completions):
            return np.array([[1, 2]] * len(completions), np.float32)

    predicted = heads.predict(States(), [Completion(text="a")])
    assert {name: values.tolist() for name, values in predicted.items()} == {"good": [5.0], "long": [13.0]}


def test_variance_explained_by_hand():
    """Ratings 0, 2, 4 about a mean of 1: 1 + 1 + 9; predicted 1, 2, 3: errors 1 + 0 + 1."""
    explained, correlation = rating_metrics(
        "x", np.array([0, 2, 4, NAN]), np.array([1.0, 2, 3, 3]), np.arange(4).astype(np.uint64), 1.0, seed=0
    )
    assert explained.value == pytest.approx(1 - 2 / 11)
    assert (explained.n_scored, explained.n) == (3, 4)
    assert correlation.value == pytest.approx(1.0)
    (unknown,) = rating_metrics("x", np.array([1.0, 1.0]), np.array([1.0, 2.0]), np.zeros(2, np.uint64), 1.0, seed=0)
    assert math.isnan(unknown.value)


def rows(num: int) -> list[dict]:
    """As in HelpSteer, one answer a line: helpful when it says water, long when it says so; some ratings are missing."""
    found = []
    for i in range(num):
        helpful, long = i % 2, (i // 2) % 2
        words = f"It is {'water' if helpful else 'lazy'} {'in the story ' * 3 if long else ''}{i % 7}"
        rating = {"helpfulness": 4 * helpful, "verbosity": 1 + 2 * long if i % 5 else None}
        found.append({"prompt": f"Tell me about egg {i // 4}", "response": words, **rating})
    return found


def rated_config(tmp_path: Path, num: int = 240, **settings) -> TrainConfig:
    file = tmp_path / "rated.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(num)))
    return config_of(tmp_path, [], **{"kind": "attributes:helpfulness=1,verbosity=-0.5", "data": (str(file),), **settings})


@pytest.mark.slow
@pytest.mark.parametrize(("params", "epochs"), [("head", 20), ("blocks:2", 6)])
def test_a_run_learns_the_attributes_and_saves_a_plain_model_of_their_combination(tmp_path, params, epochs, capsys):
    settings = {"params": params, "epochs": epochs, "learning_rate": 1e-2 if params == "head" else 1e-3, "depth": "full"}
    config = rated_config(tmp_path, regularization=Regularization(weight_decay=0.1), **settings)
    out = train_all(config)
    printed = " ".join(capsys.readouterr().err.split())
    assert "240 rows -> 240 cases" in printed
    assert "reward +1 x helpfulness -0.5 x verbosity, up to a constant" in printed
    test = read_report(out, "attributes")
    assert test is not None
    assert test.metric("helpfulness: variance explained").value > 0.5
    assert test.metric("verbosity: correlation").value > 0.7
    pairs = read_report(out, "test")  # answers to one prompt, by their helpfulness
    assert pairs is not None
    assert pairs.metric("accuracy").value > 0.8
    training = read_report(out, "training")
    assert training is not None
    assert training.metric("reload check: largest difference").value < 1e-4

    artifact = out / "artifact"
    description = read_description(artifact)
    assert [entry["name"] for entry in description["attributes"]] == ["helpfulness", "verbosity"]
    assert [entry["weight"] for entry in description["attributes"]] == [1.0, -0.5]
    plain = AutoModelForSequenceClassification.from_pretrained(artifact)
    assert plain.config.num_labels == 1
    texts = [f"It is {word} {more}3" for word in ("water", "lazy") for more in ("", "in the story " * 3)]
    completions = [Completion(messages="Tell me about egg 999", response=text) for text in texts]
    rewards = assay.load(artifact, dtype="float32").score(completions).value
    assert rewards.argmax() == 0  # helpful and short
    assert rewards.argmin() == 3
    np.testing.assert_allclose(rewards, plain_scores(artifact, completions), atol=1e-4)
    heads = read_attribute_heads(artifact)
    predicted = heads.predict(load_local(artifact, dtype="float32"), completions)
    combined = predicted["helpfulness"] - 0.5 * predicted["verbosity"]
    np.testing.assert_allclose(combined - combined.mean(), rewards - rewards.mean(), atol=1e-3)
    assert predicted["helpfulness"][0] > predicted["helpfulness"][2] + 1


def test_without_weights_the_attributes_of_the_data_are_named(tmp_path):
    config = rated_config(tmp_path, num=20, kind="attributes")
    told = r"helpfulness \(20 answers\), verbosity \(16 answers\): for example --kind attributes:helpfulness=1,verbosity=1"
    with pytest.raises(ValueError, match=told):
        train(config)


def test_one_mean_for_several_attributes_is_refused(tmp_path):
    config = rated_config(tmp_path, num=40, kind="attributes:helpfulness=1", params="head:mean")
    with pytest.raises(ValueError, match="--params head:mean reads the mean for one reward, attributes are several"):
        train(config)


def test_an_attribute_that_says_nothing_is_refused(tmp_path):
    config = rated_config(tmp_path, num=40, kind="attributes:helpfulness=1,wit=1")
    with pytest.raises(ValueError, match="wit stands in none of the"):
        train(config)


@pytest.mark.parametrize("words", ["helpfulness", "helpfulness=x", "a=1,a=2", "=1", "a=nan", "a=0,b=0"])
def test_weights_that_are_none_are_refused(tmp_path, words):
    with pytest.raises(ValueError, match=f"--kind attributes:{words}: "):
        combination(config_of(tmp_path, [], kind=f"attributes:{words}", data=("x.jsonl",)))


def test_nothing_stands_behind_the_other_kinds(tmp_path):
    for kind in ("pairs", "rankings"):
        with pytest.raises(ValueError, match=f"--kind {kind}:a=1: nothing stands behind {kind}"):
            train(config_of(tmp_path, [], kind=f"{kind}:a=1", data=("x.jsonl",)))


def test_the_heads_are_part_of_the_digest(tmp_path, trained_run):
    artifact = train(rated_config(tmp_path, num=60))
    verify_digest(artifact)
    heads = load_file(artifact / "attributes" / "heads.safetensors")
    assert heads["heads"].shape == (2, 32)
    save_file({"heads": heads["heads"] + torch.ones(1)}, artifact / "attributes" / "heads.safetensors")
    with pytest.raises(ArtifactError, match="the weights were changed"):
        verify_digest(artifact)
    with pytest.raises(ValueError, match="was not trained on attributes"):
        read_attribute_heads(trained_run.path / "artifact")


@pytest.mark.slow
def test_from_a_model_of_pairs_the_heads_are_fresh_and_it_is_said(tmp_path, capsys):
    (tmp_path / "pairs").mkdir()
    earlier = config_of(tmp_path / "pairs", toy_pairs(40))
    train(earlier)
    config = rated_config(tmp_path, num=80, base=None, init_from=earlier.out, params="head")
    model = prepare(config).model
    assert (model.outputs, model.head.out_features) == ("attributes", 2)
    printed = " ".join(capsys.readouterr().err.split())
    assert "has outputs 1 of members, --kind attributes:helpfulness=1,verbosity=-0.5 trains 2 of attributes" in printed
