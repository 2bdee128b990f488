"""Stochastic depth: in training, residual branches of random records are skipped.

Huang et al. 2016, https://arxiv.org/abs/1603.09382. Layers of timm and transformers are replaced by those of
torchvision, which have no parameters; outside training they do nothing.
"""

from __future__ import annotations

from torch import nn
from torchvision.ops import StochasticDepth


def set_drop_path(module: nn.Module, rate: float) -> bool:
    """Set the probabilities of stochastic depth, which rise linearly from 0 in the first block to `rate` in the last.

    Args:
        module: the model; its layers are replaced in place.
        rate: probability of the last block.

    Returns:
        Whether the model has such layers.
    """
    blocks = [(block, names) for block in module.modules() if (names := _drop_paths(block))]
    for number, (block, names) in enumerate(blocks):
        probability = rate * number / max(1, len(blocks) - 1)
        for name in names:
            block.register_module(name, StochasticDepth(probability, "row").train(block.training))
    return bool(blocks)


def _drop_paths(block: nn.Module) -> list[str]:
    """Return the names of a block's stochastic depth layers, which are identities if their probability is 0."""
    return [
        name
        for name, child in block.named_children()
        if isinstance(child, StochasticDepth)
        or type(child).__name__.endswith("DropPath")
        or (isinstance(child, nn.Identity) and name.startswith("drop_path"))
    ]
