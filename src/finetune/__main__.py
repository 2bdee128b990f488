"""`python -m finetune`: runs the job in `/opt/ml` without sagemaker-training, or the command line."""

from __future__ import annotations

import os
import sys

from finetune.launch.devices import is_launched
from finetune.sagemaker.paths import BASE_FOLDER, DEFAULT_ROOT


def main() -> int:
    """Run the command line if there are arguments or no folder of a job, otherwise the job; return the exit code."""
    if len(sys.argv) > 1 or not (os.environ.get(BASE_FOLDER) or DEFAULT_ROOT.exists()):
        from finetune.cli.app import main as run_command

        run_command()
        return 0
    from finetune.entry import run

    exit_code = run()
    if is_launched():
        # One of several processes: other threads of communication libraries may crash while the interpreter ends.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
