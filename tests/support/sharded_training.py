"""Training of small models with plain or sharded parameters, for comparisons of their bits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.distributed.data_parallel import DataParallel, Forward, PassContext
from finetune.distributed.gradient_norm import clip_grad_norm
from finetune.distributed.sharding.full_state import full_tensor
from finetune.distributed.sharding.fully_sharded import FullySharded
from finetune.distributed.sharding.sharded_model import ShardedModel
from finetune.distributed.virtual_devices import rows_of_shard, shard_seed
from finetune.distributed.world import World

CLASSES = 5
WORDS = 19


@dataclass(frozen=True)
class Network:
    """A model under test.

    Attributes:
        module: The model.
        roots: The modules of its layer groups.
        forward: Computes the logits of a batch.
        batch: Returns the inputs and targets of records with the given numbers.
    """

    module: nn.Module
    roots: Sequence[nn.Module]
    forward: Callable[[Mapping[str, Tensor]], Tensor]
    batch: Callable[[Sequence[int]], tuple[dict[str, Tensor], Tensor]]


@dataclass(frozen=True)
class Settings:
    """Settings of a training.

    Attributes:
        build: Builds the model.
        accumulation: Passes per shard.
        records: Records per step.
    """

    build: Callable[[], Network]
    bf16: bool = False
    accumulation: int = 1
    optimizer: str = "adamw"
    records: Sequence[int] = (16, 13, 16, 15)


def convolutions(*, channels_last: bool = False) -> Network:
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Sequential(nn.Conv2d(6, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6)),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(24, CLASSES),
    )  # fmt: skip
    if channels_last:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's stub

    def batch(numbers: Sequence[int]) -> tuple[dict[str, Tensor], Tensor]:
        images = [torch.randn(3, 10, 10, generator=torch.Generator().manual_seed(number)) for number in numbers]
        return {"pixels": torch.stack(images)}, torch.tensor([number % CLASSES for number in numbers])

    return Network(module, list(module), lambda inputs: module(inputs["pixels"]), batch)


def texts(numbers: Sequence[int]) -> tuple[dict[str, Tensor], Tensor]:
    """Texts of different lengths, padded to the longest of the batch."""
    lengths = [3 + number % 4 for number in numbers]
    tokens = torch.zeros(len(numbers), max(lengths), dtype=torch.int64)
    for row, (number, length) in enumerate(zip(numbers, lengths, strict=True)):
        generator = torch.Generator().manual_seed(number)
        tokens[row, :length] = torch.randint(1, WORDS, (length,), generator=generator)
    inputs = {"input_ids": tokens, "attention_mask": (tokens > 0).long()}
    return inputs, torch.tensor([number % CLASSES for number in numbers])


def bert() -> Network:
    """BERT with dropout and frozen embeddings."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16, id2label={number: str(number) for number in range(CLASSES)},
    )  # fmt: skip
    model: Any = BertForSequenceClassification(config)  # type: ignore[no-untyped-call]  # untyped in transformers
    model.bert.embeddings.requires_grad_(False).eval()
    roots = [model.bert.embeddings, *model.bert.encoder.layer, model.bert.pooler, model.dropout, model.classifier]
    return Network(model, roots, lambda inputs: model(**inputs).logits, texts)


def tied_gpt2() -> Network:
    """GPT-2 whose word embeddings are also its last layer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=WORDS, n_embd=16, n_layer=2, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=1
    )
    model: Any = GPT2LMHeadModel(config)  # type: ignore[no-untyped-call]  # untyped in transformers
    body = model.transformer
    roots = [body.wte, body.wpe, body.drop, *body.h, body.ln_f, model.lm_head]
    return Network(model, roots, lambda inputs: model(**inputs, use_cache=False).logits[:, 0, :CLASSES], texts)


class Training:
    """Trains a model, sharded if there is more than one process."""

    def __init__(self, settings: Settings, world: World, virtual_devices: int) -> None:
        self.settings, self.world, self.virtual_devices = settings, world, virtual_devices
        torch.manual_seed(0)
        self.network = settings.build()
        train_mode(self.network.module)
        self.parallel: DataParallel[Tensor] | FullySharded[Tensor]
        self.sharded: ShardedModel | None = None
        if world.size == 1:
            self.parallel = DataParallel(self.network.module, self.forward_model, virtual_devices, world)
        else:
            example, _ = self.network.batch([0, 1])
            run_examples = [lambda: self.network.forward(example)]
            self.sharded = ShardedModel(self.network.module, self.network.roots, run_examples, world)
            self.parallel = FullySharded(
                self.sharded, self.forward_model, virtual_devices, world, lambda forward: self.loss(forward, [0, 1], 1)
            )
        trainable = [parameter for parameter in self.network.module.parameters() if parameter.requires_grad]
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(trainable, lr=1e-2)
            if settings.optimizer == "adamw"
            else torch.optim.SGD(trainable, lr=1e-2, momentum=0.9)
        )
        self.results: list[float] = []

    def forward_model(self, inputs: Mapping[str, Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.bf16):
            return self.network.forward(inputs).float()

    def loss(self, forward: Forward[Tensor], numbers: Sequence[int], divisor: int) -> Tensor:
        inputs, targets = self.network.batch(numbers)
        return functional.cross_entropy(forward(inputs), targets, reduction="sum") / divisor

    def step(self, step: int) -> None:
        count = self.settings.records[step]
        numbers = range(100 * step, 100 * step + count)
        rows = [rows_of_shard(count, self.virtual_devices, shard) for shard in range(self.virtual_devices)]
        passes = [self.settings.accumulation if row.stop - row.start > 1 else 0 for row in rows]

        def run_shard(shard: int, context: PassContext) -> Tensor:
            torch.manual_seed(shard_seed(0, step, shard))
            total = torch.zeros(1, dtype=torch.float64)
            for number in range(1, passes[shard] + 1):
                with context(number == passes[shard]):
                    loss = self.loss(self.parallel.forward, numbers[rows[shard]], count)
                    loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
                total += loss.detach()
            return total

        loss = self.parallel.step(passes, run_shard, 1)
        norm = clip_grad_norm(self.network.module.parameters(), 0.5)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.results += [loss.item(), norm.item()]

    def logits(self) -> Tensor:
        """Logits of some records in evaluation mode."""
        self.network.module.eval()
        with torch.no_grad():
            result = self.parallel.forward(self.network.batch([7, 8, 9])[0])
        train_mode(self.network.module)
        return result

    def tensors(self) -> dict[str, Tensor]:
        """The weights, statistics and moments by name."""
        named = {f"weights.{name}": tensor for name, tensor in self.network.module.state_dict().items()}
        for name, parameter in self.network.module.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                named[f"optimizer.{name}.{key}"] = value
        return named

    def digest(self) -> str:
        """Digest of losses, norms, logits, weights, statistics and moments; empty outside of the main process."""
        logits = self.logits()
        full = {name: full_tensor(tensor) for name, tensor in self.tensors().items()}
        if not self.world.is_main:
            return ""
        digest = hashlib.sha256(repr(self.results).encode() + logits.numpy().tobytes())
        for name, tensor in sorted(full.items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()


def train_mode(module: nn.Module) -> None:
    """Set training mode except for layers without trainable parameters."""
    module.train()
    for layer in module.modules():
        parameters = list(layer.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            layer.eval()
