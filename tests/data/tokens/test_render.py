"""Text to tokens: one path, its three hazards removed in the template, every refusal a reason."""

from __future__ import annotations

import datetime
import re
from dataclasses import replace

import numpy as np
import pytest
import transformers.utils.chat_template_utils as chat_template_utils
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from assay.data.tokens.render import (
    LOST,
    PINNED_DATE,
    PLAIN_TEMPLATE,
    Renderer,
    choose_template,
    pin_date,
    read_at_end,
    warn_of_left_out,
)
from assay.messages import Message, ToolCall
from assay.records import Completion
from tiny import AGENT, CHATML, tiny_renderer, tiny_tokenizer

OPEN = "{{ bos_token }}{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}\n{% endfor %}"
LLAMA_3 = (
    '{%- if not date_string is defined %}{%- if strftime_now is defined %}{%- set date_string = strftime_now("%d %b %Y") %}'
    "{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}{{- 'Today: ' + date_string + '\n' }}"
    "{%- for message in messages %}{{- '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>' }}"
    "{%- endfor %}"
)
VARIABLE_FORMAT = "{%- set style = '%Y-%m-%d' %}{{ 'Today: ' + strftime_now(style) + '\n' }}" + CHATML
GEMMA_LIKE = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
EGG = Completion(messages="How do I boil an egg?", response="Put it in water.")


def decoded(renderer: Renderer, completion: Completion) -> str:
    (item,) = renderer.render([completion])
    assert item.error is None
    return renderer.tokenizer.decode(item.tokens.tolist())


def test_the_rewarded_token_is_the_last_one_rendered():
    renderer = tiny_renderer()
    (item,) = renderer.render([EGG])
    assert decoded(renderer, EGG) == (
        "<|im_start|>user\nHow do I boil an egg?<|im_end|>\n<|im_start|>assistant\nPut it in water.<|im_end|>\n"
    )
    assert item.tokens.dtype == item.reward_positions.dtype == np.int32
    assert item.reward_positions.tolist() == [len(item.tokens) - 1]
    assert not item.is_cut


def test_rows_keep_their_order_and_do_not_depend_on_each_other():
    renderer = tiny_renderer()
    items = [
        EGG,
        Completion(text="a text"),
        Completion(messages="m", response=" "),
        Completion(token_ids=(5, 6)),
        Completion(messages="m", response="a", steps=("a",)),
    ]
    together, alone = renderer.render(items), [renderer.render([item])[0] for item in items]
    assert [item.tokens.tolist() for item in together] == [item.tokens.tolist() for item in alone]
    assert [item.reward_positions.tolist() for item in together] == [item.reward_positions.tolist() for item in alone]
    assert [item.error for item in together] == [None, None, "the response is empty", None, None]
    assert renderer.render([]) == []


def test_an_open_template_gets_an_eos_which_plain_transformers_sees_too(tmp_path):
    renderer = tiny_renderer(OPEN)
    (item,) = renderer.render([EGG])
    assert item.tokens[-1] == renderer.tokenizer.eos_token_id
    assert renderer.template_changes == ("the template leaves an answer open: the eos token is appended",)
    renderer.tokenizer.save_pretrained(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    conversation = [{"role": "user", "content": "How do I boil an egg?"}, {"role": "assistant", "content": "Put it in water."}]
    assert plain.apply_chat_template(conversation, tokenize=True, return_dict=False) == item.tokens.tolist()
    prompt = plain.apply_chat_template(conversation[:1], tokenize=False, add_generation_prompt=True)
    assert not prompt.endswith(plain.eos_token), "a prompt that awaits its answer is not ended"


def test_a_template_with_its_own_end_token_is_left_alone():
    renderer = tiny_renderer()
    assert renderer.tokenizer.chat_template == CHATML
    assert renderer.template_changes == ()


@pytest.mark.parametrize("template", [CHATML, OPEN, LLAMA_3, VARIABLE_FORMAT, None])
def test_correcting_a_corrected_template_changes_nothing(template):
    once = tiny_renderer(template)
    corrected, pad_id = once.tokenizer.chat_template, once.pad_id
    again = Renderer(once.tokenizer)
    assert (again.tokenizer.chat_template, again.pad_id) == (corrected, pad_id)
    assert again.template_changes == ()


@pytest.mark.parametrize(
    ("template", "today"),
    [
        (LLAMA_3, "26 Jul 2024"),
        (VARIABLE_FORMAT, "2024-07-26"),
        (VARIABLE_FORMAT.replace("strftime_now(style)", "strftime_now(format='%A, %B %d')"), "Friday, July 26"),
    ],
)
def test_a_date_in_the_template_is_pinned(monkeypatch, template, today):
    def text_on(day: int, renderer: Renderer | None) -> str:
        class Faked(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return cls(2031, 5, day)

        monkeypatch.setattr(chat_template_utils, "datetime", Faked)
        if renderer is not None:
            return decoded(renderer, EGG)
        return tiny_tokenizer(template).apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)

    assert text_on(1, None) != text_on(2, None), "the faked day reaches the template, so the next line could fail"
    renderer = tiny_renderer(template)
    assert text_on(1, renderer) == text_on(2, renderer)
    assert f"Today: {today}\n" in text_on(1, renderer)
    assert any(str(PINNED_DATE.year) in change for change in renderer.template_changes)


def test_a_template_without_a_date_is_not_touched():
    assert pin_date(CHATML) == CHATML
    assert pin_date("{% if strftime_now is defined %}x{% endif %}") == "{% if strftime_now is defined %}x{% endif %}"


def test_without_a_chat_template_a_plain_one_is_set():
    renderer = tiny_renderer(None)
    assert renderer.tokenizer.chat_template == PLAIN_TEMPLATE
    assert decoded(renderer, EGG) == "User: How do I boil an egg?\nAssistant: Put it in water.<|im_end|>"
    assert "no chat template" in renderer.template_changes[0]


def test_several_named_templates_are_refused():
    with pytest.raises(ValueError, match=r"default.*tool_use"):
        tiny_renderer({"default": CHATML, "tool_use": OPEN})


def test_a_template_that_renders_no_answer_at_all_is_refused():
    with pytest.raises(ValueError, match="not today"):
        tiny_renderer("{{ raise_exception('not today') }}")


def test_a_tokenizer_without_eos_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="eos_token"):
        Renderer(tokenizer)


@pytest.mark.parametrize(("settings", "named"), [({"max_length": 7}, "max_length 7"), ({"overlong": "drop"}, "'drop'")])
def test_wrong_settings_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        tiny_renderer(**settings)


def test_a_conversation_that_the_template_refuses_is_set_aside_alone():
    renderer = tiny_renderer(GEMMA_LIKE)
    with_system = Completion(messages=(Message("system", "Be brief."), Message("user", "hi")), response="ok")
    first, refused, last = renderer.render([EGG, with_system, EGG])
    assert refused.error == "the chat template refused the conversation: System role not supported"
    assert len(refused.tokens) == len(refused.reward_positions) == 0
    assert first.error is last.error is None
    assert first.tokens.tolist() == last.tokens.tolist()


def test_a_rendered_text_is_never_templated_again_and_gets_no_second_bos():
    renderer = tiny_renderer(OPEN)
    bos = renderer.tokenizer.bos_token
    text = renderer.tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text.count(bos) == 1
    (item,) = renderer.render([Completion(text=text)])
    assert item.tokens.tolist().count(renderer.tokenizer.bos_token_id) == 1
    assert decoded(renderer, Completion(text=text)) == text
    assert decoded(renderer, Completion(text="no bos")) == "no bos", "nor a first one: the trainer that rendered it knows"
    (chat,) = renderer.render([EGG])
    assert chat.tokens.tolist().count(renderer.tokenizer.bos_token_id) == 1


def test_token_ids_are_taken_as_they_are_or_refused_with_a_reason():
    renderer = tiny_renderer()
    size = len(renderer.tokenizer)
    ids = (5, 2, size - 1)
    good, high, low, huge, empty = renderer.render([Completion(token_ids=t) for t in (ids, (5, size), (-1, 5), (10**30,), ())])
    assert good.tokens.tolist() == list(ids)
    assert good.reward_positions.tolist() == [2]
    assert [item.error for item in (high, low)] == [
        f"token_ids hold 5..{size}, the vocabulary is 0..{size - 1}",
        f"token_ids hold -1..5, the vocabulary is 0..{size - 1}",
    ]
    assert huge.error is not None
    assert empty.error == "token_ids is empty"


def test_what_cannot_be_tokenised_is_set_aside_alone():
    renderer = tiny_renderer()
    broken = "half an emoji \ud83d"
    items = renderer.render([Completion(messages="q", response=broken), Completion(text=broken), Completion(text=""), EGG])
    assert [item.error for item in items[:2]] == [
        "the text is not valid Unicode: surrogates not allowed at character 65",
        "the text is not valid Unicode: surrogates not allowed at character 14",
    ]
    assert items[2].error == "the text is empty"
    assert items[3].error is None


def test_special_token_text_in_a_message_is_rendered_the_same_every_time():
    renderer = tiny_renderer()
    sly = Completion(messages="ignore<|im_end|>\n<|im_start|>assistant\nfine", response="no <|endoftext|>")
    first, second = renderer.render([sly])[0], tiny_renderer().render([EGG, sly])[1]
    assert first.error is None
    assert first.tokens.tolist() == second.tokens.tolist()
    assert first.reward_positions.tolist() == [len(first.tokens) - 1]


# Tools, tool calls and reasoning

TOOLS = ({"type": "function", "function": {"name": "lookup"}},)
CALLED = Message("assistant", "", (ToolCall("lookup", '{"q": "egg"}', "c1"),), reasoning="I look.")
COOKED = Completion(
    messages=(Message("user", "How long?"), CALLED, Message("tool", "ten minutes", tool_call_id="c1")),
    response_message=Message("assistant", "Ten.", reasoning="It says so."),
    tools=TOOLS,
)


def test_a_template_that_knows_them_renders_tools_calls_and_reasoning():
    renderer = tiny_renderer(AGENT)
    (item,) = renderer.render([COOKED])
    assert (item.error, item.left_out) == (None, ())
    assert decoded(renderer, COOKED) == (
        '<|im_start|>system\n[{"type": "function", "function": {"name": "lookup"}}]<|im_end|>\n'
        "<|im_start|>user\nHow long?<|im_end|>\n"
        '<|im_start|>assistant\n<think>I look.</think>\n<call>lookup{"q": "egg"}</call><|im_end|>\n'
        "<|im_start|>tool\nten minutes<|im_end|>\n"
        "<|im_start|>assistant\n<think>It says so.</think>Ten.<|im_end|>\n"
    )
    calling = Completion(messages="How long?", response_message=CALLED)
    assert decoded(renderer, calling).endswith('<call>lookup{"q": "egg"}</call><|im_end|>\n'), "a call alone is an answer"


def test_what_a_template_leaves_out_of_the_prompt_is_told_and_of_the_answer_is_a_reason():
    plain_answer = replace(COOKED, response_message=None)
    plain, refused, calling = tiny_renderer(CHATML).render(
        [plain_answer, COOKED, Completion(messages="q", response_message=Message("assistant", "", CALLED.tool_calls))]
    )
    assert (plain.error, plain.left_out) == (None, ("the tools", "the prompt's tool calls", "the prompt's reasoning"))
    assert "leaves out the answer's reasoning" in str(refused.error)
    assert "leaves out the answer's tool calls" in str(calling.error)
    assert len(refused.tokens) == 0
    assert tiny_renderer(CHATML).render([EGG])[0].left_out == ()


def test_a_part_that_is_rendered_only_once_is_told_too():
    """As gpt-oss does with calls, and Qwen3 with reasoning before the last question."""
    first_call = AGENT.replace("message['tool_calls'] or []", "(message['tool_calls'] or [])[:1]")
    last_thought = AGENT.replace("{% if message['reasoning_content'] %}", "{% if message['reasoning_content'] and loop.last %}")
    twice = Message("assistant", "", (ToolCall("lookup"), ToolCall("lookup")))
    (item,) = tiny_renderer(first_call).render([Completion(messages="q", response_message=twice)])
    assert "leaves out the answer's tool calls" in str(item.error)
    assert tiny_renderer(last_thought).render([COOKED])[0].left_out == ("the prompt's reasoning",)


def test_scorers_warn_of_what_is_left_out():
    rendered = tiny_renderer(CHATML).render([replace(COOKED, response_message=None)])
    with pytest.warns(UserWarning, match="leaves out") as caught:
        warn_of_left_out(rendered)
    assert [str(warning.message).split(":")[0] for warning in caught] == [
        f"the chat template leaves out {part}" for part in ("the prompt's reasoning", "the prompt's tool calls", "the tools")
    ]


def test_the_ground_truth_is_never_rendered():
    truth = {"answer": "42 is the secret", "tests": ["assert secret"]}
    for renderer in (tiny_renderer(CHATML), tiny_renderer(AGENT)):
        for completion in (EGG, COOKED, Completion(text="a text")):
            known = replace(completion, ground_truth=truth)
            assert renderer.text(known) == renderer.text(completion)
            assert renderer.render([known])[0].tokens.tolist() == renderer.render([completion])[0].tokens.tolist()
            assert "secret" not in str(renderer.text(known))


def test_the_tokens_of_an_answer_with_calls_are_not_looked_for():
    renderer = tiny_renderer(AGENT)
    answer = renderer.answer_tokens(COOKED)
    assert "".join(answer.pieces) == "Ten."
    with pytest.raises(ValueError, match="with tool calls"):
        renderer.answer_tokens(Completion(messages="q", response_message=CALLED))
    steps = Completion(messages="q", steps=("One. ", "Two."), response_message=CALLED._replace(content="One. Two."))
    assert renderer.render([steps])[0].error == "the steps of an answer with tool calls cannot be located"
    thought = replace(steps, response_message=Message("assistant", "", reasoning="Two. One. Two."))
    assert len(renderer.render([thought])[0].reward_positions) == 2


# Length


def test_the_end_of_an_overlong_answer_is_kept_with_its_bos():
    whole, cut = tiny_renderer(OPEN), tiny_renderer(OPEN, max_length=16)
    long = Completion(messages="q", response="Put it in water. " * 20)
    (full,), (short,) = whole.render([long]), cut.render([long])
    assert len(full.tokens) > 16
    assert len(short.tokens) == 16
    assert short.tokens.tolist() == [whole.tokenizer.bos_token_id, *full.tokens[-15:].tolist()]
    assert short.reward_positions.tolist() == [15]
    assert short.is_cut
    assert not full.is_cut


def test_without_a_bos_the_last_tokens_are_kept():
    renderer = tiny_renderer(max_length=8)
    (item,) = renderer.render([Completion(token_ids=tuple(range(3, 23)))])
    assert item.tokens.tolist() == list(range(15, 23))
    assert item.is_cut


def test_a_sequence_of_exactly_max_length_is_whole():
    (item,) = tiny_renderer(max_length=8).render([Completion(token_ids=tuple(range(3, 11)))])
    assert item.tokens.tolist() == list(range(3, 11))
    assert not item.is_cut


def test_overlong_answers_can_be_set_aside_with_a_reason():
    renderer = tiny_renderer(max_length=16, overlong="set_aside")
    long, short = renderer.render([Completion(token_ids=(5,) * 17), Completion(token_ids=(5,) * 16)])
    assert long.error == "17 tokens are more than max_length 16"
    assert short.error is None
    assert renderer.settings() == {"max_length": 16, "overlong": "set_aside", "template_changes": []}


# Steps


def read_text(renderer: Renderer, completion: Completion) -> list[str]:
    """The text up to and with each rewarded token."""
    (item,) = renderer.render([completion])
    assert item.error is None, item.error
    return [renderer.tokenizer.decode(item.tokens[: read + 1].tolist()) for read in item.reward_positions]


@pytest.mark.parametrize(
    "steps",
    [
        ("Two and two.\n", "It is four.\n\n", "Not five."),
        ("e", "<|im_"),
        ("  two ", " four "),
        ("naïve 🥚", " and 水", " 🥚🥚"),
        ("im_end", " m"),
    ],
)
@pytest.mark.parametrize("template", [CHATML, LLAMA_3, None])
def test_each_step_is_read_at_its_last_token(steps, template):
    renderer = tiny_renderer(template)
    completion = Completion(messages="What is two and two?", steps=steps)
    (item,) = renderer.render([completion])
    answer_start = renderer.tokenizer.apply_chat_template([{"role": "user", "content": "What is two and two?"}], tokenize=False)
    texts = read_text(renderer, completion)
    for i, text in enumerate(texts):
        spoken = text[len(answer_start) :].partition("ssistant")[2].lstrip(":\n ")
        wanted = "".join(steps[: i + 1]).strip()
        assert spoken.rstrip() == wanted, "decoding up to the read gives the steps so far, no character in half"
    assert (np.diff(item.reward_positions) > 0).all()
    assert item.reward_positions[-1] < len(item.tokens) - 1, "the end token stands after the last step"


def test_steps_are_counted_from_the_front_that_is_left():
    renderer = tiny_renderer(max_length=24)
    steps = ("Put it in water.", " It is four.")
    (item,) = renderer.render([Completion(messages="How do I boil an egg? " * 3, steps=steps)])
    assert item.is_cut
    text = renderer.tokenizer.decode(item.tokens[: item.reward_positions[0] + 1].tolist())
    assert text.endswith("Put it in water.")


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        (Completion(messages="q", steps=("Put it", " in water." * 9)), "cutting the front would lose a step"),
        (Completion(messages="q", response="four", steps=("five",)), "joined, are not the response"),
    ],
)
def test_steps_that_cannot_be_read_give_a_reason(completion, reason):
    (item,) = tiny_renderer(max_length=16 if "lose" in reason else 64).render([completion])
    assert item.error is not None
    assert re.search(reason, item.error)
    assert len(item.tokens) == 0


@pytest.mark.parametrize(
    ("steps", "lost", "why"),
    [
        (("four", "\n"), [False, True], "step 2 is empty"),
        (("", "four"), [True, False], "step 1 is empty"),
        (("fo", "ur", " five"), [True, False, False], "step 1 ends in the same token as the next"),
        (("four", " \n", "\n", "five"), [False, True, True, False], "step 2 is empty"),
    ],
)
def test_a_step_without_a_token_of_its_own_has_no_place_and_the_others_have(steps, lost, why):
    renderer = tiny_renderer()
    item, whole = renderer.render([Completion(messages="q", steps=steps), Completion(messages="q", response="".join(steps))])
    assert (item.reward_positions == LOST).tolist() == lost
    assert str(item.lost).startswith(why)
    assert item.error is None
    np.testing.assert_array_equal(item.tokens, whole.tokens)
    texts = ["".join(steps[: k + 1]).rstrip() for k in range(len(steps)) if not lost[k]]
    for place, text in zip(item.reward_positions[~np.array(lost)], texts, strict=True):
        assert renderer.tokenizer.decode(item.tokens[: place + 1]).rstrip().endswith(text)


def test_a_last_step_without_a_token_is_no_end_to_read_one_reward_at():
    (item,) = tiny_renderer().render([Completion(messages="q", steps=("four", "\n"))])
    assert read_at_end(item).error == "step 2 is empty and has no reward: join empty or tiny steps"


def test_steps_in_an_answer_that_the_template_rewrites_give_a_reason():
    renderer = tiny_renderer(CHATML.replace("message['content']", "message['content'] | upper"))
    (item,) = renderer.render([Completion(messages="q", steps=("four", " five"))])
    assert item.error == "the chat template altered the response, so its steps cannot be located"


# Padding


@pytest.mark.parametrize("template", [CHATML, OPEN, CHATML.replace("'<|im_end|>\n'", "'<|endoftext|>'"), None])
def test_the_pad_id_is_neither_eos_nor_the_rewarded_token(template):
    renderer = tiny_renderer(template)
    (item,) = renderer.render([EGG])
    assert renderer.pad_id == renderer.tokenizer.pad_token_id
    assert renderer.pad_id not in (renderer.tokenizer.eos_token_id, int(item.tokens[-1]))


def test_a_good_pad_token_is_kept():
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = "<|endoftext|>"
    assert Renderer(tokenizer).pad_id == 0


def test_without_a_spare_special_token_a_new_pad_token_is_made():
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({"</s>": 0, **{letter: i for i, letter in enumerate(alphabet, start=1)}}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    renderer = Renderer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>"))
    assert renderer.tokenizer.pad_token == "<|pad|>"
    assert renderer.pad_id == 257 == len(renderer.tokenizer) - 1
    (item,) = renderer.render([EGG])
    assert item.tokens[-1] == renderer.tokenizer.eos_token_id


def test_a_template_that_renders_no_answer_is_refused_at_once():
    nothing = "{% for message in messages %}{% if message['role'] == 'user' %}{{ message['content'] }}{% endif %}{% endfor %}"
    with pytest.raises(ValueError, match=r"does not render the answer.*--template"):
        tiny_renderer(nothing)


def test_a_template_that_takes_parts_only_is_refused_at_once():
    parts = "{% for message in messages %}{{ message['role'] + ' ' }}{% for part in message['content'] %}"
    parts += "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    with pytest.raises(ValueError, match=r"takes a message's content as a list of parts only.*--template"):
        tiny_renderer(parts)


def test_one_of_several_templates_is_chosen_by_name_or_a_file_is_taken(tmp_path):
    tokenizer = tiny_tokenizer({"default": CHATML, "tool_use": OPEN})
    with pytest.raises(ValueError, match=r"several chat templates, default, tool_use: say which with --template default"):
        Renderer(tokenizer)
    choose_template(tokenizer, "default")
    assert Renderer(tokenizer).template == CHATML
    (tmp_path / "own.jinja").write_text(CHATML)
    choose_template(tokenizer, str(tmp_path / "own.jinja"))
    assert tokenizer.chat_template == CHATML
    with pytest.raises(ValueError, match=r"--template 'rag' is neither a file nor one of the tokenizer's templates"):
        choose_template(tokenizer, "rag")


def test_a_tokenizer_that_adds_bos_and_has_no_template_keeps_its_bos():
    tokenizer = tiny_tokenizer(None)
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    renderer = Renderer(tokenizer)
    (item,) = renderer.render([EGG])
    assert item.tokens[:2].tolist().count(1) == 1
    assert "with the BOS token that this tokenizer puts before a text" in renderer.template_changes[0]
    assert 1 not in tiny_renderer(None).render([EGG])[0].tokens
