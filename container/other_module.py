"""Runs a module named by a derived image in `SAGEMAKER_TRAINING_MODULE`, so that no failure looks like success.

sagemaker-training exits with 0 after `sys.exit`, `KeyboardInterrupt` and every exception whose `errno` is `None`.
"""

from __future__ import annotations

import importlib
import os
import signal
import traceback

from container.job import OTHER_MODULE
from finetune.entry import raise_for_toolkit
from finetune.errors import UserError
from finetune.sagemaker.failure import Failure, write_failure
from finetune.sagemaker.paths import Paths


def main() -> None:
    """Call the function named as `module:function`.

    Raises:
        ClientError: the function did not return; the failure file contains the cause.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    target = os.environ[OTHER_MODULE]
    module, _, function = target.partition(":")
    try:
        getattr(importlib.import_module(module), function)()
    except BaseException as error:  # noqa: BLE001  # any exception means that it did not return
        if isinstance(error, SystemExit) and error.code in (None, 0):
            return
        cause = f"{target} ended with {type(error).__name__}: {error}"
        details = "".join(traceback.format_exception(error))
        failure = Failure(f"{cause}\n{details}", UserError.exit_code, expected=False)
        write_failure(Paths.from_environment(), failure)
        raise_for_toolkit(failure)
