"""A scorer on several Ray actors: each loads the model once, one actor scores all answers to a prompt, dead actors are replaced.

Ray is an optional dependency: `pip install '.[ray]'` in Assay's clone. A cluster that this module starts listens on 127.0.0.1 only.
Actors import this module, so it does not import torch.
"""

from __future__ import annotations

import heapq
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from assay.errors import AssayError
from assay.records import Completion, PreferencePair, Rewards
from assay.scorers.base import Scope, Scorer, prefer, reads_ground_truth
from assay.wire import rewards_from_rows, rewards_to_rows

if TYPE_CHECKING:
    from assay.records import Dtype

ScorerFactory: TypeAlias = Callable[[], Scorer]

ATTEMPTS = 3  # how often items are sent to a worker before they count as unscorable
_JOBS_EACH = 4  # jobs for each actor: with fewer, actors idle at the end; with more, fewer answers share a prompt's computation


class RayScorer:
    """The scorer of `spec` on Ray actors that each hold a copy of it, with its fingerprint, scope and tolerance.

    spec: what `assay.load` takes, at the same path on every node; or a function without arguments that returns a scorer.
    dtype, device, max_tokens, cache: as for `assay.load`; unused with a function. "auto" is measured once, for all actors.
    address: a Ray cluster to join ("auto" finds the one of this machine). Without it the cluster that this process is connected to
    is used; if there is none, one is started, which ends with the process. Actors share the machine's threads and its GPUs.

    When an actor dies, another one replaces it and the items are scored again, in the last try prompt by prompt. Items whose actors
    die `ATTEMPTS` times are NaN with that reason. Raises ValueError when Ray is missing or the cluster is too small, and whatever
    loading `spec` raises; AssayError when actors have different fingerprints or cannot start.
    """

    def __init__(
        self,
        spec: str | Path | ScorerFactory,
        *,
        num_actors: int = 2,
        dtype: Dtype = "auto",
        device: str = "auto",
        max_tokens: int | None = None,
        cache: str | Path | None = None,
        address: str | None = None,
    ) -> None:
        connect(num_actors, address)
        if callable(spec):
            self._factory = spec
        else:
            self._factory = factory_of(spec, dtype=dtype, device=device, max_tokens=max_tokens, cache=cache)
        self.num_actors = num_actors
        self._slots = slots_of(num_actors, device)
        self._num_threads = threads_each(num_actors)
        self._actors: list[Any] = [None] * num_actors
        try:
            described = remote_results([self._actor(slot).describe.remote() for slot in range(num_actors)])
        except AssayError:
            self.close()
            raise
        if len({fingerprint for fingerprint, *_ in described}) > 1:
            self.close()
            raise AssayError(f"the actors loaded different scorers: {spec} must be the same on every node")
        self.fingerprint: str = described[0][0]
        self.scope: Scope = described[0][1]
        self.tolerance: float = max(tolerance for _, _, tolerance, _ in described)
        self.reads_ground_truth: bool = described[0][3]

    def score(self, completions: Sequence[Completion]) -> Rewards:
        """N completions -> N rewards, in order."""
        prompts: list[object] = [c.messages if c.response is not None else i for i, c in enumerate(completions)]
        found = self._spread("score", completions, prompts, [_size(completion) for completion in completions])
        return rewards_from_rows({"value": None, "error": row.reason} if isinstance(row, _Lost) else row for row in found)

    def compare(self, pairs: Sequence[PreferencePair]) -> np.ndarray:
        """P(chosen beats rejected) by `prefer` on the actors' scorers: (P,) float64, NaN where unscored."""
        sizes = [sum(_size(completion) for completion in pair.completions()) for pair in pairs]
        found = self._spread("prefer", pairs, [pair.prompt for pair in pairs], sizes)
        return np.array([math.nan if isinstance(p, _Lost) else p for p in found], dtype=np.float64)

    def close(self) -> None:
        """End the actors; the cluster goes on."""
        for actor in self._actors:
            if actor is not None:
                import_ray().kill(actor)
        self._actors = [None] * self.num_actors

    def __enter__(self) -> RayScorer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _actor(self, slot: int) -> Any:
        if self._actors[slot] is None:
            actor_class = import_ray().remote(_Worker).options(**self._slots, max_restarts=0)
            self._actors[slot] = actor_class.remote(self._factory, self._num_threads)
        return self._actors[slot]

    def _spread(self, method: str, items: Sequence[Any], prompts: Sequence[object], sizes: Sequence[int]) -> list[Any]:
        """Call a method of the actors on all items, whole prompts together: for each item a result, or why there is none."""
        ray = import_ray()
        found: list[Any] = [None] * len(items)
        waiting = deque(_jobs(prompts, sizes, self.num_actors * _JOBS_EACH))
        running: dict[Any, tuple[int, _Job]] = {}
        idle, deaths_in_a_row = list(range(self.num_actors)), 0
        while waiting or running:
            while waiting and idle:
                slot, job = idle.pop(), waiting.popleft()
                call = getattr(self._actor(slot), method)
                running[call.remote([items[i] for i in job.items])] = slot, job
            (reference,), _ = ray.wait(list(running), num_returns=1)
            slot, job = running.pop(reference)
            idle.append(slot)
            try:
                ((fingerprint, results),) = remote_results([reference])
            except WorkerDied as death:
                self._actors[slot] = None
                deaths_in_a_row += 1
                again = job.again() if deaths_in_a_row <= ATTEMPTS * (1 + self.num_actors) else []
                waiting.extend(again)
                for i in () if again else job.items:
                    found[i] = _Lost(f"the worker died {job.attempts + 1} times while scoring this: {death}")
                continue
            deaths_in_a_row = 0
            if fingerprint != self.fingerprint:
                raise AssayError("a new worker loaded another scorer than the first: the model was changed while it was in use")
            for i, result in zip(job.items, results, strict=True):
                found[i] = result
        return found


class WorkerDied(AssayError):
    """The process of an actor has ended: killed, out of memory, or its node was lost."""


def import_ray() -> ModuleType:
    """The ray package. Raises ValueError with the fix when it is not installed."""
    try:
        import ray
    except ImportError:
        raise ValueError("Ray is not installed: pip install '.[ray]' in Assay's clone") from None
    return ray


def connect(num_actors: int, address: str | None = None) -> None:
    """Connect this process to the cluster at `address`, or to a new one. A process that is connected stays connected.

    Raises ValueError when the cluster has too few CPUs for the actors and one reader, ConnectionError when no cluster answers.
    """
    if num_actors < 1:
        raise ValueError(f"{num_actors} actors: give at least 1")
    ray = import_ray()
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    if not ray.is_initialized() and address is not None:
        if address.startswith(("127.0.0.1:", "localhost:")):
            _keep_to_this_machine()
        ray.init(address=address, **quiet)
    elif not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.pop("OMP_PROC_BIND", None)  # the workers inherit it, and would all be bound to the first cores
        _keep_to_this_machine()
        ray.init(address="local", _node_ip_address="127.0.0.1", include_dashboard=False, num_cpus=num_actors + 1, **quiet)
        if ray.nodes()[0]["NodeManagerAddress"] != "127.0.0.1":
            ray.shutdown()
            raise AssayError("this version of Ray would listen on a public address: start a cluster yourself and give its address")
    num_cpus = ray.cluster_resources().get("CPU", 0)
    if num_cpus < num_actors + 1:
        raise ValueError(
            f"the Ray cluster has {num_cpus:g} CPUs, {num_actors} actors and a reader need {num_actors + 1}: use fewer"
        )


def factory_of(spec: str | Path, *, dtype: Dtype, device: str, max_tokens: int | None, cache: str | Path | None) -> ScorerFactory:
    """A function that runs `load(spec)` on a worker. dtype "auto" is measured once, so that all workers use the same."""
    from assay.models.published.published_steps import split_spec
    from assay.scorers.load import load

    name, form = split_spec(spec)
    place: str | Path = Path(name).resolve() if Path(name).exists() else name
    place = f"{place}#{form}" if form else place
    cache = None if cache is None else Path(cache).resolve()
    return partial(load, place, dtype=resolved_dtype(dtype, device), device=device, max_tokens=max_tokens, cache=cache)


def resolved_dtype(dtype: Dtype, device: str) -> Dtype:
    """The number format of all workers; "auto" is measured on one worker."""
    if dtype != "auto":
        return dtype
    measure = import_ray().remote(_measured_dtype).options(**slots_of(1, device))
    return cast("Dtype", remote_results([measure.remote(device)])[0])


def slots_of(num_actors: int, device: str) -> dict[str, Any]:
    """The resources of one actor: a CPU slot, and its share of the GPUs."""
    num_gpus = import_ray().cluster_resources().get("GPU", 0) if device != "cpu" else 0
    return {"num_cpus": 1, "num_gpus": min(1, num_gpus / num_actors)}


def threads_each(num_actors: int) -> int:
    """Torch threads of one actor: OMP_NUM_THREADS divided by the actors, or else the CPUs of the machine or the cluster."""
    ray, given = import_ray(), os.environ.get("OMP_NUM_THREADS", "")
    num_cpus = os.cpu_count() or 1 if len(ray.nodes()) == 1 else int(ray.cluster_resources().get("CPU", 1))
    return max(1, (int(given) if given.isdigit() else num_cpus) // num_actors)


def loaded_with_threads(factory: ScorerFactory, num_threads: int) -> Scorer:
    """The factory's scorer, with that many threads for torch, if it uses torch."""
    scorer = factory()
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(num_threads)
    return scorer


def remote_results(references: list[Any]) -> list[Any]:
    """The results of remote calls. An exception of a call is raised here; WorkerDied when its process ended."""
    ray = import_ray()
    try:
        return ray.get(references)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except (ray.exceptions.RayActorError, ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise WorkerDied(" ".join(str(error).split())[:300]) from error
    except ray.exceptions.ObjectLostError as error:
        raise WorkerDied(f"its result was lost with its node ({type(error).__name__})") from error


def _keep_to_this_machine() -> None:
    """Listen on 127.0.0.1: else Ray replaces it by the machine's address, where it takes work from anybody."""
    from ray._private import ray_constants

    ray_constants.ENABLE_RAY_CLUSTER = False


class _Worker:
    """The actor's class."""

    def __init__(self, factory: ScorerFactory, num_threads: int) -> None:
        self.factory, self.num_threads = factory, num_threads
        self.scorer: Scorer | None = None

    def describe(self) -> tuple[str, Scope, float, bool]:
        scorer = self._loaded()
        return scorer.fingerprint, scorer.scope, scorer.tolerance, reads_ground_truth(scorer)

    def score(self, completions: list[Completion]) -> tuple[str, list[dict[str, Any]]]:
        return self._loaded().fingerprint, rewards_to_rows(self._loaded().score(completions))

    def prefer(self, pairs: list[PreferencePair]) -> tuple[str, list[float]]:
        return self._loaded().fingerprint, prefer(self._loaded(), pairs).tolist()

    def _loaded(self) -> Scorer:
        if self.scorer is None:  # not in the constructor: Ray does not return its exceptions unchanged
            self.scorer = loaded_with_threads(self.factory, self.num_threads)
        return self.scorer


@dataclass(frozen=True, slots=True)
class _Lost:
    """In place of a result: why there is none."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Job:
    """Whole prompts for one actor: the indices of their items, and how many actors died while scoring them."""

    groups: tuple[tuple[int, ...], ...]
    attempts: int = 0

    @property
    def items(self) -> list[int]:
        return sorted(i for group in self.groups for i in group)

    def again(self) -> list[_Job]:
        """The jobs to try after an actor died: the same again, then one prompt in each job, then none."""
        attempts = self.attempts + 1
        if attempts < ATTEMPTS - 1:
            return [_Job(self.groups, attempts)]
        return [_Job((group,), attempts) for group in self.groups] if attempts < ATTEMPTS else []


def _jobs(prompts: Sequence[object], sizes: Sequence[int], num_jobs: int) -> list[_Job]:
    """Whole prompts in at most `num_jobs` jobs of nearly equal size, largest first. Each prompt joins the smallest job so far."""
    groups: dict[object, list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(i)
    sized = sorted(
        ((sum(sizes[i] for i in group), tuple(group)) for group in groups.values()), key=lambda pair: (-pair[0], pair[1])
    )
    filling: list[tuple[int, int]] = [(0, j) for j in range(min(num_jobs, len(sized)))]
    jobs: list[list[tuple[int, ...]]] = [[] for _ in filling]
    for size, group in sized:
        filled, j = heapq.heappop(filling)
        jobs[j].append(group)
        heapq.heappush(filling, (filled + size, j))
    order = sorted((-filled, j) for filled, j in filling)
    return [_Job(tuple(jobs[j])) for _, j in order]


def _size(completion: Completion) -> int:
    """About how many characters a completion has. A shared prompt counts for each answer; jobs are balanced well enough so."""
    return 1 + sum(completion.sizes) + 4 * len(completion.token_ids or ())


def _measured_dtype(device: str) -> Dtype:
    from assay.models.device import pick_compute

    return pick_compute(device).name
