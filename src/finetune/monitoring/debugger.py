"""Hook of the SageMaker Debugger library, if the job configures it; a missing or broken library is one warning."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from torch import Tensor, bfloat16, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

logger = logging.getLogger(__name__)

LOSS_NAME = "CrossEntropyLoss"
"""Name matched by the library's collection of losses; saved as `CrossEntropyLoss_output_0`."""

_Result = TypeVar("_Result")
ForwardPass = Callable[[Mapping[str, Tensor]], _Result]
"""A forward pass through the part of the model that is run."""


class Debugger(Protocol):
    """Saves tensors while the model runs."""

    def watch(self, optimizer: Optimizer) -> None:
        """Observe the gradients used by this optimizer."""
        ...

    def wrap_forward(self, forward: ForwardPass[_Result]) -> ForwardPass[_Result]:
        """Wrap a forward pass to observe it."""
        ...

    def begin_step(self, step: int, epoch: int) -> None:
        """Assign the next forward pass to this training step."""
        ...

    def end_step(self, loss: Tensor) -> None:
        """Finish the step with its mean loss."""
        ...

    def begin_evaluation(self) -> None:
        """Assign the next forward pass to the evaluation of the epoch."""
        ...

    def end_evaluation(self, loss: float | None) -> None:
        """Finish the evaluation with its loss."""
        ...

    def close(self, *, finished: bool) -> None:
        """Close at the end or interruption of training."""
        ...


class NoDebugger:
    """Null implementation that saves nothing."""

    def watch(self, optimizer: Optimizer) -> None:
        """Do nothing."""

    def wrap_forward(self, forward: ForwardPass[_Result]) -> ForwardPass[_Result]:
        """Return the pass unchanged."""
        return forward

    def begin_step(self, step: int, epoch: int) -> None:
        """Do nothing."""

    def end_step(self, loss: Tensor) -> None:
        """Do nothing."""

    def begin_evaluation(self) -> None:
        """Do nothing."""

    def end_evaluation(self, loss: float | None) -> None:
        """Do nothing."""

    def close(self, *, finished: bool) -> None:
        """Do nothing."""


class _NoState:
    """Replaces the library's own step state, which it would write into the job's checkpoint folder."""

    def is_checkpoint_updated(self) -> bool:
        """Always False: steps are passed to the library explicitly at each start."""
        return False


class SmdebugHook:
    """Drives `smdebug`'s hook with explicit steps: optimizer steps in training, epochs in evaluation.

    By default the library counts forward passes, so gradient accumulation, cached features and restarts would shift its
    steps. Here a training step has its own number, an evaluation that of its epoch, and the library's global step is a
    function of both: a start that repeats steps writes the same files again. Layer outputs are those of a step's first
    batch, gradients are those used by the optimizer, and all files of a step are complete at its end.

    Args:
        hook: The library's hook.
        modes: The library's enumeration of training and evaluation modes.
        module: The model.
    """

    def __init__(self, hook: Any, modes: Any, module: nn.Module) -> None:  # noqa: ANN401  # untyped library
        self._hook, self._modes, self._module = hook, modes, module
        self._step = self._epoch = 0
        self._next: tuple[object, int, int] | None = None
        self._is_saving = self._is_in_forward = self._is_disabled = False
        self._handles: list[RemovableHandle] = []
        hook.state_store = _NoState()
        to_array = hook._make_numpy_array
        # NumPy has no bfloat16, the output dtype of layers with precision=bf16; float32 represents all its values.
        hook._make_numpy_array = lambda value: to_array(_to_float32(value))
        hook.register_module(module)
        self._replace_module_hooks()

    def watch(self, optimizer: Optimizer) -> None:
        """Save the gradients used by this optimizer: of the whole step, unscaled and clipped."""
        self._handles.append(optimizer.register_step_pre_hook(lambda *_: self._safely(self._save_gradients)))

    def wrap_forward(self, forward: ForwardPass[_Result]) -> ForwardPass[_Result]:
        """Wrap a forward pass; the first pass of each saved step is recorded."""

        def observed_forward(inputs: Mapping[str, Tensor]) -> _Result:
            self._safely(self._begin)
            try:
                return forward(inputs)
            finally:
                self._is_in_forward = False

        return observed_forward

    def begin_step(self, step: int, epoch: int) -> None:
        """Assign the next forward pass to this training step."""
        self._step, self._epoch = step, epoch
        self._next = (self._modes.TRAIN, step, step + epoch)

    def end_step(self, loss: Tensor) -> None:
        """Save the loss if this step is saved, and close its files."""
        self._safely(lambda: self._finish(loss))
        self.begin_step(self._step + 1, self._epoch)

    def begin_evaluation(self) -> None:
        """Assign the next pass to the evaluation between the epoch's last step and the next epoch's first."""
        self._next = (self._modes.EVAL, self._epoch, self._step + self._epoch)

    def end_evaluation(self, loss: float | None) -> None:
        """Save the loss if this evaluation is saved, and export the list of tensors."""
        self._safely(lambda: self._finish(None if loss is None else Tensor([loss])))
        self._safely(self._export)

    def close(self, *, finished: bool) -> None:
        """Flush pending data; only a finished job writes the end marker, since no start could continue after it."""
        self._safely(self._export)
        self._safely(self._hook.close if finished else self._hook._close_writers)
        for handle in self._handles:
            handle.remove()
        self._is_disabled = True

    def _replace_module_hooks(self) -> None:
        """Replace the library's module hooks by hooks that only record saved passes."""
        for submodule in self._module.modules():
            for hooks in (submodule._forward_hooks, submodule._forward_pre_hooks):
                for key, function in list(hooks.items()):
                    if getattr(function, "__self__", None) is self._hook:
                        del hooks[key]
            self._handles.append(submodule.register_forward_hook(self._forward_hook(submodule)))
        for parameter in self._module.parameters():
            hooks = parameter._backward_hooks or {}
            for key, function in list(hooks.items()):
                if getattr(function, "__module__", "").startswith("smdebug"):
                    del hooks[key]

    def _forward_hook(self, module: nn.Module) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        # Parts of the model run as copies of its outer modules, which share these hooks.
        def record_outputs(_: nn.Module, inputs: tuple[object, ...], outputs: object) -> None:
            if self._is_in_forward:
                self._safely(lambda: self._hook.forward_hook(module, inputs, outputs))

        return record_outputs

    def _begin(self) -> None:
        if self._next is None:
            return
        hook, (mode, step, number) = self._hook, self._next
        self._next = None
        hook.set_mode(mode)
        hook.mode_steps[mode], hook.step = step - 1, number - 1
        hook.forward_pre_hook(self._module, ())
        self._is_saving = self._is_in_forward = bool(hook._get_collections_to_save_for_step())

    def _save_gradients(self) -> None:
        if not self._is_saving:
            return
        kind = type(self._module).__name__
        for name, parameter in self._module.named_parameters():
            if parameter.grad is not None:
                self._hook._save_for_tensor(f"{self._hook.GRADIENT_PREFIX}{kind}_{name}", parameter.grad)

    def _finish(self, loss: Tensor | None) -> None:
        if self._is_saving and loss is not None:
            self._hook.record_tensor_value(LOSS_NAME, loss)
        self._is_saving, self._next = False, None
        self._hook._close_writers()

    def _export(self) -> None:
        if self._hook.last_saved_step is not None:
            self._hook.export_collections()

    def _safely(self, call: Callable[[], object]) -> None:
        """Call into the library; on any exception, disable the hook instead of failing the job."""
        if self._is_disabled:
            return
        try:
            call()
        except Exception as error:  # noqa: BLE001
            self._is_disabled, self._is_in_forward = True, False
            logger.warning("SageMaker Debugger's hook failed; no further tensors are saved: %r", error)


def _to_float32(value: object) -> object:
    return value.float() if isinstance(value, Tensor) and value.dtype is bfloat16 else value


def create_debugger(configuration: Path | None, module: nn.Module) -> Debugger:
    """Create the hook for a configuration and register it on a model.

    Args:
        configuration: Path of `debughookconfig.json`, or `None` if there is none.
        module: The complete model, before it is split.
    """
    if configuration is None:
        return NoDebugger()
    logging.getLogger("smdebug").addFilter(_is_warning)
    try:
        import smdebug.pytorch as smd
        from smdebug.core.utils import remove_claim_file

        hook = smd.Hook.create_from_json_file(str(configuration))
        # An interrupted earlier start left its claim file, with which the library would save nothing.
        remove_claim_file(hook.out_dir)
        debug_hook = SmdebugHook(hook, smd.modes, module)
    except Exception as error:  # noqa: BLE001  # as in `SmdebugHook`
        logger.warning("SageMaker Debugger's hook cannot be used; no tensors are saved: %r", error)
        return NoDebugger()
    # Otherwise the library's atexit handler would mark every end of the process as the end of the job.
    import atexit

    atexit.unregister(hook._cleanup)
    logger.info("SageMaker Debugger's hook saves tensors to %s", hook.out_dir)
    return debug_hook


def _is_warning(record: logging.LogRecord) -> bool:
    """Filter out the library's info messages, one per parameter."""
    return record.levelno >= logging.WARNING
