"""Padding at either end of a rendered text or of token ids changes nothing, and a prompt without an answer is refused."""

from __future__ import annotations

import pytest

from assay.data.tokens.padding import Ends
from assay.data.tokens.render import Renderer
from assay.records import Completion
from tiny import CHATML, tiny_renderer, tiny_tokenizer

PLAIN = None  # "User: ...\nAssistant: ...<eos>"
CLOSED_TWICE = "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '<|im_end|>' }}{% endfor %}{{ eos_token }}"
BEGINS = "{{ bos_token }}" + CLOSED_TWICE
TEMPLATES = {"chatml": CHATML, "plain": PLAIN, "closed twice": CLOSED_TWICE, "begins with bos": BEGINS}
QUESTION, ANSWER = "Tell me about egg 3", "Put it in water, not in <lazy> dog."


def renderer_with(template: str | None, *, pad: str, eos: str, bos: str | None = "<|im_start|>") -> Renderer:
    tokenizer = tiny_tokenizer(template)
    tokenizer.pad_token, tokenizer.eos_token, tokenizer.bos_token = pad, eos, bos
    return Renderer(tokenizer)


VOCABULARIES = [
    {"pad": "<|endoftext|>", "eos": "<|im_end|>"},
    {"pad": "<|im_end|>", "eos": "<|im_end|>"},  # pads with its end token
    {"pad": "<|endoftext|>", "eos": "<|endoftext|>"},
    {"pad": "<|endoftext|>", "eos": "<|endoftext|>", "bos": "<|endoftext|>"},  # one token for everything, as in GPT-2
]


@pytest.mark.parametrize("tokens", VOCABULARIES, ids=str)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_padded_text_and_padded_ids_are_read_as_the_bare_ones(template, tokens):
    renderer = renderer_with(template, **tokens)
    whole = Completion(messages=QUESTION, response=ANSWER)
    text = renderer.text(whole)
    assert text is not None
    (bare,) = renderer.render([whole])
    ids = bare.tokens.tolist()
    pads = {tokens["pad"], tokens["eos"], renderer.tokenizer.pad_token}
    for pad in pads:
        pad_id = renderer.tokenizer.convert_tokens_to_ids(pad)
        for before, after in ((0, 1), (0, 3), (1, 0), (4, 0), (2, 2)):
            padded = [
                Completion(text=pad * before + text + pad * after),
                Completion(token_ids=[pad_id] * before + ids + [pad_id] * after),
            ]
            for completion, item in zip(padded, renderer.render(padded), strict=True):
                assert item.error is None
                assert item.tokens.tolist() == ids, (pad, before, after, completion)
                assert item.reward_positions.tolist() == [len(ids) - 1]


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_without_padding_a_text_and_ids_are_as_they_were(template):
    renderer = tiny_renderer(template)
    text = str(renderer.text(Completion(messages=QUESTION, response=ANSWER)))
    cut = text[: text.index(" not in")]  # an answer that was cut off by a token limit has no end
    for given in (
        text,
        cut,
        cut + "\n ",
        "no template at all",
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nho<|im_end|>",
    ):
        ids = renderer.tokenizer(given, add_special_tokens=False)["input_ids"]
        of_text, of_ids = renderer.render([Completion(text=given), Completion(token_ids=ids)])
        assert of_text.tokens.tolist() == of_ids.tokens.tolist() == ids


def test_an_answer_without_its_newline_keeps_the_one_end_token():
    renderer = renderer_with(CHATML, pad="<|im_end|>", eos="<|im_end|>")
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nho<|im_end|>"
    assert renderer.ends.unpadded(text + "<|im_end|>" * 3) == text
    assert renderer.ends.unpadded(text + " <|im_end|> <|im_end|>") == text, "some tokenizers decode special tokens with spaces"
    assert renderer.ends.unpadded(text + "\n<|im_end|><|im_end|>") == text + "\n"


def test_an_end_token_that_is_not_the_template_s_stays():
    renderer = renderer_with(CHATML, pad="<|endoftext|>", eos="<|endoftext|>")
    assert renderer.ends.unpadded("a text<|endoftext|>") == "a text<|endoftext|>"
    assert renderer.ends.unpadded("a text<|endoftext|><|endoftext|>") == "a text<|endoftext|>"


def test_without_marks_nothing_is_padding():
    assert Ends().unpadded("<pad>a<pad>") == "<pad>a<pad>"


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_prompt_without_an_answer_is_refused_as_an_empty_answer_is(template):
    renderer = tiny_renderer(template)
    (refused,) = renderer.render([Completion(messages=QUESTION, response="")])
    whole = str(renderer.text(Completion(messages=QUESTION, response=ANSWER)))
    asked = whole.split(ANSWER)[0]
    pad = renderer.tokenizer.pad_token
    for text in (
        asked,
        asked + renderer.closing,
        asked + "  \n" + renderer.closing,
        pad + asked + pad,
        asked + renderer.closing + pad,
    ):
        ids = renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
        for item in renderer.render([Completion(text=text), Completion(token_ids=ids)]):
            assert item.error == refused.error == "the response is empty", text


def test_a_generation_prompt_that_opens_a_thought_is_no_answer():
    template = CHATML.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
    renderer = tiny_renderer(template)
    texts = ["<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "<think>\n", "hm"]
    items = renderer.render([Completion(text="".join(texts[:number])) for number in (1, 2, 3)])
    assert [item.error for item in items] == ["the response is empty", "the response is empty", None]


def test_nothing_but_padding_is_refused():
    renderer = tiny_renderer()
    pad = renderer.pad_id
    items = renderer.render([Completion(token_ids=[pad] * 3), Completion(text=renderer.tokenizer.pad_token * 2)])
    assert [item.error for item in items] == ["token_ids hold nothing but padding", "the text is empty"]
