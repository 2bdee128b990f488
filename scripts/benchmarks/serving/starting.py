"""Time from the start of the server to its first answer, compared with a bare script that only loads the model."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence

from benchmarks.serving.models import Served
from benchmarks.serving.servers import START_SECONDS, our_server
from benchmarks.table import begin, middle, ratio, row, say

_BARE = "import sys; sys.path.insert(0, sys.argv[1] + '/code'); import inference; inference.model_fn(sys.argv[1])"


def measure(models: Sequence[Served], *, quick: bool) -> None:
    """Print a row per model."""
    begin("Start to the first answer", ("model", "server, s", "bare script, s", "server / bare script"))
    rounds = 1 if quick else 3
    for served in models:
        _bare_script(served)  # files into the page cache
        pairs = [(_first_answer(served), _bare_script(served)) for _ in range(rounds)]
        server, bare = (list(side) for side in zip(*pairs, strict=True))
        row((served.name, middle(server), middle(bare), ratio(server, bare)))
    say(
        f"\nMedians of {rounds} starts per side, alternating, and the range of the ratios. The server: from starting"
        " its process to an answer to `/invocations`. The bare script imports the handler of the artifact and loads the"
        " model, and predicts nothing."
    )


def _first_answer(served: Served) -> float:
    headers = {"Content-Type": served.content_type}
    with our_server(served) as server:
        url = f"http://127.0.0.1:{server.port}/invocations"
        while (seconds := time.monotonic() - server.started) < START_SECONDS:
            try:
                with urllib.request.urlopen(urllib.request.Request(url, served.bodies[0], headers)):
                    return time.monotonic() - server.started
            except (urllib.error.URLError, ConnectionError):  # nothing listens yet, or 503
                time.sleep(0.01)
    raise TimeoutError(f"no answer after {seconds:.0f} s")


def _bare_script(served: Served) -> float:
    code = f"{_BARE}; print(flush=True)"
    command = (sys.executable, "-P", "-c", code, str(served.root / "model"))
    began = time.monotonic()
    with subprocess.Popen(command, env=os.environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101 - stdout is a pipe
        if not process.stdout.readline():
            raise RuntimeError("the bare script has failed")
        return time.monotonic() - began
