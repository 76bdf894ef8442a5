"""The exact payloads of trainers and engines, and the replies that their clients read."""

from __future__ import annotations

import base64
import math
import struct

import numpy as np
import pytest

from assay.records import Completion
from assay.scorers.http.engine_api import ask_engine
from assay.scorers.load import load
from assay.scorers.local import LocalScorer
from assay.scorers.verifiers.built_in import built_in_rule
from assay.serve.served import Served, TextRules, text_rules_of
from serving import Lengths, service_of, serving
from tiny import AGENT, save_tiny_encoder, tiny_model, tiny_renderer

QUESTION, ANSWERS = "How do I boil an egg?", ["Put it in water.", "It is four, not five."]


@pytest.fixture(scope="module")
def scorer() -> LocalScorer:
    """A model that engines would put a sigmoid on: its configuration does not say that it is a regression."""
    return LocalScorer(tiny_model(), tiny_renderer(), identity="tiny")


@pytest.fixture(scope="module")
def client(scorer):
    with serving(service_of(scorer)) as client:
        yield client


@pytest.fixture(scope="module")
def rendered(scorer) -> list[str]:
    """The two conversations as a trainer or a user renders them."""
    return [str(scorer.renderer.text(completion)) for completion in conversations()]


def conversations() -> list[Completion]:
    return [Completion(messages=QUESTION, response=text) for text in ANSWERS]


@pytest.fixture(scope="module")
def values(scorer) -> list[float]:
    return scorer.score(conversations()).value.tolist()


@pytest.fixture(scope="module")
def assert_same(scorer):
    """Compares with the rewards that the scorer gives, within its tolerance."""
    return lambda given, expected: np.testing.assert_allclose(given, expected, atol=scorer.tolerance)


def sigmoid(values):
    return [1 / (1 + math.exp(-value)) for value in values]


def post(client, path: str, body: dict, status: int = 200):
    reply = client.post(path, json=body)
    assert reply.status_code == status, reply.text
    return reply.json()


# OpenRLHF 0.11: one request a rollout, lists of length 1; query = decode(tokens, skip_special_tokens=False).
def test_openrlhf_s_query_is_read_as_it_is(client, rendered, values, assert_same):
    for text, value in zip(rendered, values, strict=True):
        reply = post(client, "/get_reward", {"query": [text], "prompts": [text[:20]], "labels": ["4"]})
        assert set(reply) == {"rewards", "scores", "extra_logs"}
        assert_same(reply["rewards"], [value])
        assert reply["scores"] == reply["rewards"]
        assert reply["extra_logs"] == {}
    both = post(client, "/get_reward", {"query": rendered, "prompts": [QUESTION] * 2, "labels": [None, None]})
    assert_same(both["rewards"], values)


def test_a_trainer_s_text_that_ends_where_generation_did_is_closed(client, rendered, values, assert_same):
    assert all(text.endswith("<|im_end|>\n") for text in rendered)
    for cut in ("\n", "<|im_end|>\n"):  # generation ends with the end token, or before it
        texts = [text.removesuffix(cut) for text in rendered]
        assert_same(post(client, "/get_reward", {"query": texts})["rewards"], values)
        assert_same(post(client, "/v1/score/evaluation", {"messages": texts})["scores"], values)
        assert_same(post(client, "/remote_rm?rendered=true", {"prompt": "", "response": texts[0]}), values[0])
    as_it_is = post(client, "/v1/score", {"items": [{"text": rendered[0].removesuffix("<|im_end|>\n")}]})
    assert abs(as_it_is["rewards"][0]["value"] - values[0]) > 1e-3
    assert "empty" in post(client, "/get_reward", {"query": [""]}, 422)["error"]["message"]


def test_openrlhf_s_query_is_parted_for_a_rule():
    prompt = "<|im_start|>user\nWhat is half of 36?<|im_end|>\n<|im_start|>assistant\n"
    with serving(service_of(built_in_rule("exact"))) as client:
        body = {"query": [prompt + "18<|im_end|>", prompt + "19"], "prompts": [prompt] * 2, "labels": ["18", "18"]}
        assert post(client, "/get_reward", body)["rewards"] == [1, 0]
        cut = post(client, "/get_reward", {"query": [prompt[4:] + "18"], "prompts": [prompt], "labels": ["18"]}, 422)
        assert "does not begin with its prompt" in cut["error"]["message"]


def test_openrlhf_s_query_is_never_templated_or_given_special_tokens():
    scorer = Lengths()
    with serving(service_of(scorer)) as client:
        post(client, "/get_reward", {"query": ["<|im_start|>user\nHi"], "prompts": [""], "labels": [""]})
    assert scorer.batches == [["<|im_start|>user\nHi"]]


def test_contracts_without_a_place_for_a_reason_give_an_error_and_no_number(client, rendered):
    for path, body in (
        ("/get_reward", {"query": [rendered[0], ""], "prompts": ["a", "b"], "labels": ["", ""]}),
        ("/remote_rm", {"prompt": "Hi", "response": " ", "label": None}),
        ("/v1/score/evaluation", {"model": "rm", "messages": [rendered[0], ""]}),
        ("/classify", {"model": "rm", "input": [[1, 2], [99999]]}),
        ("/pooling", {"model": "rm", "input": [[]]}),
        ("/score", {"model": "rm", "queries": "Hi", "documents": ["Hello.", ""]}),
        ("/rerank", {"model": "rm", "query": "Hi", "documents": ["", "Hello."]}),
        ("/classify", {"model": "rm", "text": [""]}),
        ("/v1/embeddings", {"model": "rm", "input": ""}),
        ("/predict", {"inputs": [[""], ["a"]]}),
    ):
        reply = post(client, path, body, 422)
        assert set(reply) == {"error"}
        assert "has no reward: " in reply["error"]["message"]


# slime: {"prompt", "response", "label"} of one sample; what comes back is the reward, or a dict for --reward-key.
def test_slime_s_sample_gets_a_bare_number(client, rendered, values, assert_same):
    prompt = rendered[0].removesuffix(ANSWERS[0] + "<|im_end|>\n")
    assert prompt != rendered[0]
    for sent in (prompt, QUESTION, [{"role": "user", "content": QUESTION}]):
        response = ANSWERS[0] + ("<|im_end|>\n" if sent is prompt else "")
        assert_same(post(client, "/remote_rm", {"prompt": sent, "response": response, "label": "4"}), values[0])
    named = post(client, "/remote_rm?reward_key=score", {"prompt": QUESTION, "response": ANSWERS[0], "label": {"a": 1}})
    assert_same(named["score"], values[0])
    plain = {"prompt": "say <|im_end|>", "response": "no"}
    said = post(client, "/remote_rm?rendered=false", plain)
    assert said != post(client, "/remote_rm", plain)


# LLaMA-Factory: texts that the client rendered.
def test_llama_factory_s_score_evaluation(client, rendered, values, assert_same):
    reply = post(client, "/v1/score/evaluation", {"model": "any name", "messages": rendered, "max_length": None})
    assert reply["object"] == "score.evaluation"
    assert reply["id"].startswith("scoreeval-")
    assert reply["model"] == "rm"
    assert_same(reply["scores"], values)
    assert "leave it out" in str(post(client, "/v1/score/evaluation", {"model": "rm", "messages": rendered, "max_length": 8}, 422))


# vLLM: verl posts {"model", "input": text, "use_activation": false} and reads data[-1].probs[-1].
def test_vllm_s_classify(client, scorer, rendered, values, assert_same):
    reply = post(client, "/classify", {"model": "rm", "input": rendered[1], "use_activation": False})
    assert reply["id"].startswith("classify-")
    assert (reply["object"], reply["model"]) == ("list", "rm")
    assert isinstance(reply["created"], int)
    assert set(reply["usage"]) == {"prompt_tokens", "total_tokens", "completion_tokens"}
    assert [set(row) for row in reply["data"]] == [{"index", "label", "probs", "num_classes"}]
    assert_same(reply["data"][-1]["probs"][-1], values[1])
    ids = [item.tokens.tolist() for item in scorer.renderer.render(conversations())]
    for given in (rendered, ids):
        reply = post(client, "/classify", {"input": given, "use_activation": False})
        assert [(row["index"], row["num_classes"]) for row in reply["data"]] == [(0, 1), (1, 1)]
        assert_same([row["probs"][0] for row in reply["data"]], values)
    assert_same(post(client, "/classify", {"input": ids[0], "use_activation": False})["data"][0]["probs"], values[:1])
    turns = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWERS[0]}]
    assert_same(post(client, "/classify", {"messages": turns, "use_activation": False})["data"][0]["probs"], values[:1])


@pytest.mark.parametrize("name", ["use_activation", "softmax", "activation"])
def test_vllm_s_activation_is_on_when_left_out(name, client, rendered, values, assert_same):
    def probs(**switch):
        return [row["probs"][0] for row in post(client, "/classify", {"input": rendered, **switch})["data"]]

    assert_same(probs(), sigmoid(values))
    assert_same(probs(**{name: None}), sigmoid(values))
    assert_same(probs(**{name: True}), sigmoid(values))
    assert_same(probs(**{name: False}), values)


def test_a_regression_has_no_activation_to_switch_on():
    model = tiny_model()
    model.backbone.config.problem_type = "regression"
    scorer = LocalScorer(model, tiny_renderer(), identity="regression")
    (value,) = scorer.score([Completion(text="It is four")]).value
    with serving(service_of(scorer)) as client:
        for switch in ({}, {"use_activation": True}, {"use_activation": False}):
            (row,) = post(client, "/classify", {"input": "It is four", **switch})["data"]
            assert row["probs"][0] == pytest.approx(value, abs=scorer.tolerance)


def test_vllm_s_pooling(client, rendered, values, assert_same):
    body = {"model": "rm", "input": rendered, "use_activation": False, "task": "classify"}
    reply = post(client, "/pooling", body)
    assert reply["id"].startswith("pool-")
    assert [(row["index"], row["object"]) for row in reply["data"]] == [(0, "pooling"), (1, "pooling")]
    assert_same([row["data"][0] for row in reply["data"]], values)
    packed = post(client, "/pooling", {**body, "encoding_format": "base64"})
    assert_same([struct.unpack("<f", base64.b64decode(row["data"]))[0] for row in packed["data"]], values)
    assert "this is a reward model" in str(post(client, "/pooling", {**body, "task": "token_embed"}, 400))


def test_vllm_s_score_and_rerank(client, values, assert_same):
    for names in (("queries", "documents"), ("text_1", "text_2"), ("data_1", "data_2"), ("queries", "items")):
        reply = post(client, "/score", {"model": "rm", names[0]: QUESTION, names[1]: ANSWERS, "use_activation": False})
        assert [(row["index"], row["object"]) for row in reply["data"]] == [(0, "score"), (1, "score")]
        assert_same([row["score"] for row in reply["data"]], values)
    one_each = post(client, "/score", {"queries": [QUESTION] * 2, "documents": ANSWERS})
    assert_same([row["score"] for row in one_each["data"]], sigmoid(values))
    assert "2 queries and 1 documents" in str(post(client, "/score", {"queries": ["a", "b"], "documents": "c"}, 400))
    assert "documents is missing" in str(post(client, "/score", {"queries": "a"}, 400))
    reply = post(client, "/rerank", {"model": "rm", "query": QUESTION, "documents": ANSWERS, "use_activation": False})
    best = int(np.argmax(values))
    assert [row["index"] for row in reply["results"]] == [best, 1 - best]
    assert reply["results"][0]["document"] == {"text": ANSWERS[best]}
    assert_same([row["relevance_score"] for row in reply["results"]], sorted(values, reverse=True))
    assert len(post(client, "/rerank", {"query": QUESTION, "documents": ANSWERS, "top_n": 1})["results"]) == 1


def test_what_would_read_a_text_in_another_way_is_refused_and_not_ignored(client, rendered):
    for more, reason in (
        ({"chat_template": "{{ messages }}"}, "the chat template is the artifact's"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "the chat template is the artifact's"),
        ({"truncate_prompt_tokens": 4}, "the length policy is the artifact's"),
        ({"messages": [{"role": "user", "content": "a"}]}, "give input, or messages"),
    ):
        assert reason in str(post(client, "/classify", {"input": rendered[0], **more}, 400))
    assert "must end in the assistant's answer" in str(
        post(client, "/classify", {"messages": [{"role": "user", "content": "a"}]}, 400)
    )
    assert post(client, "/classify", {"input": rendered[0], "truncate_prompt_tokens": -1})
    assert post(client, "/classify", {"input": rendered[0], "truncate_prompt_tokens": 4096})
    assert "there is no model 'gpt'" in str(post(client, "/classify", {"model": "gpt", "input": rendered[0]}, 404))


def test_vllm_s_models(client, scorer):
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["root"], model["max_model_len"]) == ("rm", "model", scorer.fingerprint, 1024)


# SGLang: Skywork's card posts {"model", "text": [...]}, verl {"model", "input"} and reads data[-1].embedding[-1].
def test_sglang_s_classify_and_embeddings(client, scorer, rendered, values, assert_same):
    rows = post(client, "/classify", {"model": "served elsewhere", "text": rendered})
    assert_same([row["embedding"][0] for row in rows], values)
    assert_same(post(client, "/classify", {"text": rendered[0]})["embedding"], values[:1])
    ids = [item.tokens.tolist() for item in scorer.renderer.render(conversations())]
    assert_same([row["embedding"][0] for row in post(client, "/classify", {"input_ids": ids})], values)
    assert_same(post(client, "/classify", {"input_ids": ids[1]})["embedding"], values[1:])
    reply = post(client, "/v1/embeddings", {"model": "served elsewhere", "input": rendered[1]})
    assert (reply["object"], reply["data"][-1]["object"], reply["data"][-1]["index"]) == ("list", "embedding", 0)
    assert_same(reply["data"][-1]["embedding"][-1], values[1])
    packed = post(client, "/v1/embeddings", {"input": rendered, "encoding_format": "base64"})
    assert_same([struct.unpack("<f", base64.b64decode(row["embedding"]))[0] for row in packed["data"]], values)


def test_teis_predict(client, rendered, values, assert_same):
    for inputs, given in ((rendered[0], values[:1]), ([rendered[0]], values[:1]), ([QUESTION, ANSWERS[1]], values[1:])):
        (row,) = post(client, "/predict", {"inputs": inputs, "raw_scores": True})
        assert row["label"] == "LABEL_0"
        assert_same(row["score"], given[0])
    rows = post(client, "/predict", {"inputs": [[rendered[0]], [QUESTION, ANSWERS[1]]], "raw_scores": True, "truncate": False})
    assert_same([row[0]["score"] for row in rows], values)
    assert_same(post(client, "/predict", {"inputs": rendered[0]})[0]["score"], sigmoid(values)[0])
    assert "3 texts" in str(post(client, "/predict", {"inputs": ["a", "b", "c"]}, 422))


@pytest.mark.parametrize("engine", ["vllm", "sglang", "tei", "openrlhf"])
def test_the_certificate_can_be_made_against_each_contract(engine, client, scorer, rendered, values, assert_same, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    ids = [item.tokens.tolist() for item in scorer.renderer.render(conversations())]
    assert_same(ask_engine(str(client.base_url), ids, rendered, engine=engine), values)


def test_special_tokens_are_added_as_an_engine_adds_them_and_never_twice():
    scorer = Lengths()
    service = service_of(scorer)
    loaded = service.models["rm"].current
    object.__setattr__(loaded, "text_rules", TextRules(before="<s>", marks=("<s>",)))
    with serving(service) as client:
        for body, text in (
            ({"input": "Hi"}, "<s>Hi"),
            ({"input": "<s>Hi you"}, "<s>Hi you"),
            ({"input": "Hi they", "add_special_tokens": False}, "Hi they"),
            ({"text": ["Hello"]}, "<s>Hello"),
        ):
            post(client, "/classify", body)
            assert scorer.batches[-1] == [text]
        post(client, "/v1/embeddings", {"input": "Hi he"})
        post(client, "/predict", {"inputs": "Hi she"})
        post(client, "/v1/score/evaluation", {"messages": ["Hi it"]})
    assert scorer.batches[-3:] == [["<s>Hi he"], ["<s>Hi she"], ["Hi it"]]


def test_a_tokenizer_says_what_it_adds():
    from tokenizers.processors import TemplateProcessing

    renderer = tiny_renderer()
    scorer = LocalScorer(tiny_model(), renderer, identity="tiny")
    assert text_rules_of(scorer).before == ""
    begin = ("<|im_start|>", 1)
    renderer.tokenizer._tokenizer.post_processor = TemplateProcessing(single="<|im_start|> $A", special_tokens=[begin])
    rules = text_rules_of(scorer)
    assert (rules.before, rules.after) == ("<|im_start|>", "")
    assert rules.is_rendered("a <|im_end|>")
    assert not rules.is_rendered("a")
    assert rules.max_length == 1024
    assert isinstance(service_of(scorer).models["rm"], Served)


def test_the_openapi_names_every_contract(client):
    paths = client.get("/openapi.json").json()["paths"]
    contracts = ["/v1/score", "/get_reward", "/remote_rm", "/v1/score/evaluation"]
    engines = ["/classify", "/pooling", "/score", "/rerank", "/v1/embeddings", "/predict"]
    for path in contracts + engines:
        assert {"200", "401", "422", "429", "504"} <= set(paths[path]["post"]["responses"])
        assert paths[path]["post"]["requestBody"]["content"]["application/json"]["schema"]


# Messages with tool calls and reasoning, and the trainers' labels.


def test_conversations_with_calls_and_reasoning_are_templated_with_them():
    scorer = LocalScorer(tiny_model(), tiny_renderer(AGENT), identity="tiny")
    call = {"type": "function", "function": {"name": "lookup", "arguments": '{"q": "egg"}'}}
    prompt = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    prompt.append({"role": "tool", "content": "ten minutes"})
    thought = {"role": "assistant", "content": ANSWERS[0], "reasoning": "hm"}
    expected = scorer.score(
        [Completion(messages=prompt, response_message=thought), Completion(messages=prompt, response=ANSWERS[0])]
    ).value.tolist()
    assert expected[0] != expected[1]
    with serving(service_of(scorer)) as client:
        body = {"messages": [*prompt, thought], "use_activation": False}
        (row,) = post(client, "/classify", body)["data"]
        assert row["probs"][0] == pytest.approx(expected[0], abs=scorer.tolerance)
        sample = post(client, "/remote_rm", {"prompt": prompt, "response": ANSWERS[0]})
        assert sample == pytest.approx(expected[1], abs=scorer.tolerance)
        items = [{"prompt": prompt, "response": thought}, {"messages": [*prompt, thought]}]
        rewards = post(client, "/v1/score", {"items": items})["rewards"]
        np.testing.assert_allclose([reward["value"] for reward in rewards], [expected[0]] * 2, atol=scorer.tolerance)
        calls = [{"function": {"arguments": "secret"}}]
        for turn in ({"role": "user", "content": None}, {"role": "assistant", "content": "a", "tool_calls": calls}):
            for path, body in (
                ("/classify", {"messages": [turn]}),
                ("/v1/score", {"items": [{"prompt": [turn], "response": "a"}]}),
            ):
                assert "secret" not in str(post(client, path, body, 422))


class Truths(Lengths):
    """Lengths, and the ground truths that it was given."""

    reads_ground_truth = True

    def score(self, completions):
        self.truths = [completion.ground_truth for completion in completions]
        return super().score(completions)


def test_labels_of_trainers_are_the_ground_truth():
    scorer = Truths()
    with serving(service_of(scorer)) as client:
        for prompt in ("q", [{"role": "user", "content": "q"}]):
            post(client, "/remote_rm", {"prompt": prompt, "response": "a", "label": "4"})
            assert scorer.truths == [{"answer": "4"}]
        post(client, "/get_reward", {"query": ["a", "bb"], "labels": ['{"tests": []}', ""]})
        assert scorer.truths == [{"tests": []}, None]
        post(client, "/get_reward", {"query": "a", "labels": "4"})
        assert scorer.truths == [{"answer": "4"}]
        assert "one for each" in str(post(client, "/get_reward", {"query": ["a", "bb"], "labels": ["4"]}, 422))


def test_an_encoder_is_served_too(tmp_path):
    """Its texts have no template, so that nothing is closed and no padding is taken off."""
    scorer = load(save_tiny_encoder(tmp_path / "theirs"), dtype="float32")
    rules = text_rules_of(scorer)
    assert (rules.closing, rules.padding) == ("", ())
    completion = Completion(messages="Hi", response="he")
    with serving(service_of(scorer)) as client:
        rows = client.post("/v1/score", json={"items": [{"messages": [{"role": "user", "content": "Hi"}], "response": "he"}]})
    assert rows.json()["rewards"][0]["value"] == pytest.approx(float(scorer.score([completion]).value[0]), abs=1e-5)
