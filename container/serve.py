#!/opt/venv/bin/python -I
"""The image's `serve`, the container's first process: serves the model in `/opt/ml/model` over HTTP."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Serve until SIGTERM and return the exit code."""
    # Before the imports: blocked signals stay pending, and are handled once the server waits for them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    from finetune.serving.server import serve

    return serve()


if __name__ == "__main__":
    sys.exit(main())
