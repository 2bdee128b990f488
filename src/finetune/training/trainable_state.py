"""What of the network and of its optimizer must survive an interruption?"""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from finetune.checkpoint.form import check_form
from finetune.models.backbone import Backbone
from finetune.models.fingerprint import frozen_names
from finetune.strategies.plan import Plan

State = dict[str, Any]


class LearningWeights:
    """The weights and normalisation statistics that the plan ever changes; the frozen ones come from where they came.

    Attributes:
        names: keys of `module.state_dict()` that belong to groups which learn in some phase.
    """

    def __init__(self, backbone: Backbone, plan: Plan) -> None:
        self._module = backbone.module
        frozen = frozen_names(backbone, plan.ever_trainable)
        self.names = tuple(name for name in self._module.state_dict() if name not in frozen)

    def state_dict(self) -> State:
        """The live tensors by name."""
        tensors = self._module.state_dict()
        return {name: tensors[name] for name in self.names}

    def load_state_dict(self, state: State, /) -> None:
        """Copy tensors of the same names, shapes and types into the network.

        Raises:
            ValueError: they are not of this form.
        """
        tensors = self.state_dict()
        check_form(state, tensors, "weights")
        for name, tensor in tensors.items():
            tensor.copy_(state[name])


class OptimizerState:
    """An optimizer's moments by parameter name, so that a file of them can be read by a person and checked by name."""

    def __init__(self, optimizer: Optimizer, module: nn.Module) -> None:
        self._optimizer = optimizer
        names = {id(parameter): name for name, parameter in module.named_parameters()}
        self._parameters = {names[id(p)]: p for group in optimizer.param_groups for p in group["params"]}

    def state_dict(self) -> State:
        """Moments by parameter name; rates and decays are functions of the request and are not kept."""
        state = self._optimizer.state_dict()["state"]
        return {name: dict(state[index]) for index, name in enumerate(self._parameters) if index in state}

    def load_state_dict(self, state: State, /) -> None:
        """Take up moments by parameter name.

        Raises:
            ValueError: they are not those that this optimizer keeps of these parameters.
        """
        strangers = state.keys() - self._parameters.keys()
        if strangers:
            raise ValueError(f"moments of unknown parameters: {sorted(map(str, strangers))[:3]}")
        kept = kept_of_two_numbers(self._optimizer) if state else {}
        for name, moments in state.items():
            shaped = {
                key: like.new_empty(self._parameters[name].shape) if like.dim() else like for key, like in kept.items()
            }
            check_form(moments, shaped, name)
        moments = {
            index: {key: _laid_out(value, parameter) for key, value in state[name].items()}
            for index, (name, parameter) in enumerate(self._parameters.items())
            if name in state
        }
        current = self._optimizer.state_dict()
        self._optimizer.load_state_dict({"state": moments, "param_groups": current["param_groups"]})


def _laid_out(moment: Tensor, parameter: Tensor) -> Tensor:
    """A moment as its parameter lies in memory, since one kernel updates both in that order; counts as they are."""
    return torch.empty_like(parameter).copy_(moment) if moment.shape == parameter.shape else moment


def kept_of_two_numbers(optimizer: Optimizer) -> dict[str, Tensor]:
    """What an optimizer keeps of a parameter with two numbers after a step: moments float32 `[2]`, counts 0-d."""
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.zeros(2)
    twin = copy.copy(optimizer)
    twin.param_groups = [{**optimizer.param_groups[0], "params": [parameter]}]
    twin.state = defaultdict(dict)
    twin.step()
    return dict(twin.state[parameter])
