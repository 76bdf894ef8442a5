"""Rejection sampling: what counts as right, what is kept, and that nothing is sampled twice."""

from assay.generation.generator import Generator
from assay.generation.ledger import Ledger
from assay.generation.replies import Features, Reply
from assay.records import PreferencePair
from assay.scorers.generative.own_forms import own_form
from assay.training.generative import sampled_critiques as s
from assay.training.generative.examples import Writer
from assay.training.generative.kind_words import GenerativeKind
from assay.training.generative.questions import LeftOut, questions_of
from assay.training.generative.sampled_critiques import contrasts_of, hinted, kept_replies, sample_critiques
from tiny import tiny_tokenizer

OWN = own_form("pairwise")
RIGHT, WRONG = "Water boils eggs.\nVerdict: {right}", "A story is nice.\nVerdict: {wrong}"


class Scripted:
    """Writes what a script says: text and how it ended, by the number of the sample and whether there is a hint."""

    model, identity, price, is_thread_safe, repeats = "scripted", "scripted", None, False, True

    def __init__(self, script, questions):
        self.script, self.num_run = script, 0
        self.right = {one.messages[-1].content: (one.right, one.wrong) for one in questions}

    def probe(self):
        return Features(replies=True, logprobs=False, schema=False), Reply("", "known", 0, 0)

    def use(self, features): ...

    def run(self, asks, desk):
        for i, ask in enumerate(asks):
            self.num_run += 1
            text = ask.messages[-1].content
            bare, _, hint = text.partition("\n\n[Hint]\n")
            right, wrong = self.right[bare]
            reply, finish = self.script(ask.sample, bool(hint))
            desk.settle(i, Reply(reply.format(right=right, wrong=wrong), finish, 10, 5), 60.0)


def questions():
    pair = PreferencePair(prompt="How do I boil an egg?", chosen="Put it in water.", rejected="Tell a story.")
    return questions_of([pair], OWN, GenerativeKind(), seed=0)[0]


def sampled(script, *, samples=4, hint=False, ledger=None):
    asked = questions()
    backend = Scripted(script, asked)
    generator = Generator(backend, ledger=ledger)
    found = sample_critiques(generator, asked, OWN, samples=samples, max_tokens=20, seed=0, hint=hint)
    return found, backend


def test_replies_are_sorted_by_their_verdict_and_each_is_there_once():
    texts = [RIGHT, WRONG, RIGHT, "Hot water.\n**Verdict:** {right} ."]
    found, _ = sampled(lambda k, hint: (texts[k], "stop"))
    assert found.right[0] == ("Water boils eggs.\nVerdict: A", "Hot water.\nVerdict: A")
    assert found.wrong == (("A story is nice.\nVerdict: B",), ("A story is nice.\nVerdict: A",))
    assert (found.num_right, found.num_sampled) == (6, 8)
    assert [one.reply for one in kept_replies(found, 1)] == ["Water boils eggs.\nVerdict: A", "Water boils eggs.\nVerdict: B"]
    assert len(kept_replies(found, 2)) == 4


def test_replies_without_a_verdict_count_for_neither_side():
    texts = [
        ("Water boils", "length"),
        ("It is the first one.", "stop"),
        ("Verdict: {right}", "stop"),
        ("Verdict: {right}\nNo.\nVerdict: {wrong}", "stop"),
    ]
    found, _ = sampled(lambda k, hint: texts[k])
    assert found.unread == {s.CUT_OFF: 2, s.NO_VERDICT: 2, s.NO_CRITIQUE: 2, s.OWN_VERDICT: 2}
    assert found.right == found.wrong == ((), ())
    assert kept_replies(found, 4) == []


def test_all_right_or_all_wrong_make_no_contrast():
    writer = Writer(tiny_tokenizer(), max_length=2000)
    for text, why in ((RIGHT, "questions all right"), (WRONG, "questions all wrong")):
        found, left_out = sampled(lambda k, hint, text=text: (text, "stop"))[0], LeftOut()
        assert contrasts_of(found, writer, 2, left_out) == []
        assert left_out.counts == {why: 2}


def test_a_contrast_is_of_one_question():
    writer = Writer(tiny_tokenizer(), max_length=2000)
    texts = [RIGHT, "Water it is.\nVerdict: {right}", WRONG, WRONG]
    found, _ = sampled(lambda k, hint: (texts[k], "stop"))
    contrasts = contrasts_of(found, writer, 2, LeftOut())
    assert len(contrasts) == 2
    for one, question in zip(contrasts, questions(), strict=True):
        assert one.prompt == writer.prompt(question.messages)
        assert writer.tokenizer.decode(one.right).startswith("Water boils eggs.")
        assert writer.tokenizer.decode(one.wrong).startswith("A story is nice.")


def test_a_hint_is_given_where_nothing_was_right_and_never_learnt():
    found, _ = sampled(lambda k, hint: (RIGHT if hint else WRONG, "stop"), hint=True)
    assert found.num_hinted == 2
    assert found.num_right == 0
    kept = kept_replies(found, 2)
    assert [one.reply for one in kept] == ["Water boils eggs.\nVerdict: A", "Water boils eggs.\nVerdict: B"]
    assert all("Hint" not in one.question.messages[-1].content for one in kept)
    told = hinted(questions()[0].messages, "A", OWN)[-1].content
    assert told.startswith(questions()[0].messages[-1].content)
    assert "The right verdict is A." in told


def test_the_ledger_answers_a_second_time(tmp_path):
    first, backend = sampled(lambda k, hint: (RIGHT, "stop"), ledger=Ledger(tmp_path / "ledger.sqlite"))
    assert backend.num_run == 8
    again, backend = sampled(lambda k, hint: (WRONG, "stop"), ledger=Ledger(tmp_path / "ledger.sqlite"))
    assert backend.num_run == 0
    assert again.right == first.right
