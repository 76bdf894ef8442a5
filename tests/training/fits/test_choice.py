"""`--params auto`: what may be chosen, on what it is decided, and that what is chosen is trained as if it had been asked for."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2Model

from assay.commands.train import train_all
from assay.models.backbone import Backbone
from assay.run_files import read_description
from assay.training import prepare as prepare_module
from assay.training.fits import choice as module
from assay.training.fits.choice import Options, options
from assay.training.prepare import prepare
from assay.training.run import train
from assay.training.settings import Machine, Regularization
from assay.wire import report_from_json
from tiny import tiny_model, toy_pairs
from toy_runs import MACHINE, config_of

GPT2 = GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)


@pytest.fixture
def quickly(monkeypatch):
    """The weight decay of a head is looked for elsewhere."""
    for place in (module, prepare_module):
        monkeypatch.setattr(place, "choose_decay", lambda *arguments, **named: (1.0, "as it is"))


def asked(tmp_path, **settings):
    return config_of(tmp_path, toy_pairs(4), **{"params": "auto", "epochs": None, **settings})


def test_the_candidates_are_those_that_the_base_and_the_flags_allow(tmp_path):
    llama, gemma, gpt2 = tiny_model("llama").backbone, tiny_model("gemma").backbone, Backbone(GPT2Model(GPT2))
    assert options(asked(tmp_path, params="full"), llama) == Options(("full",))
    assert options(asked(tmp_path), llama) == Options(("head:mean", "blocks:3"))
    assert options(asked(tmp_path, depth="2"), llama) == Options(("head:mean", "blocks:1"))
    head, why = options(asked(tmp_path), gemma)
    assert head == ("head", "blocks:3")
    assert "head:mean cannot be given for Gemma3TextModel" in why
    assert options(asked(tmp_path), gpt2).params == ("head",)
    assert options(asked(tmp_path, depth="1"), llama).params == ("head:mean",)
    for settings, named in (
        ({"learning_rate": 1e-4}, "--learning-rate"),
        ({"epochs": 3}, "--epochs"),
        ({"batch_pairs": 3}, "--batch-pairs"),
        ({"regularization": Regularization(weight_decay=0.1)}, "--weight-decay"),
        ({"machine": Machine(shard=True)}, "several processes"),
        ({"kind": "rankings"}, "--kind rankings"),
    ):
        found = options(asked(tmp_path, **settings), llama)
        assert found.params == ("blocks:3",)
        assert named in found.reason


def test_a_quick_run_is_a_head_on_a_third_of_the_layers(tmp_path):
    quick = asked(tmp_path, params=module_default(), machine=Machine(quick=True))
    assert quick.depth_rule == "1/3"
    assert options(quick, tiny_model("llama").backbone).params == ("head:mean",)
    assert options(quick, tiny_model("gemma").backbone).params == ("head",)
    with pytest.raises(ValueError, match="--quick cuts the base after a third of its layers, and GPT2Model cannot be cut"):
        options(quick, Backbone(GPT2Model(GPT2)))
    assert options(replace(quick, params="head"), tiny_model("llama").backbone).params == ("head",), "as it was asked for"
    for other in ({"depth": "2"}, {"params": "blocks:2"}, {"params": "auto"}):
        with pytest.raises(ValueError, match="--quick says itself what is trained"):
            replace(quick, **other)


def test_a_quick_run_says_what_it_is_wherever_it_is_read(tmp_path, quickly, capsys):
    config = config_of(tmp_path, toy_pairs(60), params=module_default(), machine=replace(MACHINE, quick=True, reference=0))
    out = train_all(config)
    told = read_description(out / "artifact")
    assert (told["params"], told["depth"]) == ("head:mean", 2)  # a third of four layers, and the layer of the mean
    assert told["choice"]["asked"] == "quick"
    assert told["title"].endswith("a quick look")
    report = report_from_json((out / "eval" / "training.json").read_text())
    (finding,) = [finding for finding in report.findings if finding.name == "quick run"]
    assert finding.level == "warn"
    assert " ".join(capsys.readouterr().err.split()).count("a quick look: a head alone") >= 2


def module_default() -> str:
    from assay.training.settings import PARAMS

    return PARAMS


@pytest.mark.slow
@pytest.mark.parametrize("winner", ["head:mean", "blocks:2"])
def test_what_is_chosen_is_trained_as_if_it_had_been_asked_for(tmp_path, monkeypatch, quickly, winner):
    """Float32, one thread: bit for bit with blocks; a head within rounding, as its states were computed in two parts."""
    rows_seen: list[int] = []
    real_fit, real_margins = module.fit, module._held_out_margins

    def margins(candidate, table, rows, held_rows):
        rows_seen.extend([*rows, *held_rows])
        assert not set(table.prompt[rows]) & set(table.prompt[held_rows])
        right = table.preference[held_rows] - 0.5
        real_margins(candidate, table, rows, held_rows)
        return right * (2.0 if candidate.config.params == winner else 1.0)

    monkeypatch.setattr(module, "_held_out_margins", margins)
    config = config_of(tmp_path, toy_pairs(120), params="auto", epochs=None, depth="3", machine=replace(MACHINE, reference=0))
    artifact = train(config)
    assert module.fit is real_fit
    told = read_description(artifact)
    assert told["params"] == winner
    assert [one["params"] for one in told["choice"]["tried"]] == ["head:mean", "blocks:2"]
    kept = json.loads((config.out / "config.json").read_text())
    assert kept["config"]["params"] == winner
    assert kept["choice"] == told["choice"]
    report = report_from_json((config.out / "eval" / "training.json").read_text())
    (table,) = [table for table in report.tables if table.title == "what was tried for --params auto"]
    assert [row[0] for row in table.rows] == ["head:mean", "blocks:2"]
    explicit = replace(config, params=winner, out=tmp_path / "explicit")
    weights, expected = load_file(artifact / "model.safetensors"), load_file(train(explicit) / "model.safetensors")
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(weights[name], value, atol=2e-4 if winner == "head:mean" else 0, rtol=0, msg=name)
    prepared = prepare(replace(explicit, out=tmp_path / "rows"))
    assert set(rows_seen) == set(prepared.table.rows("train").tolist())


@pytest.mark.slow
def test_a_resumed_run_keeps_its_choice(tmp_path, monkeypatch, quickly):
    config = config_of(tmp_path, toy_pairs(120), params="auto", epochs=None, depth="3", machine=replace(MACHINE, reference=0))
    first = load_file(train(config) / "model.safetensors")
    monkeypatch.setattr(module, "_held_out_margins", lambda *arguments: pytest.fail("it was tried again"))
    again = train(replace(config, machine=replace(config.machine, resume=True)))
    assert all(torch.equal(load_file(again / "model.safetensors")[name], value) for name, value in first.items())


def test_few_prompts_leave_nothing_to_try(tmp_path, quickly):
    prepared = prepare(config_of(tmp_path, toy_pairs(30, num_prompts=12), params="auto", epochs=None, depth="3"))
    assert prepared.config.params == "head:mean"
    assert "fewer than 20 training prompts" in prepared.choice.reason
    assert prepared.choice.tried == ()


def test_the_trial_takes_whole_prompts_and_at_most_so_many_pairs(tmp_path, monkeypatch):
    table = prepare(config_of(tmp_path, toy_pairs(200, num_prompts=50), params="head", depth="1")).table
    monkeypatch.setattr(module, "MAX_PAIRS", 90)
    folds = module._trial_folds(table, table.rows("train"), 0)
    assert len(folds) == 3
    for rows, held_rows in folds:
        assert 60 < len(rows) + len(held_rows) <= 90
        for part in (rows, held_rows):
            assert set(part) <= set(table.rows("train"))
            inside = np.isin(table.prompt[table.rows("train")], table.prompt[part])
            assert inside.sum() == len(part)
        assert not set(rows) & set(held_rows)
    every = [set(held_rows) for _, held_rows in folds]
    assert len(set().union(*every)) == sum(map(len, every)), "every pair is held out once"


@pytest.mark.parametrize(("apart", "num_folds"), [(3.0, 1), (0.0, 3)])
def test_folds_are_tried_until_they_have_decided(tmp_path, monkeypatch, capsys, apart, num_folds):
    """Margins that are made up: one candidate far ahead needs one fold; two that are even need all, and the first is taken."""
    prepared = prepare(config_of(tmp_path, toy_pairs(200), params="head", depth="1"))
    candidates = [
        module.Candidate(
            config=replace(prepared.config, params=params),
            derived=prepared.derived,
            trained=prepared.trained,
            built=prepared.built,
        )
        for params in ("head", "blocks:1")
    ]

    def margins(candidate, table, rows, held_rows):
        return (table.preference[held_rows] - 0.5) * (2 + (apart if candidate.config.params == "blocks:1" else 0))

    monkeypatch.setattr(module, "_held_out_margins", margins)
    choice = module.choose(candidates, prepared.table, prepared.table.rows("train"), seed=0)
    assert choice.params == ("blocks:1" if apart else "head")
    assert [len(one.folds) for one in choice.tried] == [num_folds, num_folds]
    head = choice.tried[0]
    assert head.loss == pytest.approx(np.log1p(np.exp(-1.0)), abs=1e-6)
    assert head.accuracy == 1.0
    assert f"held out in {num_folds} fold" in choice.reason
    assert ("within noise" in choice.reason) == (not apart)
    assert "at most 3 folds" in " ".join(capsys.readouterr().err.split())
