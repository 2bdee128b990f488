"""Exceptions that end a job, sorted by who has to fix the cause.

```
JobError
├── UserError          exit 1   a hyperparameter, a channel, a model: the user changes the request
│   ├── DataError      exit 1   records of a channel: the user changes the data
│   └── DivergedError  exit 1   weights or outputs became infinite: the user changes training hyperparameters
└── PlatformError      exit 2   disk, network, device: the same request may work elsewhere or later
anything else          exit 3   an internal error: reported with its traceback
```

Exit code 1 is that of sagemaker-training's own `ClientError`; the others differ from it, from Python's own and from
the 128+n of signals. A message names the thing, its value, the allowed values and the remedy, cause first: the
platform shows only the first 1,024 characters of the failure file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

INTERNAL_EXIT_CODE = 3


class JobError(Exception):
    """A failure with a known cause; its message is written for the user."""

    exit_code: ClassVar[int] = INTERNAL_EXIT_CODE


class UserError(JobError):
    """The request cannot be fulfilled as it is; the message names the remedy."""

    exit_code: ClassVar[int] = 1


class DataError(UserError):
    """Records of a channel cannot be used; the message names channel, file and record."""


class DivergedError(UserError):
    """The model's weights or outputs are no longer finite; the message suggests changes to the hyperparameters."""


class PlatformError(JobError):
    """The machine, its disk, its network or its device failed."""

    exit_code: ClassVar[int] = 2


class JobStopped(Exception):  # noqa: N818 - nothing failed
    """The job was asked to stop by SIGTERM or Ctrl-C, outside the training loop."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` with the closest known name, or an empty string if there is none."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""
