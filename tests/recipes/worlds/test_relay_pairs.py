"""The relay world of pairs: labels are what the facts say, and whatever does not read who starts is right in exactly half."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer

from assay.data.pairs import read_pairs, write_pairs
from assay.recipes.worlds.brevity import LONG, SHORT, brevity_pairs
from assay.recipes.worlds.relay_pairs import (
    MOST_PASSES,
    OTHER_CHAIN,
    PASSES,
    TOO_FEW,
    TOO_MANY,
    CritiquedPair,
    PairWorldSettings,
    relay_pairs,
)
from assay.scorers.baselines import fit_bag_of_words
from assay.stats.linear import bradley_terry_weights
from assay.stats.mean_intervals import share_interval

SETTINGS = PairWorldSettings(pairs=600, lengths=(1, 2, 3, 4, 5), seed=5)
QUESTION = re.compile(r"At first (\w+) had the key\. Who has it after (\d) pass(?:es)?\?$")


def prompt_of(one: CritiquedPair) -> str:
    return one.pair.prompt[0].content


def facts_of(one: CritiquedPair) -> dict[str, str]:
    """Who passed it to whom, in the order of the text."""
    return dict(re.findall(r"(\w+) passed it to (\w+)\.", prompt_of(one)))


def asked(one: CritiquedPair) -> tuple[str, int]:
    """(who starts, passes)."""
    start, passes = QUESTION.search(prompt_of(one)).groups()
    return start, int(passes)


def names_of(one: CritiquedPair) -> tuple[str, str]:
    """Who the chosen and the rejected answer name."""
    return one.pair.chosen.split()[0], one.pair.rejected.split()[0]


def after(facts: dict[str, str], holder: str, passes: int) -> str:
    for _ in range(passes):
        holder = facts[holder]
    return holder


@pytest.fixture(scope="module")
def world() -> list[CritiquedPair]:
    return list(relay_pairs(SETTINGS))


def test_labels_and_kinds_are_what_the_facts_say(world):
    for one in world:
        facts, (start, passes), (right, wrong) = facts_of(one), asked(one), names_of(one)
        assert right == after(facts, start, passes) == one.pair.ground_truth["answer"]
        own = {start} | {after(facts, start, k) for k in range(PASSES) if k < PASSES - _place(facts, start) + 1}
        match one.pair.tags["kind"]:
            case "other chain":
                assert wrong not in own
                assert _place(facts, wrong) == _place(facts, right)
            case "one too few":
                assert wrong == after(facts, start, passes - 1)
                assert wrong != start
            case "one too many":
                assert wrong == after(facts, start, passes + 1)


def _place(facts: dict[str, str], name: str) -> int:
    """How many passes led to a name."""
    givers = {receiver: giver for giver, receiver in facts.items()}
    place = 0
    while name in givers:
        name, place = givers[name], place + 1
    return place


def test_kinds_are_counted_exactly(world):
    counts = Counter((asked(one)[1], one.pair.tags["kind"]) for one in world)
    assert counts[1, OTHER_CHAIN] == 120
    for passes in range(2, MOST_PASSES + 1):
        assert [counts[passes, kind] for kind in (OTHER_CHAIN, TOO_FEW, TOO_MANY)] == [40, 40, 40]
    assert sum(counts.values()) == SETTINGS.pairs


def test_every_answer_gives_once_and_receives_once_and_two_chains_share_no_name(world):
    for one in world:
        text = prompt_of(one).partition("\n")[0]
        givers, receivers = zip(*re.findall(r"(\w+) passed it to (\w+)\.", text), strict=True)
        assert len(givers) == len(set(givers)) == len(set(receivers)) == 2 * PASSES
        assert len(set(givers) - set(receivers)) == 2
        for name in names_of(one):
            assert name in givers
            assert name in receivers
            assert name != asked(one)[0]


def test_twins_differ_in_who_starts_and_in_which_answer_is_right_and_in_nothing_else(world):
    """So a scorer that does not read who starts gives both the same rewards, and is right in exactly one of the two."""
    for a, b in zip(world[0::2], world[1::2], strict=True):
        assert a.pair.tags["twins"] == b.pair.tags["twins"]
        blank = [QUESTION.sub(lambda found: found[0].replace(found[1], "?"), prompt_of(one)) for one in (a, b)]
        assert blank[0] == blank[1]
        assert asked(a)[0] != asked(b)[0]
        assert (a.pair.chosen, a.pair.rejected) == (b.pair.rejected, b.pair.chosen)


def test_what_does_not_read_who_starts_is_right_in_exactly_half_at_every_number_of_passes(world):
    """Places in the facts, chances of names, depth in the chain, words, lengths: some such scorers, and one that is drawn."""
    drawn = np.random.default_rng(0)
    weight: defaultdict[str, float] = defaultdict(drawn.random)

    def scores(one: CritiquedPair, name: str) -> list[float]:
        facts, text = facts_of(one), prompt_of(one).partition("\n")[0]
        return [
            text.index(f"{name} passed"),  # where it gives
            text.index(f"to {name}."),  # where it receives
            text.index(name),  # where it is named first
            text.rindex(name),
            _place(facts, name),
            text.count(name),
            len(name),
            weight[name],
        ]

    for passes in SETTINGS.lengths:
        of_length = [one for one in world if asked(one)[1] == passes]
        margins = np.array([np.subtract(*(scores(one, name) for name in names_of(one))) for one in of_length])
        assert np.all((margins > 0).sum(0) == (margins < 0).sum(0))
        assert (margins != 0).any(0).tolist() == [True] * 4 + [passes > 1, False, False, True]


def test_names_are_right_and_wrong_equally_often(world):
    right, wrong = (Counter(names_of(one)[k] for one in world) for k in (0, 1))
    assert right == wrong
    assert len(right) == 26


def test_who_starts_stands_beside_an_answer_at_one_and_two_passes_alone(world):
    """One look-up: at one pass it is the right answer, at two a third of the wrong ones, above it nothing."""
    found = Counter()
    for one in world:
        facts, (start, passes) = facts_of(one), asked(one)
        for name, side in zip(names_of(one), ("right", "wrong"), strict=True):
            found[passes, side] += facts[start] == name or facts.get(name) == start
    assert found[1, "right"] == 120
    assert found[2, "wrong"] == 40
    assert sum(found.values()) == 160


def test_a_bag_of_words_learns_nothing_from_whole_twins():
    assert all(abs(weight) < 1e-6 for weight in fit_bag_of_words([one.pair for one in relay_pairs(SETTINGS)]).weights.values())
    halves = [one.pair for one in relay_pairs(SETTINGS)][0::2]  # of each twins one: nothing is balanced, and there are weights
    assert max(abs(weight) for weight in fit_bag_of_words(halves).weights.values()) > 0.05


def test_words_of_the_question_and_near_the_answer_are_at_chance_on_held_out_twins():
    world = list(relay_pairs(replace(SETTINGS, pairs=1200)))
    twins = np.array([one.pair.tags["twins"] for one in world])
    counts_P2V = [_context_counts(one, k) for one in world for k in (0, 1)]
    words = CountVectorizer(analyzer=lambda found: found).fit_transform(counts_P2V)
    differences = csr_matrix(words[0::2] - words[1::2], dtype=np.float64)
    assert words.shape[1] > 700
    is_test = np.array([int(name) % 2 == 1 for name in twins])
    weights = bradley_terry_weights(differences[~is_test], np.ones((~is_test).sum()), np.ones((~is_test).sum()), l2=30.0)
    right = (differences[is_test] @ weights > 0).astype(float)
    low, high = share_interval(right, twins[is_test])
    assert low <= 0.5 <= high
    assert high - low < 0.12


def _context_counts(one: CritiquedPair, side: int) -> list[str]:
    """Words of an answer crossed with those of the question, and with the facts that name it."""
    (start, passes), name = asked(one), names_of(one)[side]
    near = [fact for fact in prompt_of(one).partition("\n")[0].split(". ") if name in fact]
    others = [word for fact in near for word in fact.rstrip(".").split() if word[0].isupper() and word != name]
    return [name, f"{name} {start}", f"{name} {passes}", *others, *(f"{word} {passes}" for word in others)]


def test_the_critique_is_the_chain_and_says_no_verdict(world):
    one = next(one for one in world if asked(one)[1] == 2)
    facts, (start, _) = facts_of(one), asked(one)
    second, third = facts[start], facts[facts[start]]
    expected = (
        f"{start} has it, 2 left. {start} passed it to {second}, 1 left. {second} passed it to {third}, 0 left. So {third} has it."
    )
    assert one.both == expected
    for answer, critique in ((one.pair.chosen, one.chosen), (one.pair.rejected, one.rejected)):
        assert critique == f"{expected} The answer says {answer.split()[0]}."
    for other in world:
        assert other.both.endswith(f"So {other.pair.ground_truth['answer']} has it.")
        assert len(re.findall("passed", other.both)) == asked(other)[1]


def test_equal_settings_give_equal_worlds_other_seeds_and_names_others_and_the_file_is_read_back(tmp_path):
    settings = replace(SETTINGS, pairs=20)
    world = list(relay_pairs(settings))
    assert world == list(relay_pairs(settings)) != list(relay_pairs(replace(settings, seed=6)))
    second = set().union(*(facts_of(one) for one in relay_pairs(replace(settings, names="second"))))
    assert not set().union(*(facts_of(one) for one in world)) & second
    columns = {one.pair.id: one.columns for one in world}
    write_pairs(tmp_path / "pairs.jsonl", (one.pair for one in world), beside=lambda pair: columns[pair.id])
    truths = [{**one.pair.ground_truth, **one.columns} for one in world]  # critiques are read as a part of what is known
    read = list(read_pairs(tmp_path / "pairs.jsonl"))
    assert read == [replace(one.pair, ground_truth=truth) for one, truth in zip(world, truths, strict=True)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lengths": (6,)}, "at most 5 passes"),
        ({"lengths": (0,)}, "must each be at least 1"),
        ({"pairs": 7}, "must be an even number"),
        ({"pairs": 0}, "must be an even number"),
    ],
)
def test_settings_that_no_world_has_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        list(relay_pairs(replace(SETTINGS, **changed)))


def test_the_shorter_answer_is_right_and_the_critique_counts_its_sentences():
    world = list(brevity_pairs(PairWorldSettings(pairs=90, seed=2)))
    couples = Counter()
    for one in world:
        counts = [answer.count(".") for answer in (one.pair.chosen, one.pair.rejected)]
        couples[tuple(counts)] += 1
        for critique, count in zip((one.chosen, one.rejected), counts, strict=True):
            assert f"has {count} sentence" in critique
        assert len(one.pair.chosen) < len(one.pair.rejected)
    assert couples == {(short, long): 10 for short in SHORT for long in LONG}
    assert len({prompt_of(one) for one in world}) == 90
    assert world == list(brevity_pairs(PairWorldSettings(pairs=90, seed=2)))
