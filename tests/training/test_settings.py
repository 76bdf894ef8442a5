"""What is asked for is taken, what is derived says why, and what makes no sense is refused with the value and the fix."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from assay.models.device import token_budget
from assay.training.objective import Objective
from assay.training.settings import Machine, Members, Regularization, TrainConfig, derive, parse_depth, parse_params

CPU = torch.device("cpu")


def config(**settings) -> TrainConfig:
    return TrainConfig(**{"data": ("pairs.jsonl",), "base": "org/name", "out": Path("run"), **settings})


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("auto", ("auto", 0)),
        ("full", ("full", 0)),
        ("head", ("head", 0)),
        ("head:mean", ("head", 0)),
        ("blocks:3", ("blocks", 3)),
        ("lora:8", ("lora", 8)),
        ("lora:8:2", ("lora-on-top", 8)),
    ],
)
def test_params(text, parsed):
    assert parse_params(text) == parsed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lora",
        "blocks",
        "blocks:",
        "blocks:0",
        "blocks:-1",
        "blocks:2.5",
        "full:2",
        "head:1",
        "head:last",
        "Full",
        "lora:",
        "lora:0",
        "lora:0:2",
        "lora:4:0",
        "lora:4:2:1",
        "lora-on-top",
    ],
)
def test_bad_params_name_the_forms(text):
    with pytest.raises(
        ValueError, match=r"--params .* use auto, full, head, head:mean, blocks:K with K >= 1, or lora:R with R >= 1"
    ) as caught:
        config(params=text)
    assert repr(text) in str(caught.value)


BAD = [
    ({"epochs": 0}, "--epochs 0"),
    ({"batch_pairs": -1}, "--batch-pairs -1"),
    ({"limit": 0}, "--limit 0"),
    ({"depth": "0"}, "--depth '0'"),
    ({"depth": "deep"}, "--depth 'deep'"),
    ({"base": None}, "give --base"),
    ({"init_from": Path("run")}, "give --base"),
    ({"base": None, "init_from": Path("run"), "depth": "3"}, "--depth 3 cannot be joined with --init-from"),
    ({"regularization": Regularization(replay=0.5)}, "--replay 0.5"),
    ({"params": "lora:4:1", "machine": Machine(shard=True)}, "--shard cannot be joined with --params lora:4:1"),
    ({"depth": "2/1"}, "--depth '2/1'"),
    ({"depth": "0/3"}, "--depth '0/3'"),
    ({"machine": Machine(quick=True), "depth": "3"}, "--quick says itself what is trained"),
    ({"machine": Machine(quick=True), "params": "full"}, "--quick says itself what is trained"),
    ({"machine": Machine(shard=True), "params": "head:mean"}, "--shard spreads trained layers .* --params head:mean trains none"),
    ({"members": Members(ensemble=3), "machine": Machine(shard=True)}, "--ensemble 3 cannot be joined with --shard"),
    ({"calibration": 0.0}, "--calibration 0.0"),
    ({"calibration": 0.5, "test": 0.5}, "--calibration 0.5 and --test 0.5"),
    ({"test": -0.1}, "--test -0.1"),
    ({"learning_rate": 0.0}, "--learning-rate 0.0"),
    ({"learning_rate": math.nan}, "--learning-rate nan"),
    ({"data": ()}, "--data names no file"),
]


@pytest.mark.parametrize(("settings", "named"), BAD, ids=[named for _, named in BAD])
def test_a_setting_that_makes_no_sense_is_named(settings, named):
    with pytest.raises(ValueError, match=named):
        config(**settings)


@pytest.mark.parametrize("params", ["full", "head", "blocks:2"])
def test_every_derived_value_has_its_reason_and_every_given_one_none(params):
    derived = derive(config(params=params), 1000, 576, CPU)
    assert derived.reasons.keys() == {"learning_rate", "batch_size", "epochs"}
    assert all(derived.reasons.values())
    asked = config(params=params, epochs=7, batch_pairs=5, learning_rate=2e-3, machine=Machine(batch_tokens=99))
    given = derive(asked, 1000, 576, CPU)
    assert given.reasons == {}
    loop = given.loop
    assert (loop.epochs, loop.batch_size, loop.learning_rate, loop.batch_tokens) == (7, 5, 2e-3, 99)


def test_what_is_asked_for_reaches_the_loop():
    regularization = Regularization(weight_decay=0.3, dropout=0.1, early_stopping=3)
    loop = derive(config(seed=4, machine=Machine(checkpoint_every=9), regularization=regularization), 100, 576, CPU).loop
    assert (loop.seed, loop.checkpoint_every) == (4, 9)
    assert (loop.weight_decay, loop.dropout, loop.patience, loop.evals_per_epoch) == (0.3, 0.1, 3, 4)
    assert loop.batch_tokens == token_budget(CPU)


REFUSED = [
    (Machine, {"batch_tokens": 0}, "--batch-tokens 0"),
    (Machine, {"checkpoint_every": 0}, "--checkpoint-every 0"),
    (Members, {"ensemble": 0}, "--ensemble 0"),
    (Members, {"penalty": -1.0}, "penalty -1.0"),
    (Members, {"combine": "median"}, "not 'median'"),
    (Regularization, {"dropout": 1.0}, "--dropout 1.0"),
    (Regularization, {"weight_decay": -0.1}, "--weight-decay -0.1"),
    (Regularization, {"early_stopping": -1}, "--early-stopping -1"),
    (Objective, {"label_smoothing": 0.5}, "--label-smoothing 0.5"),
    (Objective, {"loss": "flips", "flip_rate": -0.1}, "--flip-rate -0.1"),
    (Objective, {"flip_rate": 0.1}, "--loss bradley-terry: use --loss flips or rdpo"),
    (Objective, {"tie_share": 0.0}, "--tie-share 0.0"),
    (Objective, {"centring": math.nan}, "--centring nan"),
    (Objective, {"loss": "davidson", "use_margin": True}, "--use-margin cannot be joined with --loss davidson"),
]


@pytest.mark.parametrize(("group", "settings", "named"), REFUSED, ids=[named for *_, named in REFUSED])
def test_a_setting_of_a_group_that_makes_no_sense_is_named(group, settings, named):
    with pytest.raises(ValueError, match=named):
        group(**settings)


@pytest.mark.parametrize(
    ("text", "layers"), [("full", None), ("auto", None), ("20", 20), ("1/3", 10), ("1/100", 1), ("2/3", 20), ("3/3", 30)]
)
def test_depth(text, layers):
    assert parse_depth(text, 30) == layers


def test_the_head_learns_faster_than_the_backbone_and_alone_at_its_own_rate():
    full, blocks, head = (derive(config(params=params), 1000, 576, CPU).loop for params in ("full", "blocks:4", "head"))
    assert full.learning_rate < blocks.learning_rate < head.learning_rate
    for loop in (full, blocks):
        assert loop.head_learning_rate == pytest.approx(10 * loop.learning_rate)
    assert head.head_learning_rate == head.learning_rate


@pytest.mark.parametrize(("num_pairs", "batch_pairs"), [(10, 8), (300, 10), (960, 32), (1_000_000, 32)])
def test_few_pairs_make_small_steps(num_pairs, batch_pairs):
    assert derive(config(), num_pairs, 576, CPU).loop.batch_size == batch_pairs


def test_a_long_run_is_not_logged_at_every_step():
    assert derive(config(), 20_000, 576, CPU).loop.log_every == 1
    assert derive(config(), 20_001, 576, CPU).loop.log_every == 10


def test_a_configuration_is_frozen_and_has_few_fields():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().seed = 3
    assert len(dataclasses.fields(TrainConfig)) <= 25


def test_wider_bases_get_smaller_rates_but_the_head_alone_does_not():
    rates = {width: derive(config(params="blocks:2"), 1000, width, CPU).loop.learning_rate for width in (64, 576, 1152, 4608)}
    assert rates[64] == rates[576] == pytest.approx(2e-4)
    assert rates[1152] == pytest.approx(1e-4)
    assert rates[4608] == pytest.approx(2.5e-5)
    assert derive(config(params="head"), 1000, 4608, CPU).loop.learning_rate == pytest.approx(3e-3)


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ({}, "auto"),
        ({"params": "head"}, "auto"),
        ({"params": "auto"}, "auto"),
        ({"machine": Machine(quick=True)}, "1/3"),
        ({"params": "full"}, "full"),
        ({"params": "lora:4"}, "full"),
        ({"params": "full", "depth": "auto"}, "auto"),
        ({"depth": "full"}, "full"),
        ({"depth": "3"}, "3"),
        ({"base": None, "init_from": Path("run")}, "full"),
    ],
)
def test_a_depth_left_out_is_probed_where_the_trunk_is_frozen(asked, rule):
    assert TrainConfig(**{"data": ("pairs.jsonl",), "base": "base", "out": Path("run"), **asked}).depth_rule == rule
