"""Rules on gradients, weights and updates, from a few statistics per tensor kept on the device."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from finetune.monitoring.rules.activations import ActivationWatch, Silence
from finetune.monitoring.rules.finding import Finding, Rules
from finetune.monitoring.rules.measures import IsBad, alike, not_finite, of_gradient, of_weight
from finetune.monitoring.rules.setup import Setup, sentence

CHECK_INTERVAL_STEPS = 50
_FIRST_STEPS = (0, 10)
_LEAST_RATE = 0.1
"""Below this share of the peak learning rate, small updates are expected from the schedule."""
_STILL_HIGH = 0.5
"""Small gradients are only reported while the loss is above this share of the first: converged models have them too."""

JUDGED_AGAIN = ("VanishingGradient", "AllZero", "DeadRelu", "SaturatedActivation", "UnchangedTensor")
"""Rules on the state of tensors, whose findings a later sample may refute."""

_GRADIENT, _GRADIENT_BAD, _GRADIENT_ZERO, _WEIGHT, _WEIGHT_BAD, _WEIGHT_ZERO, _UPDATE, _EXCESS, _ALIKE = range(9)


class _Fire(Protocol):
    """Callback to report a finding."""

    def __call__(self, rule: str, seen: str, advice: str, *, grave: bool = False) -> None: ...


@dataclass(frozen=True, slots=True)
class _Look:
    """Statistics of one sampled step: a row per tensor, on the device."""

    step: int
    names: tuple[str, ...]
    numbers: Tensor
    loss: Tensor
    rate: float
    silences: tuple[Silence, ...]

    def state_dict(self) -> dict[str, Any]:
        """Return tensors and plain values."""
        return {
            "step": self.step,
            "names": list(self.names),
            "numbers": self.numbers,
            "loss": self.loss,
            "rate": self.rate,
            "silences": [{"rule": one.rule, "layer": one.layer, "share": one.share} for one in self.silences],
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
        self._guess = math.log(max(2, classes))
        self._activations = ActivationWatch(module, rules, self._setup)
        self._watched = frozenset(rules) & {
            "VanishingGradient", "ExplodingTensor", "PoorWeightInitialization", "WeightUpdateRatio", "AllZero",
            "UnchangedTensor", "DeadRelu", "SaturatedActivation",
        }  # fmt: skip
        only_nan = rules.get("ExplodingTensor", {}).get("only_nan")
        self._is_bad: IsBad = torch.isnan if only_nan else not_finite
        self._step: int | None = None
        self._tensors: dict[str, nn.Parameter] = {}
        self._before: list[Tensor] = []
        self._gradients: list[list[Tensor]] = []
        self._waiting: _Look | None = None
        self._unchanged: Counter[str] = Counter()
        self._first_loss: float | None = None
        self._told: set[str] = set()
        self._holding: set[str] = set()

    def begin(self, step: int) -> None:
        """Start a step."""
        looks = bool(self._watched) and (step in _FIRST_STEPS or step % CHECK_INTERVAL_STEPS == 0)
        self._step = step if looks else None
        if looks:
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
        self._gradients = [of_gradient(p.grad, self._is_bad) for p in self._tensors.values() if p.grad is not None]

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
                    *of_weight(before, after.detach(), parameters["rtol"], self._is_bad),
                    alike(before, step),
                ]
            )
            for gradient, before, after in zip(self._gradients, self._before, self._tensors.values(), strict=True)
        ]
        self._before, self._gradients = [], []
        found = self.read()
        silences = tuple(self._activations.close())
        if rows:
            names, numbers = tuple(self._tensors), torch.stack(rows)
            self._waiting = _Look(step, names, numbers, loss.detach().clone(), self._rate(), silences)
        self._step = None
        return found

    def read(self) -> list[Finding]:
        """Return the findings of the pending sample; synchronizes with the device."""
        look, self._waiting = self._waiting, None
        if look is None:
            return []
        loss = float(look.loss)
        if self._first_loss is None:
            self._first_loss = loss
        rows: Sequence[Sequence[float]] = look.numbers.tolist()
        found = self._activations.judge(look.silences, look.step)
        for name, row in zip(look.names, rows, strict=True):
            found += self._judge(name, row, look.step, loss, look.rate)
        judged = set(JUDGED_AGAIN) - ({"UnchangedTensor"} if look.rate < _LEAST_RATE else set())
        self._holding = (self._holding - judged) | ({one.rule for one in found} & set(JUDGED_AGAIN))
        return self._fresh(found)

    @property
    def refuted(self) -> frozenset[str]:
        """Rules in `JUDGED_AGAIN` with earlier findings that the most recent sample no longer confirms."""
        return frozenset(self._told & set(JUDGED_AGAIN) - self._holding)

    def abandon(self) -> None:
        """Discard the sample of the current step."""
        self._step = None
        self._before, self._gradients = [], []
        self._activations.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the pending sample and the state that later samples depend on."""
        return {
            "first_loss": self._first_loss,
            "unchanged": dict(self._unchanged),
            "suspects": sorted(list(one) for one in self._activations.suspects),
            "told": sorted(self._told),
            "holding": sorted(self._holding),
            "waiting": None if self._waiting is None else self._waiting.state_dict(),
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
        self._unchanged = Counter({str(name): int(count) for name, count in state["unchanged"].items()})
        self._activations.suspects = frozenset((str(rule), str(layer)) for rule, layer in state["suspects"])
        self._told = {str(rule) for rule in state["told"]}
        self._holding = {str(rule) for rule in state.get("holding", state["told"])}
        self._waiting = None if state["waiting"] is None else _look_of(state["waiting"], self._rules)

    def _fresh(self, found: list[Finding]) -> list[Finding]:
        """Keep each rule's first finding, with the number of other affected places."""
        fresh = []
        for rule in dict.fromkeys(one.rule for one in found):
            places = [one for one in found if one.rule == rule]
            if rule not in self._told:
                self._told.add(rule)
                first, others = places[0], len(places) - 1
                more = f", and {others} more" if others else ""
                fresh.append(Finding(rule, first.step, first.where + more, first.seen, first.advice, grave=first.grave))
        return fresh

    def _rate(self) -> float:
        shares = [group["lr"] / group["peak_lr"] for group in self._optimizer.param_groups if group.get("peak_lr")]
        return max(shares, default=1.0)

    def _judge(self, name: str, row: Sequence[float], step: int, loss: float, rate: float) -> list[Finding]:
        rules, found = self._rules, []

        def fire(rule: str, seen: str, advice: str, *, grave: bool = False) -> None:
            found.append(Finding(rule, step, name, seen, advice, grave=grave))

        overflow = self._scaled and row[_GRADIENT_BAD] > 0
        if "ExplodingTensor" in rules:
            bad = row[_WEIGHT_BAD] + (0.0 if self._scaled else row[_GRADIENT_BAD])
            if bad:
                fire(
                    "ExplodingTensor",
                    f"{bad:,.0f} values are not {'numbers' if rules['ExplodingTensor']['only_nan'] else 'finite'}",
                    self._against_explosion(),
                    grave=True,
                )
                return found
        high = self._first_loss is not None and loss > _STILL_HIGH * self._first_loss
        if "VanishingGradient" in rules and high and row[_GRADIENT] < rules["VanishingGradient"]["threshold"]:
            seen = f"the gradients' mean size is {row[_GRADIENT]:.1e} while the loss is still {loss:.3f}"
            fire("VanishingGradient", seen, self._against_vanishing())
        if "AllZero" in rules:
            for what, share in (("gradients", row[_GRADIENT_ZERO]), ("weights", row[_WEIGHT_ZERO])):
                if high and 100 * share >= rules["AllZero"]["threshold"]:
                    fire(
                        "AllZero",
                        f"all {what} are zero",
                        f"check that the layer is used, and {self._setup.slower(10)}.",
                    )
        if "PoorWeightInitialization" in rules and step == 0:
            self._judge_start(row, loss, fire)
        if not overflow and rate >= _LEAST_RATE:
            self._judge_update(name, row, fire)
        return found

    def _judge_start(self, row: Sequence[float], loss: float, fire: _Fire) -> None:
        parameters = self._rules["PoorWeightInitialization"]
        advice = "check that the weights of the model channel belong to this network, or choose another model_name."
        if self._setup.strategy == "from_scratch":
            advice = f"{self._setup.train_fewer_layers()}, or choose another model_name."
        if row[_ALIKE]:
            fire("PoorWeightInitialization", "all units of the layer begin alike, so they learn alike", advice)
        elif loss > parameters["threshold"] * self._guess:
            seen = f"the first loss is {loss:.1f}, a guess has {self._guess:.1f}: weights begin too large"
            fire("PoorWeightInitialization", seen, advice)

    def _judge_update(self, name: str, row: Sequence[float], fire: _Fire) -> None:
        rules = self._rules
        if "WeightUpdateRatio" in rules and row[_WEIGHT] > 0:
            parameters = rules["WeightUpdateRatio"]
            ratio = row[_UPDATE] / (row[_WEIGHT] + parameters["epsilon"])
            if ratio > parameters["large_threshold"]:
                times = f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"
                seen = f"one step changed the weights by {times} times their size"
                fire("WeightUpdateRatio", seen, sentence(self._setup.slower(100)), grave=True)
            elif ratio < parameters["small_threshold"]:
                seen = f"one step changed the weights by {ratio:.1e} of their size"
                fire("WeightUpdateRatio", seen, sentence(self._setup.faster(100) or "check that the layer is used"))
        if "UnchangedTensor" in rules:
            parameters = rules["UnchangedTensor"]
            self._unchanged[name] = self._unchanged[name] + 1 if row[_EXCESS] <= parameters["atol"] else 0
            if self._unchanged[name] >= parameters["num_steps"]:
                seen = f"the weights did not change in {self._unchanged[name]} looks"
                fire("UnchangedTensor", seen, self._against_vanishing())

    def _against_explosion(self) -> str:
        precision = ", or set precision=fp32" if self._setup.precision == "fp16" else ""
        return f"{self._setup.slower(10)}{precision}."

    def _against_vanishing(self) -> str:
        fewer = self._setup.train_fewer_layers()
        ways = [way for way in (self._setup.faster(10), fewer) if way]
        return sentence(", or ".join(ways) or "check that the layer is used")


def _look_of(state: Mapping[str, Any], rules: Rules) -> _Look:
    names = tuple(str(name) for name in state["names"])
    silences = tuple(Silence(str(one["rule"]), str(one["layer"]), one["share"]) for one in state["silences"])
    numbers, loss = state["numbers"], state["loss"]
    tensors = [(numbers, (len(names), _ALIKE + 1)), (loss, ()), *((one.share, ()) for one in silences)]
    for tensor, shape in tensors:
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            raise ValueError(f"a look at {len(names)} tensors has numbers of another form")
    known = tuple(one for one in silences if one.rule in rules)
    return _Look(int(state["step"]), names, numbers, loss, float(state["rate"]), known)
