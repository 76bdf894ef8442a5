"""Connections that send nothing, or take nothing, do not stay; and do not keep others from their answers."""

from __future__ import annotations

import resource
import socket
import time
from contextlib import ExitStack

import pytest

from assay.serve.connections import allow_connections, drop_the_dead, timed_protocol
from assay.serve.middleware import Limits
from serving import Lengths, service_of, serving

BODY = {"items": [{"prompt": "q", "response": "abc"}]}


def connected(client) -> socket.socket:
    return socket.create_connection((client.base_url.host, client.base_url.port))


def whole_reply(connection: socket.socket) -> bytes:
    reply = b""
    while not reply.endswith(b"}"):
        reply += connection.recv(1000)
    return reply


def is_closed(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


@pytest.mark.parametrize("sent", [b"", b"POST /v1/score HTTP/1.1\r\nHost: x\r\n", b"\x16\x03\x01"])
def test_a_connection_without_a_whole_head_is_closed_and_others_are_answered(sent):
    with serving(service_of(Lengths()), http=timed_protocol(0.4)) as client, ExitStack() as stack:
        open_ones = [stack.enter_context(connected(client)) for _ in range(50)]
        for one in open_ones:
            one.sendall(sent)
        assert client.post("/v1/score", json=BODY).status_code == 200
        assert all(is_closed(one, 5) or sent.startswith(b"\x16") for one in open_ones)


def test_a_head_in_pieces_is_not_cut_off_nor_a_connection_that_is_used_again():
    head = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving(service_of(Lengths()), http=timed_protocol(0.5)) as client, connected(client) as one:
        for i in range(len(head)):
            one.sendall(head[i : i + 1])
        assert whole_reply(one).startswith(b"HTTP/1.1 200")
        time.sleep(0.8)  # longer than a head may take
        one.sendall(head)
        assert whole_reply(one).startswith(b"HTTP/1.1 200")


def test_a_body_of_a_byte_a_time_ends_in_408_and_costs_the_others_nothing():
    with serving(service_of(Lengths(), limits=Limits(body_seconds=0.8))) as client, connected(client) as slow:
        slow.sendall(b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(5):
            slow.sendall(b"{")
            assert client.post("/v1/score", json=BODY).status_code == 200
        slow.settimeout(5)
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_the_limits_of_files_and_of_unread_bytes_are_set():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        allow_connections(100)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert (soft >= min(200, before[1]), hard) == (True, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        drop_the_dead(listener, 7)
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
