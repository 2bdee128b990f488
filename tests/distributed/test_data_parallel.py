"""An optimizer step of virtual devices has the same bits for any number of processes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from finetune.distributed.data_parallel import DataParallel, Order, PassContext
from finetune.distributed.virtual_devices import rows_of_shard, shard_seed
from finetune.distributed.world import World
from tests.support.processes import run_processes

RECORDS = (32, 5, 32, 27, 27, 32)
"""Records per step; 5 records leave shards of eight virtual devices empty, and processes without a forward pass."""
SIZES = (2, 3, 4)


@dataclass(frozen=True)
class Settings:
    frozen: bool = False
    accumulation: int = 1
    bf16: bool = False
    channels_last: bool = False


def build_model(settings: Settings) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(32, 5),
    )  # fmt: skip
    if settings.frozen:
        model[0].requires_grad_(False)
        model[1].eval().requires_grad_(False)
    return model.to(memory_format=torch.channels_last) if settings.channels_last else model  # type: ignore[call-overload]  # not in torch's stub


class Training:
    """Trains a small convolutional network; each pass of a shard has at least two records for batch normalization."""

    def __init__(self, world: World, virtual_devices: int, settings: Settings, order: Order = "exact") -> None:
        self.model = build_model(settings)
        self.virtual_devices, self.settings = virtual_devices, settings
        self.parallel = DataParallel(self.model, self.forward, virtual_devices, world, order=order)
        trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=1e-2, fused=True)
        self.losses: list[float] = []

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.settings.bf16):
            result: Tensor = self.model(inputs["pixels"])
        return result.float()

    def step(self, number: int, records: int) -> None:
        generator = torch.Generator().manual_seed(number)
        pixels = torch.randn(records, 3, 10, 10, generator=generator)
        targets = torch.randint(5, (records,), generator=generator)
        rows = [rows_of_shard(records, self.virtual_devices, shard) for shard in range(self.virtual_devices)]

        def run_shard(shard: int, context: PassContext) -> Tensor:
            torch.manual_seed(shard_seed(0, number, shard))
            total = torch.zeros(2, dtype=torch.float64)
            for done in range(1, self.settings.accumulation + 1):
                with context(done == self.settings.accumulation):
                    logits = self.parallel.forward({"pixels": pixels[rows[shard]]})
                    loss = functional.cross_entropy(logits, targets[rows[shard]], reduction="sum")
                    (loss / records).backward()  # type: ignore[no-untyped-call]  # untyped in torch
                total += torch.tensor([loss.item(), len(logits)], dtype=torch.float64)
            return total

        active = [row.stop > row.start for row in rows]
        if records < self.virtual_devices:
            active[-1] = False
        loss, count = self.parallel.step(active, run_shard, 2).tolist()
        assert count == self.settings.accumulation * sum(
            rows[s].stop - rows[s].start for s in range(len(rows)) if active[s]
        )
        self.losses.append(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def digest(self) -> str:
        digest = hashlib.sha256(repr(self.losses).encode())
        for tensor in self.model.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


CASES = {
    "batch normalization and dropout": Settings(),
    "frozen layers": Settings(frozen=True),
    "accumulation": Settings(accumulation=2),
    "bf16": Settings(bf16=True),
    "channels last": Settings(channels_last=True),
}


def train(world: World, folder: Path) -> None:
    for name, case in CASES.items():
        for virtual_devices in (4, 6, 8):
            training = Training(world, virtual_devices, case)
            for number, records in enumerate(RECORDS):
                training.step(number, records)
            (folder / f"{name} {virtual_devices} {world.size} {world.rank}").write_text(training.digest(), "utf-8")


@pytest.fixture(scope="module")
def single_process(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("single")
    train(World(), folder)
    return folder


@pytest.mark.parametrize("size", SIZES)
def test_any_number_of_processes_gives_the_bits_of_one(size: int, single_process: Path, tmp_path: Path) -> None:
    run_processes(size, train, tmp_path)
    results = sorted(tmp_path.iterdir())
    assert len(results) == 3 * len(CASES) * size
    for path in results:
        expected = single_process / f"{path.name.rsplit(' ', 2)[0]} 1 0"
        assert path.read_text("utf-8") == expected.read_text("utf-8"), path.name


def train_in_fast_order(world: World, folder: Path) -> None:
    trainings = [Training(world, 4, Settings(), order) for order in ("fast", "fast", "exact")]
    for training in trainings:
        for number, records in enumerate(RECORDS):
            training.step(number, records)
    first, second, exact = trainings
    assert first.digest() == second.digest()
    torch.testing.assert_close(first.losses, exact.losses, rtol=1e-3, atol=0)
    (folder / f"{world.rank}").write_text(first.digest(), "utf-8")


def test_fast_order_repeats_itself_and_is_close_to_the_exact_one(tmp_path: Path) -> None:
    run_processes(3, train_in_fast_order, tmp_path)
    assert len({path.read_text("utf-8") for path in tmp_path.iterdir()}) == 1


def test_number_of_virtual_devices_changes_bits(single_process: Path) -> None:
    for name in CASES:
        digests = {path.read_text("utf-8") for path in single_process.glob(f"{name} *")}
        assert len(digests) == 3


def test_single_virtual_device_adds_nothing_to_a_plain_step() -> None:
    training = Training(World(), 1, Settings())
    plain = build_model(Settings())
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-2, fused=True)
    for number, records in enumerate(RECORDS):
        training.step(number, records)
        generator = torch.Generator().manual_seed(number)
        pixels = torch.randn(records, 3, 10, 10, generator=generator)
        targets = torch.randint(5, (records,), generator=generator)
        torch.manual_seed(shard_seed(0, number, 0))
        loss = functional.cross_entropy(plain(pixels), targets, reduction="sum") / records
        loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    state = plain.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in training.model.state_dict().items())
