#!/opt/venv/bin/python -I
"""The image's `serve`, the container's first process: serves the model in `/opt/ml/model` over HTTP."""

from __future__ import annotations

import signal
from typing import NoReturn


def main() -> NoReturn:
    """Serve until SIGTERM, and end the process."""
    # Before the imports: blocked signals stay pending, and are handled once the server waits for them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    from finetune.serving.server import end_process, serve

    end_process(serve())


if __name__ == "__main__":
    main()
