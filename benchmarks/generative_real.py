"""The real part of benchmarks/generative.py: models that write and models that do not, on pairs that people or judges labelled.

All that is trained here is trained on the same pairs, which have critiques: FastChat's GPT-4 reviews and AlpacaEval's explanations
(CC BY-NC: figures only, no weights are published). Test pairs whose prompt is a training prompt are left out and counted.

Suffixes: P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from assay import cli  # noqa: F401  first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np
from generative_arms import Judged, costs, figures, judge, kept_or_new, rounded, train_arm

from assay.console import say
from assay.data.critiques import CHOSEN, REJECTED
from assay.data.pairs import read_pairs, write_pairs
from assay.data.sampling import draw_pairs
from assay.data.split import is_among, prompt_hashes
from assay.records import PreferencePair
from assay.scorers.base import Scorer
from assay.scorers.baselines import LengthScorer, fit_bag_of_words
from assay.scorers.load import load

SETS = {"pandalm": "pandalm/testset-v1", "autoj": "autoj/pairwise", "llmbar natural": "llmbar/natural", "rmb": "rmb/pairs"}
TRAINED_ON = {"vicuna-reviews": "vicuna-bench-reviews", "alpacaeval": "alpacaeval/preferences_with_explanations.jsonl.gz"}
WORDS, LENGTH = "bag of words", "length"
GENERATIVE = {
    "direct": "pairwise,direct",
    "critique": "pairwise,critique",
    "star, dpo": "pairwise,critique,star=4,dpo",
}
ASKED = {"zero-shot": "#assay-pairwise?critique=yes&max_tokens=160", "log-odds": "#assay-pairwise?critique=no"}
SCALAR = {
    "grm": ("--params", "blocks:4", "--text-loss", "sft"),
    "scalar, auto": ("--params", "auto"),
    "scalar, head:mean": ("--params", "head:mean"),
}
CHARACTERS = 3  # a token at least, of the pairs that are trained on
ROWS = (*ASKED, *GENERATIVE, *SCALAR, WORDS, LENGTH)


@dataclass(frozen=True, kw_only=True)
class RealSettings:
    """What decides a figure. limit: pairs of each test set, drawn by whole prompts, ties left out. train_pairs: of each training
    set. epochs, rate: of the models that write. max_length: tokens of prompt and answers."""

    base: str
    folder: str
    limit: int = 100
    train_pairs: int = 400
    epochs: int = 1
    params: str = "full"
    learning_rate: float = 1e-4
    batch: int = 8
    judged: int = 4
    max_length: int = 1024
    dtype: str = "auto"
    priced_as: tuple[str, str] = ("gpt-4o-mini", "https://api.openai.com/v1")


def real_part(settings: RealSettings, seeds: Sequence[int], rows: Sequence[str], runs: Path, keep: Path | None) -> dict[str, Any]:
    """Every row of every seed. is better than bag of words: in each set, its interval lies above the words' share."""
    if unknown := set(rows) - set(ROWS):
        raise ValueError(f"--rows {sorted(unknown)[0]!r} is none of {', '.join(ROWS)}")
    train = training_pairs(settings)
    tests, shared = test_pairs(settings, train)
    data = runs / "real-pairs.jsonl"
    runs.mkdir(parents=True, exist_ok=True)
    write_pairs(data, train)
    result: dict[str, Any] = {
        "settings": asdict(settings) | {"base": Path(settings.base).name, "folder": Path(settings.folder).name},
        "training pairs": len(train),
        "by set": {name: sum(pair.source == name for pair in train) for name in TRAINED_ON},
        "test pairs": {name: len(pairs) for name, pairs in tests.items()},
        "left out, prompt is in training": shared,
        "seeds": {},
    }
    for seed in seeds:
        found: dict[str, Any] = {}
        for row in rows:
            path = None if keep is None else keep / f"real-{seed}-{''.join(c if c.isalnum() else '-' for c in row)}.json"
            made = lambda: one_row(settings, row, train, tests, data, seed, runs / f"real-{seed}")  # noqa: B023, E731
            found[row] = kept_or_new(path, asdict(settings), made)
            say("tested", f"{row}: " + ", ".join(f"{name} {one['accuracy']}" for name, one in found[row]["sets"].items()))
        result["seeds"][seed] = found | {"better than bag of words": better(found)}
    return result


def training_pairs(settings: RealSettings) -> list[PreferencePair]:
    """Of each training set some, drawn by whole prompts: with a critique that names both answers, and short enough that a question
    about both fits."""
    found, room = [], CHARACTERS * settings.max_length
    for name, file in TRAINED_ON.items():
        pairs = (replace(pair, source=name) for pair in read_pairs(Path(settings.folder) / file) if not pair.is_tie)
        found += draw_pairs([pair for pair in pairs if names_both(pair) and size(pair) <= room], settings.train_pairs, seed=0)
    return found


def names_both(pair: PreferencePair) -> bool:
    """Whether its critique is of both answers."""
    critique = (pair.ground_truth or {}).get("critique", "")
    return CHOSEN in critique and REJECTED in critique


def size(pair: PreferencePair) -> int:
    """Characters of a pair with its critique."""
    critique = (pair.ground_truth or {}).get("critique", "")
    return sum(len(turn.content) for turn in pair.prompt) + len(pair.chosen) + len(pair.rejected) + len(critique)


def test_pairs(settings: RealSettings, train: Sequence[PreferencePair]) -> tuple[dict[str, list[PreferencePair]], dict[str, int]]:
    """The pairs of each test set, and how many were left out because their prompt is a training prompt."""
    known, tests, shared = prompt_hashes(train), {}, {}
    for name, file in SETS.items():
        labelled = [pair for pair in islice(read_pairs(Path(settings.folder) / f"{file}.jsonl.gz"), 20_000) if not pair.is_tie]
        others = [pair for pair in labelled if not is_among(known, pair)]
        tests[name], shared[name] = draw_pairs(others, settings.limit, seed=0), len(labelled) - len(others)
    return tests, shared


def one_row(
    settings: RealSettings,
    row: str,
    train: Sequence[PreferencePair],
    tests: Mapping[str, Sequence[PreferencePair]],
    data: Path,
    seed: int,
    place: Path,
) -> dict[str, Any]:
    """Train a row where it is trained, and judge every set."""
    seconds, scorer = None, None
    if row in GENERATIVE or row in SCALAR:
        trained = train_arm(words_of(settings, row, data, seed), place / "".join(c if c.isalnum() else "-" for c in row))
        seconds, scorer = trained.seconds, load(trained.path, dtype=settings.dtype)  # type: ignore[arg-type]
    else:
        scorer = untrained(settings, row, train)
    sets, judged_all = {}, []
    for name, pairs in tests.items():
        judged = judge(scorer, pairs, chunk=20)
        prompts = np.array([pair.prompt_key for pair in pairs])
        sets[name] = figures(judged, prompts)
        judged_all.append(judged)
    return {"training seconds": seconds, "sets": sets, "costs": costs(_together(judged_all), settings.priced_as)}


def untrained(settings: RealSettings, row: str, train: Sequence[PreferencePair]) -> Scorer:
    makers: dict[str, Callable[[], Scorer]] = {LENGTH: LengthScorer, WORDS: lambda: fit_bag_of_words(train)}
    if row in makers:
        return makers[row]()
    return load(f"{settings.base}{ASKED[row]}", dtype=settings.dtype)  # type: ignore[arg-type]


def words_of(settings: RealSettings, row: str, data: Path, seed: int) -> list[str]:
    """Of `assay train`."""
    words = ["--data", str(data), "--base", settings.base, "--seed", str(seed), "--test", "0", "--dtype", settings.dtype]
    words += ["--max-length", str(settings.max_length)]
    if row in SCALAR:
        return [*words, *SCALAR[row], "--reference", "0"]
    kind = f"generative:{GENERATIVE[row]},judged={settings.judged}"
    words += ["--kind", kind, "--params", settings.params, "--epochs", str(settings.epochs)]
    return [*words, "--learning-rate", f"{settings.learning_rate:g}", "--batch-pairs", str(settings.batch)]


def better(found: Mapping[str, Any]) -> dict[str, list[str]]:
    """By row the sets in which its interval excludes the accuracy of the bag of words from below: what may be bold."""
    if WORDS not in found:
        return {}
    result = {}
    for row, one in found.items():
        ahead = []
        for name, figure in one["sets"].items():
            low, words = figure["accuracy"][1], found[WORDS]["sets"][name]["accuracy"][0]
            if low is not None and words is not None and low > words:
                ahead.append(name)
        result[row] = ahead
    return result


def _together(parts: Sequence[Judged]) -> Judged:
    """All sets as one, for what a pair costs: the bill is that of the whole run already."""
    margins = np.concatenate([one.margins for one in parts])
    return parts[-1]._replace(margins=margins, in_order=None, texts=(), seconds=rounded(sum(one.seconds for one in parts)))
