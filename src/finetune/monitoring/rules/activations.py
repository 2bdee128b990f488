"""Rules DeadRelu and SaturatedActivation: units of a layer that are rarely active."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from finetune.monitoring.rules.finding import Finding, Parameters, Rules
from finetune.monitoring.rules.setup import Setup, sentence

MIN_POSITIONS = 1000
"""Minimum number of positions: a unit inactive at fewer may just be selective."""

ACTIVATION_RULES = frozenset({"DeadRelu", "SaturatedActivation"})
"""Rules that observe layers through hooks."""


@dataclass(frozen=True, slots=True)
class InactiveUnits:
    """Share of inactive units of a layer, on the device."""

    rule: str
    layer: str
    share: Tensor


class ActivationWatch:
    """Observes the activations of sampled steps only.

    Activation functions that are not modules, as in most transformers, are not observed.

    Attributes:
        suspects: Rules and layers with inactive units in the last sample; part of the checkpoint.
    """

    def __init__(self, module: nn.Module, rules: Rules, setup: Setup | None = None) -> None:
        self._module = module
        self._rules = rules
        self._setup = setup or Setup()
        self._samples: list[InactiveUnits] = []
        self._handles: list[RemovableHandle] = []
        self.suspects: frozenset[tuple[str, str]] = frozenset()

    def open(self) -> None:
        """Start observing forward passes."""
        for name, module in self._module.named_modules():
            test = self._activity_test(module)
            if test is not None and module.training:
                self._handles.append(module.register_forward_hook(self._hook(name, *test)))

    def close(self) -> list[InactiveUnits]:
        """Stop observing; return the results without synchronizing with the device."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        samples, self._samples = self._samples, []
        return samples

    def check(self, samples: Iterable[InactiveUnits], step: int) -> list[Finding]:
        """Find layers with inactive units in two consecutive samples."""
        shares: dict[tuple[str, str], float] = {}
        for units in samples:
            key = (units.rule, units.layer)
            shares[key] = max(shares.get(key, 0.0), 100 * float(units.share))
        inactive = frozenset(key for key, share in shares.items() if share > self._rules[key[0]]["threshold_layer"])
        persistent, self.suspects = inactive & self.suspects, inactive
        return [_finding(rule, layer, shares[rule, layer], step, self._setup) for rule, layer in sorted(persistent)]

    def _activity_test(self, module: nn.Module) -> tuple[str, Callable[[Tensor, Tensor], Tensor]] | None:
        if isinstance(module, nn.ReLU) and "DeadRelu" in self._rules:
            return "DeadRelu", lambda _, outputs: outputs > 0
        function_name = "tanh" if isinstance(module, nn.Tanh) else "sigmoid" if isinstance(module, nn.Sigmoid) else None
        if function_name is None or "SaturatedActivation" not in self._rules:
            return None
        parameters = self._rules["SaturatedActivation"]
        low, high = parameters[f"threshold_{function_name}_min"], parameters[f"threshold_{function_name}_max"]
        return "SaturatedActivation", lambda inputs, _: (inputs > low) & (inputs < high)

    def _hook(
        self, layer: str, rule: str, is_active: Callable[[Tensor, Tensor], Tensor]
    ) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        parameters = self._rules[rule]

        def record_activations(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            with torch.no_grad():
                share = _inactive_share(is_active(inputs[0].detach(), output.detach()), parameters)
            if share is not None:
                self._samples.append(InactiveUnits(rule, layer, share))

        return record_activations


def _inactive_share(active: Tensor, parameters: Parameters) -> Tensor | None:
    """Return the share of units active less often than required; `None` with too few positions."""
    units = 1 if active.dim() == 4 else active.dim() - 1
    positions = active.numel() // max(1, active.shape[units])
    if positions < MIN_POSITIONS:
        return None
    other_dims = [dim for dim in range(active.dim()) if dim != units]
    activity = active.float().mean(dim=other_dims) * 100
    return (activity < parameters["threshold_inactivity"]).float().mean()


def _finding(rule: str, layer: str, share: float, step: int, setup: Setup) -> Finding:
    advice = setup.lower_learning_rate(3)
    if rule == "DeadRelu":
        observation = f"{share:.0f}% of the units are never positive"
        return Finding(rule, step, layer, observation, f"{advice}: dead units do not recover.")
    observation = f"{share:.0f}% of the units are saturated"
    clip = ", or set gradient_clip_norm=1" if setup.clip_norm is None or setup.clip_norm > 1 else ""
    return Finding(rule, step, layer, observation, sentence(advice + clip))
