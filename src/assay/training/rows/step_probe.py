"""The depth probe of labelled solutions: a right and a wrong read as a pair, of which the right one should win.

Of steps they stand at one place of two solutions; of outcomes they are two solutions; to one problem where it has both kinds.
Shapes: P pairs, N rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from assay.data.tokens.answer_table import AnswerTable
from assay.data.tokens.packing import Group, make_group
from assay.models.backbone import Backbone
from assay.models.device import Compute
from assay.training.states.depth import LOOKS, NUM_FOLDS, Probed, probe_layers

Pair = tuple[int, int, int, int]  # row and number of the right read, row and number of the wrong one


class TwoReads:
    """Two reads of a table of one answer a row, as a table of pairs: what `layer_states` reads. Each is a sequence that ends
    there."""

    def __init__(self, table: AnswerTable, pairs: Sequence[Pair]) -> None:
        self._table, self._pairs = table, pairs
        self.num_reward_positions = np.full(len(pairs), 2)
        self.first_reward_position = 2 * np.arange(len(pairs))
        self.fingerprint, self.prompt = table.fingerprint, table.prompt[[pair[0] for pair in pairs]]

    def __len__(self) -> int:
        return len(self._pairs)

    def groups(self, row: int, *, share: bool) -> list[Group]:
        """The right one first, as one group with what both begin with, or each as a lone sequence."""
        right_row, right, wrong_row, wrong = self._pairs[row]
        parts, places = [], []
        for number, read in ((right_row, right), (wrong_row, wrong)):
            (answer,) = self._table[number]
            place = answer.reward_positions[read : read + 1]
            parts.append(answer.tokens[: int(place[0]) + 1])
            places.append(place)
        if share:
            return [make_group(parts, places)]
        return [make_group([part], [place]) for part, place in zip(parts, places, strict=True)]


def probe_reads(
    backbone: Backbone, table: AnswerTable, pairs: Sequence[Pair], compute: Compute, *, seed: int, least: int
) -> Probed | None:
    """`probe_layers` on as many of the pairs as are needed, in their order; None where they are of fewer problems than folds."""
    two = TwoReads(table, pairs[: LOOKS[-1]])
    if len(np.unique(two.prompt)) < NUM_FOLDS:
        return None
    places = np.arange(len(two))
    probed = probe_layers(backbone, two, places, np.ones(len(two)), two.prompt, compute, seed=seed, least=least)
    return probed._replace(known=None)


def pairs_of_steps(table: AnswerTable, rows: np.ndarray, *, seed: int) -> list[Pair]:
    """A right and a wrong step at the same place of two solutions, each in one pair: to one problem where it has both, else of any
    two; in random order.

    The same place, since the wrong step of a solution is its last known one wherever labels end at the first error: of two steps of
    one solution the place would tell which is right.
    """
    rng = np.random.default_rng(seed)
    rows = rng.permutation(rows)
    sizes_N = table.num_reward_positions[rows]
    row_R, place_R = np.repeat(rows, sizes_N), np.concatenate([np.arange(size) for size in sizes_N] or [np.empty(0, np.int64)])
    labels_R, problem_R = table.values[table.places(rows), 0], np.repeat(table.prompt[rows], sizes_N)
    found: list[Pair] = []
    for place in np.unique(place_R):
        right, wrong = (np.flatnonzero((place_R == place) & known_R) for known_R in (labels_R > 0.5, labels_R < 0.5))
        pairs = _of_one_problem(right, wrong, problem_R)
        used = {read for pair in pairs for read in pair}
        pairs += zip(*([int(read) for read in reads if read not in used] for reads in (right, wrong)), strict=False)
        found += [(int(row_R[one]), int(place), int(row_R[other]), int(place)) for one, other in pairs]
    return [found[i] for i in rng.permutation(len(found))]


def _of_one_problem(right: np.ndarray, wrong: np.ndarray, problem_R: np.ndarray) -> list[tuple[int, int]]:
    """Reads that are right and wrong, coupled inside of each problem, each used once."""
    found: list[tuple[int, int]] = []
    for problem in np.intersect1d(problem_R[right], problem_R[wrong]):
        mine = (reads[problem_R[reads] == problem].tolist() for reads in (right, wrong))
        found += list(zip(*mine, strict=False))
    return found


def pairs_of_outcomes(table: AnswerTable, rows: np.ndarray, *, seed: int) -> list[Pair]:
    """A right and a wrong solution, each in one pair: of one problem where it has both; where too few do, of any two problems."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(rows)
    labels_N = table.values[table.places(rows), 0]
    problems = dict.fromkeys(table.prompt[rows].tolist())
    by_problem = [table.prompt[rows] == problem for problem in problems]
    found = [pair for inside_N in by_problem for pair in _coupled(rows, labels_N, inside_N)]
    if len({int(table.prompt[pair[0]]) for pair in found}) >= NUM_FOLDS:
        return [found[i] for i in rng.permutation(len(found))]
    return list(_coupled(rows, labels_N, np.ones(len(rows), bool)))


def _coupled(rows: np.ndarray, labels_N: np.ndarray, inside_N: np.ndarray) -> Iterator[Pair]:
    right, wrong = rows[inside_N & (labels_N > 0.5)], rows[inside_N & (labels_N < 0.5)]
    return ((int(one), 0, int(other), 0) for one, other in zip(right, wrong, strict=False))
