"""The relay world: labels are what the prompt's passes say, and neither words, lengths nor places tell a wrong step from a right
one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from assay.data.steps.labelled_steps import LabelledSteps
from assay.data.steps.step_rows import read_labelled_steps, write_labelled_steps
from assay.recipes.worlds.first_errors import WorldSettings, dealt, first_errors
from assay.recipes.worlds.relay import KINDS, PASSES_OF_A_CHAIN, SLIP, relay_world
from assay.recipes.worlds.tool_use import tool_world
from assay.scorers.load import load
from assay.stats.auroc_intervals import auroc_interval
from assay.stats.metrics import auroc

SETTINGS = WorldSettings(problems=300, lengths=(1, 2, 3), solutions=4, seed=5)
_STEPS = (r"(\w+) passes it to (\w+)", r"It goes from (\w+) to (\w+)", r"(\w+) gets it from (\w+)")
STEP = re.compile(rf"(\d+)\. (?:{'|'.join(_STEPS)})\.\n(?:Answer: (\w+))?")


def steps_of(solution: LabelledSteps) -> list[tuple[str, str]]:
    """(giver, receiver) of each step, read from its text."""
    found = []
    for step in solution.completion.steps:
        _, a, b, c, d, receiver, giver, _ = STEP.fullmatch(step).groups()
        found.append((a or c or giver, b or d or receiver))
    return found


def facts_of(solution: LabelledSteps) -> dict[str, str]:
    return dict(re.findall(r"(\w+) passed it to (\w+)\.", solution.completion.messages[0].content))


@pytest.mark.parametrize("settings", [SETTINGS, replace(SETTINGS, lengths=(4, 5, 6), lucky=0.5, names="second", solutions=3)])
def test_the_labels_are_what_the_prompt_says(settings):
    kinds = Counter()
    for solution in relay_world(settings):
        facts, text = facts_of(solution), solution.completion.messages[0].content
        holder = re.search(r"At first (\w+) had the key", text)[1]
        asked = int(re.search(r"after (\d+) pass", text)[1])
        is_right = []
        for giver, receiver in steps_of(solution):
            is_right.append((giver, receiver) == (holder, facts[holder]))
            holder = facts[holder]
        first = is_right.index(False) if False in is_right else None
        assert len(is_right) == asked
        assert solution.completion.ground_truth == {"answer": holder}
        assert solution.first_error == first
        assert solution.right == tuple([1] * asked if first is None else [1] * first + [0] + [None] * (asked - first - 1))
        said = re.search(r"Answer: (\w+)$", solution.completion.response)[1]
        assert solution.outcome == float(said == holder)
        assert solution.outcome == float(first is None or solution.tags["kind"] == SLIP)
        kinds[solution.tags["kind"]] += 1
    assert kinds.keys() == {*KINDS, "none"} | ({SLIP} if settings.lucky else set())


def test_a_wrong_step_is_of_the_kind_that_it_is_called():
    for solution in relay_world(SETTINGS):
        place = solution.first_error
        if place is None:
            continue
        facts, (giver, receiver) = facts_of(solution), steps_of(solution)[place]
        start = re.search(r"At first (\w+)", solution.completion.messages[0].content)[1]
        own = [start]
        while own[-1] in facts:
            own.append(facts[own[-1]])
        match solution.tags["kind"]:
            case "wrong receiver":
                assert giver == own[place]
                assert receiver != facts[giver]
            case "skipped pass":
                assert (giver, receiver) == (own[place + 1], own[place + 2])
            case "other chain":
                assert facts[giver] == receiver
                assert giver not in own


def test_every_receiver_gives_once_and_receives_once_and_was_not_named_before():
    for solution in relay_world(replace(SETTINGS, lengths=(1, 4, 6))):
        facts = facts_of(solution)
        assert len(facts) == 2 * PASSES_OF_A_CHAIN
        assert len(set(facts.values())) == len(facts)
        for k, (_, receiver) in enumerate(steps_of(solution)):
            assert receiver in facts
            assert receiver in facts.values()
            assert receiver not in {name for one in steps_of(solution)[:k] for name in one}


def labelled_steps(
    solutions: Sequence[LabelledSteps],
) -> tuple[list[str], list[str], list[tuple[float, ...]], np.ndarray, np.ndarray]:
    """(text of the step, text up to its end, sizes and places, whether it is right, its problem) of each labelled step."""
    steps, prefixes, sizes, right, problems = [], [], [], [], []
    for solution in solutions:
        texts, prompt = solution.completion.steps, solution.completion.messages[0].content
        for k, label in enumerate(solution.right):
            if label is None:
                continue
            prefix = "".join(texts[: k + 1])
            steps.append(texts[k])
            prefixes.append(f"{prompt}\n{prefix}")
            sizes.append((k, len(texts), k / len(texts), len(texts[k]), len(prefix), len(prompt)))
            right.append(label)
            problems.append(int(solution.id.partition(":")[0]))
    return steps, prefixes, sizes, np.array(right), np.array(problems)


def held_out(texts: Sequence[str], right: np.ndarray, problems: np.ndarray, ngrams: int = 1) -> tuple[float, float, float]:
    """AUROC with its interval of a bag of words, on the problems that it was not trained on."""
    is_test = problems % 2 == 1
    words = CountVectorizer(token_pattern=r"\w+", lowercase=False, ngram_range=(1, ngrams))
    counts = words.fit_transform([text for text, test in zip(texts, is_test, strict=True) if not test])
    model = LogisticRegression(C=0.1, max_iter=300).fit(counts, right[~is_test])
    scores = model.decision_function(words.transform([text for text, test in zip(texts, is_test, strict=True) if test]))
    return (auroc(scores, right[is_test] > 0.5), *auroc_interval(scores, right[is_test], problems[is_test]))


@pytest.mark.parametrize("world", [relay_world, tool_world])
def test_words_lengths_and_places_do_not_tell_right_steps_from_wrong_ones(world):
    solutions = list(world(replace(SETTINGS, problems=500, seed=11)))
    steps, prefixes, sizes, right, problems = labelled_steps(solutions)
    assert len(right) > 2500
    for texts in (steps, prefixes):
        _, low, high = held_out(texts, right, problems)
        assert low <= 0.5 <= high
        assert high - low < 0.13
    for column in np.array(sizes).T:
        if len(set(column)) > 1:
            low, high = auroc_interval(column, right, problems)
            assert low - 0.01 <= 0.5 <= high + 0.01
            assert abs(auroc(column, right > 0.5) - 0.5) < 0.05


@pytest.mark.parametrize("world", [relay_world, tool_world])
def test_the_same_baselines_see_a_world_whose_wrong_steps_have_a_word_of_their_own(world):
    solutions = list(world(replace(SETTINGS, problems=500, seed=11)))
    steps, _, sizes, right, problems = labelled_steps(solutions)
    marked = [
        text + (" indeed" if label < 0.5 and i % 5 == 0 else "") for i, (text, label) in enumerate(zip(steps, right, strict=True))
    ]
    assert held_out(marked, right, problems)[1] > 0.5
    longer = np.array([len(text) for text in marked], np.float64)
    assert auroc_interval(-longer, right, problems).low > 0.5 or len({row[3] for row in sizes}) > 20


def test_a_step_is_wrong_with_one_probability_at_every_place():
    for length in (1, 3, 6):
        places = first_errors(length, 10_000, 0.3, np.random.default_rng(0))
        left = 10_000
        for k in range(length):
            wrong = sum(place == k for place in places)
            assert wrong == pytest.approx(0.3 * left, abs=3)
            left -= wrong
        assert sum(place is None for place in places) == left
    assert Counter(dealt(KINDS, 10, np.random.default_rng(0))).most_common() == [
        ("wrong receiver", 4),
        *[(k, 3) for k in KINDS[1:]],
    ]


def test_equal_settings_give_equal_worlds_and_other_seeds_and_names_others(tmp_path):
    settings = replace(SETTINGS, problems=20)
    world = list(relay_world(settings))
    assert world == list(relay_world(settings))
    assert world != list(relay_world(replace(settings, seed=6)))
    texts = [solution.completion.messages[0].content for solution in relay_world(replace(settings, names="second"))]
    names = [set(facts_of(solution)) for solution in world]
    assert not set().union(*names) & {word for text in texts for word in re.findall(r"\w+", text)}
    write_labelled_steps(tmp_path / "relay.jsonl", world)
    assert list(read_labelled_steps(tmp_path / "relay.jsonl")) == world


@pytest.mark.parametrize("world", [relay_world, tool_world])
def test_the_outcome_is_what_the_rule_for_answers_says(world):
    solutions = list(world(replace(SETTINGS, problems=12)))
    rewards = load("rule:exact?final=true").score([solution.completion for solution in solutions])
    assert rewards.value.tolist() == [solution.outcome for solution in solutions]
    assert 0 < rewards.value.mean() < 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lengths": (7,)}, "at most 6 passes"),
        ({"lengths": ()}, "must each be at least 1"),
        ({"problems": 0}, "must be at least 1"),
        ({"error_rate": 1.0}, "must lie between 0 and 1"),
        ({"lucky": 2.0}, "must lie in"),
    ],
)
def test_settings_that_no_world_has_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        list(relay_world(replace(SETTINGS, **changed)))
