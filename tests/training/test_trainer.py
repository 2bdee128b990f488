"""The trainer matches a plain training loop, and interruptions change nothing."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.data.loading.batches import Batches
from finetune.distributed.virtual_devices import shard_seed
from finetune.errors import UserError
from finetune.monitoring.score import BestMetric, best_epoch
from finetune.training.saved_state.state import BestEpoch
from finetune.training.trainer import NoCheckpoints, Training, fit, restore_best
from tests.support.tiny import TinyReader, tiny_batches
from tests.support.training_setup import TinyTraining, request

SENSITIVE_RULES = (
    "UnchangedTensor:num_steps=2:atol=1e9,VanishingGradient:threshold=1e9,LossNotDecreasing:diff_percent=99"
)


def weights_of(run: TinyTraining) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in run.backbone.module.state_dict().items()}


def assert_same_bits(weights: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert weights.keys() == expected.keys()
    assert [name for name in weights if not torch.equal(weights[name], expected[name])] == []


def reference_losses(run: TinyTraining, optimizer: torch.optim.Optimizer, accumulation: int) -> list[Tensor]:
    """The same training in plain PyTorch, over the same batches."""
    module, losses = run.backbone.module, []
    module.train()
    steps = itertools.count()
    for epoch in range(run.training.epochs):
        batches = run.batches.iterate(epoch)
        while group := list(itertools.islice(batches, accumulation)):
            step = next(steps)
            for settings in optimizer.param_groups:
                settings["lr"] = settings["peak_lr"] * run.training.schedule(step)
            torch.manual_seed(shard_seed(7, step))
            count = sum(len(batch.targets) for batch in group)
            mean = torch.zeros(())
            for batch in group:
                logits = module((batch.inputs["pixels"].float() / 255 - 0.5) / 0.25)
                loss = functional.cross_entropy(logits, batch.targets, reduction="sum") / count
                loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
                mean += loss.detach()
            nn.utils.clip_grad_norm_(list(module.parameters()), 0.5)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(mean)
    return losses


@pytest.mark.parametrize("accumulation", [1, 3])
def test_losses_match_a_plain_training_loop(accumulation: int) -> None:
    spec = request(gradient_clip_norm="0.5", gradient_accumulation_steps=str(accumulation), weight_decay="0.1")
    run, plain = TinyTraining(spec), TinyTraining(spec)
    assert run.fit()
    module = plain.backbone.module
    learning_rates = plain.training.plan.learning_rates
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [p],
                "lr": 0.0,
                "peak_lr": learning_rates[name.split(".")[0]],
                "weight_decay": 0.1 if p.dim() > 1 else 0.0,
            }
            for name, p in module.named_parameters()
        ],
        # Biases before a normalization have gradients of rounding errors only, which Adam scales up to normal size.
        fused=True,
    )
    expected = reference_losses(plain, optimizer, accumulation)
    assert len(expected) == run.state.progress.step > 0
    torch.testing.assert_close(torch.stack(run.recorder.losses), torch.stack(expected), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(dict(weights_of(run)), dict(weights_of(plain)), rtol=1e-5, atol=1e-6)


CACHES: tuple[dict[str, str], ...] = ({}, {"cache_size_gb": "0"}, {"cache_size_gb": "0.00001"})
"""Cache sizes for all features, for none, and for some."""


@pytest.mark.parametrize("strategy", ["feature_extraction", "partial", "full", "gradual", "from_scratch"])
@pytest.mark.parametrize("optimizer", ["adamw", "nag"])
def test_interruption_after_any_step_changes_no_bit_with_any_cache(strategy: str, optimizer: str) -> None:
    hyperparameters = {
        "strategy": strategy,
        "optimizer": optimizer,
        "augmentation_views": "2",
    }
    hyperparameters["rules"] = SENSITIVE_RULES
    spec = request(gradient_accumulation_steps="2", **hyperparameters)
    whole = TinyTraining(spec)
    assert whole.fit()
    total = whole.state.progress.step
    whole.rules.end(whole.state)
    findings = list(whole.findings.entries)
    assert findings
    for stop_after in range(1, total):
        first = TinyTraining(spec, stop_after=stop_after)
        assert not first.fit()
        assert first.state.progress.step == stop_after
        second = TinyTraining(
            request(gradient_accumulation_steps="2", **hyperparameters, **CACHES[stop_after % 3]), workers=2
        )
        second.load(first.saved())
        assert second.fit()
        assert_same_bits(weights_of(second), weights_of(whole))
        assert second.state.history.rows == whole.state.history.rows
        second.rules.end(second.state)
        assert second.findings.entries == findings
        restore_best(second.state)
        assert second.state.best.epoch == whole.state.best.epoch


RECIPES = {
    "mixup": "0.4",
    "ema_decay": "0.8",
    "sampler": "balanced",
    "loss": "focal",
    "gradient_accumulation_steps": "2",
    "class_weights": '{"up": 2}',
}


@pytest.mark.parametrize("settings", [{"cutmix": "1"}, {"strategy": "gradual", "cache_size_gb": "0.00001"}])
def test_interruption_with_several_recipes_changes_no_bit(settings: dict[str, str]) -> None:
    spec = request(**RECIPES, **settings)
    whole = TinyTraining(spec)
    assert whole.fit()
    for stop_after in (1, whole.state.progress.step // 2):
        first = TinyTraining(spec, stop_after=stop_after)
        assert not first.fit()
        second = TinyTraining(spec, workers=2)
        second.load(first.saved())
        assert second.fit()
        assert_same_bits(weights_of(second), weights_of(whole))
        assert_same_bits(second.state.average.state_dict(), whole.state.average.state_dict())
        assert_same_bits(second.state.best.weights, whole.state.best.weights)
        assert second.state.history.rows == whole.state.history.rows


@pytest.mark.parametrize("strategy", ["feature_extraction", "partial", "gradual"])
@pytest.mark.parametrize("augmentation", [{"augmentation": "none"}, {"augmentation_views": "3"}])
def test_cache_changes_no_bit(strategy: str, augmentation: dict[str, str]) -> None:
    runs = [TinyTraining(request(strategy=strategy, epochs="7", **augmentation, **cache)) for cache in CACHES]
    if "augmentation" in augmentation:
        runs.append(TinyTraining(request(strategy=strategy, epochs="7", feature_cache="off", **augmentation)))
    for run in runs:
        assert run.fit()
        assert_same_bits(weights_of(run), weights_of(runs[0]))
        assert run.state.history.rows == runs[0].state.history.rows


def test_frozen_layers_run_once_per_record_and_view() -> None:
    run = TinyTraining(request(strategy="feature_extraction", epochs="8", augmentation_views="2"))
    passes: list[int] = []
    run.backbone.module.stem.register_forward_hook(lambda _module, inputs, _output: passes.append(len(inputs[0])))
    run.fit()
    training, validation = 3, 2
    # Before that, two records are run to find the shapes at the split, and to check that folded layers give the same.
    assert passes == [2, 2] + [16] * (2 * training + validation)


def test_frozen_layers_do_not_change() -> None:
    run = TinyTraining(request(strategy="feature_extraction"))
    before = weights_of(run)
    run.fit()
    after = weights_of(run)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head.weight", "head.bias"}


def test_trainable_groups_change_with_the_phase() -> None:
    run = TinyTraining(request(strategy="gradual", epochs="4"))
    run.fit()
    assert [phase.trainable for phase in run.recorder.phases] == [
        ("head",), ("middle", "head"), ("stem", "middle", "head"), ("stem", "middle", "head"),
    ]  # fmt: skip


def test_early_stopping_ends_training_and_restores_the_best_epoch() -> None:
    run = TinyTraining(request(epochs="50", early_stopping_patience="2", learning_rate="0.05", strategy="from_scratch"))
    run.fit()
    progress, best = run.state.progress, run.state.best
    assert progress.stopped_early
    assert progress.epoch == best.improved + 3 < 50
    restore_best(run.state)
    metrics = run.evaluate()
    assert metrics is not None
    assert metrics["validation:accuracy"] == best.score == max(r["validation:accuracy"] for r in run.recorder.rows)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "loss", "auc"])
def test_kept_weights_are_those_of_the_best_epoch_and_survive_any_interruption(metric: str) -> None:
    hyperparameters = {"strategy": "from_scratch", "learning_rate": "0.3", "lr_schedule": "constant", "epochs": "5"}
    whole = TinyTraining(request(**hyperparameters), best_metric=BestMetric(metric))
    assert whole.fit()
    rows, best = whole.state.history.rows, whole.state.best
    assert best.epoch == best_epoch(rows, metric)
    last = weights_of(whole)
    restore_best(whole.state)
    assert whole.evaluate() == {name: value for name, value in rows[best.epoch].items() if "train" not in name}
    exported = weights_of(whole)
    # Steps of this size make some later epoch worse, so that the kept weights are not those of the last epoch.
    assert best.epoch < len(rows) - 1
    assert any(not torch.equal(last[name], exported[name]) for name in last)
    for stop_after in range(1, whole.state.progress.step, 2):
        first = TinyTraining(request(**hyperparameters), stop_after=stop_after, best_metric=BestMetric(metric))
        assert not first.fit()
        second = TinyTraining(request(**hyperparameters), best_metric=BestMetric(metric))
        second.load(first.saved())
        assert second.fit()
        restore_best(second.state)
        assert_same_bits(weights_of(second), exported)


def test_equal_epochs_are_ordered_by_loss_then_by_time() -> None:
    run, best = TinyTraining(request()), BestEpoch(keep=True)
    for epoch, (loss, expected) in enumerate([(0.9, 0), (0.5, 1), (0.5, 1), (0.6, 1), (math.nan, 1), (0.4, 5)]):
        best.update({"validation:accuracy": 0.5, "validation:loss": loss}, epoch, run.state.weights, min_delta=0.0)
        assert best.epoch == expected


def test_undefined_metric_leaves_the_choice_to_the_loss() -> None:
    run, best = TinyTraining(request()), BestEpoch(True, "auc")
    for epoch, loss in enumerate([0.9, 0.5, 0.7]):
        best.update({"validation:accuracy": epoch / 9, "validation:loss": loss}, epoch, run.state.weights, 0.0)
    assert best.epoch == 1


def test_patience_follows_the_loss_if_it_is_the_metric() -> None:
    run, best = TinyTraining(request()), BestEpoch(True, "loss")
    for epoch, (loss, improved) in enumerate([(0.9, 0), (0.85, 0), (0.7, 2), (0.65, 2), (0.75, 2)]):
        best.update({"validation:accuracy": epoch / 9, "validation:loss": loss}, epoch, run.state.weights, 0.1)
        assert best.improved == improved
    assert best.epoch == 3


def test_checkpoint_without_kept_weights_leaves_the_choice_to_later_epochs() -> None:
    first = TinyTraining(request(), stop_after=8, best_metric=BestMetric(exports=False))
    assert not first.fit()
    assert first.state.best.epoch == 0
    second = TinyTraining(request())
    second.load(first.saved())
    assert second.state.best.epoch == -1
    assert second.fit()
    assert second.state.best.epoch >= 1
    assert second.state.best.weights


def test_patience_follows_accuracy_and_best_epoch_follows_the_loss() -> None:
    run, best = TinyTraining(request()), BestEpoch(keep=True)
    for epoch, (accuracy, loss) in enumerate([(0.5, 1.0), (0.5, 0.8), (0.505, 0.9), (0.5, 0.1), (0.6, 2.0)]):
        row = {"validation:accuracy": accuracy, "validation:loss": loss}
        best.update(row, epoch, run.state.weights, min_delta=0.01)
        assert (best.epoch, best.improved) == [(0, 0), (1, 0), (2, 0), (2, 0), (4, 4)][epoch]


def test_non_finite_loss_raises_with_advice() -> None:
    run = TinyTraining(request(strategy="from_scratch", optimizer="sgd"))
    bad: Training = replace(run.training, schedule=replace(run.training.schedule, warmup_steps=0))
    with torch.no_grad():
        run.backbone.module.head.bias.fill_(float("nan"))
    with pytest.raises(UserError, match=r"nan in epoch 1.*learning_rate"):
        fit(bad, run.state, run.recorder, NoCheckpoints())


def test_gradient_accumulation_matches_one_large_batch() -> None:
    hyperparameters = {"strategy": "feature_extraction"}
    small = TinyTraining(
        request(batch_size="4", gradient_accumulation_steps="4", **hyperparameters), records=48, dropout=0.0
    )
    large = TinyTraining(request(batch_size="16", **hyperparameters), records=48, dropout=0.0)
    small.fit()
    large.fit()
    torch.testing.assert_close(torch.stack(small.recorder.losses), torch.stack(large.recorder.losses))


def test_batch_size_one_is_refused_with_batch_normalization() -> None:
    with pytest.raises(UserError, match="batch_size is 1"):
        TinyTraining(request(batch_size="1", strategy="full"))
    assert TinyTraining(request(batch_size="1", strategy="feature_extraction")).fit()


def test_number_of_batches() -> None:
    batches: Batches = tiny_batches(TinyReader(45), training=True, batch_size=8)
    assert len(batches) == 6
