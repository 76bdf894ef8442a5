"""Solutions to one problem as one row, so that in training too their question is computed once.

An `AnswerTable` of solutions holds one in a row, as they are read. Here a row is some solutions to one problem, wherever they lie
in the file: at most `MOST_TOGETHER`, and `MOST_TOKENS` with the question counted once, so that no problem makes a forward (or a
step) too large. A backbone that cannot branch still runs each by itself.

Shapes: N solutions, M rows of them, R rewarded tokens of all (one a step, or one a solution), V numbers of each.
"""

from __future__ import annotations

import numpy as np

from assay.data.tokens.answer_table import AnswerTable, AnswerTokens, laid_out
from assay.data.tokens.packing import Group, num_common, spans
from assay.data.tokens.table import SequenceTable
from assay.files import digest

MOST_TOGETHER = 8  # with a question of 150 tokens and solutions of 30, eight take .27 of their tokens apart, any number .17
MOST_TOKENS = 4096


class ProblemTable:
    """M rows, each some solutions to one problem. solutions: the table that they lie in.

    values: (R, V), row after row, within a row solution after solution. prompt: (M,) uint64 hashes. num_reward_positions: (M,)
    rewarded tokens of each row; num_solutions: (M,). fingerprint: of the content and of what lies together.
    """

    def __init__(self, solutions: AnswerTable) -> None:
        self.solutions, self.names = solutions, solutions.names
        self._rows = _together(solutions)
        self._order = np.concatenate([np.array(row, np.int64) for row in self._rows])
        self.num_solutions = np.array([len(row) for row in self._rows], np.int64)
        self._first = np.cumsum(self.num_solutions) - self.num_solutions
        self.values = solutions.values[solutions.places(self._order)]
        self.prompt = solutions.prompt[self._order[self._first]]
        self.num_reward_positions = np.add.reduceat(solutions.num_reward_positions[self._order], self._first)
        self.first_reward_position = np.cumsum(self.num_reward_positions) - self.num_reward_positions
        self.fingerprint = digest(f"{solutions.fingerprint}/{self.num_solutions.tolist()}/{self._order.tolist()}")

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, split: str) -> np.ndarray:
        """The rows of one split, ascending; none for a split that is not there."""
        return np.flatnonzero(np.isin(self._order[self._first], self.solutions.rows(split)))

    def places(self, rows: np.ndarray) -> np.ndarray:
        """Places in `values` of the rewarded tokens of the rows, row after row."""
        return spans(self.first_reward_position[rows], self.num_reward_positions[rows])

    def reads_of_solutions(self, rows: np.ndarray) -> np.ndarray:
        """(n,) rewarded tokens of each solution of the rows, row after row."""
        return self.solutions.num_reward_positions[self._order[spans(self._first[rows], self.num_solutions[rows])]]

    def __getitem__(self, row: int) -> list[AnswerTokens]:
        """The solutions of a row, read from disk."""
        return [answer for place in self._rows[row] for answer in self.solutions[place]]

    def groups(self, row: int, *, share: bool) -> list[Group]:
        """The solutions as one group with a shared question, or each as a lone sequence."""
        return laid_out(self[row], share)


def num_items(table: SequenceTable, rows: np.ndarray) -> int:
    """How many pairs, lists or solutions the rows hold: what a user counts."""
    return int(table.num_solutions[rows].sum()) if isinstance(table, ProblemTable) else len(rows)


def up_to(table: SequenceTable, rows: np.ndarray, most: int) -> np.ndarray:
    """The first of the rows that hold at most so many pairs, lists or solutions; one row at least, where there is one."""
    sizes_M = table.num_solutions[rows] if isinstance(table, ProblemTable) else np.ones(len(rows), np.int64)
    return rows[: max(1, int(np.searchsorted(np.cumsum(sizes_M), most, side="right")))]


def _together(solutions: AnswerTable) -> list[list[int]]:
    """Which solutions make a row, in the order in which the rows begin in the file."""
    rows: list[list[int]] = []
    open_rows: dict[int, tuple[int, np.ndarray, int]] = {}  # problem -> its last row, the tokens shared there, and all its tokens
    for place, problem in enumerate(solutions.prompt.tolist()):
        tokens = np.concatenate([answer.tokens for answer in solutions[place]])
        if problem in open_rows:
            row, shared, size = open_rows[problem]
            common, num = num_common(shared, tokens), len(rows[row])
            size_with = size + (num - 1) * (len(shared) - common) + len(tokens) - common
            if num < MOST_TOGETHER and size_with <= MOST_TOKENS:
                rows[row].append(place)
                open_rows[problem] = (row, shared[:common], size_with)
                continue
        open_rows[problem] = (len(rows), tokens, len(tokens))
        rows.append([place])
    return rows
