"""Digests of weights: of a whole model, or of the layers that a job keeps frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from finetune.models.backbone import Backbone


def frozen_names(backbone: Backbone, learning: Iterable[str]) -> frozenset[str]:
    """Return the state dict keys that belong only to frozen groups, those not in `learning`."""
    learns = frozenset(learning)
    prefixes = {id(module): name for name, module in backbone.module.named_modules()}
    names: set[str] = set()
    for group in backbone.layer_groups():
        if group.name in learns:
            continue
        names.update(group.parameters)
        for root in group.modules:
            prefix = prefixes[id(root)]
            names.update(f"{prefix}.{name}" if prefix else name for name, _ in root.named_buffers())
    return frozenset(names)


def digest_frozen_weights(backbone: Backbone, learning: Iterable[str]) -> str:
    """Return the digest of all weights and statistics that belong only to groups not in `learning`."""
    return digest_weights(backbone, frozen_names(backbone, learning))


def digest_weights(backbone: Backbone, names: AbstractSet[str]) -> str:
    """Return the BLAKE2b digest of the named entries of the state dict."""
    tensors = backbone.module.state_dict()
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors.keys() & names):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().view(-1).numpy())
    return digest.hexdigest()
