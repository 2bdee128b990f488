"""`python -m finetune`: runs the job without sagemaker-training."""

from __future__ import annotations

import os
import sys

from finetune.entry import run
from finetune.launch.devices import is_launched

if __name__ == "__main__":
    exit_code = run()
    if is_launched():
        # One of several processes: other threads of communication libraries may crash while the interpreter ends.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)
