"""Search over a known tree: for each method the solutions that are found and the winner, worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from assay.data.prompt_rows import Prompt
from assay.generation.generator import Generator
from assay.generation.ledger import Ledger
from assay.generation.prices import FREE
from assay.generation.replies import Features, Reply
from assay.messages import as_messages
from assay.records import Rewards
from assay.rl.search.final_votes import answer_classes, chosen
from assay.rl.search.growing import Candidate, Found, SearchSettings, ranked_values, values_of, with_pieces
from assay.rl.search.methods import search
from assay.rl.search.searched import gold_of

NAN = math.nan
TREE = {
    "": ["a|", "b|", "c|", "d|"],
    "a|": ["x", "y"],
    "b|": ["z", "w|"],
    "b|w|": ["q", "r", "s", "t"],
    "c|": ["e", "f"],
    "d|": ["g"],
}
"""What is written behind each text, by the number of the sample; what does not end with | is an end."""
VALUE = {
    "a|": 0.9,
    "b|": 0.8,
    "c|": 0.2,
    "d|": 0.1,
    "x": 0.3,
    "y": 0.4,
    "z": 0.95,
    "w|": 0.5,
    "q": 0.6,
    "e": 0.99,
    "f": 0.0,
    "g": 0.7,
}
VALUE |= {"r": 0.7, "s": 0.1, "t": 0.05}


class Tree:
    """A backend that writes what the tree says; 1 token read and 2 written a call."""

    model = identity = "tree"
    price, is_thread_safe, repeats = FREE, False, True

    def __init__(self, tree=TREE, finish=lambda text: "stop"):
        self.tree, self.finish, self.asked = tree, finish, []

    def probe(self):
        return Features(replies=True, logprobs=False, schema=False), Reply("", "known", 0, 0)

    def use(self, features):
        pass

    def run(self, asks, desk):
        for i, ask in enumerate(asks):
            begun = ask.messages[-1].content if ask.goes_on else ""
            self.asked.append((ask.messages[0].content, begun, ask.sample, ask.sampling.stop))
            nexts = self.tree[begun]
            text = nexts[ask.sample % len(nexts)]
            while text.endswith("|") and not ask.sampling.stop:
                text += self.tree[begun + text][0]
            desk.settle(i, Reply(text, self.finish(begun + text), 1, 2), 60.0)


class Valued:
    """Rewards of steps by the step."""

    fingerprint, scope, tolerance = "valued", "global", 0.0

    def __init__(self, value=VALUE):
        self.value, self.seen = value, []

    def score(self, completions):
        self.seen += [item.response for item in completions]
        steps = tuple(np.array([self.value[step] for step in item.steps]) for item in completions)
        return Rewards(value=[step.min() for step in steps], steps=steps)


def found(method, *, tree=None, value=VALUE, prompts=("p",), **settings):
    tree = tree or Tree()
    settings = SearchSettings(**{"method": method, "n": 4, "width": 2, "stop": ("|",), "reduce": "last", **settings})
    return search(Generator(tree), Valued(value), [as_messages(one) for one in prompts], settings), tree


def texts(one):
    return [candidate.text for candidate in one.candidates]


def test_best_of_n_writes_n_whole_solutions():
    (one,), tree = found("best-of-n")
    assert texts(one) == ["a|x", "b|z", "c|e", "d|g"]
    assert one.candidates[1].steps == ("b|", "z")
    assert one.candidates[1].rewards == pytest.approx((0.8, 0.95))
    assert one.best.text == "c|e"
    assert (one.written, one.read, one.calls) == (8, 4, 4)
    assert all(stop == () for _, _, _, stop in tree.asked)


def test_beam_search_goes_on_with_the_best_half_of_all_prefixes():
    # a and b are kept, in two copies: a|x, b|z and a|y end, b|w| grows. In four copies, of which the first has room among n = 4
    (one,), tree = found("beam")
    assert texts(one) == ["a|x", "b|z", "a|y", "b|w|q"]
    assert one.best.text == "b|z"
    assert one.calls == 12
    assert [(begun, sample) for _, begun, sample, _ in tree.asked[4:8]] == [("a|", 0), ("b|", 0), ("a|", 1), ("b|", 1)]
    assert len({row[:3] for row in tree.asked}) == 12, "no draw is made twice"


def test_of_equal_texts_a_beam_keeps_one():
    """Two prefixes are kept of four draws, of which two wrote the best one: without this the second best would be lost."""
    tree = Tree(tree={**TREE, "": ["a|", "a|", "b|", "c|"]})
    (one,), tree = found("beam", tree=tree)
    assert {row[1] for row in tree.asked} == {"", "a|", "b|", "b|w|"}
    assert one.calls == 12


def test_of_equal_values_the_next_worst_step_decides():
    """Under min all continuations of a prefix that are better than its worst step have one value."""
    tree = Tree(tree={"": ["a|"], "a|": ["x|", "y|"], "a|x|": ["e"], "a|y|": ["g"]})
    value = {"a|": 0.3, "x|": 0.4, "y|": 0.9, "e": 0.99, "g": 0.7}
    for method in ("beam", "dvts"):
        (one,), tree = found(method, tree=Tree(tree=tree.tree), value=value, n=2, reduce="min")
        assert {row[1] for row in tree.asked} == {"", "a|", "a|y|"}, method
        assert [candidate.value for candidate in one.candidates] == pytest.approx([0.3] * len(one.candidates))  # float32
        assert len(one.candidates) == 2
    better, worse = Candidate(steps=("p", "q"), rewards=(0.3, 0.9), value=0.3), Candidate(rewards=(0.5, 0.3), value=0.3)
    unscored = Candidate()
    assert chosen([worse, unscored, better], "best", [0, 0, 0]) == 2
    values = ranked_values([worse, unscored, better, replace(worse, value=0.2)])
    assert np.argsort(values[[0, 2, 3]]).tolist() == [2, 0, 1]
    assert math.isnan(values[1])
    assert values[[0, 2, 3]] == pytest.approx([0.3, 0.3, 0.2], abs=1e-12)
    assert ranked_values([better, better]).tolist() == [0.3, 0.3], "what is equal in everything shares its value"


def test_trees_of_dvts_never_mix():
    # tree 1 sees a and b and takes a; tree 2 sees c and d and takes c, though b is better
    (one,), _ = found("dvts")
    assert texts(one) == ["a|x", "a|y", "c|e", "c|f"]
    assert one.best.text == "c|e"
    assert one.calls == 8


def test_a_rejected_prefix_is_not_gone_on_with():
    (one,), tree = found("rejection", threshold=0.25)
    assert texts(one) == ["a|x", "b|z"]
    assert one.left_out == {"rejected": 2}
    assert one.best.text == "b|z"
    assert [begun for _, begun, _, _ in tree.asked[4:]] == ["a|", "b|"]
    (none,), _ = found("rejection", threshold=0.99)
    assert none.best is None
    assert none.left_out == {"rejected": 4}


def test_the_last_round_writes_to_the_end():
    (one,), tree = found("beam", rounds=1)
    assert texts(one) == ["a|x", "b|z", "c|e", "d|g"]
    (two,), tree = found("dvts", rounds=2)
    assert [stop for *_, stop in tree.asked] == [("|",)] * 4 + [()] * 4
    assert two.best.text == "c|e"


def test_reductions_decide_who_wins():
    assert found("best-of-n", reduce="min")[0][0].best.text == "b|z", "min: .3 .8 .2 .1"
    assert found("best-of-n", reduce="mean")[0][0].best.text == "b|z", "mean: .6 .875 .595 .4"
    assert found("best-of-n", reduce="product")[0][0].best.text == "b|z"
    assert found("best-of-n", reduce="own")[0][0].best.text == "b|z", "the scorer's own reward is its minimum"


@pytest.mark.parametrize(("method", "winner"), [("beam", "b|z"), ("dvts", "a|y")])
def test_what_has_no_reward_is_counted_and_neither_kept_nor_chosen(method, winner):
    (one,), _ = found(method, value={**VALUE, "c|": NAN, "d|": NAN, "e": NAN})
    assert one.best.text == winner
    assert one.left_out["not scored"] == 2
    (unscored,), _ = found("best-of-n", value={**VALUE, "e": NAN})
    assert len(unscored.candidates) == 4
    assert unscored.left_out == {"not scored": 1}
    assert unscored.best.text == "b|z"
    assert unscored.candidates[2].error


def test_what_is_cut_off_is_counted_and_never_chosen():
    (one,), _ = found("best-of-n", tree=Tree(finish=lambda text: "length" if text == "c|e" else "stop"))
    assert texts(one) == ["a|x", "b|z", "d|g"]
    assert one.left_out == {"cut off": 1}
    assert one.best.text == "b|z"


def test_a_template_that_trims_what_is_to_be_gone_on_with_is_noticed():
    """Llama 3's does: the end of the step is written again and again."""
    end = "\n\n"
    tree = Tree(tree={"": [f"a{end}"], f"a{end}": [end], f"a{end}{end}": [end]})
    (one,), _ = found("beam", tree=tree, value={f"a{end}": 0.5, f"a{end}{end}": 0.5}, stop=(end,))
    assert one.candidates == ()
    assert one.left_out == {"not written": 4}
    assert one.calls == 12


def test_many_prompts_are_searched_together_and_apart():
    both, tree = found("beam", prompts=("p", "q"))
    (alone,), _ = found("beam")
    assert both[0] == both[1] == alone
    assert {row[0] for row in tree.asked} == {"p", "q"}


def test_a_run_goes_on_from_its_ledger(tmp_path):
    ledger, settings = tmp_path / "l.sqlite", SearchSettings(method="beam", n=4, width=2, stop=("|",), reduce="last")
    prompts = [as_messages("p")]
    first = search(Generator(Tree(), ledger=Ledger(ledger)), Valued(), prompts, settings)
    silent = Tree(tree={})
    again = search(Generator(silent, ledger=Ledger(ledger)), Valued(), prompts, settings)
    assert silent.asked == []
    assert again == first


def test_a_cheaper_scoring_function_takes_the_scorers_place():
    scorer, cheap = Valued(), Valued()
    settings = SearchSettings(method="dvts", n=4, width=2, stop=("|",), reduce="last")
    (one,) = search(Generator(Tree()), scorer, [as_messages("p")], settings, score=cheap.score)
    assert scorer.seen == []
    assert cheap.seen[:4] == ["a|", "b|", "c|", "d|"]
    assert one.best.text == "c|e"


class Growing(Valued):
    """Counts what it is asked by `grow`."""

    def __init__(self, is_faster: bool) -> None:
        super().__init__()
        self.grows_faster, self.grown = is_faster, 0

    def grow(self, completions):
        self.grown += len(completions)
        return self.score(completions)


@pytest.mark.parametrize("is_faster", [True, False])
def test_a_scorer_grows_solutions_where_that_is_quicker(is_faster):
    scorer = Growing(is_faster)
    settings = SearchSettings(method="dvts", n=4, width=2, stop=("|",), reduce="last")
    (one,) = search(Generator(Tree()), scorer, [as_messages("p")], settings)
    assert one.best.text == "c|e"
    assert scorer.grown == (len(scorer.seen) if is_faster else 0)


def test_log_odds_are_read_as_the_scorer_says():
    rewards = Rewards(value=[0.0], steps=(np.array([0.0, 2.0]),))
    with pytest.raises(ValueError, match="probabilities"):
        values_of(rewards, "product")
    right = values_of(rewards, "product", lambda x: 1 / (1 + np.exp(-x)))
    assert right == pytest.approx([math.log(0.5) - math.log1p(math.exp(-2.0))])
    assert values_of(Rewards(value=[0.7]), "last") == pytest.approx([0.7]), "an outcome model has its reward"


def test_steps_join_to_the_text_and_none_is_blank():
    text = "\n\nOne.\n\n\n\nTwo.\n\n"
    assert with_pieces((), text, ("\n\n",)) == ("\n\nOne.\n\n\n\n", "Two.\n\n")
    assert with_pieces(("One.\n\n",), "\n\n", ("\n\n",)) == ("One.\n\n\n\n",)
    assert with_pieces(("One.\n\n",), "", ("\n\n",)) == ("One.\n\n",)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n": 0}, "n 0 must be at least 1"),
        ({"method": "beam", "n": 6}, "multiple of width 4"),
        ({"temperature": 0.0}, "are one"),
        ({"method": "rejection"}, "go together"),
        ({"threshold": 0.5}, "go together"),
        ({"reduce": "median"}, "is none of"),
        ({"stop": ("",)}, "stop"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        SearchSettings(**wrong)


def candidates(*rows):
    return [Candidate(steps=(text,), value=value, ended="stop") for text, value in rows]


def test_votes_by_hand():
    rows = candidates(
        ("#### 4", 0.9), ("The answer is 5", 0.5), ("#### 5.0", 0.6), ("I do not know", 1.0), ("#### 4", NAN), ("#### 4", 0.1)
    )
    pytest.importorskip("math_verify")
    classes = answer_classes([row.text for row in rows])
    assert classes == [0, 1, 1, -1, 0, 0]
    assert chosen(rows, "best", classes) == 3
    assert chosen(rows, "majority", classes) == 0
    assert chosen(rows, "weighted", classes) == 2, "1.0 for 4, 1.1 for 5, of which 5.0 is the best"
    assert chosen([], "best", []) is None
    assert chosen(candidates(("?", NAN)), "majority", [-1]) is None
    assert chosen(candidates(("#### 4", NAN)), "weighted", [0]) is None
    with pytest.raises(ValueError, match="at least 0"):
        chosen(candidates(("#### 4", -1.0)), "weighted", [0])


def test_answers_that_are_no_expressions_vote_as_texts():
    pytest.importorskip("math_verify")
    texts = ["Answer: Jeff", "Answer: Adam", "so it is Jeff", "Answer:  Jeff", "#### 12", "Answer: 12.0"]
    assert answer_classes(texts) == [0, 1, -1, 0, 2, 2]


def test_a_ground_truth_that_is_a_name_is_compared_as_a_text():
    pytest.importorskip("math_verify")
    prompts = [Prompt(messages=as_messages("who?"), id="", ground_truth={"answer": truth}) for truth in ("Jeff", "12")]
    found = [
        Found(tuple(candidates((f"Answer: {one}", 1.0), (f"Answer: {other}", 0.5))), {}, 0, 0, 0)
        for one, other in (("Jeff", "Adam"), ("12.0", "13"))
    ]
    assert [own.tolist() for own in gold_of(found, prompts)] == [[1.0, 0.0], [1.0, 0.0]]


def test_without_math_verify_answers_are_equal_as_texts(monkeypatch):
    monkeypatch.setattr("assay.rl.search.final_votes.find_spec", lambda name: None)
    assert answer_classes(["#### 5", "answer is 5", "\\boxed{5.0}", "five"]) == [0, 0, 1, -1]
