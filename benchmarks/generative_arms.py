"""One arm of benchmarks/generative.py: trained by `assay train`, judged on pairs, and what both cost.

Suffixes: P pairs.
"""

from __future__ import annotations

import gc
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from assay import cli  # first: it sets OpenMP up before torch is loaded

# isort: split
import numpy as np

from assay.audit.judge_biases import verdicts_in_order
from assay.console import say
from assay.generation.ledger import Bill
from assay.generation.prices import list_price
from assay.records import PreferencePair
from assay.scorers.base import Scorer
from assay.scorers.in_order import of_both_orders
from assay.stats.mean_intervals import share_interval

CHECKPOINT_EVERY = 10  # steps, of some 70 of an arm
NOTED_EVERY = 10.0  # seconds between two notes of what was spent
CLOSE = 1e-6  # margins that near to 0 are ties: half right


class Trained(NamedTuple):
    """A run directory, and the processor seconds that training took."""

    path: Path
    seconds: float


class Judged(NamedTuple):
    """What a scorer says of P pairs. margins: NaN without a verdict. in_order (P, 2): of a model that is shown two answers, in both
    orders, else None. texts: what was written of the chosen and the rejected answer, None where nothing was. seconds: of the
    processor; bill: tokens of a model that is asked, None for others."""

    margins: np.ndarray
    in_order: np.ndarray | None
    texts: Sequence[tuple[str | None, str | None]]
    seconds: float
    bill: Bill | None

    @property
    def right(self) -> np.ndarray:
        """(P,) 1 for right, 0 for wrong, 0.5 for a tie, NaN without a verdict."""
        ties = np.where(np.abs(self.margins) <= CLOSE, 0.5, self.margins > 0)
        return np.where(np.isnan(self.margins), np.nan, ties)


def train_arm(words: Iterable[str], out: Path) -> Trained:
    """`assay train` with these words and --out. Raises SystemExit where it fails. A run that was finished before is taken as it is,
    with the seconds that it took then. One that was stopped goes on from its last checkpoint; what it took before is counted, the
    steps behind that checkpoint too, which are taken again. With other words it begins anew."""
    noted = out / "benchmark-seconds.json"
    if noted.exists():
        return Trained(out, float(json.loads(noted.read_text())))
    asked, spent = (out.parent / f"{out.name}.{name}.json" for name in ("words", "spent"))
    said = [*words, "--checkpoint-every", str(CHECKPOINT_EVERY)]
    goes_on = out.exists() and asked.exists() and json.loads(asked.read_text()) == said
    before = float(json.loads(spent.read_text())) if goes_on and spent.exists() else 0.0
    out.parent.mkdir(parents=True, exist_ok=True)
    asked.write_text(json.dumps(said))
    command = ["train", *said, "--out", str(out), *(["--resume"] if goes_on else ["--overwrite"] if out.exists() else [])]
    with _counted(spent, before) as seconds_so_far:
        if status := cli.main(command):
            raise SystemExit(f"assay {' '.join(command)} ended with {status}")
        seconds = round(seconds_so_far(), 1)
    noted.write_text(json.dumps(seconds))
    gc.collect()
    say("trained", f"{out.name}: {seconds} s of processor time")
    return Trained(out, seconds)


@contextmanager
def _counted(file: Path, before: float) -> Iterator[Callable[[], float]]:
    """Keep the processor seconds that were spent, with those before, in a file, so that a kill loses a few of them at most."""
    began, stop = time.process_time(), threading.Event()

    def so_far() -> float:
        return before + time.process_time() - began

    def keep() -> None:
        while not stop.wait(NOTED_EVERY):
            file.write_text(json.dumps(so_far()))

    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    try:
        yield so_far
    finally:
        stop.set()
        thread.join()
        file.write_text(json.dumps(so_far()))


def judge(
    scorer: Scorer, pairs: Sequence[PreferencePair], *, chunk: int = 50, on_chunk: Callable[[int], None] | None = None
) -> Judged:
    """What the scorer says of the pairs, some at a time, with what it wrote."""
    began = time.process_time()
    parts = []
    for start in range(0, len(pairs), chunk):
        parts.append(_judge_some(scorer, pairs[start : start + chunk]))
        if on_chunk is not None:
            on_chunk(min(start + chunk, len(pairs)))
    orders = [one for _, one, _ in parts if one is not None]
    generator = getattr(scorer, "generator", None)
    return Judged(
        margins=np.concatenate([margins for margins, _, _ in parts]),
        in_order=np.concatenate(orders) if orders else None,
        texts=[one for _, _, texts in parts for one in texts],
        seconds=round(time.process_time() - began, 1),
        bill=None if generator is None else generator.bill,
    )


def _judge_some(
    scorer: Scorer, pairs: Sequence[PreferencePair]
) -> tuple[np.ndarray, np.ndarray | None, list[tuple[str | None, str | None]]]:
    in_order_P2, _ = verdicts_in_order(scorer, pairs)
    if in_order_P2 is not None:
        return of_both_orders(in_order_P2) - 0.5, in_order_P2, [(None, None)] * len(pairs)
    rewards = scorer.score([one for pair in pairs for one in pair.completions()])
    value_P2 = rewards.value.astype(np.float64).reshape(-1, 2)
    texts = list(rewards.text or [None] * (2 * len(pairs)))
    return value_P2[:, 0] - value_P2[:, 1], None, list(zip(texts[0::2], texts[1::2], strict=True))


def figures(judged: Judged, clusters_P: np.ndarray) -> dict[str, Any]:
    """Accuracy of the pairs with a verdict, with Wilson's interval by cluster; the share right of all, and that without one."""
    return {**of_right(judged.right, clusters_P), **_swapped(judged.in_order)}


def of_right(right_P: np.ndarray, clusters_P: np.ndarray) -> dict[str, Any]:
    """The same from (P,) values of `Judged.right`. right of all: a pair without a verdict is not right; with its interval too."""
    scored_P = ~np.isnan(right_P)
    of_all_P = np.nan_to_num(right_P, nan=0.0)
    return {
        "pairs": len(right_P),
        "accuracy": [rounded(right_P[scored_P].mean()) if scored_P.any() else None, *ends(right_P, clusters_P)],
        "right of all": [rounded(of_all_P.mean()), *ends(of_all_P, clusters_P)],
        "no verdict": rounded(1 - scored_P.mean()),
    }


def _swapped(in_order_P2: np.ndarray | None) -> dict[str, Any]:
    """Share of the pairs with both verdicts in which they name the same answer, and in which the first shown one wins."""
    if in_order_P2 is None or not (given_P := ~np.isnan(in_order_P2).any(1)).any():
        return {}
    side_P2 = np.sign(in_order_P2[given_P] - 0.5)
    first = np.stack([side_P2[:, 0] > 0, side_P2[:, 1] < 0])
    return {"same on swap": rounded((side_P2[:, 0] == side_P2[:, 1]).mean()), "first shown wins": rounded(first.mean())}


def costs(judged: Judged, priced_as: tuple[str, str]) -> dict[str, Any]:
    """Of one judged pair: processor seconds, tokens read and written, and what those would cost at a named model's list price.

    priced_as: (model, URL of its provider), as genai-prices knows it.
    """
    num = max(1, len(judged.margins))
    found: dict[str, Any] = {"seconds a pair": round(judged.seconds / num, 3)}
    if judged.bill is None:
        return found
    read, written = judged.bill.input_tokens / num, judged.bill.output_tokens / num
    price = list_price(*priced_as)
    dollars = (
        None if price is None else round(price.of(1000 * judged.bill.input_tokens, 1000 * judged.bill.output_tokens) or 0.0, 6)
    )
    return found | {
        "tokens read a pair": round(read, 1),
        "tokens written a pair": round(written, 1),
        "failed calls": judged.bill.num_failed,
        f"dollars a thousand pairs as {priced_as[0]}": None if dollars is None else round(dollars / num, 4),
    }


def ends(values_P: np.ndarray, clusters_P: np.ndarray) -> list[float | None]:
    """[low, high]; None where there is none."""
    return [None if np.isnan(one) else rounded(one) for one in share_interval(values_P, clusters_P)]


def rounded(value: float) -> float:
    return round(float(value), 4)


def kept_or_new(path: Path | None, settings: Mapping[str, Any], find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was found before with these settings and kept at the path, else what is found now, and kept there.

    NaN is kept as null. Raises ValueError for a file of other settings: it is not overwritten.
    """
    if path is None:
        return find()
    wanted = json.loads(json.dumps(settings))
    if path.exists():
        kept = json.loads(path.read_text())
        if kept["settings"] != wanted:
            other = [name for name in {*wanted, *kept["settings"]} if wanted.get(name) != kept["settings"].get(name)]
            raise ValueError(
                f"{path} was found with other settings ({', '.join(sorted(other))}): name another --keep, or remove it"
            )
        return dict(kept["found"])
    found = find()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"settings": wanted, "found": found}))
    return json.loads(json.dumps(found))


def as_list(values_P: np.ndarray) -> list[float | None]:
    """For JSON: NaN as None."""
    return [None if np.isnan(one) else float(one) for one in values_P]


def as_array(values: Sequence[float | None]) -> np.ndarray:
    """`as_list` taken back."""
    return np.array([np.nan if one is None else one for one in values], np.float64)
