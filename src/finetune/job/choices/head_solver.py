"""Chooses whether the head of a frozen model is solved or trained by gradient steps, with the reason."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.config.hyperparameters import JobSpec
from finetune.config.optimizers import join_names
from finetune.config.unused import GRADIENT_HYPERPARAMETERS
from finetune.errors import UserError
from finetune.features.phase_inputs import CachedInputProvider
from finetune.features.plan import CachePlan
from finetune.models.backbone import Backbone
from finetune.models.hidden_layer import find_pass_through
from finetune.runtime.optional import optional
from finetune.solver.folds import FOLDS, SINGLE_FOLD_ABOVE
from finetune.solver.head import STRENGTHS
from finetune.training.solve import HeadInputs

_BYTES_PER_SCALED, _BYTES_PER_TARGET = 8, 32
"""Bytes of a feature, standardized in float64, and of a target with the logits of its record."""
_EVALUATIONS = 40 * len(STRENGTHS)
"""Usual number of evaluations of the objective per fold."""
_MAX_MACS = {"cpu": 1e12, "cuda": 1e15}
"""Multiply-adds up to which `auto` solves the head: about two minutes on a core, or a GPU."""


@dataclass(frozen=True, slots=True)
class HeadSolver:
    """How the head is trained.

    Attributes:
        solves: whether it is solved.
        inputs: candidates for the inputs of the last layer.
        description: line of the plan; empty if other layers are trained too.
    """

    solves: bool
    description: str
    inputs: HeadInputs


TRAINED_WITH_OTHER_LAYERS = HeadSolver(False, "", HeadInputs())


def choose_head_solver(
    spec: JobSpec, backbone: Backbone, cache_plan: CachePlan, provider: CachedInputProvider, records: int | None
) -> HeadSolver:
    """Choose the solver of the head; all processes call this together, with the same result.

    Args:
        spec: hyperparameters.
        backbone: model.
        cache_plan: caching of the frozen layers.
        provider: inputs, with the memory for features.
        records: number of training records; `None` if unknown.

    Raises:
        UserError: `head_solver` is `lbfgs`, but the head cannot be solved.
    """
    if not spec.strategy.trains_head_only:
        return TRAINED_WITH_OTHER_LAYERS
    name = spec.strategy.head_solver
    if name == "sgd":
        return _trained("head_solver=sgd")
    if name == "auto" and (names := [name for name in GRADIENT_HYPERPARAMETERS if name in spec.set_by_user]):
        return _trained(f"{join_names(names)} {'is' if len(names) == 1 else 'are'} set")
    if name == "auto" and backbone.weights.kept_head:
        return _trained("the head of the weights is kept, and training continues from it")
    inputs = head_inputs(backbone)
    obstacle = find_obstacle(backbone, cache_plan, provider, inputs, records, may_take_long=name == "lbfgs")
    if obstacle is not None:
        if name == "lbfgs":
            raise UserError(f"head_solver='lbfgs', but the head cannot be solved: {obstacle}. Use head_solver=auto.")
        return _trained(obstacle)
    what = "solved" if inputs.pass_through is None else "last layer solved"
    validation = f"{FOLDS}-fold cross-validation" if (records or 0) <= SINGLE_FOLD_ABOVE else "a held-out fifth"
    strengths = f"the best of up to {len(STRENGTHS)} regularization strengths in {validation}"
    return HeadSolver(True, f"{what} by L-BFGS (head_solver), with {strengths}", inputs)


def head_inputs(backbone: Backbone) -> HeadInputs:
    """Return the candidates for the inputs of the last layer."""
    pass_through = None
    with optional("Examining the hidden layer of the head"):
        pass_through = find_pass_through(backbone)
    return HeadInputs(not new_hidden_layers(backbone), pass_through)


def find_obstacle(  # the last one by keyword
    backbone: Backbone,
    cache_plan: CachePlan,
    provider: CachedInputProvider,
    inputs: HeadInputs,
    records: int | None,
    *,
    may_take_long: bool = False,
) -> str | None:
    """Return the reason why the head cannot be solved, as a clause; all processes call this together.

    Args:
        backbone: model.
        cache_plan: caching of the frozen layers.
        provider: inputs, with the memory for features.
        inputs: candidates for the inputs of the last layer.
        records: number of training records; `None` if unknown.
        may_take_long: whether the solution may take longer than minutes.
    """
    obstacle = _obstacle(backbone, cache_plan, inputs, records)
    if obstacle is not None or records is None:
        return obstacle
    width, classes = backbone.classifier.in_features, backbone.classifier.out_features
    copies = len(inputs.candidates())
    size = records * (width * (4 * copies + _BYTES_PER_SCALED) + classes * _BYTES_PER_TARGET)
    folds = FOLDS if records <= SINGLE_FOLD_ABOVE else 1
    macs = 2 * copies * records * width * classes * folds * _EVALUATIONS
    if not provider.holds(size):
        return f"{size / 1e9:.2g} GB of features exceed the memory for them (cache_size_gb)"
    if not may_take_long and macs > _MAX_MACS[cache_plan.numerics.device.type]:
        return f"a solution would take long with {records:,} records, {width:,} features and {classes:,} classes"
    return None


def _trained(reason: str) -> HeadSolver:
    return HeadSolver(False, f"trained by gradient steps (head_solver): {reason}", HeadInputs())


def _obstacle(backbone: Backbone, cache_plan: CachePlan, inputs: HeadInputs, records: int | None) -> str | None:
    """Return the reason why the head cannot be solved, as a clause; `None` if it can, as far as memory suffices."""
    views, hidden = cache_plan.views, ", ".join(new_hidden_layers(backbone))
    conditions = {
        "sharding=full": cache_plan.spec.distributed.sharding == "full",
        "feature_cache=off": not cache_plan.is_cache_enabled,
        f"augmentation_views={views} augments the images": views > 1,
        f"the head has hidden layers without pretrained weights ({hidden})": not inputs.candidates(),
        "the last layer has no bias": "bias" not in dict(backbone.classifier.named_parameters()),
        "the number of records is unknown (num_training_samples)": records is None,
    }
    return next((obstacle for obstacle, applies in conditions.items() if applies), None)


def new_hidden_layers(backbone: Backbone) -> list[str]:
    """Return the newly initialized parameters of the head below its last layer, which has to be trained with it."""
    last = {id(parameter) for parameter in backbone.classifier.parameters()}
    parameters = dict(backbone.module.named_parameters())
    new = set(backbone.weights.newly_initialized)
    head = backbone.layer_groups()[-1]
    return [name for name in head.parameters if name in new and id(parameters[name]) not in last]
