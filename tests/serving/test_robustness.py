"""The server survives malformed requests and slow clients, and answers what it accepted when it is stopped."""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.serving.malformed_requests import BROKEN_HTTP, MalformedRequest, malformed_requests
from tests.support.servers import RunningServer, ready_server

COUNT = 1000
KILLS = 4
CLIENTS = 8


@pytest.fixture(autouse=True)
def works_afterwards(image_server: RunningServer, images: list[bytes]) -> Iterator[None]:
    """The server and all its threads still work after each test."""
    yield
    assert image_server.ping() == 200
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda image: image_server.post(image, "image/png").status_code, images))
    assert answers == [200] * len(images)


def status_of(server: RunningServer, request: MalformedRequest) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        headers = {name: value.encode("latin-1") for name, value in request.headers.items()}
        connection.request(request.method, request.path, request.body, headers)
        return connection.getresponse().status
    except (BrokenPipeError, ConnectionResetError):
        # The server may close the connection while the client still sends its header.
        assert request.kind == "huge header"
        return 431
    finally:
        connection.close()


def test_malformed_requests_are_client_errors(image_server: RunningServer, images: list[bytes]) -> None:
    requests = malformed_requests(images, COUNT, seed=24)
    with ThreadPoolExecutor(CLIENTS) as pool:
        statuses = list(pool.map(lambda request: status_of(image_server, request), requests))
    accepted = {400, 404, 405, 406, 413, 415, 431}
    wrong = {(request.kind, status) for request, status in zip(requests, statuses, strict=True)
             if status not in accepted}  # fmt: skip
    assert wrong == set()
    assert image_server.process.poll() is None


@pytest.mark.parametrize("content", BROKEN_HTTP)
def test_broken_http_is_refused(image_server: RunningServer, content: bytes) -> None:
    with socket.create_connection(("127.0.0.1", image_server.port), timeout=60) as client:
        client.sendall(content)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while chunk := client.recv(65536):
                answer += chunk
        except ConnectionResetError:
            pass
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))


def test_clients_that_disconnect_or_wait_do_not_disturb_others(
    image_server: RunningServer, images: list[bytes]
) -> None:
    rng = random.Random(24)
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(images[0])}\r\n"
    request = head.encode() + b"\r\n" + images[0]
    with ExitStack() as waiting:
        for _ in range(50):
            client = socket.create_connection(("127.0.0.1", image_server.port))
            client.sendall(request[: rng.randrange(1, len(request))])
            if rng.random() < 0.5:
                client.close()
            else:
                waiting.enter_context(client)
        # Complete requests whose clients do not wait for the answer.
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", image_server.port)) as client:
                client.sendall(request)
        assert [image_server.post(image, "image/png").status_code for image in images[:5]] == [200] * 5


def test_body_in_many_small_pieces_is_accepted(image_server: RunningServer, images: list[bytes]) -> None:
    head = f"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(images[0])}\r\n"
    request = head.encode() + b"Connection: close\r\n\r\n" + images[0]
    with socket.create_connection(("127.0.0.1", image_server.port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(request), 50):
            client.sendall(request[start : start + 50])
        assert client.recv(12) == b"HTTP/1.1 200"


@dataclass(frozen=True)
class Sent:
    """A request: the time at which it was sent completely, and its status; 0 without an answer."""

    when: float
    status: int


def client_loop(port: int, body: bytes, sent: list[Sent]) -> None:
    """Send requests on persistent connections until the server refuses one."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        while True:
            try:
                connection.request("POST", "/invocations", body, {"Content-Type": "image/png"})
            except OSError:
                return
            when, status = time.monotonic(), 0
            try:
                with connection.getresponse() as answer:
                    answer.read()
                    status = answer.status
            except (OSError, http.client.HTTPException):
                return
            finally:
                sent.append(Sent(when, status))


@pytest.mark.parametrize("seed", range(KILLS))
def test_accepted_requests_are_answered_when_the_server_is_stopped(
    image_root: Path, images: list[bytes], seed: int
) -> None:
    rng = random.Random(seed)
    with ready_server(image_root) as server:
        logs: list[list[Sent]] = [[] for _ in range(CLIENTS)]
        threads = [
            threading.Thread(target=client_loop, args=(server.port, rng.choice(images), log), daemon=True)
            for log in logs
        ]
        for thread in threads:
            thread.start()
        time.sleep(rng.uniform(0.2, 1.5))
        stopped = time.monotonic()
        assert server.stop() == 0
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
    before = [request for log in logs for request in log if request.when < stopped]
    after = [request for log in logs for request in log if request.when >= stopped]
    assert len(before) >= CLIENTS
    assert {request.status for request in before} == {200}
    assert {request.status for request in after} <= {200, 0}
