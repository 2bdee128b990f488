"""The average follows its recurrence, is evaluated in place of the weights, and leaves them unchanged."""

from __future__ import annotations

import torch

from finetune.monitoring.score import BestMetric
from finetune.strategies.presets import ModelStructure, make_plan
from finetune.training.saved_state.averaged_weights import AveragedWeights
from finetune.training.saved_state.state import EpochMetrics
from finetune.training.saved_state.trainable_state import TrainableWeights
from finetune.training.trainer import restore_best
from tests.support.tiny import TinyBackbone
from tests.support.training_setup import TinyTraining, request


def averaged(strategy: str = "full", decay: float = 0.4) -> tuple[TinyBackbone, AveragedWeights]:
    backbone, spec = TinyBackbone(), request(strategy=strategy)
    names = tuple(group.name for group in backbone.layer_groups())
    plan = make_plan(spec.strategy, spec.optimization, ModelStructure(names, "image-classification", True))
    return backbone, AveragedWeights(TrainableWeights(backbone, plan), decay)


def test_average_follows_its_recurrence() -> None:
    backbone, average = averaged()
    state = backbone.module.state_dict()
    bias, count = state["head.bias"], state["middle.1.num_batches_tracked"]
    expected = bias.clone()
    for step in range(1, 30):
        bias.fill_(step)
        count.fill_(step)
        average.step_done(step)
        decay = min(0.4, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    averages = average.state_dict()
    torch.testing.assert_close(averages["head.bias"], expected)
    assert int(averages["middle.1.num_batches_tracked"]) == 29
    # Weights that did not change have an average of the same bits.
    assert torch.equal(averages["stem.0.weight"], state["stem.0.weight"])


def test_average_is_applied_for_a_while_or_for_good() -> None:
    backbone, average = averaged("feature_extraction")
    bias = backbone.module.head.bias
    original = bias.detach().clone()
    with torch.no_grad():
        bias.add_(1)
    with average.applied():
        assert torch.equal(bias, original)
    assert torch.equal(bias, original + 1)
    assert torch.equal(average.state_dict()["head.bias"], original)
    assert average.state_dict().keys() == {"head.weight", "head.bias"}
    average.apply()
    assert torch.equal(bias, original)


class Observed(TinyTraining):
    """Copies the weights that are evaluated."""

    def evaluate(self) -> EpochMetrics | None:
        self.evaluated = self.backbone.module.head.weight.detach().clone()
        return super().evaluate()


def test_average_is_evaluated_and_exported_and_training_is_unchanged() -> None:
    metric = BestMetric("accuracy", exports=False)
    plain = TinyTraining(request(), best_metric=metric)
    run = Observed(request(ema_decay="0.9"), best_metric=metric)
    assert plain.fit()
    assert run.fit()
    trained = plain.backbone.module.state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in run.backbone.module.state_dict().items())
    assert torch.equal(run.evaluated, run.state.average.state_dict()["head.weight"])
    assert not torch.equal(run.evaluated, trained["head.weight"])
    restore_best(run.state)
    assert torch.equal(run.backbone.module.head.weight, run.evaluated)
    assert "average" not in plain.saved()


def test_best_epoch_keeps_the_average() -> None:
    run = Observed(request(ema_decay="0.9", epochs="1"))
    assert run.fit()
    assert torch.equal(run.state.best.weights["head.weight"], run.evaluated)
