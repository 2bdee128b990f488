"""Which head a network gets: the source's own where the classes are the same, a new one otherwise."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.errors import UserError
from finetune.models.request import ModelRequest
from finetune.models.weights.loading_report import shortened as shortened_faults

logger = logging.getLogger(__name__)

_SHOWN_LABELS = 5
# Names in the data that say the number of an output; transformers makes up the second kind.
_NUMBERED = (re.compile(r"(0|[1-9]\d{0,8})"), re.compile(r"LABEL_(0|[1-9]\d{0,8})"))


class DropoutLinear(nn.Linear):
    """A linear layer that drops its input while it learns; its parameters have the names of a plain one."""

    def __init__(self, plain: nn.Linear, p: float) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=plain.bias is not None, device="meta")
        self.weight, self.bias, self.p = plain.weight, plain.bias, p

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear names its argument so
        """Give `[batch, out_features]` for `[batch, in_features]`."""
        return super().forward(functional.dropout(input, self.p, self.training))


@dataclass(frozen=True, slots=True)
class SourceHead:
    """The head that weights bring along.

    Attributes:
        classes: how many it distinguishes.
        labels: their names in its order, where the source says them.
        multi_label: whether it was trained for several classes per record, where the source says so.
        faults: tensors of it that are missing or cannot be loaded; it can only be kept where there are none.
        uncertain: why nobody can say what its outputs stand for, as a clause; such a head cannot be kept.
    """

    classes: int
    labels: tuple[str, ...] | None = None
    multi_label: bool | None = None
    faults: tuple[str, ...] = ()
    uncertain: str | None = None


@contextmanager
def seeded(seed: int, purpose: str) -> Iterator[None]:
    """Draw random numbers on the CPU as a function of seed and purpose; the global state is left as it was."""
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        yield


def refuse_other_count(labels: tuple[str, ...] | None, rows: int, place: str) -> None:
    """Refuse an artifact whose list of classes is not that of its head.

    Raises:
        UserError: with both numbers.
    """
    if labels is not None and len(labels) != rows:
        raise UserError(
            f"artifact.json in the {place} names {len(labels)} classes, but the classifier has {rows} rows: give the"
            " model.tar.gz of an earlier job as it is."
        )


def rows_to_keep(head: SourceHead | None, request: ModelRequest) -> tuple[int, ...] | None:
    """Say which rows of the source's head become ours, in our order of labels; None: the head is new.

    Raises:
        UserError: the source has no head for these classes, but `reinitialize_top_layer=false`, or nothing is trained.
    """
    wish = request.spec.reinitialize_top_layer
    if wish == "true":
        return None
    rows = None if head is None or head.uncertain else _matching_rows(head, request)
    if rows is None and (wish == "false" or not request.trained):
        raise UserError(_no_head_message(head, request))
    if head is not None and head.uncertain and head.classes == len(request.labels):
        logger.warning("A new head is trained, although that of the weights has as many classes: %s.", head.uncertain)
    return rows


def _matching_rows(head: SourceHead, request: ModelRequest) -> tuple[int, ...] | None:
    if head.faults or head.multi_label not in (None, request.multi_label) or head.classes != len(request.labels):
        return None
    if head.labels is None:
        return _rows_by_number(request.labels) or tuple(range(head.classes))
    if sorted(head.labels) != sorted(request.labels):
        return None
    return tuple(head.labels.index(label) for label in request.labels)


def _rows_by_number(labels: tuple[str, ...]) -> tuple[int, ...] | None:
    """The outputs that the names of the classes number, such as 0, 1 or LABEL_0, LABEL_1; `None` where they do not."""
    for pattern in _NUMBERED:
        numbers = [int(found.group(1)) for label in labels if (found := pattern.fullmatch(label))]
        if sorted(numbers) == list(range(len(labels))):
            return tuple(numbers)
    return None


def order_is_assumed(request: ModelRequest) -> bool:
    """Whether only the order of the data's classes says which of them an output without a name stands for."""
    return not request.ordered and _rows_by_number(request.labels) is None


def assumed_order(labels: tuple[str, ...]) -> str:
    """Say which output is taken for which class, as in `output 0 is taken for 'neg', 1 for 'pos'`."""
    shown = [f"{number} for {label[:40]!r}" for number, label in enumerate(labels[:_SHOWN_LABELS])]
    more = f" and so on up to {len(labels) - 1}" if len(labels) > _SHOWN_LABELS else ""
    return f"output {shown[0].replace(' for', ' is taken for', 1)}{''.join(f', {other}' for other in shown[1:])}{more}"


def _no_head_message(head: SourceHead | None, request: ModelRequest) -> str:
    needs = "strategy=evaluate needs the top layer of the weights"
    advice = "Choose another strategy, which trains a new top layer"
    if request.trained:
        needs, advice = "reinitialize_top_layer=false", "Choose reinitialize_top_layer=auto or true for a new top layer"
    if head is None:
        return f"{needs}, but the weights have no top layer to keep. {advice}."
    if head.faults:
        return (
            f"{needs}, but the weights have it only in part: {shortened_faults(head.faults)}. {advice}, or give weights"
            " with the whole top layer."
        )
    if head.uncertain:
        return f"{needs}, but {head.uncertain}. {advice}, or correct the file."
    labels = request.labels
    theirs = f"{head.classes} classes" if head.labels is None else shortened(head.labels)
    if head.multi_label not in (None, request.multi_label):
        kind = "several classes per record" if head.multi_label else "one class per record"
        setting = "true" if head.multi_label else "false"
        return f"{needs}, but that was trained for {kind}. {advice}, or set multi_label={setting}."
    return (
        f"{needs}, but the weights distinguish {theirs} and the data {shortened(labels)}."
        f" {advice}, or give data with the classes of the weights."
    )


def partial_head_warning(head: SourceHead | None, *, kept: bool) -> tuple[str, ...]:
    """What to log about a head of the source that is replaced because it is there only in part."""
    if head is None or kept or not head.faults:
        return ()
    return (
        f"The weights have their top layer only in part, so it is replaced by a new one:"
        f" {shortened_faults(head.faults)}.",
    )


def shortened(labels: tuple[str, ...]) -> str:
    """Name the first few classes and count the rest."""
    shown = ", ".join(repr(label[:40]) for label in labels[:_SHOWN_LABELS])
    rest = len(labels) - _SHOWN_LABELS
    return f"{len(labels)} classes ({shown}{f' and {rest} more' if rest > 0 else ''})"


def set_head_dropout(network: nn.Module, roots: list[str], classifier: str, p: float) -> None:
    """Make the head drop its input with probability `p`: in its own dropout where it has one, before it otherwise.

    Args:
        network: changed in place.
        roots: paths of the head's modules.
        classifier: path of its last linear layer.
        p: probability of dropping a value.
    """
    inside = [module for root in roots for module in network.get_submodule(root).modules()]
    dropouts = [module for module in inside if isinstance(module, nn.Dropout)]
    for dropout in dropouts:
        dropout.p = p
    if not dropouts:
        network.set_submodule(classifier, DropoutLinear(linear_at(network, classifier), p))


def linear_at(network: nn.Module, path: str) -> nn.Linear:
    """The linear layer at `path`."""
    module = network.get_submodule(path)
    if not isinstance(module, nn.Linear):
        raise TypeError(f"{path} is {type(module).__name__}, not a linear layer")
    return module
