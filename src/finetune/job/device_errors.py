"""Names the cause of errors of the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from finetune.errors import PlatformError, UserError


@contextmanager
def named_device_errors() -> Iterator[None]:
    """Convert errors of the device into those of the job, except for a lack of memory.

    Raises:
        PlatformError: the device failed.
        UserError: it has no deterministic kernel for an operation of the model.
    """
    try:
        yield
    except torch.AcceleratorError as error:
        raise PlatformError(f"The GPU failed: {str(error).splitlines()[0]}") from error
    except RuntimeError as error:
        if "deterministic implementation" not in str(error):
            raise
        operation = str(error).partition(" does not have")[0]
        raise UserError(
            f"deterministic=true, but PyTorch has no deterministic kernel for {operation} on this device: set"
            " deterministic=false, or use another model."
        ) from error
