"""The client matrix (dev/clients): each client has a script, a lock of hashes and a row in a page; scripts reach loopback only."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CLIENTS = ROOT / "dev" / "clients"
NAMES = re.findall(r'^    Client\("(\w+)"', (CLIENTS / "matrix.py").read_text(encoding="utf-8"), re.MULTILINE)


def test_scripts_locks_and_clients_are_the_same():
    assert len(NAMES) > 8
    assert sorted(NAMES) == sorted(file.stem.removeprefix("ask_") for file in CLIENTS.glob("ask_*.py"))
    for kind in ("in", "txt"):
        assert sorted(NAMES) == sorted(file.stem for file in (CLIENTS / "locks").glob(f"*.{kind}"))


@pytest.mark.parametrize("name", NAMES)
def test_a_lock_pins_every_package_with_hashes(name):
    lock = (CLIENTS / "locks" / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in lock.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert lines
    for line in lines:
        assert re.match(r"[\w.-]+(\[[\w,-]+\])?==\S+ .*--hash=sha256:[0-9a-f]{64}", line), line[:100]
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines}
    for wanted in (CLIENTS / "locks" / f"{name}.in").read_text(encoding="utf-8").split():
        assert re.sub(r"[-_.]+", "-", wanted.partition("==")[0]).lower() in pinned


def test_the_page_has_a_table_of_rewards_that_were_equal():
    page = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    table = page.partition("<!-- clients:")[2].partition("<!-- /clients -->")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) >= len(NAMES)
    for row in rows:
        assert re.search(r"\| (all|([2-9]) of \2)(, tokens)? \|$", row), row


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "ConnectionRefusedError"),
        ("import socket; socket.create_connection(('192.0.2.1', 9), timeout=1)", "PermissionError"),
        ("import socket; socket.getaddrinfo('example.org', 80)", "PermissionError"),
        ("import urllib.request; urllib.request.urlopen('http://example.org')", "PermissionError"),
        ("import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'a', ('192.0.2.1', 9))", "PermissionError"),
    ],
)
def test_a_script_of_the_matrix_reaches_loopback_alone(code, status, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(CLIENTS / "alone.py"), str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert status in done.stderr
