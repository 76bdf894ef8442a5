"""Conversations as tokens: what is learnt is the reply and its end, whatever the template does to earlier turns."""

import pytest

from assay.generation.replies import Unreadable
from assay.records import PreferencePair
from assay.scorers.generative.own_forms import own_form
from assay.training.generative.examples import TOO_LONG, Writer, Written, answer_examples, examples_of
from assay.training.generative.kind_words import GenerativeKind
from assay.training.generative.questions import LeftOut, questions_of
from tiny import CHATML, FORGETFUL, tiny_tokenizer

THINKING = (
    "{% for message in messages %}{% set text = message['content'] %}"
    "{% if message['role'] == 'assistant' and '</think>' in text %}{% set text = text.split('</think>')[-1] %}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + text + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
PAIRS = [PreferencePair(prompt=f"How do I boil egg {i}?", chosen="Put it in water.", rejected="Tell a story.") for i in range(2)]


def questions(critique="{chosen} is the water one."):
    pairs = [
        PreferencePair(prompt=p.prompt, chosen=p.chosen, rejected=p.rejected, ground_truth={"critique": critique}) for p in PAIRS
    ]
    return questions_of(pairs, own_form("pairwise"), GenerativeKind(), seed=0)[0]


@pytest.mark.parametrize("template", [CHATML, FORGETFUL, THINKING])
def test_the_reply_is_learnt_whole_and_closed(template):
    writer = Writer(tiny_tokenizer(template), max_length=1024)
    (one, *_) = questions()
    reply = "<think> hmm </think> Answer A is it.\nVerdict: A"
    example = writer.example(one.messages, reply)
    decode = writer.tokenizer.decode
    assert decode(example.tokens[example.start :]) == f"{reply}<|im_end|>"
    assert example.tokens[-1] == writer.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tuple(writer.prompts(one.messages).tolist()) == example.tokens[: example.start]


def test_a_reply_cannot_forge_the_end_of_its_turn():
    writer = Writer(tiny_tokenizer(), max_length=1024)
    end = writer.tokenizer.convert_tokens_to_ids("<|im_end|>")
    told = writer.reply("It ends<|im_end|> here.")
    assert list(told).count(end) == 1
    assert told[-1] == end


def test_what_is_too_long_is_counted_and_never_cut():
    (one, *_) = questions()
    long = Writer(tiny_tokenizer(), max_length=2000).example(one.messages, "Verdict: A", key=one.key)
    left_out = LeftOut()
    exact, short = (Writer(tiny_tokenizer(), max_length=len(long.tokens) - less) for less in (0, 1))
    assert examples_of([Written(one, "Verdict: A")], exact, LeftOut()) == [long]
    assert examples_of([Written(one, "Verdict: A")], short, left_out) == []
    assert Writer(tiny_tokenizer(), max_length=16).example(one.messages, "Verdict: A") is None
    assert left_out.counts == {TOO_LONG: 1}


def test_a_template_that_refuses_is_an_error():
    refusing = "{{ raise_exception('no') if add_generation_prompt else '' }}" + CHATML
    with pytest.raises(Unreadable, match="refuses"):
        Writer(tiny_tokenizer(refusing), max_length=1024).example(questions()[0].messages, "Verdict: A")


def test_verdicts_have_one_weight_in_all():
    writer, four = Writer(tiny_tokenizer(), max_length=2000), questions()
    uneven = [Written(one, f"It is so.\nVerdict: {one.right}") for one in (four[0], four[1], four[2])]  # A, B, A
    weights = [example.weight for example in examples_of(uneven, writer, LeftOut())]
    assert weights == pytest.approx([0.75, 1.5, 0.75])
    assert [example.weight for example in examples_of(uneven[:2], writer, LeftOut())] == [1.0, 1.0]


def test_right_answers_are_learnt_at_their_weight():
    writer = Writer(tiny_tokenizer(), max_length=2000)
    tie = PreferencePair(prompt="q", chosen="a b", rejected="c d", preference=0.5)
    turned = PreferencePair(prompt="q", chosen="a b", rejected="c d", preference=0.0)
    found = answer_examples([PAIRS[0], tie, turned], writer, 0.25, LeftOut())
    assert [writer.tokenizer.decode(one.tokens[one.start :]) for one in found] == ["Put it in water.<|im_end|>", "c d<|im_end|>"]
    assert [one.weight for one in found] == [0.25, 0.25]


@pytest.mark.parametrize("form", ["pairwise", "pointwise"])
def test_the_verdicts_tokens_count_as_often_as_is_said_and_those_of_the_critique_once(form):
    own, writer = own_form(form), Writer(tiny_tokenizer(), max_length=2000)
    pairs = [PreferencePair(prompt="Eggs?", chosen="Water.", rejected="No.", ground_truth={"critique": "{chosen} is: No, A, Yes."})]
    asked, _ = questions_of(pairs, own, GenerativeKind(form=form), seed=0)
    for one in asked:
        reply = own.target(one.right, "It says No, A, Yes, B.")
        (plain,) = examples_of([Written(one, reply)], writer, LeftOut())
        (stressed,) = examples_of([Written(one, reply)], writer, LeftOut(), stress=10)
        assert stressed.tokens == plain.tokens
        assert set(plain.weights) == {1.0}
        heavy = [token for token, weight in zip(stressed.tokens[stressed.start :], stressed.weights, strict=True) if weight == 10]
        assert writer.tokenizer.decode(heavy).strip() == one.right
        assert sum(stressed.weights) == len(plain.weights) + 9 * len(heavy)
