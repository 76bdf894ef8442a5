"""What `assay serve` does among callers that are many, slow, half there or gone, and with a disk, a clock or a cache that fails.

A part of serve.py. Claims, written before the first run: nowhere is a reward wrong or an answer lost, and the server ends with
status 0 when told to; 1,000 callers are all answered; while others read slowly, say nothing, or send a byte a second, eight callers
are answered within a second at the 99th percentile; connections that say nothing are closed within 40 s, bodies that do
not come get 408; a full disk and a clock that jumps change no reward; a cache whose writer was killed is whole and goes on; memory
a minute after slow readers have gone is within 64 MiB of before.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from score import log, rounded
from serve_load import Bench, ask, assay_server, judged
from serve_process import Server, Watch, resident_bytes
from serve_stress import aftermath, peaks

CALLERS = 1000
SLOW_READERS, ANSWER_BYTES = 24, 2 << 20
SILENT = 400
TRICKLES = 100
DISK_BYTES = 160 << 10
WAIT_SECONDS = 60.0


def hardship(bench: Bench, chosen: Sequence[str] = ()) -> dict[str, Any]:
    """Every part, or those that are named, with `wrong` and `lost` of all together."""
    parts = {
        "callers_1000": many_callers,
        "slow_readers": slow_readers,
        "half_open": half_open,
        "a_byte_a_second": a_byte_a_second,
        "full_disk": full_disk,
        "clock_jumps": clock_jumps,
        "writer_killed": writer_killed,
    }
    found = {}
    for name in chosen or parts:
        part = parts[name]
        found[name] = part(bench)
        log(name, found[name])
    ends = [part for part in found.values() if "exit_status" in part]
    return {
        **found,
        "wrong": sum(part["wrong"] for part in found.values()),
        "lost": sum(part["lost"] for part in found.values()),
        "alive": all(part["alive"] for part in ends),
        "exit_status": max(part["exit_status"] for part in ends),
    }


def many_callers(bench: Bench) -> dict[str, Any]:
    with assay_server(bench, "--max-queued", "4096") as server:
        ask(bench, server, "assay", count=16, callers=8)
        before = resident_bytes(server.pid)
        with Watch(server.pid) as watch:
            found = bench.client.ask("closed", url=server.url, form="assay", workload="serve", count=4 * CALLERS, callers=CALLERS)
        right, wrong, _ = judged(bench, found["answers"])
        waits = [row[3] for row in found["answers"]]
        return {
            "right": right,
            "wrong": wrong,
            "lost": len(waits) - right - wrong,
            "statuses": dict(Counter(str(row[1]) for row in found["answers"])),
            "samples_per_s": rounded(len(waits) / found["seconds"]),
            "p50_s": rounded(np.quantile(waits, 0.5)),
            "p99_s": rounded(np.quantile(waits, 0.99)),
            "resident_bytes": {"before": before, **peaks(watch)},
            **aftermath(server),
        }


def slow_readers(bench: Bench) -> dict[str, Any]:
    """Readers of answers of 2 MiB that take a kilobyte ten times a second and leave before the end."""
    texts = ["x" * (ANSWER_BYTES // 64)] * 64
    body = json.dumps({"query": "a", "documents": texts}).encode()
    with assay_server(bench, "--max-body-mb", "8") as server, ExitStack() as stack:
        ask(bench, server, "assay", count=64, callers=8)
        before = resident_bytes(server.pid)
        with Watch(server.pid) as watch:
            readers = [stack.enter_context(connected(server, buffer=4096)) for _ in range(SLOW_READERS)]
            for one in readers:
                sender = threading.Thread(target=one.sendall, args=(post("/v1/rerank", body),), daemon=True)
                sender.start()
            read = threading.Event()
            taking = threading.Thread(target=take_slowly, args=(readers, read), daemon=True)
            taking.start()
            time.sleep(15.0)  # until they are scored, and only wait to be read
            row = ask(bench, server, "assay", count=400, callers=8)
            read.set()
            taking.join()
            for one in readers:
                one.close()
            time.sleep(WAIT_SECONDS)
        after = resident_bytes(server.pid)
        return counted(row) | {
            "p99_s_of_eight_callers": row["p99_s"],
            "resident_bytes": {"before": before, **peaks(watch), "after": after},
            **aftermath(server),
        }


def take_slowly(readers: list[socket.socket], until: threading.Event) -> None:
    for one in readers:
        one.setblocking(False)
    while not until.wait(0.1):
        for one in readers:
            with suppress(OSError):
                one.recv(1024)


def half_open(bench: Bench) -> dict[str, Any]:
    """Connections that say nothing, and as many that stop in the middle of the head."""
    with assay_server(bench) as server, ExitStack() as stack:
        ask(bench, server, "assay", count=16, callers=8)
        began = time.monotonic()
        silent = [stack.enter_context(connected(server)) for _ in range(2 * SILENT)]
        for one in silent[SILENT:]:
            one.sendall(b"POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-")
        row = ask(bench, server, "assay", count=400, callers=8)
        left, took = until_closed(silent, began)
        return counted(row) | {
            "connections": len(silent),
            "still_open": left,
            "all_closed_after_s": rounded(took),
            "p99_s_of_eight_callers": row["p99_s"],
            **aftermath(server),
        }


def until_closed(connections: list[socket.socket], began: float) -> tuple[int, float]:
    waiting = set(connections)
    for one in waiting:
        one.setblocking(False)
    while waiting and time.monotonic() - began < WAIT_SECONDS:
        for one in list(waiting):
            try:
                if one.recv(4096) == b"":
                    waiting.discard(one)
            except BlockingIOError:
                pass
            except OSError:
                waiting.discard(one)
        time.sleep(0.1)
    return len(waiting), time.monotonic() - began


def a_byte_a_second(bench: Bench) -> dict[str, Any]:
    statuses: Counter[str] = Counter()
    with assay_server(bench) as server, ExitStack() as stack:
        ask(bench, server, "assay", count=16, callers=8)
        slow = [stack.enter_context(connected(server)) for _ in range(TRICKLES)]
        for one in slow:
            one.sendall(
                b"POST /v1/score HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
            )
        trickle = threading.Thread(target=send_slowly, args=(slow, statuses), daemon=True)
        trickle.start()
        row = ask(bench, server, "assay", count=400, callers=8)
        trickle.join()
        return counted(row) | {"statuses": dict(statuses), "p99_s_of_eight_callers": row["p99_s"], **aftermath(server)}


def send_slowly(connections: list[socket.socket], statuses: Counter[str]) -> None:
    """A byte a second to each until it is answered; its status is counted, or "none" after a minute."""
    waiting, until = list(connections), time.monotonic() + WAIT_SECONDS
    for one in waiting:
        one.settimeout(0.002)
    while waiting and time.monotonic() < until:
        for one in list(waiting):
            try:
                one.sendall(b" ")
                statuses[one.recv(4096)[9:12].decode() or "none"] += 1
                waiting.remove(one)
            except TimeoutError:
                pass
            except OSError:
                statuses["none"] += 1
                waiting.remove(one)
        time.sleep(1.0)
    statuses["none"] += len(waiting)


def full_disk(bench: Bench) -> dict[str, Any]:
    """A cache on a file system of 160 KiB, which is full before all is stored."""
    place = bench.work / "disk"
    with small_disk(place) as kind, assay_server(bench, "--cache", str(place / "rewards.db")) as server:
        rows = [ask(bench, server, "assay", count=len(bench.values), callers=16) for _ in range(3)]
        failing = "assay_cache_failing" in server.get("/metrics")[1] and figure(server, "assay_cache_failing")
        return {
            "disk": kind,
            "cache_failing": failing,
            "cache_hits": figure(server, "assay_cache_hits_total"),
            "wrong": sum(row["wrong"] for row in rows),
            "lost": sum(row["unanswered"] for row in rows),
            **aftermath(server),
        }


@contextmanager
def small_disk(place: Path) -> Iterator[str]:
    """A directory that is full soon: a file system in memory where we may mount one."""
    place.mkdir()
    mounted = (
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)], capture_output=True).returncode
        == 0
    )
    try:
        yield f"tmpfs of {DISK_BYTES >> 10} KiB" if mounted else "not full: mounting is not allowed here"
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=True)


def clock_jumps(bench: Bench) -> dict[str, Any]:
    """The wall clock jumps by days to and fro at every look, with a cache whose rows bear times."""
    cache = bench.work / "clock.db"
    with assay_server(bench, "--cache", str(cache), launcher=Path(__file__).with_name("serve_clock.py")) as server:
        rows = [ask(bench, server, "assay", count=len(bench.values), callers=16) for _ in range(2)]
        return {
            "wrong": sum(row["wrong"] for row in rows),
            "lost": sum(row["unanswered"] for row in rows),
            "cache_hits": figure(server, "assay_cache_hits_total"),
            **aftermath(server),
        }


def writer_killed(bench: Bench, times: int = 4) -> dict[str, Any]:
    """SIGKILL among writes, several times; the cache is whole each time, and the next server goes on with it."""
    cache, wrong, lost, whole, known = bench.work / "killed.db", 0, 0, 0, []
    for round_ in range(times):
        server = assay_server(bench, "--cache", str(cache))
        killer = threading.Thread(target=kill_at, args=(server, cache, 60 * (round_ + 1)))
        killer.start()
        row = ask_until_gone(bench, server)
        killer.join()
        server.process.wait()
        wrong += row["wrong"]
        whole += is_whole(cache)
        known.append(num_rows(cache))
    with assay_server(bench, "--cache", str(cache)) as server:
        row = ask(bench, server, "assay", count=len(bench.values), callers=16)
        hits = figure(server, "assay_cache_hits_total")
        wrong, lost = wrong + row["wrong"], lost + row["unanswered"]
        return {
            "killed": times,
            "whole": whole,
            "rows_known": known,
            "hits_afterwards": hits,
            "wrong": wrong + (whole != times),
            "lost": lost,
            **aftermath(server),
        }


def kill_at(server: Server, cache: Path, rows: int) -> None:
    """SIGKILL as soon as the cache holds so many rows, among the writes of more."""
    until = time.monotonic() + WAIT_SECONDS
    while num_rows(cache) < rows and time.monotonic() < until:
        time.sleep(0.002)
    os.kill(server.pid, signal.SIGKILL)


def ask_until_gone(bench: Bench, server: Server) -> dict[str, Any]:
    """Callers of a server that is about to be killed: what was answered must be right, the rest is expected."""
    found = bench.client.ask("closed", url=server.url, form="assay", workload="serve", count=4 * len(bench.values), callers=16)
    answered = [(item, value) for item, status, value, _ in found["answers"] if status == 200]
    return {"wrong": sum(value is None or abs(value - bench.values[item]) > bench.tolerance for item, value in answered)}


def is_whole(cache: Path) -> bool:
    with sqlite3.connect(cache) as database:
        return bool(database.execute("PRAGMA integrity_check").fetchone() == ("ok",))


def num_rows(cache: Path) -> int:
    with sqlite3.connect(cache) as database:
        return int(database.execute("SELECT count(*) FROM rewards").fetchone()[0])


def figure(server: Server, name: str) -> float:
    lines = [line for line in server.get("/metrics")[1].splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def counted(row: dict[str, Any]) -> dict[str, Any]:
    return {"right": row["right"], "wrong": row["wrong"], "lost": row["unanswered"]}


def connected(server: Server, *, buffer: int | None = None) -> socket.socket:
    address = urlsplit(server.url)
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if buffer is not None:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    one.connect((address.hostname, address.port))
    return one


def post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
