"""Best-of-n, beam search, diverse verifier tree search and rejection of bad prefixes, over many prompts at once.

As in huggingface/search-and-learn (Beeching et al. 2024, "Scaling test-time compute with open models"), without its lookahead; and
a solution that was cut off, or that the scorer gave no reward, is never gone on with and never chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from assay.generation.generator import Generator
from assay.messages import Messages
from assay.rl.search.growing import (
    REJECTED,
    UNSCORED,
    Candidate,
    Found,
    Grown,
    Probability,
    Score,
    SearchSettings,
)
from assay.scorers.base import Grows, Scorer, step_reader

NEW = Candidate()


def search(
    generator: Generator,
    scorer: Scorer,
    prompts: Sequence[Messages],
    settings: SearchSettings = SearchSettings(),  # noqa: B008  (immutable)
    *,
    score: Score | None = None,
    advance: Callable[[int], None] = lambda number: None,
) -> list[Found]:
    """P prompts -> what was found for each, in order.

    score: gives the rewards of solutions as far as they have come, in place of `score_of(scorer)`. advance: is told of each reply.
    Equal arguments give equal results; what a ledger of the generator holds is not written anew. Raises ValueError for a product of
    rewards that are no probabilities.
    """
    reads = step_reader(scorer)
    probability: Probability | None = None if reads is None else reads.step_probability
    grown = Grown(generator, score or score_of(scorer), prompts, settings, probability, advance)
    {"best-of-n": _best_of_n, "beam": _beam, "dvts": _trees, "rejection": _rejection}[settings.method](grown)
    return grown.found()


def score_of(scorer: Scorer) -> Score:
    """How a search asks a scorer: where it is quicker, a process model in this process goes on from what it has read and kept."""
    return scorer.grow if isinstance(scorer, Grows) and scorer.grows_faster else scorer.score


def _best_of_n(grown: Grown) -> None:
    """n whole solutions to each prompt."""
    rows = [(place, NEW) for place in range(len(grown.prompts)) for _ in range(grown.settings.n)]
    for (place, _), one in zip(rows, grown.step(rows, whole=True), strict=True):
        grown.put_aside(place, [one])


def _beam(grown: Grown) -> None:
    """n prefixes, of which the best n / width different ones go on, each in width copies, until n solutions are finished."""
    settings = grown.settings
    growing = {place: [NEW] for place in range(len(grown.prompts))}
    for number in range(settings.rounds):
        # with fewer prefixes than n / width each goes on in more copies
        rows = [(place, kept[k % len(kept)]) for place, kept in growing.items() for k in range(settings.n)]
        after = grown.step(rows, whole=number == settings.rounds - 1)
        growing = {}
        for place, ones in _by_place(rows, after).items():
            room = settings.n - len(grown.finished[place])
            ended = [one for one in ones if not one.is_growing]
            grown.put_aside(place, _first_finished(ended, room))
            if kept := _kept(grown, place, ones, settings.n // settings.width):
                if len(grown.finished[place]) < settings.n:
                    growing[place] = kept
                else:
                    grown.put_aside(place, kept)
        if not growing:
            return


def _first_finished(ended: Sequence[Candidate], room: int) -> list[Candidate]:
    """What ended, of the finished ones the first `room`: n are kept, in the order in which they were finished."""
    finished = [one for one in ended if one.is_finished][:room]
    return [*finished, *(one for one in ended if not one.is_finished)]


def _kept(grown: Grown, place: int, ones: Sequence[Candidate], num: int) -> list[Candidate]:
    """The best growing ones by their rank, the first of equals, and one of equal texts; those without a value are put aside."""
    growing = [one for one in ones if one.is_growing]
    grown.put_aside(place, [one for one in growing if not one.is_scored], UNSCORED)
    firsts: dict[str, Candidate] = {}
    for one in growing:
        if one.is_scored:
            firsts.setdefault(one.text, one)
    return sorted(firsts.values(), key=lambda one: one.rank, reverse=True)[:num]


def _trees(grown: Grown) -> None:
    """n / width trees that never mix: each goes on with the best of its width continuations, and ends with the first best one that
    is finished. All finished continuations of a tree's last round are solutions."""
    settings = grown.settings
    tips = {(place, tree): NEW for place in range(len(grown.prompts)) for tree in range(settings.n // settings.width)}
    for number in range(settings.rounds):
        rows = [(place, tip) for (place, _), tip in tips.items() for _ in range(settings.width)]
        after = grown.step(rows, whole=number == settings.rounds - 1)
        trees, tips = list(tips), {}
        for k, (place, tree) in enumerate(trees):
            ones = after[k * settings.width : (k + 1) * settings.width]
            scored = [one for one in ones if one.is_scored]
            best = max(scored, key=lambda one: one.rank) if scored else None
            grown.put_aside(place, [one for one in ones if one.is_growing and not one.is_scored], UNSCORED)
            if best is not None and best.is_growing:
                tips[place, tree] = best
            else:
                grown.put_aside(place, [one for one in ones if not one.is_growing])
        if not tips:
            return


def _rejection(grown: Grown) -> None:
    """n solutions that grow apart; one whose value is not above the threshold is dropped where it stands."""
    settings, threshold = grown.settings, grown.settings.threshold
    assert threshold is not None
    rows = [(place, NEW) for place in range(len(grown.prompts)) for _ in range(settings.n)]
    for number in range(settings.rounds):
        after, growing = grown.step(rows, whole=number == settings.rounds - 1), []
        for (place, _), one in zip(rows, after, strict=True):
            if one.is_scored and one.value <= threshold:
                grown.put_aside(place, [one], REJECTED)
            elif one.is_growing and not one.is_scored:
                grown.put_aside(place, [one], UNSCORED)
            elif one.is_growing:
                growing.append((place, one))
            else:
                grown.put_aside(place, [one])
        rows = growing
        if not rows:
            return


def _by_place(rows: Sequence[tuple[int, Candidate]], after: Sequence[Candidate]) -> dict[int, list[Candidate]]:
    found: dict[int, list[Candidate]] = {}
    for (place, _), one in zip(rows, after, strict=True):
        found.setdefault(place, []).append(one)
    return found
