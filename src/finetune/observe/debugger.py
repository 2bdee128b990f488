"""The hook of SageMaker Debugger's library, where a job is configured for it; absent or broken it is one warning."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

logger = logging.getLogger(__name__)

LOSS = "CrossEntropyLoss"
"""The library's collection of losses has what is named so; it saves it as `CrossEntropyLoss_output_0`."""


class Debugger(Protocol):
    """Somebody who saves tensors as the network runs."""

    def training(self, step: int) -> None:
        """Training goes on with this step."""
        ...

    def evaluating(self) -> None:
        """An evaluation begins."""
        ...

    def loss(self, value: Tensor) -> None:
        """The loss of the step that was done."""
        ...

    def close(self, *, finished: bool) -> None:
        """Training ended, or was interrupted."""
        ...


class NoDebugger:
    """Saves nothing."""

    def training(self, step: int) -> None:
        """Let it pass."""

    def evaluating(self) -> None:
        """Let it pass."""

    def loss(self, value: Tensor) -> None:
        """Let it pass."""

    def close(self, *, finished: bool) -> None:
        """Let it pass."""


class SmdebugHook:
    """`smdebug`'s hook on a network. Its steps are forward passes, which are steps unless gradients are accumulated."""

    def __init__(self, hook: Any, modes: Any, module: nn.Module) -> None:  # noqa: ANN401  # the library has no types
        self._hook = hook
        self._modes = modes
        self._module = module

    def training(self, step: int) -> None:
        """Count on from the step that the job stands at, whichever start of it that is."""
        self._hook.set_mode(self._modes.TRAIN)
        self._hook.mode_steps[self._modes.TRAIN] = step - 1
        self._hook.step = max(self._hook.step, step - 1)

    def evaluating(self) -> None:
        """Tell evaluation apart from training."""
        self._hook.set_mode(self._modes.EVAL)

    def loss(self, value: Tensor) -> None:
        """Save the loss where this step is saved."""
        self._hook.record_tensor_value(LOSS, value)

    def close(self, *, finished: bool) -> None:
        """Write what waits; only a finished job marks the end, after which no start could go on."""
        if finished:
            self._hook.close()
        else:
            self._hook._close_writers()
        for one in self._module.modules():
            for hooks in (one._forward_hooks, one._forward_pre_hooks):
                for key, function in list(hooks.items()):
                    if getattr(function, "__self__", None) is self._hook:
                        del hooks[key]


def debugger(configuration: Path | None, module: nn.Module) -> Debugger:
    """The hook that a configuration asks for, on a network.

    Args:
        configuration: `debughookconfig.json`, or `None` where there is none.
        module: the network.
    """
    if configuration is None:
        return NoDebugger()
    try:
        import smdebug.pytorch as smd
        from smdebug.core.utils import remove_claim_file

        hook = smd.Hook.create_from_json_file(str(configuration))
        # An earlier start that was interrupted left its claim, with which the library would save nothing.
        remove_claim_file(hook.out_dir)
        hook.register_module(module)
    except Exception as error:  # noqa: BLE001  # the library's faults are many kinds, and none is worth a job
        logger.warning("SageMaker Debugger's hook cannot be used, and nothing is saved for it: %r", error)
        return NoDebugger()
    # The library keeps handles that the end of the process would otherwise close as the end of the job.
    import atexit

    atexit.unregister(hook._cleanup)
    logger.info("SageMaker Debugger's hook saves tensors to %s", hook.out_dir)
    return SmdebugHook(hook, smd.modes, module)
