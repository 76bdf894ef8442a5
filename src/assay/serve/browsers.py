"""What a browser may not do to a service on loopback, where no token stands in the way.

A page from elsewhere can make the browser post to 127.0.0.1 (its answer is hidden from the page, its effect is not), and can give
its own name the address 127.0.0.1 (DNS rebinding), after which the browser lets it read answers too. The first is refused by the
headers that browsers alone send, `Origin` and `Sec-Fetch-Site`; the second by the name in `Host`. An address as Host cannot be
rebound.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def refusal(method: str, headers: Mapping[bytes, bytes], hosts: Sequence[str]) -> str | None:
    """Why a request is refused; None for one that may pass. headers: with names in lower case. hosts: names that `Host` may have
    besides addresses and localhost; empty for any."""
    host = headers.get(b"host", b"").decode("latin-1").lower()
    if hosts and host and not _is_ours(_name_of(host), hosts):
        return (
            f"Host is {host[:100]!r}: ask this machine's address, or start the service with --allowed-host {_name_of(host)[:100]}"
        )
    if method in SAFE_METHODS:
        return None
    origin = headers.get(b"origin")
    if origin is not None and urlsplit(origin.decode("latin-1").lower()).netloc != host:
        return "this came from the page of another site: pages may not ask here"
    if headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin"):
        return "this came from the page of another site: pages may not ask here"
    return None


def _name_of(host: str) -> str:
    """The name or address in a Host header, without the port."""
    return host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]


def _is_ours(name: str, hosts: Sequence[str]) -> bool:
    if name == "localhost" or name.endswith(".localhost") or name in hosts:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
