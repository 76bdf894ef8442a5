"""A loss on the text of answers beside the loss of pairs: by hand, against a written-out one, and what a run makes of it."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import logsigmoid
from transformers import AutoConfig, AutoModelForCausalLM

from assay.data.pairs import read_pairs
from assay.data.tokens.table import build_table
from assay.run_files import read_description
from assay.training.loop import fit
from assay.training.objective import AnswerText, Objective, batch_loss, text_losses
from assay.training.prepare import prepare
from assay.training.run import train
from assay.training.settings import Machine, TrainConfig
from assay.training.text_reads import num_text_tokens, text_likelihoods, text_places
from tiny import labelled_pairs, save_tiny_base, tiny_config, tiny_renderer, toy_pairs
from toy_runs import MACHINE, config_of

FORMS = ("sft", "sft:sum", "sft:per-token", "dpo", "dpo:per-token")
SMALL = replace(MACHINE, batch_tokens=300)


def save_tied_base(folder):
    config = tiny_config("llama")
    config.tie_word_embeddings = True
    save_tiny_base(folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def of(likelihoods, num_tokens=(100, 100), **objective) -> float:
    text = AnswerText(torch.tensor([likelihoods]), torch.tensor([num_tokens]))
    return text_losses(text, torch.tensor([objective.pop("preference", 1.0)]), Objective(**objective)).item()


def test_the_loss_of_grm_by_its_number(tmp_path):
    """S = -300, equal rewards: 0.99 ln 2 + 0.01 x 30."""
    table, _ = build_table(toy_pairs(1), tiny_renderer(), tmp_path / "tokens.arrow", with_starts=True)
    text = AnswerText(torch.tensor([[-300.0, 0.0]]), torch.tensor([[200, 100]]))
    total, sums = batch_loss(torch.zeros(1, 2), table, np.array([0]), Objective(text_loss="sft"), text=text)
    assert total.item() == pytest.approx(0.99 * math.log(2) + 0.01 * 30) == pytest.approx(0.98622, abs=1e-5)
    assert sums[0].item() == pytest.approx(math.log(2))  # the logged loss stays that of the pairs
    assert sums[-1].item() == pytest.approx(30)


def test_a_table_without_the_places_of_answers_is_refused(tmp_path):
    prepared = prepare(config_of(tmp_path, toy_pairs(12), params="blocks:2", depth="full", machine=SMALL))
    batch = prepared.task.batches(np.arange(3))[0]
    with pytest.raises(ValueError, match="the table does not say where answers begin"):
        text_places(batch, prepared.table, np.ones((len(batch.rows), 2), bool))


def test_each_form_by_hand():
    assert of((-300.0, -9.0), text_loss="sft:sum") == 300
    assert of((-300.0, -9.0), (200, 3), text_loss="sft:per-token") == pytest.approx(1.5)
    assert of((-3.0, -9.0), text_loss="sft") == pytest.approx(math.log1p(math.exp(0.3)))
    assert of((-20.0, -50.0), text_loss="dpo") == pytest.approx(math.log1p(math.exp(-3)))
    assert of((-20.0, -50.0), (10, 10), text_loss="dpo:per-token") == pytest.approx(math.log1p(math.exp(-6)))
    soft = 0.8 * math.log1p(math.exp(-3)) + 0.2 * math.log1p(math.exp(3))
    assert of((-20.0, -50.0), text_loss="dpo", preference=0.8) == pytest.approx(soft, abs=1e-6)
    assert of((-20.0, -50.0), text_loss="sft:sum", preference=0.8) == pytest.approx(0.8 * 20 + 0.2 * 50)
    text = AnswerText(torch.tensor([[-20.0, -50.0]]), torch.tensor([[9, 9]]), torch.tensor([[-25.0, -40.0]]))
    known = text_losses(text, torch.ones(1), Objective(text_loss="dpo:reference"))
    assert known.item() == pytest.approx(math.log1p(math.exp(-1.5)))


def written_out(causal, head_weight, pair, tokens, starts, objective):
    """The loss of one pair from whole logits, each answer by itself, with labels as GRM's code masks them."""
    rewards, sums = [], []
    for ids, start in zip(tokens, starts, strict=True):
        out = causal(input_ids=torch.from_numpy(ids.astype(np.int64))[None], output_hidden_states=True)
        rewards.append(out.hidden_states[-1][0, -1] @ head_weight[0])
        labels = torch.from_numpy(ids.astype(np.int64))[start:]
        logprobs = out.logits[0, :-1].log_softmax(1)[start - 1 :].gather(1, labels[:, None])
        sums.append(logprobs.mean() if objective.text_loss.endswith("per-token") else logprobs.sum())
    p, (chosen, rejected) = pair.preference, rewards
    plain = -p * logsigmoid(chosen - rejected) - (1 - p) * logsigmoid(rejected - chosen)
    plain = plain + objective.centring * (chosen + rejected) ** 2
    beta = 2.0 if objective.text_loss == "dpo:per-token" else 0.1
    if objective.text_loss.startswith("dpo"):
        text = -p * logsigmoid(beta * (sums[0] - sums[1])) - (1 - p) * logsigmoid(beta * (sums[1] - sums[0]))
    elif objective.text_loss == "sft":
        text = -p * logsigmoid(beta * sums[0]) - (1 - p) * logsigmoid(beta * sums[1])
    else:
        text = -p * sums[0] - (1 - p) * sums[1]
    return pair.weight * ((1 - objective.text_weight) * plain + objective.text_weight * text)


@pytest.mark.parametrize(
    ("form", "params", "is_tied"),
    [*((form, "full", False) for form in FORMS), ("sft", "full", True), ("sft", "blocks:2", True), ("dpo", "blocks:1", False)],
)
def test_loss_and_gradients_equal_a_written_out_loss(tmp_path, form, params, is_tied):
    """Packed, with a shared prompt, from the cached trunk, and with logits in parts; against each answer by itself."""
    if is_tied:
        save_tied_base(tmp_path / "base")
    objective = Objective(text_loss=form, text_weight=0.2)
    prepared = prepare(config_of(tmp_path, labelled_pairs(12), params=params, objective=objective, machine=SMALL))
    task, model, table = prepared.task, prepared.model, prepared.table
    rows = np.arange(len(table))
    model.eval()
    total = 0.0
    for batch in task.batches(rows):
        loss = task.loss(model, batch).total
        loss.backward()
        total += loss.item()
    causal = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32).eval()
    head_weight = model.head.weight.detach().clone().requires_grad_()
    expected = 0.0
    for row, pair in enumerate(read_pairs(tmp_path / "toy.jsonl")):
        asked = prepared.renderer.tokenizer.apply_chat_template(
            [{"role": "user", "content": pair.prompt[0].content}], add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert table.answer_starts[row].tolist() == [len(asked)] * 2
        loss = written_out(causal, head_weight, pair, table[row][:2], table.answer_starts[row], objective)
        loss.backward()
        expected += loss.item()
    assert total == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(model.head.weight.grad, head_weight.grad, atol=1e-4, rtol=1e-3)
    theirs = dict(causal.named_parameters())
    own = {name: p for name, p in prepared.trained.whole.backbone.model.named_parameters() if p.requires_grad}
    assert len(own) == {"full": 4 * 9 + 2, "blocks:2": 2 * 9 + 1, "blocks:1": 9 + 1}[params]
    for name, parameter in own.items():
        torch.testing.assert_close(parameter.grad, theirs[f"model.{name}"].grad, atol=2e-4, rtol=1e-3, msg=name)
    assert model.text_head is not None
    if params == "full" and not is_tied:
        torch.testing.assert_close(model.text_head.weight.grad, theirs["lm_head.weight"].grad, atol=2e-4, rtol=1e-3)
    if params != "full":
        assert model.text_head.weight.grad is None


def test_of_a_plain_label_the_rejected_answer_is_not_read_for_sft(tmp_path):
    prepared = prepare(config_of(tmp_path, toy_pairs(12), params="blocks:2", objective=Objective(text_loss="sft"), machine=SMALL))
    batch = prepared.task.batches(np.arange(3))[0]
    num_rows = len(batch.rows)
    chosen_alone = np.stack([np.ones(num_rows, bool), np.zeros(num_rows, bool)], axis=1)
    places = text_places(batch, prepared.table, chosen_alone)
    assert set(places.owner % 2) == {0}
    assert len(places.targets) == num_text_tokens(prepared.table, batch.rows)[:, 0].sum()
    both = text_places(batch, prepared.table, np.ones((num_rows, 2), bool))
    assert len(both.targets) == num_text_tokens(prepared.table, batch.rows).sum()
    assert len(both.states) < len(both.targets)  # what both answers begin with is predicted by the same tokens


@pytest.mark.parametrize("params", ["full", "blocks:2", "lora:2"])
def test_a_reference_is_the_base_so_that_training_starts_at_ln_2(tmp_path, params):
    objective = Objective(text_loss="dpo:reference")
    prepared = prepare(config_of(tmp_path, toy_pairs(30), params=params, objective=objective, machine=SMALL, epochs=1))
    rows = prepared.train_rows
    reference = prepared.task.reference
    assert np.isfinite(reference[rows]).all()
    assert np.isnan(np.delete(reference, rows, axis=0)).all()
    log = fit(prepared.model, prepared.task, rows, prepared.derived.loop)
    assert log[0]["text_loss"] == pytest.approx(math.log(2), abs=1e-5)
    after = text_likelihoods(prepared.model, prepared.task.source, prepared.table, rows)
    assert np.abs(after[rows] - reference[rows]).max() > 1e-3  # the model has moved, its reference has not


def test_text_is_learnt_and_pairs_are_too(tmp_path):
    objective = Objective(text_loss="sft:per-token", text_weight=0.5)
    config = config_of(tmp_path, toy_pairs(60), params="blocks:2", learning_rate=3e-3, epochs=6, objective=objective, machine=SMALL)
    log = fit((prepared := prepare(config)).model, prepared.task, prepared.train_rows, prepared.derived.loop)
    assert log[-1]["text_loss"] < 0.6 * log[0]["text_loss"]
    assert log[-1]["accuracy"] > 0.9


@pytest.mark.parametrize(("params", "is_tied"), [("full", True), ("full", False), ("blocks:2", True)])
def test_what_is_saved_is_a_plain_reward_model(tmp_path, params, is_tied):
    if is_tied:
        save_tied_base(tmp_path / "base")
    config = config_of(tmp_path, toy_pairs(40), params=params, objective=Objective(text_loss="sft"), machine=SMALL)
    artifact = train(config)
    names = set(load_file(artifact / "model.safetensors"))
    base = set(load_file(tmp_path / "base" / "model.safetensors"))
    assert names == {name for name in base if name != "lm_head.weight"} | {"score.weight"}
    assert AutoConfig.from_pretrained(artifact).architectures == ["LlamaForSequenceClassification"]
    report = json.loads((config.out / "eval" / "training.json").read_text())
    (checked,) = [metric for metric in report["metrics"] if metric["name"].startswith("reload check")]
    assert checked["value"] < 1e-4
    description = read_description(artifact)
    assert description["objective"] == "bradley-terry, and 0.01 of a text loss (sft)"
    assert description["settings"]["text_loss"]["value"] == "sft"
    assert description["depth"] == 4


def stop_at(step):
    def on_row(row):
        if row["step"] == step:
            raise KeyboardInterrupt

    return on_row


@pytest.mark.parametrize(("params", "form"), [("full", "sft"), ("blocks:2", "dpo:reference")])
def test_a_stopped_run_goes_on_bit_by_bit(tmp_path, params, form):
    def run(name, **options):
        config = config_of(
            tmp_path,
            toy_pairs(40),
            params=params,
            epochs=2,
            batch_pairs=8,
            objective=Objective(text_loss=form),
            out=tmp_path / name,
        )
        prepared = prepare(config)
        loop = replace(prepared.derived.loop, checkpoint_every=2)
        rows = fit(
            prepared.model, prepared.task, prepared.train_rows, loop, run_dir=config.out, identity=prepared.identity, **options
        )
        return prepared.model.state_dict(), [{**row, "seconds": 0} for row in rows]

    with pytest.raises(KeyboardInterrupt):
        run("stopped", on_row=stop_at(3))
    (resumed, resumed_rows), (whole, whole_rows) = run("stopped", resume=True), run("whole")
    assert resumed_rows == whole_rows
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


@pytest.mark.slow
def test_members_each_have_a_text_loss(tmp_path):
    from assay.training.settings import Members

    config = config_of(
        tmp_path, toy_pairs(60), params="blocks:2", objective=Objective(text_loss="sft"), members=Members(ensemble=2)
    )
    artifact = train(config)
    assert sorted(file.name for file in (artifact / "members").glob("*.safetensors")) == ["1.safetensors"]
    rows = [json.loads(line) for line in (config.out / "members" / "1" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["text_loss"] > 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"params": "head"}, "--params head trains a head alone, which writes no text: give --params blocks:4"),
        ({"params": "head:mean"}, "--params head:mean trains a head alone"),
        ({"params": "auto"}, "--params auto may train a head alone"),
        ({"machine": Machine(quick=True)}, "--quick trains a head alone"),
        ({"depth": "auto"}, "cannot be joined with --depth auto: the base predicts tokens from its last layer"),
        ({"depth": "12"}, "cannot be joined with --depth 12"),
        ({"base": None, "init_from": "runs/x"}, "a reward model has no language model's head: give --base"),
        ({"machine": Machine(shard=True)}, "cannot be joined with --shard"),
    ],
)
def test_what_it_cannot_be_joined_with_is_refused_with_the_fix(tmp_path, settings, says):
    with pytest.raises(ValueError, match=f"--text-loss sft.*{says}"):
        TrainConfig(**{"data": ("x",), "base": "b", "out": tmp_path, "objective": Objective(text_loss="sft"), **settings})


def test_a_weight_alone_or_out_of_range_is_refused_and_other_kinds_take_no_text_loss(tmp_path):
    with pytest.raises(ValueError, match=r"--text-weight 0.1 says nothing without --text-loss"):
        Objective(text_weight=0.1)
    with pytest.raises(ValueError, match=r"--text-weight 1.0 must lie between 0 and 1"):
        Objective(text_loss="sft", text_weight=1.0)
    config = config_of(tmp_path, toy_pairs(10), params="full", kind="rankings", objective=Objective(text_loss="sft"))
    with pytest.raises(ValueError, match="--text-loss is of pairs"):
        prepare(config)


def test_it_implies_the_full_depth(tmp_path):
    config = TrainConfig(data=("x",), base="b", out=tmp_path, objective=Objective(text_loss="dpo"))
    assert config.depth_rule == "full"
    assert replace(config, objective=Objective()).depth_rule == "auto"
