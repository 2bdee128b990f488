#!/opt/venv/bin/python -I
"""The image's `finetune`: the commands for people, as in `docker run IMAGE finetune predict --help`."""

from __future__ import annotations

import signal
import sys

from finetune.cli.app import main

if __name__ == "__main__":
    # A container's first process ignores a SIGTERM without a handler, and `docker stop` would take ten seconds.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    main()
