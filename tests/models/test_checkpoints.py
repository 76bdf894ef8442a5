"""Reward models of others: the rewards are those of a written-out oracle on the publisher's form, or it is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from assay.models.published.adopt import adopt
from assay.models.published.checkpoints import Reading, load_published
from assay.models.published.foreign_heads import good_label
from assay.models.saved.artifact import load_artifact
from assay.records import Completion
from assay.scorers.load import load
from assay.scorers.local import LocalScorer
from tiny import CHATML, save_tiny_encoder, save_tiny_published, tiny_config, tiny_tokenizer

PAIRS = [
    ("How do I boil an egg?", "Put it in water."),
    ("How do I boil an egg?", "Put it in the story."),
    ("What is two and two?", "It is four, not five. " * 5),
]
COMPLETIONS = [Completion(messages=question, response=answer) for question, answer in PAIRS]
WIDTH, HIDDEN = 32, 24


def rewards_of(path: Path, **reading) -> np.ndarray:
    loaded = load_published(path, Reading(**reading), dtype=torch.float32)
    return LocalScorer(loaded.model, loaded.renderer, identity="test").score(COMPLETIONS).value


def ids_of(path: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(path)
    turns = [[{"role": "user", "content": question}, {"role": "assistant", "content": answer}] for question, answer in PAIRS]
    return [tokenizer.apply_chat_template(conversation, tokenize=True, return_dict=False) for conversation in turns]


def publish(path: Path, head: dict[str, torch.Tensor], *, prefix: str = "model.", template: str | None = CHATML, **config) -> Path:
    """A directory with a random Llama, the head's tensors beside it, and the publisher's configuration."""
    torch.manual_seed(3)
    base = AutoModel.from_config(tiny_config("llama"))
    made = tiny_config("llama").to_dict() | {"pad_token_id": 0} | config
    path.mkdir()
    (path / "config.json").write_text(json.dumps(made))
    tensors = {f"{prefix}{name}": value.contiguous() for name, value in base.state_dict().items()}
    save_file({**tensors, **head}, path / "model.safetensors", {"format": "pt"})
    tiny_tokenizer(template).save_pretrained(path)
    return path


@torch.no_grad()
def oracle(path: Path, reward: Callable[[torch.Tensor], torch.Tensor], prefix: str = "model.") -> np.ndarray:
    """The publisher's reading: the state at the last token of each text, and a function of it."""
    base = AutoModel.from_config(tiny_config("llama"), attn_implementation="eager").eval()
    stored = load_file(path / "model.safetensors")
    base.load_state_dict({name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)})
    states = [base(input_ids=torch.tensor([ids])).last_hidden_state[0, -1] for ids in ids_of(path)]
    return np.array([float(reward(state)) for state in states], np.float32)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) / 3


@pytest.mark.parametrize("kind", ["llama", "qwen", "gemma"])
@pytest.mark.parametrize("num_labels", [1, 2])
def test_a_plain_checkpoint_gives_the_rewards_of_plain_transformers(kind, num_labels, tmp_path):
    path = save_tiny_published(tmp_path / "theirs", kind, num_labels=num_labels)
    model = AutoModelForSequenceClassification.from_pretrained(path, attn_implementation="eager").eval()
    with torch.no_grad():
        logits = torch.cat([model(input_ids=torch.tensor([ids])).logits for ids in ids_of(path)])
    expected = logits[:, 0] if num_labels == 1 else logits[:, 1] - logits[:, 0]
    np.testing.assert_allclose(rewards_of(path), expected, atol=1e-5)
    assert np.ptp(expected.numpy()) > 0.01


HEADS = {  # form -> tensors, what the publisher's class computes of the last state, entries of config.json
    "TRL, LLaMA-Factory: v_head.summary": (
        {"v_head.summary.weight": normal(1, WIDTH), "v_head.summary.bias": torch.tensor([0.7])},
        lambda state: normal(1, WIDTH) @ state + 0.7,
        {"architectures": ["LlamaForCausalLM"]},
    ),
    "OpenRLHF: value_head": (
        {"value_head.weight": normal(1, WIDTH, seed=1)},
        lambda state: normal(1, WIDTH, seed=1) @ state,
        {"architectures": ["RewardModel"], "value_head_prefix": "value_head"},
    ),
    "OpenRLHF: score, normalised": (
        {"score.weight": normal(1, WIDTH, seed=2)},
        lambda state: (normal(1, WIDTH, seed=2) @ state - 0.4) / 2.5,
        {"normalize_reward": True, "mean": 0.4, "std": 2.5},
    ),
    "a head with a bias": (
        {"score.weight": normal(1, WIDTH, seed=3), "score.bias": torch.tensor([-1.25])},
        lambda state: normal(1, WIDTH, seed=3) @ state - 1.25,
        {},
    ),
    "UltraRM, Eurus: regression_head": (
        {"regression_head.weight": normal(1, WIDTH, seed=4)},
        lambda state: normal(1, WIDTH, seed=4) @ state,
        {"architectures": ["LlamaRewardModel"]},
    ),
    "regression_layer of one attribute": (
        {"regression_layer.weight": normal(1, WIDTH, seed=5)},
        lambda state: normal(1, WIDTH, seed=5) @ state,
        {},
    ),
    "Starling: v_head": (
        {"v_head.weight": normal(1, WIDTH, seed=6)},
        lambda state: normal(1, WIDTH, seed=6) @ state,
        {},
    ),
    "safe-rlhf: score_head": (
        {"score_head.weight": normal(1, WIDTH, seed=7), "score_head.bias": torch.tensor([0.3])},
        lambda state: normal(1, WIDTH, seed=7) @ state + 0.3,
        {"architectures": ["LlamaForScore"], "score_type": "reward", "do_normalize": False},
    ),
}
NETWORKS = {
    "GRM: v_head of two layers": (
        {
            "v_head.summary.0.weight": normal(HIDDEN, WIDTH, seed=8),
            "v_head.summary.0.bias": normal(HIDDEN, seed=9),
            "v_head.summary.2.weight": normal(1, HIDDEN, seed=10),
            "v_head.summary.2.bias": torch.tensor([0.1]),
        },
        lambda state: normal(1, HIDDEN, seed=10) @ torch.relu(normal(HIDDEN, WIDTH, seed=8) @ state + normal(HIDDEN, seed=9)) + 0.1,
        {"architectures": ["GRewardModel"], "vhead_layer_type": "mlp", "vhead_num_neurons": HIDDEN},
    ),
    "INF-ORM: score of two layers": (
        {
            "score.0.weight": normal(WIDTH, WIDTH, seed=11),
            "score.0.bias": normal(WIDTH, seed=12),
            "score.2.weight": normal(1, WIDTH, seed=13),
            "score.2.bias": torch.tensor([-0.2]),
        },
        lambda state: normal(1, WIDTH, seed=13) @ torch.relu(normal(WIDTH, WIDTH, seed=11) @ state + normal(WIDTH, seed=12)) - 0.2,
        {"architectures": ["INFORMForSequenceClassification"]},
    ),
}


@pytest.mark.parametrize("form", [*HEADS, *NETWORKS])
def test_heads_of_other_names_give_the_rewards_of_the_publishers_class(form, tmp_path):
    tensors, reward, config = {**HEADS, **NETWORKS}[form]
    path = publish(tmp_path / "theirs", tensors, **config)
    expected = oracle(path, reward)
    np.testing.assert_allclose(rewards_of(path), expected, atol=1e-5)
    assert np.ptp(expected) > 0.01


@pytest.mark.parametrize("form", HEADS)
def test_a_converted_head_is_an_artifact_with_equal_rewards(form, tmp_path):
    tensors, reward, config = HEADS[form]
    path = publish(tmp_path / "theirs", tensors, **config)
    adopt(path, tmp_path / "ours", Reading(), name="theirs")
    expected = oracle(path, reward)
    loaded = load_artifact(tmp_path / "ours")
    found = LocalScorer(loaded.model, loaded.renderer, identity="test").score(COMPLETIONS).value
    np.testing.assert_allclose(found, expected, atol=1e-5)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "ours").eval()
    with torch.no_grad():
        theirs = np.array([model_reward(plain, ids) for ids in ids_of(tmp_path / "ours")], np.float32)
    constant = 0.0 if loaded.model.head.bias is None else float(loaded.model.head.bias)
    np.testing.assert_allclose(theirs + constant, expected, atol=1e-5)  # plain classes have no bias: all but a constant


def model_reward(plain, ids: list[int]) -> float:
    return float(plain(input_ids=torch.tensor([ids])).logits[0, 0])


@pytest.mark.parametrize("form", NETWORKS)
def test_a_head_with_a_hidden_layer_is_scored_with_but_becomes_no_artifact(form, tmp_path):
    tensors, _, config = NETWORKS[form]
    path = publish(tmp_path / "theirs", tensors, **config)
    with pytest.raises(ValueError, match="has a hidden layer, which no sequence-classification class of transformers has"):
        adopt(path, tmp_path / "ours", Reading(), name="theirs")
    assert not (tmp_path / "ours").exists()


def test_the_value_head_of_llama_factory_lies_in_a_file_of_its_own(tmp_path):
    path = publish(tmp_path / "theirs", {}, architectures=["LlamaForCausalLM"])
    weight, bias = normal(1, WIDTH, seed=14), torch.tensor([0.5])
    save_file({"v_head.summary.weight": weight, "v_head.summary.bias": bias}, path / "value_head.safetensors")
    np.testing.assert_allclose(rewards_of(path), oracle(path, lambda state: weight @ state + bias), atol=1e-5)


def test_a_prefix_before_all_names_is_taken_off(tmp_path):
    weight = normal(1, WIDTH, seed=15)
    head = {"v_head.summary.weight": weight, "v_head.summary.bias": torch.zeros(1)}
    path = publish(tmp_path / "theirs", head, prefix="pretrained_model.model.")
    np.testing.assert_allclose(rewards_of(path), oracle(path, lambda s: weight @ s, "pretrained_model.model."), atol=1e-5)


REFUSED = {
    "ArmoRM: gating": (
        {"regression_layer.weight": normal(19, WIDTH), "gating.layers.0.weight": normal(4, WIDTH)},
        {},
        "gating network",
    ),
    "QRM: quantiles": ({"regression_layer.weight": normal(38, WIDTH)}, {"num_quantiles": 19}, "19 quantiles"),
    "attributes": ({"score.weight": normal(10, WIDTH)}, {}, "gives 10 numbers, attributes or classes"),
    "URM: a distribution": ({"score.weight": normal(1, WIDTH), "logvar_head.weight": normal(1, WIDTH)}, {}, "gives a distribution"),
    "two heads": (
        {"score.weight": normal(1, WIDTH), "value_head.weight": normal(1, WIDTH)},
        {},
        r"several heads \(value_head, score\)",
    ),
    "an unknown name": ({"judge.weight": normal(1, WIDTH)}, {}, "no reward head.*judge.weight"),
    "a base": ({}, {}, "has no reward head"),
    "layers of an unknown class": (
        {"score.0.weight": normal(4, WIDTH), "score.3.weight": normal(1, 4)},
        {"architectures": ["SomebodysModel"]},
        "only the publisher's own code says",
    ),
    "running statistics": ({"score_head.weight": normal(1, WIDTH)}, {"do_normalize": True}, "running statistics"),
    "mean over the text": ({"score.weight": normal(1, WIDTH)}, {"pooling": "mean"}, "mean over the text"),
    "an adapter in it": (
        {"score.weight": normal(1, WIDTH), "model.layers.0.self_attn.q_proj.lora_A.weight": normal(2, WIDTH)},
        {},
        "merge it first",
    ),
    "quantised": (
        {"score.weight": normal(1, WIDTH)},
        {"quantization_config": {"quant_method": "awq"}},
        r"quantised weights \(awq\)",
    ),
    "a class of the publisher's": ({"v_head.weight": normal(1, WIDTH)}, {"model_type": "internlm2"}, "'internlm2'"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_no_reward_is_refused_by_name(form, tmp_path):
    tensors, config, why = REFUSED[form]
    path = publish(tmp_path / "theirs", tensors, **config)
    with pytest.raises(ValueError, match=why):
        load_published(path)


def test_an_adapter_is_refused_with_what_merges_it(tmp_path):
    path = save_tiny_published(tmp_path / "theirs")
    (path / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds an adapter.*merge_and_unload"):
        load_published(path)


def test_the_end_token_is_not_read_where_it_is_the_padding(tmp_path):
    """TRL's default: pad = eos. transformers reads the rightmost token that is not padding, one before the end."""
    closing = "{% for message in messages %}{{ message['content'] + eos_token }}{% endfor %}"
    path = save_tiny_published(tmp_path / "theirs", template=closing)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"pad_token_id": 2}))
    model = AutoModelForSequenceClassification.from_pretrained(path, attn_implementation="eager").eval()
    rows = ids_of(path)
    assert all(row[-1] == 2 for row in rows)
    expected = np.array([model_reward(model, row) for row in rows], np.float32)
    np.testing.assert_allclose(rewards_of(path), expected, atol=1e-5)
    assumed = adopt(path, tmp_path / "ours", Reading(), name="theirs")
    assert "is left out" in assumed["end"]
    scorer = load(tmp_path / "ours", dtype="float32")
    np.testing.assert_allclose(scorer.score(COMPLETIONS).value, expected, atol=1e-5)
    assert scorer.renderer.pad_id != 2  # so that readers of the last token, and padded batches, read the same place


def test_a_template_that_leaves_the_answer_open_is_left_as_it_is(tmp_path):
    opened = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% endfor %}"
    path = save_tiny_published(tmp_path / "theirs", template=opened)
    model = AutoModelForSequenceClassification.from_pretrained(path, attn_implementation="eager").eval()
    expected = np.array([model_reward(model, row) for row in ids_of(path)], np.float32)
    np.testing.assert_allclose(rewards_of(path), expected, atol=1e-5)
    adopt(path, tmp_path / "ours", Reading(), name="theirs")
    np.testing.assert_allclose(load(tmp_path / "ours", dtype="float32").score(COMPLETIONS).value, expected, atol=1e-5)


def test_a_template_may_be_given_where_there_is_none(tmp_path):
    path = save_tiny_published(tmp_path / "theirs", template=None)
    assert "no chat template" in load_published(path).assumed["template"]
    (tmp_path / "chat.jinja").write_text(CHATML)
    loaded = load_published(path, Reading(template=str(tmp_path / "chat.jinja")))
    assert loaded.renderer.text(COMPLETIONS[0]).startswith("<|im_start|>user\nHow do I")
    with pytest.raises(ValueError, match="neither a file nor one of the tokenizer's templates"):
        load_published(path, Reading(template="tool_use"))


def test_named_templates_are_chosen_by_name(tmp_path):
    path = save_tiny_published(tmp_path / "theirs")
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.chat_template = {"default": CHATML, "tool_use": CHATML.replace("user", "user")}
    tokenizer.save_pretrained(path)
    with pytest.raises(ValueError, match="several chat templates, default, tool_use: say which with --template default"):
        load_published(path)
    assert load_published(path, Reading(template="default")).renderer.template == CHATML


def test_all_that_is_assumed_is_said(tmp_path):
    system = "{% if messages[0]['role'] != 'system' %}{{ 'system: Be kind.\n' }}{% endif %}" + CHATML
    assumed = load_published(save_tiny_published(tmp_path / "theirs", num_labels=2, template=system)).assumed
    assert assumed.keys() == {"head", "label", "template", "system turn", "truncation", "padding"}
    assert "'system: Be kind.\\n" in assumed["system turn"]
    assert assumed["truncation"].startswith("512 tokens, its positions")
    assert "LABEL_1" in assumed["label"]


@pytest.mark.parametrize(
    ("names", "asked", "expected"),
    [
        (["LABEL_0", "LABEL_1"], None, 1),
        (["chosen", "rejected"], None, 0),
        (["negative", "positive"], None, 1),
        (["helpful", "unhelpful"], None, 0),
        (["harmless", "harmful"], None, 0),
        (["incorrect", "correct"], None, 1),
        (["LABEL_0", "LABEL_1"], "LABEL_0", 0),
    ],
)
def test_which_of_two_labels_is_the_better_answers(names, asked, expected):
    assert good_label(names, asked)[0] == expected


def test_a_label_that_is_none_is_refused():
    with pytest.raises(ValueError, match="none of the checkpoint's labels"):
        good_label(["a", "b"], "c")


def test_a_length_beyond_the_positions_is_refused(tmp_path):
    path = save_tiny_published(tmp_path / "theirs")
    with pytest.raises(ValueError, match="--max-length 513 is more than the 512 positions"):
        load_published(path, Reading(max_length=513))
    assert load_published(path, Reading(max_length=64)).renderer.max_length == 64


@pytest.mark.parametrize("kind", ["deberta-v2", "roberta", "xlm-roberta", "bert", "modernbert"])
@pytest.mark.parametrize("num_labels", [1, 2])
def test_encoders_read_question_and_answer_as_a_pair(kind, num_labels, tmp_path):
    path = save_tiny_encoder(tmp_path / "theirs", kind, num_labels=num_labels)
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForSequenceClassification.from_pretrained(path).eval()
    with torch.no_grad():
        logits = torch.cat([model(**tokenizer(*pair, return_tensors="pt")).logits for pair in PAIRS])
    expected = logits[:, 0] if num_labels == 1 else logits[:, 1] - logits[:, 0]
    np.testing.assert_allclose(rewards_of(path), expected, atol=1e-5)
    adopt(path, tmp_path / "ours", Reading(), name="theirs")
    scorer = load(tmp_path / "ours", dtype="float32")
    np.testing.assert_allclose(scorer.score(COMPLETIONS).value, expected, atol=1e-5)
    alone = [scorer.score([completion]).value[0] for completion in COMPLETIONS]
    np.testing.assert_allclose(alone, expected, atol=1e-5)
    assert np.ptp(expected.numpy()) > 1e-3


def test_a_long_question_is_cut_at_its_front_and_a_long_answer_is_set_aside(tmp_path):
    scorer = load(save_tiny_encoder(tmp_path / "theirs"), dtype="float32")
    question = "Please tell me a story about a cat. " * 30
    rewards = scorer.score([Completion(messages=question, response="Put it."), Completion(messages="Tell me.", response=question)])
    assert np.isfinite(rewards.value[0])
    assert "leaves no room" in str(rewards.error[1])
    tokenizer = scorer.renderer.tokenizer
    (cut,) = scorer.renderer.render([Completion(messages=question, response="Put it.")])
    by_tokenizer = tokenizer(question, "Put it.", truncation="only_first", max_length=130)["input_ids"]
    assert cut.is_cut
    assert cut.tokens.tolist() == by_tokenizer


def test_what_a_pair_has_no_place_for_is_set_aside(tmp_path):
    scorer = load(save_tiny_encoder(tmp_path / "theirs"), dtype="float32")
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]}
    asked = [
        Completion(text="already rendered"),
        Completion(messages="Tell me.", response=" "),
        Completion(messages="Tell me.", response_message=call),
    ]
    rewards = scorer.score(asked)
    assert np.isnan(rewards.value).all()
    assert [str(error)[:28] for error in rewards.error] == [
        "an encoder takes a question ",
        "the response is empty",
        "a pair of texts has no place",
    ]
