"""Runs the server until a stop signal: serves HTTP and loads the model in threads, while the main thread waits."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NoReturn

import uvicorn

from finetune.errors import PlatformError
from finetune.messages import OWN_LOGGER, Lines, log_safely
from finetune.runtime.memory import garbage_collection_disabled, set_variables, share_one_heap
from finetune.sagemaker.failure import failure_of
from finetune.serving.app import create_app
from finetune.serving.configuration import ServingConfiguration
from finetune.serving.service import Service

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})
DRAIN_SECONDS = 1.0
"""Longest time between a stop signal and closing the port, in which clients learn that their connection closes."""
ANSWER_SECONDS = 25
"""Longest time for running requests after that; the platform kills the container 30 s after the stop signal."""
_KEEP_ALIVE_SECONDS = 75
_POLL_SECONDS = 0.05
_TEMPORARY_FOLDER = "/tmp"  # noqa: S108 - nothing is written

logger = logging.getLogger(__name__)


def serve(configure: Callable[[], ServingConfiguration] = ServingConfiguration.from_environment) -> int:
    """Serve until a stop signal, and return the exit code, to be passed to `end_process`.

    `STOP_SIGNALS` must be blocked in the calling thread, which must be the main thread.

    Args:
        configure: returns the settings, by default those of the environment.
    """
    _log_to_stdout()
    _set_variables()
    share_one_heap()
    try:
        configuration = configure()
        with _open_port(configuration.host, configuration.port) as listener:
            return _serve(configuration, listener)
    except Exception as error:  # noqa: BLE001 - the single place that maps failures to exit codes
        failure = failure_of(error)
        logger.error("%s", Lines(failure.message))
        return failure.exit_code


def end_process(exit_code: int) -> NoReturn:
    """End this process at once: a thread may still be loading the model, and nothing can interrupt it."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _serve(configuration: ServingConfiguration, listener: socket.socket) -> int:
    service = Service(configuration)
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(service),
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=ANSWER_SECONDS,
        )
    )
    http = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http")
    http.start()
    loading = ThreadPoolExecutor(1, "load").submit(_load, service)
    try:
        _wait_for_stop_signal(http, loading)
        _drain(service, server)
    finally:
        server.should_exit = True
        http.join()
    if not loading.done():
        logger.info("Stopped while the model was being loaded")
        return 0
    service.close()
    logger.info("Stopped after %d records in %d batches", *service.counts())
    return 0


def _wait_for_stop_signal(http: threading.Thread, loading: Future[None]) -> None:
    """Wait for a stop signal; raise the error of `loading` if it fails before.

    Raises:
        RuntimeError: the HTTP server has ended.
    """
    while http.is_alive():
        if signal.sigtimedwait(STOP_SIGNALS, _POLL_SECONDS) is not None:
            return
        if loading.done():
            loading.result()
    raise RuntimeError("the HTTP server ended without a stop signal")


def _load(service: Service) -> None:
    """Import PyTorch and load the model."""
    began = time.monotonic()
    with garbage_collection_disabled():
        import torch

        from finetune.serving.model import ServedModel
    configuration = service.configuration
    model = None if configuration.multi_model else ServedModel.load(configuration.model_folder)
    workers = configuration.workers or max(1, torch.cuda.device_count())
    # The workers share the cores; preprocessing threads, each with an image of its own, use one each.
    threads = max(1, torch.get_num_threads() // workers)
    service.start(model, workers, partial(torch.set_num_threads, threads), partial(torch.set_num_threads, 1))
    name = configuration.model_folder if model else "models on request"
    logger.info("Serving %s on port %d, ready after %.1f s", name, configuration.port, time.monotonic() - began)


def _drain(service: Service, server: uvicorn.Server) -> None:
    """Let clients finish their connections before the port is closed, so that no request is lost between two."""
    logger.info("Stopping after the requests in progress")
    service.stop()
    deadline = time.monotonic() + DRAIN_SECONDS
    while server.server_state.connections and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


def _open_port(host: str, port: int) -> socket.socket:
    """Listen on a port of an address, or of all interfaces.

    Raises:
        PlatformError: the port is in use or needs privileges, or the address is not of this machine.
    """
    try:
        listener = socket.create_server((host, port), backlog=2048)
    except OSError as error:
        place = f" of {host}" if host else ""
        raise PlatformError(
            f"Port {port}{place} cannot be opened: {error.strerror}. Set SAGEMAKER_BIND_TO_PORT, or --port of"
            " `finetune serve`, to another port."
        ) from error
    # Inherited by connections: asyncio does not set it for those of a given socket, and a response in two packets would
    # wait 40 ms for the client's acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setblocking(False)
    return listener


def _set_variables() -> None:
    """Set the variables that libraries read, before the process has a second thread."""
    set_variables()
    # Models are local, and progress bars have no place in a log.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not os.access(_TEMPORARY_FOLDER, os.W_OK):
        # Importing torchvision creates this folder, although nothing is compiled. An existing one is accepted.
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = _TEMPORARY_FOLDER


def _log_to_stdout() -> None:
    log_safely()
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    ours = logging.getLogger(OWN_LOGGER)
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    ours.propagate = False
