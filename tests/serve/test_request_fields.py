"""What a request says is honoured or refused, never ignored; messages in every form of OpenAI's API; tokens are counted."""

from __future__ import annotations

import base64
import json
import struct

import numpy as np
import pytest

from assay.records import Completion
from assay.scorers.load import load
from assay.scorers.wrappers.cached import Cached
from serving import Lengths, service_of, serving

QUESTION, ANSWER = "How do I boil an egg?", "Put it in water."
TURNS = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]
PAIR = {"queries": QUESTION, "documents": ANSWER}
RANKED = {"query": QUESTION, "documents": [ANSWER]}
TEXT = "User: Hi Assistant: Hello."


def post(client, path: str, body: dict, status: int = 200):
    reply = client.post(path, json=body)
    assert reply.status_code == status, reply.text
    return reply.json()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/classify", {"messages": TURNS, "continue_final_message": True}, 400),
        ("/classify", {"messages": TURNS, "add_generation_prompt": True}, 400),
        ("/classify", {"messages": TURNS, "add_special_tokens": True}, 400),
        ("/classify", {"input": TEXT, "padding": "max_length"}, 422),
        ("/classify", {"input": TEXT, "priority": 3}, 422),
        ("/classify", {"input": TEXT, "mm_processor_kwargs": {"a": 1}}, 422),
        ("/classify", {"text": TEXT, "truncate_prompt_tokens": 8}, 400),
        ("/pooling", {"input": TEXT, "embed_dtype": "fp8_e4m3", "encoding_format": "base64"}, 422),
        ("/pooling", {"input": TEXT, "dimensions": 2}, 422),
        ("/pooling", {"input": TEXT, "encoding_format": "bytes"}, 422),
        ("/pooling", {"input": TEXT, "normalize": True}, 422),
        ("/v1/embeddings", {"input": TEXT, "dimensions": 256}, 422),
        *(
            (path, {**body, **more}, 400)
            for path, body in (("/score", PAIR), ("/rerank", RANKED), ("/v1/rerank", RANKED), ("/v1/score", PAIR))
            for more in (
                {"instruction": "Be strict."},
                {"max_tokens_per_doc": 8},
                {"max_tokens_per_query": 8},
                {"truncate_prompt_tokens": 8},
                {"truncate_prompt_tokens": -1, "truncation_side": "right"},
                {"chat_template_kwargs": {"enable_thinking": False}},
                {"chat_template": "{{ messages }}"},
            )
        ),
        ("/rerank", {**RANKED, "rank_fields": ["title"]}, 422),
        ("/get_reward", {"query": [TEXT], "promts": [TEXT]}, 422),
        ("/remote_rm", {"prompt": "a", "response": "b", "temperature": 1}, 422),
        ("/predict", {"inputs": TEXT, "raw_score": True}, 422),
        ("/v1/score", {"items": [{"prompt": "a", "response": "b", "ground_thruth": "4"}]}, 422),
        ("/v1/score", {"items": [], "mode": "rm"}, 422),
    ],
)
def test_what_would_change_a_reward_or_is_not_read_is_refused(path, body, status, client):
    message = post(client, path, body, status)["error"]["message"]
    assert any(word in message for word in ("leave", "Input should be"))


@pytest.mark.parametrize(
    ("path", "body", "more"),
    [
        ("/classify", {"messages": TURNS}, {"continue_final_message": False, "add_generation_prompt": False, "priority": 0}),
        ("/classify", {"input": TEXT}, {"padding": "do_not_pad", "truncation_side": "left", "truncate_prompt_tokens": -1}),
        ("/score", PAIR, {"max_tokens_per_doc": 0, "max_tokens_per_query": 4096, "instruction": None, "user": "me"}),
        ("/rerank", RANKED, {"truncate_prompt_tokens": 1024, "cache_salt": "s", "return_documents": True}),
        ("/v1/score", {"items": [{"messages": TURNS}]}, {"a field of another version": None, "and another": {}}),
    ],
)
def test_what_says_nothing_or_what_holds_anyway_changes_nothing(path, body, more, client, scorer):
    def told(reply: dict) -> dict:
        return {name: value for name, value in reply.items() if name not in ("id", "created")}

    expected = json.dumps(told(post(client, path, body)))
    nearly = json.loads(expected, parse_float=lambda text: pytest.approx(float(text), abs=scorer.tolerance))
    assert told(post(client, path, {**body, **more})) == nearly


@pytest.mark.parametrize("path", ["/classify", "/v1/score", "/remote_rm"])
def test_messages_are_read_in_every_form_of_openai_s_api(path, client, scorer):
    turns = [
        {"role": "developer", "content": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}]},
        {"role": "user", "content": "Hi", "name": "me"},
        {"role": "assistant", "content": None, "refusal": None, "annotations": [], "function_call": None},
        {"role": "user", "content": [{"type": "text", "text": QUESTION, "cache_control": {"type": "ephemeral"}}]},
    ]
    said = {"role": "assistant", "content": [{"type": "output_text", "text": ANSWER, "annotations": []}]}
    messages = [
        {"role": "system", "content": "Be brief.\nBe kind."},
        {"role": "user", "content": "Hi", "name": "me"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": QUESTION},
    ]
    (expected,) = scorer.score([Completion(messages=messages, response=ANSWER)]).value
    if path == "/classify":
        found = post(client, path, {"messages": [*turns, said]})["data"][0]["probs"][0]
    elif path == "/v1/score":
        found = post(client, path, {"items": [{"prompt": turns, "response": said}]})["rewards"][0]["value"]
    else:
        found = post(client, path, {"prompt": turns, "response": ANSWER})
    assert found == pytest.approx(float(expected), abs=scorer.tolerance)


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "user", "content": None},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]},
        {"role": "user", "content": [{"type": "text"}]},
        {"role": "function", "content": "a"},
        {"role": "user", "content": "a", "weight": 2},
    ],
)
def test_a_message_that_is_none_or_says_more_than_is_read_is_refused(turn, client):
    for path, body in (
        ("/classify", {"messages": [turn, TURNS[1]]}),
        ("/v1/score", {"items": [{"prompt": [turn], "response": "a"}]}),
    ):
        assert client.post(path, json=body).status_code == 422


@pytest.mark.parametrize(("dtype", "code", "size"), [("float32", "f", 4), ("float16", "e", 2), ("bfloat16", "H", 2)])
@pytest.mark.parametrize(("endianness", "mark"), [("little", "<"), ("big", ">"), ("native", "=")])
def test_bytes_are_of_the_type_and_the_order_that_was_asked_for(dtype, code, size, endianness, mark, client):
    body = {"input": TEXT, "encoding_format": "base64", "embed_dtype": dtype, "endianness": endianness}
    (value,) = post(client, "/pooling", {"input": TEXT})["data"][0]["data"]
    content = base64.b64decode(post(client, "/pooling", body)["data"][0]["data"])
    assert len(content) == size
    (found,) = struct.unpack(f"{mark}{code}", content)
    if dtype == "bfloat16":
        (found,) = struct.unpack("<f", struct.pack("<I", found << 16))
    assert found == pytest.approx(value, rel={"float32": 0, "float16": 2**-11, "bfloat16": 2**-8}[dtype])


# Token counts.


def counted(client, path: str, body: dict) -> dict:
    return post(client, path, body)["usage"]


def test_usage_is_the_number_of_tokens_that_the_renderer_gives(client, scorer):
    items = scorer.renderer.render([Completion(messages=QUESTION, response=ANSWER), Completion(text=TEXT)])
    pair, text = (len(item.tokens) for item in items)
    for path, body, expected in (
        ("/classify", {"messages": TURNS}, pair),
        ("/classify", {"input": [TEXT, TEXT]}, 2 * text),
        ("/classify", {"input": [[1, 2, 3], [4, 5]]}, 5),
        ("/pooling", {"input": TEXT}, text),
        ("/score", PAIR, pair),
        ("/score", {**PAIR, "documents": [ANSWER] * 3}, 3 * pair),
        ("/v1/embeddings", {"input": [TEXT]}, text),
    ):
        assert counted(client, path, body) == {"prompt_tokens": expected, "total_tokens": expected, "completion_tokens": 0}
    assert counted(client, "/rerank", RANKED) == {"prompt_tokens": pair, "total_tokens": pair}
    assert post(client, "/classify", {"text": TEXT})["meta_info"]["prompt_tokens"] == text


def test_tokens_are_counted_for_known_rewards_and_for_those_who_join_too(scorer, tmp_path):
    text = len(scorer.renderer.render([Completion(text=TEXT)])[0].tokens)
    with serving(service_of(Cached(scorer, tmp_path / "cache.db"), linger_seconds=0.02)) as client:
        first = post(client, "/v1/score", {"items": [{"text": TEXT}]})
        assert set(first["rewards"][0]) == {"id", "value"}
        for _ in range(2):
            assert counted(client, "/classify", {"input": [TEXT, "Hello."]})["prompt_tokens"] > text
        assert counted(client, "/classify", {"input": TEXT})["prompt_tokens"] == text


def test_where_nothing_is_tokenised_no_token_is_counted():
    with serving(service_of(Lengths())) as client:
        assert counted(client, "/classify", {"input": "abc"}) == {"prompt_tokens": 0, "total_tokens": 0, "completion_tokens": 0}


def test_counting_again_what_was_just_rendered_renders_nothing(scorer, monkeypatch):
    completions = [Completion(text=TEXT), Completion(text="Hello.")]
    scorer.score(completions)
    rendered = []
    own = scorer.renderer.render
    monkeypatch.setattr(scorer.renderer, "render", lambda items: rendered.append(len(items)) or own(items))
    counts = scorer.token_counts([*completions, Completion(text="a new one")])
    assert rendered == [1]
    assert [count.num_tokens for count in counts] == [
        len(item.tokens) for item in own([*completions, Completion(text="a new one")])
    ]
    assert not any(count.is_cut for count in counts)


# Ground truth as in files.


@pytest.mark.parametrize(
    ("given", "read"),
    [("4", {"answer": "4"}), (4, {"answer": 4}), (["a", "b"], {"answer": ["a", "b"]}), ({"tests": []}, {"tests": []}), ("", None)],
)
def test_a_ground_truth_may_be_a_plain_value_as_in_files(given, read):
    class Truths(Lengths):
        reads_ground_truth = True

        def score(self, completions):
            self.truths = [completion.ground_truth for completion in completions]
            return super().score(completions)

    scorer = Truths()
    with serving(service_of(scorer)) as client:
        post(client, "/v1/score", {"items": [{"prompt": "q", "response": "a", "ground_truth": given}]})
    assert scorer.truths == [read]


def test_a_rule_is_served_with_the_ground_truth_of_each_item():
    with serving(service_of(load("rule:exact"))) as client:
        items = [{"prompt": "q", "response": "4", "ground_truth": truth} for truth in ("4", {"answer": 5}, None)]
        rewards = post(client, "/v1/score", {"items": items})["rewards"]
    assert [reward["value"] for reward in rewards] == [1.0, 0.0, None]
    assert rewards[2]["error"] == "the ground truth has no answer: give text or a number"


def test_the_older_path_of_score_takes_vllm_s_fields_and_its_own(client, scorer):
    (expected,) = scorer.score([Completion(messages=QUESTION, response=ANSWER)]).value
    for fields in (("queries", "documents"), ("text_1", "text_2"), ("data_1", "data_2"), ("queries", "items")):
        reply = post(client, "/v1/score", {"model": "rm", **dict(zip(fields, (QUESTION, [ANSWER]), strict=True))})
        np.testing.assert_allclose(reply["data"][0]["score"], expected, atol=scorer.tolerance)
    reply = post(client, "/v1/score", {"items": [{"prompt": QUESTION, "response": ANSWER}]})
    np.testing.assert_allclose(reply["rewards"][0]["value"], expected, atol=scorer.tolerance)
