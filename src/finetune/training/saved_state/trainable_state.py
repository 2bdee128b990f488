"""Checkpoint state of the trainable weights and of the optimizer.

The states of a sharded model are those of the same model without sharding. All processes save and load them together:
the main process has whole tensors, and the others have tensors on the meta device, which are ignored when loading.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.optim import Adagrad, Optimizer

from finetune.checkpoint.state import check_structure
from finetune.distributed.sharding.full_state import (
    check_in_main,
    copy_from_main,
    flags_of_main,
    full_tensors,
    mesh_of,
)
from finetune.models.backbone import Backbone
from finetune.models.fingerprint import frozen_names
from finetune.strategies.plan import Plan

State = dict[str, Any]


class TrainableWeights:
    """Weights and normalization statistics trained in any phase; frozen ones are reloaded from the original.

    Attributes:
        names: Keys of `module.state_dict()` in groups that are trainable in some phase.
    """

    def __init__(self, backbone: Backbone, plan: Plan) -> None:
        self._module = backbone.module
        frozen = frozen_names(backbone, plan.ever_trainable)
        self.names = tuple(name for name in self._module.state_dict() if name not in frozen)

    def state_dict(self) -> State:
        """Return the live tensors by name; copies of those that are sharded."""
        return self.whole(self.live_tensors())

    def load_state_dict(self, state: State, /) -> None:
        """Copy tensors of the same names, shapes and dtypes into the model.

        Raises:
            ValueError: Names, shapes or dtypes do not match.
        """
        self.load_into(self.live_tensors(), state, "weights")

    @staticmethod
    def whole(tensors: Mapping[str, Tensor]) -> State:
        """Return tensors by name; copies of those that are sharded."""
        return full_tensors(tensors)

    @staticmethod
    def load_into(tensors: Mapping[str, Tensor], state: State, part: str) -> None:
        """Copy a state into tensors, which may be sharded.

        Args:
            tensors: Tensors to overwrite.
            state: Tensors of the same names, shapes and dtypes.
            part: Name of the state, for the error message.

        Raises:
            ValueError: Names, shapes or dtypes do not match.
        """
        mesh = mesh_of(tensors.values())
        if mesh is not None:
            check_in_main(lambda: check_structure(state, tensors, part), mesh)
            for name, tensor in tensors.items():
                copy_from_main(tensor, state.get(name), mesh)
            return
        check_structure(state, tensors, part)
        for name, tensor in tensors.items():
            tensor.copy_(state[name])

    def live_tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the model by name, which may be sharded."""
        tensors = self._module.state_dict()
        return {name: tensors[name] for name in self.names}


class OptimizerState:
    """Optimizer state keyed by parameter name, so that saved files are readable and can be checked by name."""

    def __init__(self, optimizer: Optimizer, module: nn.Module) -> None:
        self._optimizer = optimizer
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        self._parameters = {names[id(p)]: p for group in optimizer.param_groups for p in group["params"]}

    def state_dict(self) -> State:
        """Return moments by parameter name; learning rates and decays follow from the request and are not saved."""
        state = self._optimizer.state_dict()["state"]
        return {name: full_tensors(state[index]) for index, name in enumerate(self._parameters) if index in state}

    def load_state_dict(self, state: State, /) -> None:
        """Restore moments by parameter name.

        Raises:
            ValueError: The moments do not match this optimizer and these parameters.
        """
        mesh = mesh_of(self._parameters.values())
        if mesh is None:
            self._check(state)
        else:
            state = self._received_state(state, mesh)
        moments = {
            index: {key: _with_layout_of(value, parameter) for key, value in state[name].items()}
            for index, (name, parameter) in enumerate(self._parameters.items())
            if name in state
        }
        current = self._optimizer.state_dict()
        self._optimizer.load_state_dict({"state": moments, "param_groups": current["param_groups"]})

    def _check(self, state: State) -> None:
        unknown = state.keys() - self._parameters.keys()
        if unknown:
            raise ValueError(f"moments of unknown parameters: {sorted(map(str, unknown))[:3]}")
        examples = example_moments(self._optimizer) if state else {}
        for name, moments in state.items():
            shape = self._parameters[name].shape
            expected = {
                key: torch.empty(shape, dtype=value.dtype, device="meta") if value.dim() else value
                for key, value in examples.items()
            }
            check_structure(moments, expected, name)

    def _received_state(self, state: State, mesh: DeviceMesh) -> State:
        """Return the state of the main process, with moments sharded as their parameters are."""
        check_in_main(lambda: self._check(state), mesh)
        present = flags_of_main([name in state for name in self._parameters], mesh)
        examples = example_moments(self._optimizer)
        received: State = {}
        for (name, parameter), has_moments in zip(self._parameters.items(), present, strict=True):
            if has_moments:
                moments: Mapping[str, Tensor] = state.get(name, {})
                received[name] = {}
                for key, example in examples.items():
                    tensor = torch.zeros_like(parameter if example.dim() else example, dtype=example.dtype)
                    copy_from_main(tensor, moments.get(key), mesh)
                    received[name][key] = tensor
        return received


def _with_layout_of(moment: Tensor, parameter: Tensor) -> Tensor:
    """Return a moment in its parameter's memory layout, as fused kernels require; counts are unchanged."""
    if moment.shape != parameter.shape or mesh_of([moment]) is not None:
        return moment
    return torch.empty_like(parameter).copy_(moment)


def example_moments(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's state for a parameter of two elements: moments float32 `[2]`, counts 0-d."""
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.zeros(2)
    clone = copy.copy(optimizer)
    clone.param_groups = [{**optimizer.param_groups[0], "params": [parameter]}]
    clone.state = defaultdict(dict)
    if isinstance(optimizer, Adagrad):  # creates its state before the first step
        clone.state[parameter] = {"step": torch.tensor(0.0), "sum": torch.zeros(2)}
    clone.step()
    return dict(clone.state[parameter])
