"""What `assay serve` does under more than it can, under faults, and over many requests (see serve.py)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from score import log, rounded
from serve_faults import MAX_BODY_MB, MAX_ITEMS, MAX_TEXT
from serve_load import Bench, ask, assay_server, judged
from serve_process import Server, Watch, resident_bytes

QUEUED = 64
DEADLINE = 1.5  # times what a full queue takes
TIMES_CAPACITY = 4.0


def overload(bench: Bench, rate: float, seconds: float) -> dict[str, Any]:
    """Four times the capacity arrives, with a short queue and a deadline: every answer is right, or 429, or 504."""
    limits, deadline = ("--max-queued", str(QUEUED), "--max-items", str(QUEUED)), DEADLINE * QUEUED / rate
    with assay_server(bench, *limits, timeout=deadline) as server:
        ask(bench, server, "assay", count=16, callers=8)
        before = resident_bytes(server.pid)
        with Watch(server.pid) as watch:
            found = bench.client.ask(
                "at_rate", url=server.url, form="assay", workload="serve", rate=TIMES_CAPACITY * rate, seconds=seconds
            )
        after = ask(bench, server, "assay", count=8, callers=8)
        answers = found["answers"]
        statuses = Counter(str(row[1]) for row in answers)
        right, wrong, largest = judged(bench, answers)
        waits = {status: [row[3] for row in answers if str(row[1]) == status] for status in statuses}
        end = aftermath(server)
    known = sum(statuses[status] for status in ("200", "429", "504"))
    result = {
        "arrivals_per_s": rounded(TIMES_CAPACITY * rate),
        "sent_late_by_at_most_s": rounded(found["latest_s"]),
        "max_queued": QUEUED,
        "deadline_s": rounded(deadline),
        "requests": len(answers),
        "statuses": dict(statuses),
        "right": right,
        "wrong": wrong + len(answers) - known,
        "answered_per_s": rounded(right / found["seconds"]),
        "largest_difference": largest,
        "p99_s": {status: rounded(np.quantile(row, 0.99)) for status, row in waits.items()},
        "seconds_until_all_were_answered": rounded(found["seconds"]),
        "resident_bytes": {"before": before, **peaks(watch)},
        "eight_at_once_afterwards_s": after["p99_s"],
        "lost": after["unanswered"],
        **end,
    }
    log("overload", result)
    return result


def faults(bench: Bench, count: int) -> dict[str, Any]:
    """Random requests with faults, each answered as the table of serve_faults.py says."""
    limits = ("--max-text", str(MAX_TEXT), "--max-items", str(MAX_ITEMS), "--max-body-mb", str(MAX_BODY_MB))
    with assay_server(bench, *limits, timeout=30.0) as server:
        ask(bench, server, "assay", count=16, callers=8)
        before = resident_bytes(server.pid)
        with Watch(server.pid) as watch:
            found = bench.client.ask("faults", url=server.url, seed=0, count=count, at_once=32, tolerance=bench.tolerance)
        after = ask(bench, server, "assay", count=len(bench.values), callers=8)
        end = aftermath(server)
    found["wrong"] += after["wrong"]
    found["lost"] += after["unanswered"]
    return found | {"resident_bytes": {"before": before, **peaks(watch)}, "right_afterwards": after["right"], **end}


def memory(bench: Bench, count: int) -> dict[str, Any]:
    """`count` requests as fast as 64 callers get answers; memory as a line over the requests of the second half."""
    with assay_server(bench) as server:
        ask(bench, server, "assay", count=16, callers=8)
        chunks = [count // 40] * 40
        resident, rows = [resident_bytes(server.pid)], []
        with Watch(server.pid) as watch:
            for chunk in chunks:
                rows.append(ask(bench, server, "assay", count=chunk, callers=64))
                resident.append(resident_bytes(server.pid))
        end = aftermath(server)
    sent = np.cumsum([0, *chunks])
    slope, low, high = line(sent[20:] / 1e4, np.array(resident[20:]) / 2**20)
    return {
        "requests": int(sent[-1]),
        "samples_per_s": rounded(sent[-1] / sum(row["seconds"] for row in rows)),
        "client_cpus": rounded(np.mean([row["client_cpus"] for row in rows])),
        "mib_per_10000_requests": {"slope": rounded(slope), "low": rounded(low), "high": rounded(high)},
        "resident_bytes": {"before": resident[0], "at_half": resident[20], **peaks(watch), "after": resident[-1]},
        "resident_mib_along": [round(size / 2**20, 1) for size in resident],
        "wrong": sum(row["wrong"] for row in rows),
        "lost": sum(row["unanswered"] for row in rows),
        **end,
    }


def line(x: np.ndarray, y: np.ndarray, blocks: int = 6) -> tuple[float, float, float]:
    """Slope of least squares, and twice its jackknife error over blocks to either side, as neighbours are alike."""

    def slope(kept: np.ndarray) -> float:
        return float(np.polyfit(x[kept], y[kept], 1)[0])

    every = np.arange(len(x))
    parts: Sequence[np.ndarray] = np.array_split(every, blocks)
    without = np.array([slope(np.setdiff1d(every, part)) for part in parts])
    error = float(np.sqrt((blocks - 1) / blocks * ((without - without.mean()) ** 2).sum()))
    middle = slope(every)
    return middle, middle - 2 * error, middle + 2 * error


def peaks(watch: Watch) -> dict[str, int]:
    sizes = [size for _, size in watch.samples]
    return {"peak": max(sizes), "last": sizes[-1]} if sizes else {}


def aftermath(server: Server) -> dict[str, Any]:
    """Whether it lives, is ready, and has nothing left in its queue; then it is told to end."""
    is_alive, ready = server.is_alive, server.get("/readyz")[0]
    queued = re.findall(r"^assay_queue_items\S* (\S+)", server.get("/metrics")[1], re.MULTILINE)
    return {"alive": is_alive, "ready": ready == 200, "queued": [float(value) for value in queued], "exit_status": server.close()}
