"""TRL's trainers on tiny models: what is trained, that a stopped run goes on as if it had not been, and that nothing is pickled."""

import math
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from assay.errors import CheckpointError, TrainingError
from assay.training.generative.examples import Contrast, Example
from assay.training.generative.trl_fit import FitSettings, _rows, fit_contrasts, fit_replies
from tiny import tiny_config, tiny_tokenizer

pytest.importorskip("trl")
pytestmark = pytest.mark.slow


def causal():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny_config("llama"))


def settings(**changed):
    usual = {
        "params": "full",
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
        "seed": 0,
        "batch_tokens": 100,
        "compute_dtype": torch.float32,
        "device": "cpu",
        "checkpoint_every": 2,
        "identity": "toy",
    }
    return FitSettings(**(usual | changed))


def examples(num=20):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, 300, size=rng.integers(8, 20)).tolist() for _ in range(num)]
    return [Example((*prompt, 7, 2), len(prompt), 1.0 + (i % 2)) for i, prompt in enumerate(prompts)]


def contrasts(num=10):
    rng = np.random.default_rng(0)
    return [Contrast(tuple(rng.integers(3, 300, size=12).tolist()), (5, 6, 7, 2), (8, 9, 2)) for _ in range(num)]


def fitted(fit, work, path, model=None, *, resume=False, **changed):
    model, rows = model or causal(), []
    fit(model, tiny_tokenizer(), work, settings(**changed), checkpoints=path, resume=resume, on_row=rows.append)
    return model, rows


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("fit", [fit_replies, fit_contrasts])
def test_a_stopped_stage_goes_on_as_if_it_had_not_been(fit, tmp_path):
    work = examples() if fit is fit_replies else contrasts(20)
    whole, rows = fitted(fit, work, tmp_path / "whole")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]  # 2 x 20 rows, 8 a step
    shutil.rmtree(tmp_path / "whole" / "step-00000004")
    again, rest = fitted(fit, work, tmp_path / "whole", resume=True)
    assert [row["step"] for row in rest] == [3, 4, 5]
    assert [row["loss"] for row in rest] == [row["loss"] for row in rows[2:]]
    assert same(whole, again)
    names = {file.suffix for file in (tmp_path / "whole").rglob("*") if file.is_file()}
    assert names == {".safetensors", ".json"}


def test_the_loss_is_of_the_learnt_tokens_and_their_weights(tmp_path):
    work, model = examples(8), causal()
    with torch.no_grad():
        parts = []
        for one in work:
            logits = model(input_ids=torch.tensor([one.tokens])).logits[0, one.start - 1 : -1].log_softmax(dim=-1)
            parts.append(-one.weight * float(logits.gather(-1, torch.tensor(one.tokens[one.start :])[:, None]).sum()))
    _, rows = fitted(fit_replies, work, tmp_path, epochs=1)
    assert rows[0]["loss"] == pytest.approx(sum(parts) / (2 * len(work)), rel=1e-5)


def test_conversations_about_one_prompt_come_in_one_step(tmp_path):
    lengths = np.array([9, 5, 7, 8, 4, 6, 5, 5])
    columns, keys = {"number": list(range(8))}, ["a", "b", "c", "a", "d", "b", "c", "d"]
    for epochs in (1, 3):
        rows = _rows(columns, lengths, settings(batch_size=4, epochs=epochs), keys)
        for step in rows.order.reshape(-1, 4):
            assert all([keys[i] for i in step].count(keys[row]) == 2 for row in step)
        assert sorted(rows.order.tolist()) == sorted(epochs * list(range(8)))


def test_the_toy_reply_is_learnt(tmp_path):
    _, rows = fitted(fit_replies, examples(), tmp_path, epochs=12, learning_rate=1e-2)
    assert rows[0]["loss"] > 5
    assert rows[-1]["loss"] < 0.5
    assert rows[-1]["token_accuracy"] == 1.0


@pytest.mark.parametrize(
    ("params", "moves"),
    [
        ("full", lambda name: True),
        ("blocks:2", lambda name: "layers.2." in name or "layers.3." in name or name == "model.norm.weight"),
        ("lora:4", lambda name: ".layers." in name and "norm" not in name),
    ],
)
def test_params_say_what_moves_and_adapters_are_merged(params, moves, tmp_path):
    before = dict(causal().named_parameters())
    after, _ = fitted(fit_replies, examples(), tmp_path, params=params)
    named = dict(after.named_parameters())
    assert named.keys() == before.keys()
    moved = {name for name, weight in named.items() if not torch.equal(weight, before[name])}
    assert moved == {name for name in before if moves(name)}
    assert "forward" not in after.__dict__


def test_the_first_loss_of_preferences_is_log_2(tmp_path):
    _, rows = fitted(fit_contrasts, contrasts(), tmp_path)
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["margin"] > 0


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    fitted(fit_replies, examples(), tmp_path)
    with pytest.raises(CheckpointError, match="other data"):
        fitted(fit_replies, examples(), tmp_path, resume=True, identity="another")


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    broken = [one._replace(weight=math.inf) for one in examples(8)]
    with pytest.raises(TrainingError, match="the loss is"):
        fitted(fit_replies, broken, tmp_path)
