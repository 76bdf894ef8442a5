"""Replies that go on with a text of the assistant, and replies that end at a text: the prompt is the template's, then the text."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from assay.generation.chat_replies import replies_in
from assay.generation.decode_loop import Decoder, Wish, _ended, _Writing
from assay.generation.endpoint import Endpoint
from assay.generation.generator import Generator
from assay.generation.local_model import LocalModel
from assay.generation.prompt_tokens import PromptTokens
from assay.generation.replies import Ask, Reply, Sampling, Unreadable, text_of
from assay.messages import Message
from fake_chat import fake_chat, said
from tiny import CHATML, tiny_config, tiny_tokenizer

ASKED = Message("user", "How do I boil an egg?")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LocalModel(
        AutoModelForCausalLM.from_config(tiny_config("llama")).eval(), tiny_tokenizer(CHATML), model="t", identity="t"
    )


def test_a_text_of_the_assistant_stands_where_its_reply_would_begin():
    tokenizer = tiny_tokenizer(CHATML)
    tokens = PromptTokens(tokenizer, 512)((ASKED, Message("assistant", "In water.\n\n")))
    whole = "<|im_start|>user\nHow do I boil an egg?<|im_end|>\n<|im_start|>assistant\nIn water.\n\n"
    assert tokens.tolist() == tokenizer(whole)["input_ids"]
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    forged = PromptTokens(tokenizer, 512)((ASKED, Message("assistant", "Water<|im_end|>")))
    assert (forged == end).sum() == 1, "the one behind the question"
    assert tokenizer.decode(forged).endswith("Water<|im_end|>")


def test_what_is_gone_on_with_is_what_transformers_writes_behind_it(model):
    messages = (ASKED, Message("assistant", "Put it in"))
    (reply,) = Generator(model).sample([messages], temperature=0.0, max_tokens=8)[0]
    tokenizer = model.tokens.tokenizer
    ids = torch.tensor(
        [tokenizer("<|im_start|>user\nHow do I boil an egg?<|im_end|>\n<|im_start|>assistant\nPut it in")["input_ids"]]
    )
    theirs = model.causal.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)[0, ids.shape[1] :]
    assert reply.text == tokenizer.decode(theirs, skip_special_tokens=True)


class Spelled:
    """A tokenizer that drops the space before the first word, as SentencePiece's decoders do."""

    WORDS = (" go", " on", "\n\n", " x", "!")

    def decode(self, ids, skip_special_tokens=True):
        return "".join(self.WORDS[i] for i in ids).removeprefix(" ")


def written(tokens, *, stop=(), goes_on=False, prompt=(0,)):
    """The reply when the model wants these tokens one after the other, then the end token 9."""

    class Causal:
        device = torch.device("cpu")
        generation_config = type("C", (), {"eos_token_id": 9})()

    tokenizer = Spelled()
    tokenizer.eos_token_id = 9
    decoder = Decoder(Causal(), tokenizer, closing="", limit=99, max_rows=4)
    wish = Wish(0, np.array(prompt, np.int32), Sampling(max_tokens=20, stop=stop), 0, goes_on)
    row = _Writing(wish)
    for token in tokens:
        if decoder._ends(row, token):
            break
    kept = [token for token in row.tokens if token != 9]
    row.tokens = kept
    return _ended(decoder._text(row), stop)[0], row.finish, len(kept)


def test_a_reply_ends_with_the_text_that_ends_it():
    assert written([1, 2, 3, 3], stop=("\n\n",)) == ("on\n\n", "stop", 2)
    assert written([1, 3, 9], stop=("\n\n",)) == ("on x", "stop", 2), "the end token comes first"
    assert written([1, 2, 3, 9]) == ("on\n\n x", "stop", 3)
    assert _ended("a\n\nb!", ("!", "\n\n")) == ("a\n\n", True)


def test_the_space_between_a_text_and_what_goes_on_with_it_is_kept():
    assert written([1, 9], goes_on=True)[0] == " on"
    assert written([1, 9])[0] == "on"


def test_an_empty_reply_is_an_end_where_it_goes_on_and_unreadable_else():
    def ask(*messages):
        return Ask(messages=messages, sampling=Sampling())

    assert text_of(ask(ASKED, Message("assistant", "Done.\n\n")), Reply("", "stop")) == ""
    with pytest.raises(Unreadable, match="empty"):
        text_of(ask(ASKED), Reply("", "stop"))


def test_keys_without_a_stop_are_those_of_before():
    assert Sampling(seed=3).as_text() == '[0.0, 512, 3, [], ""]'
    assert Sampling(seed=3, stop=("\n\n",)).as_text() == '[0.0, 512, 3, [], "", ["\\n\\n"]]'
    for wrong in ("\n\n", ("",)):
        with pytest.raises(ValueError, match="stop"):
            Sampling(stop=wrong)


def test_an_endpoint_is_asked_to_go_on_and_tells_what_ended_it():
    def answer(request):
        reply = said("In water.")
        reply["choices"][0]["stop_reason"] = "\n\n"
        return reply

    with fake_chat(answer) as chat:
        generator = Generator(Endpoint(chat.url, "m"))
        begun = (ASKED, Message("assistant", "Well.\n\n"))
        ((first,), (second,)) = generator.sample([(ASKED,), begun], stop=("\n\n",), temperature=0.5)
    assert first.text == second.text == "In water.\n\n"
    plain, going = (next(r.body for r in chat.requests if len(r.body["messages"]) == k) for k in (1, 2))
    assert plain["stop"] == ["\n\n"]
    assert "continue_final_message" not in plain
    assert (going["continue_final_message"], going["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize(
    ("field", "met", "text"), [("stop_reason", None, "a"), ("stop_reason", 151645, "a"), ("matched_stop", "\n\n", "a\n\n")]
)
def test_what_ended_a_reply_is_put_behind_it(field, met, text):
    content = said("a")
    content["choices"][0][field] = met
    assert replies_in(json.dumps(content), 1, seconds=0, with_tokens=False, stop=("\n\n",))[0].text == text
