"""`Scorer`, the protocol of everything that gives rewards, and what other modules need to know about a scorer."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

import numpy as np

from assay.data.tokens.padding import Ends
from assay.records import Completion, PreferencePair, Rewards
from assay.stats.metrics import sigmoid
from assay.stats.steps.step_meaning import StepMeaning

Scope = Literal["global", "prompt"]


@runtime_checkable
class Scorer(Protocol):
    """Anything that gives rewards to completions.

    fingerprint: identity of the scoring function; the same fingerprint gives the same values, within `tolerance`.
    scope: "global" when a value depends on its completion alone, "prompt" when it is relative to the prompt's other answers.
    tolerance: how far two scorings of one item may differ (absolute, in units of `value`).
    """

    @property
    def fingerprint(self) -> str: ...
    @property
    def scope(self) -> Scope: ...
    @property
    def tolerance(self) -> float: ...
    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N rewards, in order. What cannot be scored is NaN with a reason; nothing is raised for it."""
        ...


@runtime_checkable
class Comparer(Protocol):
    """A scorer that knows P(chosen beats rejected) itself: a calibrated model, a pairwise judge."""

    def compare(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        """P pairs -> (P,) float64 in [0, 1], NaN where either answer could not be scored."""
        ...


@runtime_checkable
class FromMargins(Comparer, Protocol):
    """A comparer whose probabilities are a function of the margins of its own rewards: they need no second scoring."""

    def probability(self, margins_P: np.ndarray) -> np.ndarray:
        """P(chosen beats rejected) of P margins; NaN stays NaN."""
        ...

    @property
    def origin(self) -> str:
        """Where the probabilities come from, in a few words."""
        ...


@runtime_checkable
class HasClosing(Protocol):
    """A scorer that knows what the chat template of its model writes after an answer."""

    @property
    def closing(self) -> str: ...


@runtime_checkable
class HasPadding(Protocol):
    """A scorer that knows with which tokens rows of its model are filled."""

    @property
    def padding(self) -> tuple[str, ...]: ...


@runtime_checkable
class HasRenderer(Protocol):
    """A scorer that tokenises in this process: its `renderer`, and the transformers `config` of its model."""

    @property
    def renderer(self) -> Any: ...
    @property
    def config(self) -> Any: ...


@runtime_checkable
class HasStates(Protocol):
    """A scorer that also gives the hidden states that its head reads. computed_in: its number format, such as "float32"."""

    @property
    def computed_in(self) -> str: ...
    def score_with_states(self, completions: Sequence[Completion]) -> tuple[Rewards, np.ndarray]:
        """N completions -> rewards, and (N, D) float32 hidden states."""
        ...


@runtime_checkable
class TellsMarginStd(Protocol):
    """A scorer that knows how sure it is of its margins."""

    def margins_with_std(self, pairs: Sequence[PreferencePair]) -> tuple[Rewards, np.ndarray]:
        """P pairs -> 2 P rewards, chosen and rejected in turn, and (P,) float64 std of the margins; NaN where unscored."""
        ...


@runtime_checkable
class HasAssumptions(Protocol):
    """A scorer of another's checkpoint: `assumed`, what -> how it is read; empty for Assay's own."""

    @property
    def assumed(self) -> dict[str, str]: ...


@runtime_checkable
class HasPlan(Protocol):
    """A scorer that plans its memory: `plan.max_tokens` of one forward, and `plan.summary()` in words."""

    @property
    def plan(self) -> Any: ...


@runtime_checkable
class TellsCost(Protocol):
    """A scorer that pays for calls, and says what they would come to: an `Estimate` of generation/."""

    def estimate(self, completions: Sequence[Completion]) -> Any: ...


class TokenCount(NamedTuple):
    """How many tokens of a completion are read (0 where it cannot be rendered), and whether others were cut off for its length."""

    num_tokens: int
    is_cut: bool


@runtime_checkable
class CountsTokens(Protocol):
    """A scorer that tokenises in this process, and says how many tokens it reads."""

    def token_counts(self, completions: Sequence[Completion]) -> list[TokenCount]: ...


@runtime_checkable
class ReadsSteps(Protocol):
    """A scorer that says what its rewards of steps mean. step_threshold: a step is taken to be right above it; step_probability:
    rewards of steps, (S,), to P(right) of each in [0, 1], NaN stays NaN."""

    @property
    def step_threshold(self) -> float: ...
    def step_probability(self, rewards_S: np.ndarray) -> np.ndarray: ...


@runtime_checkable
class TellsStepMeaning(Protocol):
    """A scorer that says in numbers what its rewards of steps mean, for a service to hand on; None where it rewards no steps, or
    does not know."""

    @property
    def step_meaning(self) -> StepMeaning | None: ...


@runtime_checkable
class LabelsTokens(Protocol):
    """A scorer whose model may label every token, as engines serve it: the labels' names, () where it labels none, and of each of N
    completions the logits (T, labels) float32, or why there are none."""

    @property
    def token_labels(self) -> tuple[str, ...]: ...
    def token_logits(self, completions: Sequence[Completion]) -> list[np.ndarray | str]: ...


@runtime_checkable
class HasBill(Protocol):
    """A scorer whose rewards cost calls: `bill()` says what they came to."""

    def bill(self) -> str: ...


@runtime_checkable
class TellsOutside(Protocol):
    """A judge that reads verdicts by their tokens: `outside()` says how much probability lay outside of them, None where none was
    read."""

    def outside(self) -> str | None: ...


@runtime_checkable
class ThreadSafe(Protocol):
    """A scorer whose `score` several threads may call at once."""

    is_thread_safe: Literal[True]


Value = TypeVar("Value")


class OfInner(Generic[Value]):
    """An attribute of a wrapper that is the inner scorer's own: `scope = OfInner[Scope]()`."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, wrapper: Any, owner: type | None = None) -> Value:
        return getattr(wrapper.scorer, self.name)  # type: ignore[no-any-return]


Capability = TypeVar("Capability")


def capability(scorer: object, kind: type[Capability], *, of_same_rewards: bool = False) -> Capability | None:
    """The scorer, or the first scorer inside it, that implements the protocol `kind`; None when none does.

    of_same_rewards: do not search inside a wrapper that changes rewards (`changes_rewards`) or inside an ensemble, since scorers in
    there give other rewards. Otherwise the search goes on in the inner scorer, of an ensemble in its first member.
    """
    while not isinstance(scorer, kind):
        if of_same_rewards and getattr(scorer, "changes_rewards", False):
            return None
        inner = getattr(scorer, "scorer", None) or next(iter(getattr(scorer, "scorers", ()) if not of_same_rewards else ()), None)
        if inner is None:
            return None
        scorer = inner
    return scorer


def step_reader(scorer: Scorer) -> ReadsSteps | None:
    """The scorer, or the first inside it, that says what its rewards of steps mean; None where none does."""
    reads = capability(scorer, ReadsSteps)
    return None if reads is None or math.isnan(reads.step_threshold) else reads


@runtime_checkable
class Grows(Protocol):
    """A scorer that computes a solution from where it leaves an earlier beginning of it.

    grows_faster: whether that is quicker here than all solutions in one forward: on a CPU it is (dev/LOG.md). grow: as `score`, for
    solutions that grow.
    """

    grows_faster: bool

    def grow(self, completions: Sequence[Completion]) -> Rewards: ...


@runtime_checkable
class ReadsGroundTruth(Protocol):
    """A scorer that says whether it reads `Completion.ground_truth`, as a rule or a judge with gold answers does."""

    @property
    def reads_ground_truth(self) -> bool: ...


def own_comparer(scorer: Scorer) -> Comparer | None:
    """The scorer that compares by itself, such as a pairwise judge; None where preferences follow from rewards or their margins."""
    found = capability(scorer, Comparer, of_same_rewards=True)
    return None if isinstance(found, FromMargins) else found


def pair_rewards(scorer: Scorer, pairs: Sequence[PreferencePair]) -> np.ndarray:
    """Rewards of chosen and rejected, from one call of the scorer: (P, 2) float64, NaN where one could not be scored."""
    completions = [completion for pair in pairs for completion in pair.completions()]
    return scorer.score(completions).value.astype(np.float64).reshape(-1, 2)


def margins(scorer: Scorer, pairs: Sequence[PreferencePair]) -> np.ndarray:
    """Reward of chosen minus reward of rejected: (P,) float64, NaN where either could not be scored."""
    rewards_P2 = pair_rewards(scorer, pairs)
    return rewards_P2[:, 0] - rewards_P2[:, 1]


def prefer(scorer: Scorer, pairs: Sequence[PreferencePair], temperature: float = 1.0) -> np.ndarray:
    """P(chosen beats rejected) for P pairs: (P,) float64 in [0, 1], NaN where a pair could not be scored.

    It is the scorer's own `compare` where it has one; else sigmoid((r_chosen - r_rejected) / temperature), Bradley & Terry (1952).
    """
    if not temperature > 0:
        raise ValueError(f"temperature {temperature} must be positive: it divides the margin")
    if isinstance(scorer, Comparer):
        return scorer.compare(pairs)
    return sigmoid(margins(scorer, pairs) / temperature)


def reads_ground_truth(scorer: Scorer) -> bool:
    """Whether the scorer, or a scorer inside it, reads the ground truth."""
    if isinstance(scorer, ReadsGroundTruth) and scorer.reads_ground_truth:
        return True
    held = (getattr(scorer, "scorer", None), *getattr(scorer, "scorers", ()))
    return any(reads_ground_truth(one) for one in held if isinstance(one, Scorer))


def needs_answer(scorer: Scorer) -> bool:
    """Whether the scorer, or a scorer inside it, has to know where the answer begins, as rules and judges do, which render nothing.

    Raises ValueError for one that has both such scorers and models with a template of their own inside it: a rendered text can be
    given to the ones, prompt and answer to the others.
    """
    inside = _all_inside(scorer)
    if not any(reads_ground_truth(one) or isinstance(one, HasBill) for one in inside):
        return False
    if any(isinstance(one, HasRenderer) for one in inside):
        raise ValueError(
            "a rule or a judge and a model that renders stand in one scorer, and a trainer's rendered text cannot be given to "
            "both: give the trainer one of them, or messages"
        )
    return True


def _all_inside(scorer: Scorer) -> list[Scorer]:
    """The scorer and all scorers inside it."""
    held = (getattr(scorer, "scorer", None), *getattr(scorer, "scorers", ()))
    return [scorer, *(inner for one in held if isinstance(one, Scorer) for inner in _all_inside(one))]


def keys_of(scorer: Scorer, completions: Sequence[Completion]) -> list[str]:
    """A key for each completion; completions of equal keys get equal rewards. It covers the ground truth if the scorer reads it."""
    with_truth = reads_ground_truth(scorer)
    return [completion.key + completion.ground_truth_digest if with_truth else completion.key for completion in completions]


def closing_of(scorer: Scorer) -> str:
    """What the chat template of the scorer's model writes after an answer; "" for a scorer that does not say."""
    found = capability(scorer, HasClosing)
    return "" if found is None else found.closing


def padding_of(scorer: Scorer) -> tuple[str, ...]:
    """Texts of the tokens that rows of the scorer's model are padded with; () for a scorer that does not say."""
    found = capability(scorer, HasPadding)
    return () if found is None else found.padding


def closed(text: str, closing: str, padding: tuple[str, ...] = ()) -> str:
    """Rendered prompt and answer, ended as the template ends an answer: the reward is read at that end.

    A trainer's text ends where generation ended. In ChatML that is the end token without the newline after it; there is no end
    token when the answer was cut or special tokens were skipped. An end token that is already there is not added again. padding:
    tokens that are taken off the end before, see `Ends`.
    """
    end = closing.rstrip()
    if not end or not text.strip():
        return text
    text = Ends(marks=padding, closing=closing).unpadded_end(text)
    return text.rstrip().removesuffix(end) + closing if text.rstrip().endswith(end) else text + closing


@contextmanager
def turn_of(scorer: Scorer) -> Iterator[None]:
    """Hold the lock of a scorer: only one thread at a time may call it, directly, through a wrapper or in an ensemble.

    Thread-safe scorers (`is_thread_safe`) have no lock.
    """
    locks = {id(lock): lock for lock in map(_lock_of, _not_thread_safe(scorer))}
    with ExitStack() as held:
        for key in sorted(locks):  # the same order in every thread: no deadlock
            held.enter_context(locks[key])
        yield


_locks: dict[int, RLock] = {}  # by the scorer's id, until the scorer is freed
_lock_of_all = RLock()


def _lock_of(scorer: Scorer) -> RLock:
    """The scorer's own lock. Scorers without weak references (dataclasses with slots) share one."""
    with _lock_of_all:
        if id(scorer) not in _locks:
            try:
                weakref.finalize(scorer, _locks.pop, id(scorer)).atexit = False
            except TypeError:
                return _lock_of_all
            _locks[id(scorer)] = RLock()
        return _locks[id(scorer)]


def _not_thread_safe(scorer: Scorer) -> list[Scorer]:
    """The scorers inside all wrappers and ensembles that only one thread at a time may call."""
    if isinstance(scorer, ThreadSafe):
        return []
    inner = getattr(scorer, "scorer", None)
    parts = getattr(scorer, "scorers", ()) or ([inner] if isinstance(inner, Scorer) else [])
    return [one for part in parts for one in _not_thread_safe(part)] if parts else [scorer]
