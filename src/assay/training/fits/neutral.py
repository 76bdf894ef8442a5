"""Labels of counter-examples that leave an edit worth nothing: neither paid nor fined.

A counter-example is an answer against the same answer edited. Labelled as a sure win of the plain answer, it teaches the model to
fine the edit; labelled as a tie, it leaves some of what other labels taught. In between lies the label at which the two cancel. It
is found on training prompts that are kept apart meanwhile, never on held-out pairs: the rise is measured after fits with two
labels, and the label is moved along the line through them. On prompts that were trained on the plain answer is remembered as a good
one, and the rise comes out too low.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from assay.console import progress, say
from assay.files import write_text
from assay.records import Finding, Table
from assay.training import distributed
from assay.training.checkpoint import trained_weights
from assay.training.loop import fit
from assay.training.settings import parse_params
from assay.training.tasks.task import CHECKED, COUNTER_EXAMPLES

if TYPE_CHECKING:
    from assay.training.prepare import Prepared

TIE, SURE = 0.5, 1.0  # labels to begin with: probability that the plain answer wins
NEAR = 0.05  # median margins that count as neutral
ONE_IN = 3  # prompts kept apart, with their pairs and counter-examples
APART = 4  # in the demo: of so many counter-examples the prompt of one is kept apart, to measure the rise on
OWN = 40  # counter-examples of an edit from which on it has a label of its own
FEWEST = 16  # counter-examples of a group; of fewer the labels stay as they are
NUM_FITS = {"head": 4}  # before the one that is kept: with those two labels, and while a habit is off neutral
NUM_FITS_OF_LAYERS = 2  # where a fit takes minutes: with those two labels
MAX_ROWS = {"head": 5000}  # of such a fit
MAX_ROWS_OF_LAYERS = 1000


class Rise(NamedTuple):
    """Mean rise of the reward by an edit, in median margins, its standard error by prompt, and the number of prompts."""

    mean: float
    error: float
    num_prompts: int

    def __str__(self) -> str:
        return f"{self.mean:+.2f} +- {self.error:.2f}"


class Tried(NamedTuple):
    """What a fit with these labels gave, by group of edits."""

    labels: dict[str, float]
    rises: dict[str, Rise]


@dataclass(frozen=True, slots=True, kw_only=True)
class Neutral:
    """labels: found, by group of edits. numbers: counter-examples of each. tried: the fits that they come from."""

    labels: Mapping[str, float]
    numbers: Mapping[str, int]
    tried: Sequence[Tried]

    def reasons(self) -> dict[str, str]:
        """Why each label is what it is, by its name among the settings."""
        return {_setting(habit): self._why(habit) for habit in self.labels}

    def settings(self) -> dict[str, float]:
        return {_setting(habit): round(label, 3) for habit, label in self.labels.items()}

    def _why(self, habit: str) -> str:
        tried = ", ".join(f"{one.rises[habit]} at {one.labels[habit]:.2f}" for one in self.tried)
        prompts = self.tried[0].rises[habit].num_prompts
        return f"the plain answer wins; rise of the edit in margins {tried}, on {prompts} training prompts kept apart meanwhile"

    def table(self, reached: Mapping[str, Rise]) -> Table:
        """For the report. reached: rises of the finished model on the calibration prompts, where they could be measured."""
        rows = tuple(
            (
                habit,
                self.numbers[habit],
                round(label, 2),
                *(str(one.rises[habit]) for one in self.tried[:2]),
                str(reached[habit]) if habit in reached else "",
                reached[habit].num_prompts if habit in reached else 0,
            )
            for habit, label in self.labels.items()
        )
        columns = ("edit", "counter-examples", "label", "rise, label 1", "rise, label 0.5", "rise, held out", "prompts")
        note = (
            "The label is the probability that the plain answer beats the edited one, chosen so that the edit is worth nothing. "
            "Rises are in median margins with their standard errors: the first two on training prompts that were kept apart, the "
            "last one that of the finished model on calibration prompts."
        )
        return Table(title="labels of the counter-examples", columns=columns, rows=rows, note=note)


def off_neutral(reached: Mapping[str, Rise]) -> Iterator[Finding]:
    """A warning of each group of edits that the finished model pays for or fines, beyond two standard errors."""
    for habit, rise in reached.items():
        if abs(rise.mean) > 2 * NEAR and abs(rise.mean) > 2 * rise.error:
            verb = "pays for" if rise.mean > 0 else "fines"
            why = f"the model {verb} it still: {rise} margins on {rise.num_prompts} calibration prompts"
            yield Finding("warn", f"{habit}: not neutral", rise.mean, 2 * NEAR, why)


def with_neutral_labels(prepared: Prepared) -> Prepared:
    """The run with labels found for the counter-examples of --augment; as it is without them, or with --augment-label.

    The model is left as it was. A run that is resumed takes the labels that it found before.
    """
    habits = groups_of(prepared.table.parts(COUNTER_EXAMPLES)) if prepared.config.regularization.finds_labels else {}
    if not habits:
        return prepared
    if distributed.is_launched():
        say("augment", "several processes look for no labels: they stay as they are, 0.9 for the plain answer (style: a tie)")
        return prepared
    mode = parse_params(prepared.config.params)[0]
    num_fits, max_rows = NUM_FITS.get(mode, NUM_FITS_OF_LAYERS), MAX_ROWS.get(mode, MAX_ROWS_OF_LAYERS)
    kept = prepared.config.out / "cache" / "labels.json"
    found = _read(kept, prepared.identity) if prepared.config.machine.resume else None
    if found is None:
        rows = some_rows(prepared.train_rows, prepared.table.prompt, max_rows, prepared.config.seed)
        loop = replace(prepared.derived.loop, patience=0)
        cost = f"at most {num_fits} fits on {len(rows):,} rows before the one that is kept"
        say("augment", f"looking for labels of {', '.join(habits)} that leave the edit worth nothing: {cost}")
        start = trained_weights(prepared.model)
        with progress("labels", num_fits * loop.num_steps(len(rows)), "steps") as advance, torch.random.fork_rng():
            found = find_labels(
                prepared,
                rows,
                {habit: np.intersect1d(its, rows) for habit, its in habits.items()},
                lambda run, on: fit(run.model, run.task, on, loop, on_steps=advance),
                num_fits=num_fits,
                from_all=True,
            )
        prepared.model.load_state_dict(start, strict=False)
        found = replace(found, numbers={habit: len(its) for habit, its in habits.items()})
        write_text(kept, json.dumps({"identity": prepared.identity, **asdict(found)}))
    for habit, label in found.labels.items():
        say("augment", f"{habit}: label {label:.2f}; {found.reasons()[_setting(habit)]}")
    run = labelled(prepared, habits, found.labels)
    settings, reasons = {**run.built.settings, **found.settings()}, {**run.built.reasons, **found.reasons()}
    return replace(run, built=run.built._replace(settings=settings, reasons=reasons), neutral=found)


def reached(prepared: Prepared) -> dict[str, Rise]:
    """Rises by the model as it is now on calibration prompts, by group of edits; none without found labels or such prompts."""
    if prepared.neutral is None:
        return {}
    of = {edit: group for group, edits in _grouped(prepared.table.parts(COUNTER_EXAMPLES)).items() for edit in edits}
    rows: dict[str, list[np.ndarray]] = {}
    for edit, its in prepared.table.parts(CHECKED).items():
        rows.setdefault(of.get(edit, ""), []).append(its)
    habits = {group: np.sort(np.concatenate(its)) for group, its in rows.items() if group in prepared.neutral.labels}
    return rises_of(prepared, prepared.heldout_rows, habits) if habits and len(prepared.heldout_rows) else {}


def groups_of(parts: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows that share a label: an edit with many counter-examples by itself, the others of its kind together.

    parts: rows of each edit, named "kind/edit". Groups with few rows are left out.
    """
    grouped = {group: np.sort(np.concatenate([parts[edit] for edit in edits])) for group, edits in _grouped(parts).items()}
    return {group: rows for group, rows in grouped.items() if len(rows) >= FEWEST}


def _grouped(parts: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """Edits by the name of their group: "flattery", "style edits", or "other style edits" where some have a label of their own."""
    groups, rest = dict[str, list[str]](), dict[str, list[str]]()
    for edit in sorted(parts):
        kind, _, name = edit.partition("/")
        if len(parts[edit]) >= OWN:
            groups[name] = [edit]
        else:
            rest.setdefault(kind, []).append(edit)
    for kind, edits in rest.items():
        are_all = all(edit in edits for edit in parts if edit.partition("/")[0] == kind)
        alone = edits[0].partition("/")[2] if len(edits) == 1 else ""
        groups[alone or f"{'' if are_all else 'other '}{kind} edits"] = edits
    return groups


def some_rows(rows: np.ndarray, prompt_P: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Of the rows about `most`, those of whole prompts drawn at random; all of them where there are no more."""
    if len(rows) <= most:
        return rows
    unique, place = np.unique(prompt_P[rows], return_inverse=True)
    order = np.random.default_rng([seed, 13]).permutation(len(unique))
    drawn = order[np.cumsum(np.bincount(place)[order]) <= most]
    return rows[np.isin(place, drawn)]


def find_labels(
    prepared: Prepared,
    rows: np.ndarray,
    habits: Mapping[str, np.ndarray],
    fit_rows: Callable[[Prepared, np.ndarray], object],
    *,
    num_fits: int = NUM_FITS["head"],
    from_all: bool = False,
) -> Neutral:
    """The labels of the counter-examples that leave each habit neutral. The model is left fitted with some of those tried.

    habits: rows of the counter-examples of each, a part of `rows`. fit_rows: fits the model of a run to some rows.
    from_all: keep a part of all prompts apart, so that counter-examples are as large a share of the rest as of all. Else prompts of
    counter-examples alone are, and the others have more to fit on; with few counter-examples the labels then come out too high.
    """
    prompt_P = prepared.table.prompt
    apart = {habit: its[::APART] for habit, its in habits.items()}
    drawn = prompt_P[np.concatenate(list(apart.values()))]
    if from_all:
        drawn = np.random.default_rng([prepared.config.seed, 19]).permutation(np.unique(prompt_P[rows]))[::ONE_IN]
        found = {habit: its[np.isin(prompt_P[its], drawn)] for habit, its in habits.items()}
        apart = {habit: its if len(its) else apart[habit] for habit, its in found.items()}
        drawn = np.concatenate([drawn, prompt_P[np.concatenate(list(apart.values()))]])
    kept = rows[~np.isin(prompt_P[rows], drawn)]
    pairs = np.setdiff1d(kept, np.concatenate([*habits.values(), prepared.table.rows(COUNTER_EXAMPLES)]))
    start, tried = trained_weights(prepared.model), list[Tried]()
    for number in range(num_fits):
        labels = dict.fromkeys(habits, (SURE, TIE)[number]) if number < 2 else next_labels(tried)
        if any(labels == one.labels for one in tried):
            break  # there is nothing left to move
        prepared.model.load_state_dict(start, strict=False)
        fit_rows(labelled(prepared, habits, labels), kept)
        tried.append(Tried(labels, rises_of(prepared, pairs, apart)))
        if all(abs(rise.mean) <= NEAR for rise in tried[-1].rises.values()):
            break
    return Neutral(labels=next_labels(tried), numbers={habit: len(its) for habit, its in habits.items()}, tried=tried)


def next_labels(tried: Sequence[Tried]) -> dict[str, float]:
    """For each habit the label at which the line through the nearest rises on both sides of zero crosses it.

    Without a rise on both sides, or with one that counts as none, it is the label of the rise that is nearest to zero.
    """
    labels = {}
    for habit in tried[0].labels:
        points = sorted((one.rises[habit].mean, one.labels[habit]) for one in tried)
        below, above = [point for point in points if point[0] <= 0], [point for point in points if point[0] > 0]
        is_there = min(abs(rise) for rise, _ in points) <= NEAR
        if below and above and not is_there:
            (low, at_low), (high, at_high) = below[-1], above[0]
            labels[habit] = at_low + (at_high - at_low) * -low / (high - low)
        else:
            labels[habit] = min(points, key=lambda point: abs(point[0]))[1]
    return labels


def labelled(prepared: Prepared, habits: Mapping[str, np.ndarray], labels: Mapping[str, float]) -> Prepared:
    """The run with these labels on the counter-examples; the table of the run itself is not changed."""
    table = copy.copy(prepared.table)
    table.preference = np.array(table.preference)
    for habit, rows in habits.items():
        table.preference[rows] = labels[habit]
    return replace(prepared, table=table, built=prepared.built._replace(task=replace(prepared.task, table=table)))


def rises_of(prepared: Prepared, pairs: np.ndarray, habits: Mapping[str, np.ndarray]) -> dict[str, Rise]:
    """Rise of the reward by each habit over its counter-examples, in median margins of the pairs at the rows `pairs`."""
    unit = float(np.median(np.abs(_margins(prepared, pairs))))
    rises = {}
    for habit, its in habits.items():
        rise_N = -_margins(prepared, its) / unit
        _, place_N = np.unique(prepared.table.prompt[its], return_inverse=True)
        sums_C = np.bincount(place_N, rise_N - rise_N.mean())
        error = float(np.sqrt((sums_C**2).sum() * len(sums_C) / max(1, len(sums_C) - 1))) / len(rise_N)
        rises[habit] = Rise(float(rise_N.mean()), error if len(sums_C) > 1 else float("nan"), len(sums_C))
    return rises


def _margins(prepared: Prepared, rows: np.ndarray) -> np.ndarray:
    rewards_P2 = prepared.task.rewards(prepared.model, rows).astype(np.float64)
    margins_P: np.ndarray = rewards_P2[:, 0] - rewards_P2[:, 1]
    return margins_P


def _setting(habit: str) -> str:
    return f"label_of_{habit.replace(' ', '_')}"


def _read(path: Path, identity: str) -> Neutral | None:
    """The labels of the run that is resumed; None where it found none, or for other data, base or settings."""
    kept = json.loads(path.read_text()) if path.is_file() else {}
    if kept.get("identity") != identity:
        return None
    tried = [Tried(labels, {habit: Rise(*rise) for habit, rise in rises.items()}) for labels, rises in kept["tried"]]
    return Neutral(labels=kept["labels"], numbers=kept["numbers"], tried=tried)
