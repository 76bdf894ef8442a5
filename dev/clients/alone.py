"""Run a script that may reach loopback and nothing else: python alone.py SCRIPT ARGUMENTS.

Every way of Python's to a socket's address is watched; a client that phones home fails here instead of telling somebody.
"""

from __future__ import annotations

import ipaddress
import runpy
import socket
import sys
from typing import Any

LOCAL_NAMES = ("localhost", "")


def refuse_others(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: raises PermissionError for a name that would be looked up, or an address that is not this machine's."""
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
        host = host.decode() if isinstance(host, bytes) else host
    elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if host is not None and not is_local(str(host)):
        raise PermissionError(f"{host} is not this machine: a client of the matrix may reach loopback alone")


def is_local(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in LOCAL_NAMES
    return address.is_loopback or address.is_unspecified


if __name__ == "__main__":
    sys.addaudithook(refuse_others)
    try:
        socket.create_connection(("192.0.2.1", 9), timeout=1)
    except PermissionError:
        pass
    else:
        raise SystemExit("the hook does not keep scripts from the network")
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
