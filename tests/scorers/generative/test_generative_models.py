"""Tiny models end to end: a directory and its form, an artifact, the commands, the service and the trainer's adapter."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import assay
from assay.cli import main
from assay.data.pairs import write_pairs
from assay.errors import ArtifactError
from assay.generation.local_model import load_language_model
from assay.records import Completion, Message, PreferencePair
from assay.rl.trl import trl_reward
from assay.run_files import GENERATIVE, read_description, write_description
from assay.scorers.checks import check_scorer
from assay.scorers.generative.critics import GenerativeAsked
from assay.scorers.generative.generative import GenerativeComparer, GenerativeScorer
from assay.scorers.generative.open_generative import generative_entry
from assay.scorers.generative.own_forms import own_form
from assay.scorers.judges.options import JudgeOptions
from assay.scorers.opened import open_scorer
from fake_chat import fake_chat, said
from serving import service_of, serving
from tiny import FORGETFUL, save_tiny_base
from tiny_writers import ANSWERS, save_generative, save_writer

FLAGS = ["--device", "cpu", "--dtype", "float32"]
PLAIN = {"device": "cpu", "dtype": "float32"}
ITEMS = [*ANSWERS, Completion(messages="How many eggs?", response=" "), Completion(text="rendered")]
PAIRS = [PreferencePair(prompt=f"How many eggs are {i} eggs?", chosen=f"{i}.", rejected=f"{i + 1}.", id=str(i)) for i in range(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("generative")


@pytest.fixture(scope="module")
def random_model(folder) -> str:
    return str(save_tiny_base(folder / "random", max_positions=2048))


@pytest.fixture(scope="module")
def comparing(folder) -> str:
    """A model that replies with a critique and the first answer."""
    return str(save_writer(folder / "comparing", "Fine.\nVerdict: A"))


@pytest.fixture(scope="module")
def artifact(folder) -> str:
    """An artifact that replies with a critique and Yes."""
    entry = generative_entry(GenerativeAsked(form="assay-pointwise", critique=True, samples=1, max_tokens=40))
    return str(save_generative(folder / "artifact", "Fine.\nVerdict: Yes", entry))


def test_the_probability_is_that_of_plain_transformers_behind_the_critique(comparing):
    scorer = assay.load(f"{comparing}#assay-pairwise", **PLAIN)
    (found,) = scorer.comparisons([(ANSWERS[0], ANSWERS[1])])
    causal, tokenizer = scorer.generator.backend.causal, scorer.generator.backend.tokens.tokenizer
    turns = [turn.as_dict() for turn in own_form("pairwise").prompt(*ANSWERS[:2])]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) + "Fine.\nVerdict: A"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        shares = causal(torch.tensor([ids])).logits[0, -2].double().softmax(0)  # where the last token, A, is said
    words = [said_as.strip().casefold() for said_as in tokenizer.batch_decode([[i] for i in range(len(tokenizer))])]
    first, second = (float(shares[[i for i, said_as in enumerate(words) if said_as == word]].sum()) for word in "ab")
    assert found.forward == pytest.approx(first / (first + second), abs=1e-3)


def test_the_value_behind_the_critique_is_a_log_odds(artifact):
    rewards = assay.load(artifact, **PLAIN).score(ANSWERS)
    assert rewards.text == ("Fine.\nVerdict: Yes",) * 3
    assert (rewards.value > 3).all()
    assert rewards.std is None


def test_a_verdict_is_read_as_it_is_written_and_as_a_forward_behind_the_critique_reads_it(comparing, monkeypatch):
    asked = [(ANSWERS[0], ANSWERS[1]), (ANSWERS[1], ANSWERS[2])]
    scorer, again = (assay.load(f"{comparing}#assay-pairwise", **PLAIN) for _ in range(2))
    written = scorer.comparisons(asked)
    num_asked = scorer.generator.bill.num_calls
    monkeypatch.setattr(again.generator.backend, "_reads", lambda ask: ())  # as where a verdict is several tokens
    behind = again.comparisons(asked)
    assert again.generator.bill.num_calls == 2 * num_asked
    for one, other in zip(written, behind, strict=True):
        assert (one.forward, one.backward) == pytest.approx((other.forward, other.backward), abs=1e-4)


@pytest.mark.parametrize("form", ["assay-pointwise?critique=no", "assay-pairwise?critique=no", "skywork-critic"])
def test_a_random_model_is_read_by_its_verdict_alone_and_keeps_the_laws(random_model, form):
    scorer = assay.load(f"{random_model}#{form}", **PLAIN)
    check_scorer(scorer, ITEMS)
    rewards = scorer.score(ITEMS)
    assert list(rewards.ok) == [True, True, True, False, False]
    assert scorer.generator.bill.output_tokens == 0


@pytest.mark.parametrize("form", ["rm-r1", "deepseek-grm", "prometheus", "judgelrm", "con-j"])
def test_score_writes_a_reason_for_each_reply_of_a_random_model(random_model, form, tmp_path, capsys):
    source, out = tmp_path / "answers.jsonl", tmp_path / "rewards.jsonl"
    source.write_text("".join(json.dumps({"prompt": "How many eggs?", "response": text}) + "\n" for text in ("Five.", "Six.", " ")))
    words = ["score", f"{random_model}#{form}?max_tokens=8", "--input", str(source), "--output", str(out), *FLAGS]
    assert main(words) == 1
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(row["value"] is None for row in rows)
    assert rows[0]["error"].startswith(
        ("the reply was cut off after 8 tokens: give it more room with max_tokens", "the reply has no")
    )
    assert rows[2]["error"] == "the response is empty"
    assert "our own words, so that the numbers are not the publisher's" in capsys.readouterr().err


def test_two_answers_are_compared_behind_the_critique_in_both_orders(comparing):
    scorer = assay.load(f"{comparing}#assay-pairwise", **PLAIN)
    assert isinstance(scorer, GenerativeComparer)
    check_scorer(scorer, ITEMS)
    rewards = scorer.score(ITEMS)
    assert rewards.ok[:3].all()
    assert np.abs(rewards.value[:3]).max() < 0.2  # it says A whatever is shown first
    assert "Fine.\nVerdict: A" in rewards.text[0]
    (one,) = scorer.comparisons([(ANSWERS[0], ANSWERS[1])])
    assert one.forward > 0.9
    assert one.backward < 0.1
    assert not one.agree
    sampled = assay.load(f"{comparing}#assay-pairwise?samples=3&reading=text", **PLAIN)
    assert sampled.compare([PreferencePair(prompt=ANSWERS[0].messages, chosen="Five.", rejected="None of them")])[
        0
    ] == pytest.approx(0.5, abs=0.35)


def test_an_artifact_says_how_it_is_asked_and_takes_other_settings(artifact):
    opened = open_scorer(artifact, **PLAIN)
    assert isinstance(opened.scorer, GenerativeScorer)
    assert opened.scorer.critic.sampling.max_tokens == 40
    assert "calls" in opened.facts["bill"]
    other = open_scorer(f"{artifact}#?samples=2&max_tokens=30", **PLAIN)
    assert other.scorer.critic.samples == 2
    assert other.raw.critic.sampling.max_tokens == 30
    with pytest.raises(ValueError, match="was trained as #assay-pointwise"):
        open_scorer(f"{artifact}#rm-r1")
    with pytest.raises(ValueError, match="another publisher's form"):
        generative_entry(GenerativeAsked(form="rm-r1"))


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"critique": True}, "has no form"),
        ({"form": "assay-triple"}, "no known form"),
        ({"form": "assay-pairwise", "mood": 1}, "has 'mood', which this Assay does not know"),
    ],
)
def test_a_damaged_entry_is_told(artifact, tmp_path, entry, why):
    write_description(tmp_path, {**read_description(artifact), GENERATIVE: entry})
    with pytest.raises(ArtifactError, match=why):
        assay.load(str(tmp_path))


def test_how_a_model_is_asked_is_part_of_its_fingerprint(artifact, tmp_path):
    before = read_description(artifact)
    after = write_description(tmp_path, {**before, GENERATIVE: {**before[GENERATIVE], "samples": 8}})
    assert after["fingerprint"] != before["fingerprint"]


def test_a_template_that_drops_thoughts_from_history_keeps_the_critique_that_is_read(folder):
    template = FORGETFUL + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    model = load_language_model(save_writer(folder / "thinking", "Fine.\nVerdict: A", template=template, steps=1), **PLAIN)
    messages = (*own_form("pairwise").prompt(*ANSWERS[:2]), Message("assistant", "<think>Hm.</think> Fine.\nVerdict:"))
    assert model.tokens.tokenizer.decode(model.tokens(messages)).endswith("<think>Hm.</think> Fine.\nVerdict:")


@pytest.mark.slow
def test_evaluate_and_probe_take_them_unchanged(artifact, tmp_path, capsys):
    write_pairs(tmp_path / "pairs.jsonl", PAIRS)
    out = ["--out", str(tmp_path / "out"), "--data", str(tmp_path / "pairs.jsonl")]
    assert main(["evaluate", artifact, *out, *FLAGS]) in (0, 1)
    (report,) = (tmp_path / "out" / "eval").glob("*.json")
    assert "calls" in json.loads(report.read_text())["facts"]["bill"]
    assert main(["audit", "probe", artifact, *out, *FLAGS]) in (0, 1)
    capsys.readouterr()


def test_the_service_gives_value_and_critique(artifact):
    scorer = assay.load(artifact, **PLAIN)
    expected = scorer.score(ANSWERS)
    with serving(service_of(scorer, names=("generative",))) as client:
        remote = assay.load(str(client.base_url))
        found = remote.score(ANSWERS)
    np.testing.assert_allclose(found.value, expected.value, atol=1e-4)
    assert found.text == expected.text


def test_it_is_the_reward_function_of_a_trainer(artifact):
    scorer = assay.load(artifact, **PLAIN)
    reward = trl_reward(scorer)
    prompts = [[{"role": "user", "content": "How many eggs?"}]] * 2
    completions = [[{"role": "assistant", "content": answer.response}] for answer in ANSWERS[:2]]
    np.testing.assert_allclose(reward(prompts=prompts, completions=completions), scorer.score(ANSWERS[:2]).value, atol=1e-4)


def test_a_published_model_behind_an_endpoint_is_known_by_its_name():
    words = ["<type>Chat</type>\n<answer>[[A]]</answer>", "<type>Chat</type>\n<answer>[[B]]</answer>"]

    def answer(request):
        return said(words[request.text.index("Five.") > request.text.index("Six eggs")])

    with fake_chat(answer) as chat:
        scorer = assay.load("gaotang/RM-R1-Qwen2.5-Instruct-7B", judge=JudgeOptions(judge_url=chat.url))
        rewards = scorer.score(ANSWERS[:2])
    assert rewards.value[0] > 0 > rewards.value[1]
    assert "6 calls" in scorer.bill() or "2 calls" in scorer.bill()


REFUSED = {
    "several forms": ("prometheus-7b-v2.0", "", "name one, as #prometheus (one answer) or #prometheus-pairwise (two answers)"),
    "an unknown form": ("theirs", "#rm-r2", "#rm-r2 is no known form"),
    "an unknown setting": ("theirs", "#rm-r1?reduction=min", "there is no setting 'reduction'"),
    "a name that says nothing": ("theirs", "", "docs/generative.md"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_sure_is_refused(case, tmp_path):
    name, behind, why = REFUSED[case]
    path = save_tiny_base(tmp_path / name)
    with pytest.raises(ValueError, match=re.escape(why)):
        assay.load(f"{path}{behind}")


def test_a_model_that_writes_is_not_adopted(tmp_path, capsys):
    path = save_tiny_base(tmp_path / "RM-R1-Qwen2.5-Instruct-7B")
    assert main(["model", "adopt", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "writes its verdicts" in capsys.readouterr().err
    assert isinstance(assay.load(str(path), **PLAIN), GenerativeComparer)


def test_suites_and_biases_take_one_that_compares(comparing, tmp_path, capsys):
    rows = [{"prompt": f"How many are {i} eggs?", "candidates": ["None.", f"{i}."], "correct": 1} for i in range(6)]
    (tmp_path / "lists.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model, out = f"{comparing}#assay-pairwise?reading=text", ["--out", str(tmp_path / "out"), *FLAGS]
    assert main(["evaluate", model, "--suite", str(tmp_path / "lists.jsonl"), *out]) in (0, 1)
    assert "both orders agreed on" in capsys.readouterr().err
    assert list((tmp_path / "out").rglob("*.json"))


def test_a_grm_whose_language_model_head_was_kept_is_a_scalar_scorer_and_no_artifact(tmp_path, capsys):
    path = save_tiny_base(tmp_path / "GRM-tiny")
    torch.manual_seed(1)
    hidden, last = torch.nn.Linear(32, 16), torch.nn.Linear(16, 1)
    tensors = load_file(path / "model.safetensors")
    for number, layer in (("0", hidden), ("2", last)):
        tensors |= {f"v_head.summary.{number}.{part}": value.detach().clone() for part, value in layer.state_dict().items()}
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "architectures": ["GRewardModel"]}))
    scorer = assay.load(str(path), **PLAIN)
    (value,) = scorer.score(ANSWERS[:1]).value
    causal = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    (rendered,) = scorer.renderer.render(ANSWERS[:1])
    with torch.no_grad():
        state = causal(torch.tensor([rendered.tokens.tolist()]), output_hidden_states=True).hidden_states[-1][0, -1]
        expected = last(torch.relu(hidden(state)))
    assert value == pytest.approx(float(expected), abs=1e-4)
    assert main(["model", "adopt", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "has a hidden layer, which no sequence-classification class of transformers has" in capsys.readouterr().err
