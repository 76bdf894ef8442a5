"""Preference pairs for a run: read, split, replayed, augmented and rendered into a table on disk."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from assay.audit.probes.selection import failed_probes
from assay.console import console, say
from assay.data.pairs import PairReader, read_pairs
from assay.data.run_data import run_data
from assay.data.set_aside import why_no_pairs
from assay.data.split import refuse_overlap
from assay.data.spread import Spread
from assay.data.tokens.render import Renderer
from assay.data.tokens.rendered_pairs import NothingLeft
from assay.data.tokens.table import PairTable, SplitTable, build_table
from assay.errors import DataError
from assay.files import file_sha256
from assay.records import PreferencePair
from assay.training import distributed
from assay.training.rows.augment import AUGMENTED, CONTRAST, augmented, contrasted
from assay.training.rows.margins import check_margins
from assay.training.settings import TrainConfig
from assay.training.tasks.task import CHECKED, COUNTER_EXAMPLES

MAX_CHECKED = 100  # calibration pairs that are edited, to see what the edits are worth
REPLAY = "assay.replay"  # tag of a pair of an earlier run


def read_table(
    config: TrainConfig, renderer: Renderer, split: Callable[[PreferencePair], str] | None
) -> tuple[PairTable, list[dict[str, Any]]]:
    """Read, split and tokenise the data once; what was read, set aside and cut is printed, and returned for reward.json."""
    rule = "hash of the prompt" if split is None else "whole groups"
    split_of_pair = split or (lambda pair: _split_with_added(config, pair))
    readers, spread = config.run_data.readers(), Spread()
    path = config.out / "cache" / "tokens.arrow"
    with distributed.rank0_first():
        if distributed.rank() != 0:
            return PairTable(path), []
        with console.status("reading and tokenising"):
            pairs = with_counter_examples(with_replay(itertools.chain.from_iterable(readers), config), config, split is None)
            try:
                table, count = build_table(
                    pairs,
                    renderer,
                    path,
                    split=lambda pair: counted(spread, pair, split_of_pair(pair)),
                    with_starts=config.objective.text_loss is not None,
                )
            except NothingLeft as error:
                raise DataError(f"{error}\n{why_no_pairs(readers)}") from error
    data = say_read(config, readers)
    say("rendered", count.summary())
    sizes = {name: len(table.rows(name)) for name in ("train", "calibration", "test")}
    say("split", ", ".join(f"{name} {size:,}" for name, size in sizes.items()) + f" pairs, by {rule}")
    for line in spread.lines():
        say("order", line)
    if num_added := len(table.rows(COUNTER_EXAMPLES)):
        part = f"{num_added / (num_added + sizes['train']):.1%} of what is trained on"
        say("augment", f"{num_added:,} counter-examples beside the training pairs, {part}; held-out pairs are as they were")
    if not sizes["train"]:
        raise DataError(
            f"no pair is in the training split of {', '.join(config.data)}: give more prompts, or lower --calibration and --test"
        )
    if config.objective.use_margin:
        check_margins(table.margin[table.rows("train")])
    refuse_tested_prompts(config, table)
    return table, data


def say_read(config: TrainConfig, readers: Sequence[PairReader]) -> list[dict[str, Any]]:
    """Print what was read of each file; the same as entries for reward.json."""
    data = []
    for name, reader in zip(config.data, readers, strict=True):
        say("read", f"{name}: {reader.summary()}")
        entry = {"name": Path(name).name, "num_pairs": reader.num_given, "note": reader.summary()}
        data.append(entry | ({"fingerprint": file_sha256(Path(name))[:32]} if Path(name).is_file() else {}))
    return data


def refuse_tested_prompts(config: TrainConfig, table: SplitTable) -> None:
    """Raises DataError when --eval-data has prompts of the data, or of what the model to start from was trained on."""
    if config.eval_data is None:
        return
    hashes = np.union1d(table.prompt, config.run_data.known_prompts)  # of the calibration split too
    tested = read_pairs(config.eval_data, form=config.form, strict=config.machine.strict, names=config.run_data.names)
    refuse_overlap(hashes, tested, train_name=", ".join(config.data), eval_name=config.eval_data)


def counted(spread: Spread, pair: PreferencePair, split: str) -> str:
    """The split, counted for the tags of a pair; counter-examples, which are no part of the data, are not counted."""
    if split.partition(":")[0] not in (COUNTER_EXAMPLES, CHECKED):
        spread.add(pair)
        spread.count(split, pair)
    return split


def with_replay(pairs: Iterable[PreferencePair], config: TrainConfig) -> Iterator[PreferencePair]:
    """The pairs, then a random sample of the training pairs of --init-from: the share --replay of all training pairs."""
    num_new = 0
    for pair in pairs:
        num_new += config.regularization.replay > 0 and config.run_data.split_of(pair) == "train"
        yield pair
    if not config.regularization.replay or config.init_from is None:
        return
    rng, drawn = np.random.default_rng(config.seed), []
    wanted = round(num_new * config.regularization.replay / (1 - config.regularization.replay))
    for number, pair in enumerate(run_data(config.init_from).pairs("train")):  # reservoir sampling: Vitter (1985), R
        if number < wanted:
            drawn.append(pair)
        elif (place := int(rng.integers(number + 1))) < wanted:
            drawn[place] = pair
    say("replay", f"{len(drawn):,} of the training pairs of {config.init_from} beside {num_new:,} new ones")
    yield from (replace(pair, tags={**pair.tags, REPLAY: "yes"}) for pair in drawn)


def with_counter_examples(pairs: Iterable[PreferencePair], config: TrainConfig, by_prompt: bool) -> Iterator[PreferencePair]:
    """The pairs; with --augment each training pair is followed by the counter-examples made from it.

    Where labels are looked for, the first calibration pairs are followed by an answer against its edited self, on which is seen
    what the edits are worth in the end.
    """
    regularization = config.regularization
    if regularization.augment is None:
        yield from pairs
        return
    if not by_prompt:
        raise ValueError(f"--augment {regularization.augment} goes with the split by prompt: leave it out here")
    only = None if regularization.augment == "probes" else failed_probes(Path(regularization.augment))
    if only == ():
        say("augment", f"no probe failed in {regularization.augment}: nothing is added")
        yield from pairs
        return
    share, label = regularization.augment_share, regularization.augment_label
    every = augmented(pairs, share=share, seed=config.seed, only=only, is_source=lambda pair: _split_of(config, pair) == "train")
    if regularization.finds_labels:
        is_source = lambda pair: _split_of(config, pair) == "calibration"  # noqa: E731
        yield from contrasted(every, most=MAX_CHECKED, seed=config.seed, only=only, is_source=is_source)
        return
    for pair in every:
        is_fixed = AUGMENTED in pair.tags and pair.tags.get(CONTRAST) == "worthless"
        yield replace(pair, preference=label) if is_fixed and label is not None else pair


def _split_of(config: TrainConfig, pair: PreferencePair) -> str:
    """The split of a pair: by prompt; replayed pairs are in the training split."""
    return "train" if REPLAY in pair.tags else config.run_data.split_of(pair)


def _split_with_added(config: TrainConfig, pair: PreferencePair) -> str:
    """As `_split_of`; counter-examples are in a split of their own, those whose label may be moved in a part for each edit."""
    name = _split_of(config, pair)
    if AUGMENTED not in pair.tags or config.regularization.augment is None:
        return name
    edit = f":{pair.tags[CONTRAST]}/{pair.tags[AUGMENTED]}" if CONTRAST in pair.tags else ""
    if name == "train":
        return f"{COUNTER_EXAMPLES}{edit}"
    return f"{CHECKED}{edit}" if name == "calibration" and edit else name
