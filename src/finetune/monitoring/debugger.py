"""The hook of SageMaker Debugger's library, where a job is configured for it; absent or broken it is one warning."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor, bfloat16, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

logger = logging.getLogger(__name__)

LOSS = "CrossEntropyLoss"
"""The library's collection of losses has what is named so; it saves it as `CrossEntropyLoss_output_0`."""

_Result = TypeVar("_Result")
Pass = Callable[[Mapping[str, Tensor]], _Result]
"""A forward pass through whichever part of the network runs."""


class Debugger(Protocol):
    """Somebody who saves tensors as the network runs."""

    def watch(self, optimizer: Optimizer) -> None:
        """Gradients are those that this optimizer uses."""
        ...

    def through(self, forward: Pass[_Result]) -> Pass[_Result]:
        """The same pass, looked at."""
        ...

    def training(self, step: int, epoch: int) -> None:
        """The next pass is of this step."""
        ...

    def step_done(self, loss: Tensor) -> None:
        """The step is done, and had this mean loss."""
        ...

    def evaluating(self) -> None:
        """The next pass is of the evaluation of the epoch."""
        ...

    def evaluated(self, loss: float | None) -> None:
        """The evaluation is done, and had this loss."""
        ...

    def close(self, *, finished: bool) -> None:
        """Training ended, or was interrupted."""
        ...


class NoDebugger:
    """Saves nothing."""

    def watch(self, optimizer: Optimizer) -> None:
        """Let it pass."""

    def through(self, forward: Pass[_Result]) -> Pass[_Result]:
        """The pass itself."""
        return forward

    def training(self, step: int, epoch: int) -> None:
        """Let it pass."""

    def step_done(self, loss: Tensor) -> None:
        """Let it pass."""

    def evaluating(self) -> None:
        """Let it pass."""

    def evaluated(self, loss: float | None) -> None:
        """Let it pass."""

    def close(self, *, finished: bool) -> None:
        """Let it pass."""


class _NoState:
    """In place of the library's own memory of steps, for which it would write into the folder of our checkpoints."""

    def is_checkpoint_updated(self) -> bool:
        """Never: steps are told to the library, start by start."""
        return False


class SmdebugHook:
    """`smdebug`'s hook, told what a step is: an optimizer step, and for evaluation an epoch.

    Left to itself the library counts forward passes, so that accumulation, kept features and restarts would shift its
    steps. Here a step of training has its own number, an evaluation that of its epoch, and the library's number over
    both is a function of the two: a start that repeats steps writes the same files again. Layer outputs are those of
    a step's first batch; gradients are those that the optimizer uses; every file of a step is complete with the step.

    Args:
        hook: the library's.
        modes: the library's names of training and evaluation.
        module: the network.
    """

    def __init__(self, hook: Any, modes: Any, module: nn.Module) -> None:  # noqa: ANN401  # the library has no types
        self._hook, self._modes, self._module = hook, modes, module
        self._step = self._epoch = 0
        self._next: tuple[object, int, int] | None = None
        self._saving = self._inside = self._broken = False
        self._handles: list[RemovableHandle] = []
        hook.state_store = _NoState()
        to_array = hook._make_numpy_array
        # NumPy has no bfloat16, in which layers of a job with precision=bf16 answer; float32 has all of its values.
        hook._make_numpy_array = lambda value: to_array(_widened(value))
        hook.register_module(module)
        self._take_over()

    def watch(self, optimizer: Optimizer) -> None:
        """Save the gradients that this optimizer uses: of the whole step, unscaled, clipped."""
        self._handles.append(optimizer.register_step_pre_hook(lambda *_: self._safely(self._save_gradients)))

    def through(self, forward: Pass[_Result]) -> Pass[_Result]:
        """The same pass, of which the first one of a step is saved where the step is."""

        def passed(inputs: Mapping[str, Tensor]) -> _Result:
            self._safely(self._begin)
            try:
                return forward(inputs)
            finally:
                self._inside = False

        return passed

    def training(self, step: int, epoch: int) -> None:
        """The next pass is of this step."""
        self._step, self._epoch = step, epoch
        self._next = (self._modes.TRAIN, step, step + epoch)

    def step_done(self, loss: Tensor) -> None:
        """Save the loss where this step is saved, and close its files."""
        self._safely(lambda: self._finish(loss))
        self.training(self._step + 1, self._epoch)

    def evaluating(self) -> None:
        """The next pass is of the evaluation of the epoch, between its last step and the next one's first."""
        self._next = (self._modes.EVAL, self._epoch, self._step + self._epoch)

    def evaluated(self, loss: float | None) -> None:
        """Save the loss where this evaluation is saved, and say which tensors there are."""
        self._safely(lambda: self._finish(None if loss is None else Tensor([loss])))
        self._safely(self._export)

    def close(self, *, finished: bool) -> None:
        """Write what waits; only a finished job marks the end, after which no start could go on."""
        self._safely(self._export)
        self._safely(self._hook.close if finished else self._hook._close_writers)
        for handle in self._handles:
            handle.remove()
        self._broken = True

    def _take_over(self) -> None:
        """Put hooks in place of the library's, which say when they are to look."""
        for one in self._module.modules():
            for hooks in (one._forward_hooks, one._forward_pre_hooks):
                for key, function in list(hooks.items()):
                    if getattr(function, "__self__", None) is self._hook:
                        del hooks[key]
            self._handles.append(one.register_forward_hook(self._looking_at(one)))
        for parameter in self._module.parameters():
            hooks = parameter._backward_hooks or {}
            for key, function in list(hooks.items()):
                if getattr(function, "__module__", "").startswith("smdebug"):
                    del hooks[key]

    def _looking_at(self, module: nn.Module) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        # A part of the network runs as copies of its outer modules, which share these hooks.
        def look(_: nn.Module, inputs: tuple[object, ...], outputs: object) -> None:
            if self._inside:
                self._safely(lambda: self._hook.forward_hook(module, inputs, outputs))

        return look

    def _begin(self) -> None:
        if self._next is None:
            return
        hook, (mode, step, number) = self._hook, self._next
        self._next = None
        hook.set_mode(mode)
        hook.mode_steps[mode], hook.step = step - 1, number - 1
        hook.forward_pre_hook(self._module, ())
        self._saving = self._inside = bool(hook._get_collections_to_save_for_step())

    def _save_gradients(self) -> None:
        if not self._saving:
            return
        kind = type(self._module).__name__
        for name, parameter in self._module.named_parameters():
            if parameter.grad is not None:
                self._hook._save_for_tensor(f"{self._hook.GRADIENT_PREFIX}{kind}_{name}", parameter.grad)

    def _finish(self, loss: Tensor | None) -> None:
        if self._saving and loss is not None:
            self._hook.record_tensor_value(LOSS, loss)
        self._saving, self._next = False, None
        self._hook._close_writers()

    def _export(self) -> None:
        if self._hook.last_saved_step is not None:
            self._hook.export_collections()

    def _safely(self, call: Callable[[], object]) -> None:
        """The library's faults are many kinds, and none is worth a job."""
        if self._broken:
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001
            self._broken, self._inside = True, False
            logger.warning("SageMaker Debugger's hook failed, and nothing more is saved for it: %r", error)


def _widened(value: object) -> object:
    return value.float() if isinstance(value, Tensor) and value.dtype is bfloat16 else value


def debugger(configuration: Path | None, module: nn.Module) -> Debugger:
    """The hook that a configuration asks for, on a network.

    Args:
        configuration: `debughookconfig.json`, or `None` where there is none.
        module: the network, before any part of it is cut out.
    """
    if configuration is None:
        return NoDebugger()
    logging.getLogger("smdebug").addFilter(_worth_reading)
    try:
        import smdebug.pytorch as smd
        from smdebug.core.utils import remove_claim_file

        hook = smd.Hook.create_from_json_file(str(configuration))
        # An earlier start that was interrupted left its claim, with which the library would save nothing.
        remove_claim_file(hook.out_dir)
        found = SmdebugHook(hook, smd.modes, module)
    except Exception as error:  # noqa: BLE001  # as in `SmdebugHook`
        logger.warning("SageMaker Debugger's hook cannot be used, and nothing is saved for it: %r", error)
        return NoDebugger()
    # The library keeps handles that the end of the process would otherwise close as the end of the job.
    import atexit

    atexit.unregister(hook._cleanup)
    logger.info("SageMaker Debugger's hook saves tensors to %s", hook.out_dir)
    return found


def _worth_reading(record: logging.LogRecord) -> bool:
    """The library tells a line for every parameter."""
    return record.levelno >= logging.WARNING
