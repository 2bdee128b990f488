"""`python -m finetune.serving`: serves the model in `/opt/ml/model`, or another root, outside the image."""

from __future__ import annotations

import signal

from finetune.serving.server import STOP_SIGNALS, end_process, serve

if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    end_process(serve())
