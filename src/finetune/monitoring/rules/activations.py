"""Rules DeadRelu and SaturatedActivation: units of a layer that are rarely active."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from finetune.monitoring.rules.finding import Finding, Parameters, Rules
from finetune.monitoring.rules.setup import Setup, sentence

FEWEST_PLACES = 1000
"""Minimum number of positions: a unit inactive at fewer may just be selective."""

ACTIVATION_RULES = frozenset({"DeadRelu", "SaturatedActivation"})
"""Rules that observe layers through hooks."""


@dataclass(frozen=True, slots=True)
class Silence:
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
        self._seen: list[Silence] = []
        self._handles: list[RemovableHandle] = []
        self.suspects: frozenset[tuple[str, str]] = frozenset()

    def open(self) -> None:
        """Start observing forward passes."""
        for name, module in self._module.named_modules():
            active = self._active(module)
            if active is not None and module.training:
                self._handles.append(module.register_forward_hook(self._hook(name, *active)))

    def close(self) -> list[Silence]:
        """Stop observing; return the results without synchronizing with the device."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        seen, self._seen = self._seen, []
        return seen

    def judge(self, silences: Iterable[Silence], step: int) -> list[Finding]:
        """Find layers with inactive units in two consecutive samples."""
        shares: dict[tuple[str, str], float] = {}
        for silence in silences:
            key = (silence.rule, silence.layer)
            shares[key] = max(shares.get(key, 0.0), 100 * float(silence.share))
        silent = frozenset(key for key, share in shares.items() if share > self._rules[key[0]]["threshold_layer"])
        twice, self.suspects = silent & self.suspects, silent
        return [_finding(rule, layer, shares[rule, layer], step, self._setup) for rule, layer in sorted(twice)]

    def _active(self, module: nn.Module) -> tuple[str, Callable[[Tensor, Tensor], Tensor]] | None:
        if isinstance(module, nn.ReLU) and "DeadRelu" in self._rules:
            return "DeadRelu", lambda _, after: after > 0
        kind = "tanh" if isinstance(module, nn.Tanh) else "sigmoid" if isinstance(module, nn.Sigmoid) else None
        if kind is None or "SaturatedActivation" not in self._rules:
            return None
        parameters = self._rules["SaturatedActivation"]
        low, high = parameters[f"threshold_{kind}_min"], parameters[f"threshold_{kind}_max"]
        return "SaturatedActivation", lambda before, _: (before > low) & (before < high)

    def _hook(
        self, layer: str, rule: str, active: Callable[[Tensor, Tensor], Tensor]
    ) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        parameters = self._rules[rule]

        def look(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            with torch.no_grad():
                share = _silent_share(active(inputs[0].detach(), output.detach()), parameters)
            if share is not None:
                self._seen.append(Silence(rule, layer, share))

        return look


def _silent_share(active: Tensor, parameters: Parameters) -> Tensor | None:
    """Return the share of units active less often than required; `None` with too few positions."""
    units = 1 if active.dim() == 4 else active.dim() - 1
    places = active.numel() // max(1, active.shape[units])
    if places < FEWEST_PLACES:
        return None
    others = [dim for dim in range(active.dim()) if dim != units]
    activity = active.float().mean(dim=others) * 100
    return (activity < parameters["threshold_inactivity"]).float().mean()


def _finding(rule: str, layer: str, share: float, step: int, setup: Setup) -> Finding:
    slower = setup.slower(3)
    if rule == "DeadRelu":
        seen = f"{share:.0f}% of the units are never above zero"
        return Finding(rule, step, layer, seen, f"{slower}: dead units do not come back.")
    seen = f"{share:.0f}% of the units are at an end of their range"
    clip = ", or set gradient_clip_norm=1" if setup.clip_norm is None or setup.clip_norm > 1 else ""
    return Finding(rule, step, layer, seen, sentence(slower + clip))
