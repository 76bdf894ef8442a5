"""The score template: vLLM's way with a question and an answer gives the renderer's tokens, whatever template and tokenizer do."""

from __future__ import annotations

import pytest
from tokenizers.processors import TemplateProcessing

from assay.data.tokens.render import PLAIN_TEMPLATE, Renderer
from assay.data.tokens.score_template import SCORE_TEMPLATE_FILE, added_specials, score_template
from assay.models.saved.artifact_renderer import renderer_of
from assay.records import Completion
from tiny import AGENT, CHATML, FORGETFUL, tiny_renderer, tiny_tokenizer

# As Llama's: messages are set anew, a macro, a system turn of its own, blocks that begin lines.
LLAMA_LIKE = (
    "{{- bos_token }}\n{%- if messages[0]['role'] == 'system' %}\n    {%- set system = messages[0]['content'] | trim %}\n"
    "    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system = '' %}\n{%- endif %}\n"
    "{% macro turn(role, text) %}{{ '<|im_start|>' + role + '\\n\\n' + text | trim + '<|im_end|>' }}{% endmacro %}\n"
    "{{- turn('system', system) }}\n{%- for message in messages %}\n    {{- turn(message['role'], message['content']) }}\n"
    "{%- endfor %}\n"
)
SPACED = "  {% for message in messages %}\n  {{ message['role'] }}: {{ message['content'] }}\n  {% endfor %}\n<|im_end|>\n"
TEMPLATES = {
    "ChatML": CHATML,
    "agent": AGENT,
    "forgetful": FORGETFUL,
    "plain": PLAIN_TEMPLATE,
    "like Llama's": LLAMA_LIKE,
    "spaced": SPACED,
}
PAIRS = [
    ("How do I boil an egg?", "Put it in water."),
    ("  two\n\nlines ", " It is 'four'. {{ no }} \n"),
    ("<|im_start|>", '"quoted"'),
]


def as_vllm_reads(renderer: Renderer, template: str, query: str, document: str) -> list[int]:
    """Its cross-encoder's way: the template over two roles, then the tokenizer with its special tokens."""
    pair = [{"role": "query", "content": query}, {"role": "document", "content": document}]
    text = renderer.tokenizer.apply_chat_template(pair, chat_template=template, tokenize=False)
    return renderer.tokenizer(text=text)["input_ids"]


def with_added(template: str, single: str) -> Renderer:
    """A renderer whose tokenizer adds special tokens to every text."""
    tokenizer = tiny_tokenizer(template)
    specials = [("<|im_start|>", 1), ("<|im_end|>", 2)]
    tokenizer._tokenizer.post_processor = TemplateProcessing(single=single, special_tokens=specials)
    return Renderer(tokenizer)


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("single", [None, "<|im_start|> $A"])
def test_a_question_and_its_answer_get_the_renderer_s_tokens(name, single):
    renderer = tiny_renderer(TEMPLATES[name]) if single is None else with_added(TEMPLATES[name], single)
    starts_so = renderer.text(Completion(messages="a", response="b")).startswith("<|im_start|>")
    template = score_template(renderer)
    if single is not None and not starts_so:
        assert template is None, "vLLM would put a token before it that the artifact has not"
        return
    for query, document in PAIRS:
        (expected,) = renderer.render([Completion(messages=query, response=document)])
        assert as_vllm_reads(renderer, template, query, document) == expected.tokens.tolist()


def test_special_tokens_at_both_ends_are_cut_off_where_the_tokenizer_adds_them():
    renderer = with_added(CHATML.replace("<|im_end|>\n", "<|im_end|>"), "<|im_start|> $A <|im_end|>")
    assert added_specials(renderer.tokenizer) == ("<|im_start|>", "<|im_end|>")
    template = score_template(renderer)
    (expected,) = renderer.render([Completion(messages="Hi", response="Hello.")])
    assert as_vllm_reads(renderer, template, "Hi", "Hello.") == expected.tokens.tolist()


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("single", [None, "<|im_start|> $A"])
def test_conversations_are_rendered_as_by_the_artifact_s_own_template(name, single):
    renderer = tiny_renderer(TEMPLATES[name]) if single is None else with_added(TEMPLATES[name], single)
    template, tokenizer = score_template(renderer), renderer.tokenizer
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Why?"}]
    if template is not None:
        given = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False)
        assert given == tokenizer.apply_chat_template(turns, tokenize=False)


def test_an_artifact_holds_it(trained_run):
    held = (trained_run.path / "artifact" / SCORE_TEMPLATE_FILE).read_text(encoding="utf-8")
    renderer = renderer_of(trained_run.path)
    assert held == score_template(renderer)
    (expected,) = renderer.render([Completion(messages="Hi", response="Hello.")])
    assert as_vllm_reads(renderer, held, "Hi", "Hello.") == expected.tokens.tolist()
