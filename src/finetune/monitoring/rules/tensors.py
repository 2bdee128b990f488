"""Rules on gradients, weights and updates, from a few statistics per tensor kept on the device."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from finetune.monitoring.rules.activations import ActivationWatch, InactiveUnits
from finetune.monitoring.rules.finding import Finding, Rules
from finetune.monitoring.rules.measures import (
    IsBad,
    gradient_statistics,
    identical_units,
    not_finite,
    weight_statistics,
)
from finetune.monitoring.rules.setup import Setup, sentence

CHECK_INTERVAL_STEPS = 50
_FIRST_SAMPLED_STEPS = (0, 10)
_MIN_LR_SHARE = 0.1
"""Below this share of the peak learning rate, small updates are expected from the schedule."""
_HIGH_LOSS_SHARE = 0.5
"""Small gradients are only reported while the loss is above this share of the first: converged models have them too."""

RECHECKED_RULES = ("VanishingGradient", "AllZero", "DeadRelu", "SaturatedActivation", "UnchangedTensor")
"""Rules on the state of tensors, whose findings a later sample may refute."""

_GRADIENT, _GRADIENT_BAD, _GRADIENT_ZERO, _WEIGHT, _WEIGHT_BAD, _WEIGHT_ZERO, _UPDATE, _EXCESS, _IDENTICAL = range(9)


class _Report(Protocol):
    """Callback to report a finding."""

    def __call__(self, rule: str, observation: str, advice: str, *, severe: bool = False) -> None: ...


@dataclass(frozen=True, slots=True)
class _Sample:
    """Statistics of one sampled step: a row per tensor, on the device."""

    step: int
    names: tuple[str, ...]
    statistics: Tensor
    loss: Tensor
    lr_share: float
    inactive_units: tuple[InactiveUnits, ...]

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values."""
        return {
            "step": self.step,
            "names": list(self.names),
            "numbers": self.statistics,
            "loss": self.loss,
            "rate": self.lr_share,
            "silences": [
                {"rule": units.rule, "layer": units.layer, "share": units.share} for units in self.inactive_units
            ],
        }


class TensorWatch:
    """Samples trainable tensors at steps 0 and 10, then every 50; each sample is read at the next one.

    Tensors are only read, and the copy of the weights exists only during an update. Only tensors with two or more
    dimensions are judged: biases and normalization parameters may legitimately be zero or barely change.

    Args:
        module: The model.
        optimizer: Optimizer, for the current share of the peak learning rate.
        rules: Rules by name.
        scaled: Whether gradients are scaled, so that infinite ones are part of the search for the scale.
        classes: Number of classes, for the loss of a guess.
        setup: Setup of the job, to tailor the advice.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        rules: Rules,
        *,
        scaled: bool,
        classes: int,
        setup: Setup | None = None,
    ) -> None:
        self._module, self._optimizer, self._rules, self._scaled = module, optimizer, rules, scaled
        self._setup = setup or Setup()
        self._guess_loss = math.log(max(2, classes))
        self._activations = ActivationWatch(module, rules, self._setup)
        self._tensor_rules = frozenset(rules) & {
            "VanishingGradient", "ExplodingTensor", "PoorWeightInitialization", "WeightUpdateRatio", "AllZero",
            "UnchangedTensor", "DeadRelu", "SaturatedActivation",
        }  # fmt: skip
        only_nan = rules.get("ExplodingTensor", {}).get("only_nan")
        self._is_bad: IsBad = torch.isnan if only_nan else not_finite
        self._step: int | None = None
        self._tensors: dict[str, nn.Parameter] = {}
        self._before: list[Tensor] = []
        self._gradients: list[list[Tensor]] = []
        self._pending: _Sample | None = None
        self._unchanged_samples: Counter[str] = Counter()
        self._first_loss: float | None = None
        self._reported: set[str] = set()
        self._active_rules: set[str] = set()

    def begin(self, step: int) -> None:
        """Start a step."""
        is_sampled = bool(self._tensor_rules) and (step in _FIRST_SAMPLED_STEPS or step % CHECK_INTERVAL_STEPS == 0)
        self._step = step if is_sampled else None
        if is_sampled:
            self._activations.open()

    @property
    def is_sampling(self) -> bool:
        """Whether this step is sampled."""
        return self._step is not None

    @torch.no_grad()
    def after_backward(self) -> None:
        """Inspect the gradients before the optimizer step."""
        self._tensors = {
            name: parameter
            for name, parameter in self._module.named_parameters()
            if parameter.grad is not None and parameter.dim() >= 2
        }
        self._before = [parameter.detach().clone() for parameter in self._tensors.values()]
        self._gradients = [
            gradient_statistics(p.grad, self._is_bad) for p in self._tensors.values() if p.grad is not None
        ]

    @torch.no_grad()
    def after_step(self, loss: Tensor) -> list[Finding]:
        """Inspect the weights after the optimizer step.

        Returns:
            Findings of the previous sample.
        """
        if self._step is None:
            return []
        parameters = self._rules.get("UnchangedTensor", {"rtol": 0.0})
        step = self._step
        rows = [
            torch.stack(
                [
                    *gradient,
                    *weight_statistics(before, after.detach(), parameters["rtol"], self._is_bad),
                    identical_units(before, step),
                ]
            )
            for gradient, before, after in zip(self._gradients, self._before, self._tensors.values(), strict=True)
        ]
        self._before, self._gradients = [], []
        findings = self.read()
        inactive_units = tuple(self._activations.close())
        if rows:
            names, statistics = tuple(self._tensors), torch.stack(rows)
            self._pending = _Sample(step, names, statistics, loss.detach().clone(), self._lr_share(), inactive_units)
        self._step = None
        return findings

    def read(self) -> list[Finding]:
        """Return the findings of the pending sample; synchronizes with the device."""
        sample, self._pending = self._pending, None
        if sample is None:
            return []
        loss = float(sample.loss)
        if self._first_loss is None:
            self._first_loss = loss
        rows: Sequence[Sequence[float]] = sample.statistics.tolist()
        findings = self._activations.check(sample.inactive_units, sample.step)
        for name, row in zip(sample.names, rows, strict=True):
            findings += self._check_tensor(name, row, sample.step, loss, sample.lr_share)
        rechecked = set(RECHECKED_RULES) - ({"UnchangedTensor"} if sample.lr_share < _MIN_LR_SHARE else set())
        self._active_rules = (self._active_rules - rechecked) | (
            {finding.rule for finding in findings} & set(RECHECKED_RULES)
        )
        return self._new_findings(findings)

    @property
    def refuted(self) -> frozenset[str]:
        """Rules in `RECHECKED_RULES` with earlier findings that the most recent sample no longer confirms."""
        return frozenset(self._reported & set(RECHECKED_RULES) - self._active_rules)

    def abandon(self) -> None:
        """Discard the sample of the current step."""
        self._step = None
        self._before, self._gradients = [], []
        self._activations.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the pending sample and the state that later samples depend on."""
        return {
            "first_loss": self._first_loss,
            "unchanged": dict(self._unchanged_samples),
            "suspects": sorted(list(suspect) for suspect in self._activations.suspects),
            "told": sorted(self._reported),
            "holding": sorted(self._active_rules),
            "waiting": None if self._pending is None else self._pending.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore the state under the current rules; empty if tensors were not watched before.

        Raises:
            ValueError: The state does not have the expected form.
        """
        if not state:
            return
        first = state["first_loss"]
        self._first_loss = None if first is None else float(first)
        self._unchanged_samples = Counter({str(name): int(count) for name, count in state["unchanged"].items()})
        self._activations.suspects = frozenset((str(rule), str(layer)) for rule, layer in state["suspects"])
        self._reported = {str(rule) for rule in state["told"]}
        self._active_rules = {str(rule) for rule in state.get("holding", state["told"])}
        self._pending = None if state["waiting"] is None else _parse_sample(state["waiting"], self._rules)

    def _new_findings(self, findings: list[Finding]) -> list[Finding]:
        """Keep each rule's first finding, with the number of other affected places."""
        new_findings = []
        for rule in dict.fromkeys(finding.rule for finding in findings):
            occurrences = [finding for finding in findings if finding.rule == rule]
            if rule not in self._reported:
                self._reported.add(rule)
                first, others = occurrences[0], len(occurrences) - 1
                location = first.location + (f", and {others} more" if others else "")
                new_findings.append(replace(first, location=location))
        return new_findings

    def _lr_share(self) -> float:
        shares = [group["lr"] / group["peak_lr"] for group in self._optimizer.param_groups if group.get("peak_lr")]
        return max(shares, default=1.0)

    def _check_tensor(self, name: str, row: Sequence[float], step: int, loss: float, lr_share: float) -> list[Finding]:
        rules, findings = self._rules, []

        def report(rule: str, observation: str, advice: str, *, severe: bool = False) -> None:
            findings.append(Finding(rule, step, name, observation, advice, severe=severe))

        overflowed = self._scaled and row[_GRADIENT_BAD] > 0
        if "ExplodingTensor" in rules:
            bad = row[_WEIGHT_BAD] + (0.0 if self._scaled else row[_GRADIENT_BAD])
            if bad:
                report(
                    "ExplodingTensor",
                    f"{bad:,.0f} values are not {'numbers' if rules['ExplodingTensor']['only_nan'] else 'finite'}",
                    self._explosion_advice(),
                    severe=True,
                )
                return findings
        high = self._first_loss is not None and loss > _HIGH_LOSS_SHARE * self._first_loss
        if "VanishingGradient" in rules and high and row[_GRADIENT] < rules["VanishingGradient"]["threshold"]:
            observation = f"the mean gradient magnitude is {row[_GRADIENT]:.1e} while the loss is still {loss:.3f}"
            report("VanishingGradient", observation, self._vanishing_advice())
        if "AllZero" in rules:
            for kind, share in (("gradients", row[_GRADIENT_ZERO]), ("weights", row[_WEIGHT_ZERO])):
                if high and 100 * share >= rules["AllZero"]["threshold"]:
                    report(
                        "AllZero",
                        f"all {kind} are zero",
                        f"check that the layer is used, and {self._setup.lower_learning_rate(10)}.",
                    )
        if "PoorWeightInitialization" in rules and step == 0:
            self._check_initialization(row, loss, report)
        if not overflowed and lr_share >= _MIN_LR_SHARE:
            self._check_update(name, row, report)
        return findings

    def _check_initialization(self, row: Sequence[float], loss: float, report: _Report) -> None:
        parameters = self._rules["PoorWeightInitialization"]
        advice = "check that the weights of the model channel belong to this model, or choose another model_name."
        if self._setup.strategy == "from_scratch":
            advice = f"{self._setup.train_fewer_layers()}, or choose another model_name."
        if row[_IDENTICAL]:
            report(
                "PoorWeightInitialization",
                "all units of the layer have identical initial weights and would learn the same",
                advice,
            )
        elif loss > parameters["threshold"] * self._guess_loss:
            guess = self._guess_loss
            observation = f"the first loss is {loss:.1f}, that of a guess {guess:.1f}: initial weights are too large"
            report("PoorWeightInitialization", observation, advice)

    def _check_update(self, name: str, row: Sequence[float], report: _Report) -> None:
        rules = self._rules
        if "WeightUpdateRatio" in rules and row[_WEIGHT] > 0:
            parameters = rules["WeightUpdateRatio"]
            ratio = row[_UPDATE] / (row[_WEIGHT] + parameters["epsilon"])
            if ratio > parameters["large_threshold"]:
                times = f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"
                observation = f"one step changed the weights by {times} times their norm"
                report("WeightUpdateRatio", observation, sentence(self._setup.lower_learning_rate(100)), severe=True)
            elif ratio < parameters["small_threshold"]:
                observation = f"one step changed the weights by {ratio:.1e} of their norm"
                report(
                    "WeightUpdateRatio",
                    observation,
                    sentence(self._setup.raise_learning_rate(100) or "check that the layer is used"),
                )
        if "UnchangedTensor" in rules:
            parameters = rules["UnchangedTensor"]
            samples = self._unchanged_samples[name] + 1 if row[_EXCESS] <= parameters["atol"] else 0
            self._unchanged_samples[name] = samples
            if samples >= parameters["num_steps"]:
                observation = f"the weights did not change in {samples} samples"
                report("UnchangedTensor", observation, self._vanishing_advice())

    def _explosion_advice(self) -> str:
        precision = ", or set precision=fp32" if self._setup.precision == "fp16" else ""
        return f"{self._setup.lower_learning_rate(10)}{precision}."

    def _vanishing_advice(self) -> str:
        fewer_layers = self._setup.train_fewer_layers()
        options = [option for option in (self._setup.raise_learning_rate(10), fewer_layers) if option]
        return sentence(", or ".join(options) or "check that the layer is used")


def _parse_sample(state: Mapping[str, Any], rules: Rules) -> _Sample:
    names = tuple(str(name) for name in state["names"])
    inactive_units = tuple(
        InactiveUnits(str(entry["rule"]), str(entry["layer"]), entry["share"]) for entry in state["silences"]
    )
    statistics, loss = state["numbers"], state["loss"]
    tensors = [(statistics, (len(names), _IDENTICAL + 1)), (loss, ()), *((units.share, ()) for units in inactive_units)]
    for tensor, shape in tensors:
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            raise ValueError(f"expected statistics of {len(names)} tensors, got tensors of other shapes")
    enabled = tuple(units for units in inactive_units if units.rule in rules)
    return _Sample(int(state["step"]), names, statistics, loss, float(state["rate"]), enabled)
