"""The gauges of /metrics: queues, last rewards, caches, shadows, and the process itself."""

from __future__ import annotations

import math
import os
import platform
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from assay.scorers.base import capability
from assay.scorers.wrappers.cached import Cached
from assay.serve.metrics.prometheus import Labels
from assay.serve.metrics.watching import sign_gauges
from assay.serve.service import Service

Gauges = dict[str, tuple[str, dict[Labels, float]]]
"""Name -> (help, labels -> value), as `Counters.text` takes them."""

_BUILT_OF = ("assay-rm", "torch", "transformers")


def read_gauges(service: Service) -> Gauges:
    """All of them, as they are now."""
    gauges: Gauges = {}

    def set_gauge(name: str, help: str, value: float, **labels: str) -> None:
        gauges.setdefault(name, (help, {}))[1][tuple(labels.items())] = value

    for name, served in service.models.items():
        batcher = served.current.batcher
        set_gauge(
            "assay_model_info", "1, with the fingerprint of the model that answers.", 1, model=name, fingerprint=batcher.fingerprint
        )
        set_gauge("assay_engine_up", "Whether the engine is alive.", float(batcher.is_alive), model=name)
        set_gauge("assay_queue_items", "Completions that wait.", batcher.num_queued, model=name)
        set_gauge("assay_queue_tokens", "Approximate tokens that wait.", batcher.queued_tokens, model=name)
        set_gauge("assay_coalesced_total", "Completions joined to an equal one.", batcher.num_coalesced, model=name)
        set_gauge("assay_dropped_total", "Completions dropped because no caller waited any more.", batcher.num_dropped, model=name)
        for figure, value in served.current.rewards.summary().items():
            set_gauge(f"assay_reward_{figure}", f"Of the last rewards: {figure}.", value, model=name)
        if (cache := capability(batcher.scorer, Cached)) is not None:
            set_gauge("assay_cache_hits_total", "Rewards that were known.", cache.num_hits, model=name)
            set_gauge("assay_cache_failing", "Whether rewards could not be stored the last time.", bool(cache.problem), model=name)
            set_gauge("assay_cache_misses_total", "Rewards that were not known.", cache.num_misses, model=name)
        for gauge in sign_gauges(batcher.scorer):
            set_gauge(gauge.name, gauge.help, gauge.value, model=name, **({"sign": gauge.sign} if gauge.sign else {}))
        for figure, seen in (served.shadow.summary() if served.shadow is not None else {}).items():
            set_gauge(
                f"assay_shadow_{figure}", f"Candidate against current: {figure}.", math.nan if seen is None else seen, model=name
            )
    return gauges | process_gauges() | build_gauge()


def process_gauges() -> Gauges:
    """What Prometheus' own clients say of their process: time, memory, files. Memory and files are read from /proc, where there is
    one."""
    found: Gauges = {"process_cpu_seconds_total": ("Processor time, user and system.", {(): sum(os.times()[:2])})}

    def add(name: str, help: str, value: float) -> None:
        found[name] = (help, {(): value})

    with suppress(OSError, ValueError, IndexError, StopIteration):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
        boot = next(line for line in Path("/proc/stat").read_text().splitlines() if line.startswith("btime")).split()[1]
        add("process_virtual_memory_bytes", "Virtual memory.", float(fields[20]))
        add("process_resident_memory_bytes", "Resident memory.", float(fields[21]) * page)
        add("process_start_time_seconds", "When the process began, in seconds since 1970.", int(boot) + int(fields[19]) / ticks)
        add("process_open_fds", "Open files and connections.", len(os.listdir("/proc/self/fd")))
        import resource  # not on Windows

        add("process_max_fds", "Open files and connections, at most.", resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return found


def build_gauge() -> Gauges:
    """1, with the versions that the service was built of as labels."""
    named = {"version": _version(_BUILT_OF[0]), **{name: _version(name) for name in _BUILT_OF[1:]}}
    labels = {**named, "python": platform.python_version(), "platform": sys.platform}
    return {"assay_build_info": ("1, with what the service was built of.", {tuple(labels.items()): 1.0})}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
