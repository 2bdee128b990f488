"""Steps of models on one or several processes of one thread each, timed by wall clock and by CPU time."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from torchvision.models import resnet18

from finetune.distributed.data_parallel import DataParallel, PassContext
from finetune.distributed.fixed_order import all_reduce_in_fixed_order
from finetune.distributed.virtual_devices import rows_of_shard
from finetune.distributed.world import World
from finetune.runtime.memory import keep_freed_memory
from finetune.runtime.precision import choose_numerics

TOKENS = 64
SIDE = 112
BATCH = 64
Call = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one call: seconds by wall clock, and CPU seconds of this process."""

    wall: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """What each of the processes measures, and where they meet and write their results."""

    size: int
    port: int
    part: str
    kind: str
    rounds: int
    folder: Path


@dataclass(frozen=True, slots=True)
class Workload:
    """A model, a batch for it, and its optimizer."""

    model: nn.Module
    inputs: Mapping[str, Tensor]
    targets: Tensor
    optimizer: torch.optim.Optimizer

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the logits."""
        context = choose_numerics("auto", torch.device("cpu")).context
        with context():
            output = self.model(**inputs)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits.float()

    def rows(self, rows: slice) -> tuple[Mapping[str, Tensor], Tensor]:
        """Return a part of the batch."""
        return {name: tensor[rows] for name, tensor in self.inputs.items()}, self.targets[rows]

    def update(self) -> None:
        """Update the weights."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def make_workload(kind: str) -> Workload:
    """Make a ResNet-18 or a BERT of MiniLM's size, with random weights."""
    torch.manual_seed(1)
    model: nn.Module
    if kind == "ResNet-18":
        model = resnet18(num_classes=10).to(memory_format=torch.channels_last)
        inputs = {"x": torch.randn(BATCH, 3, SIDE, SIDE).to(memory_format=torch.channels_last)}
    else:
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
        model = BertForSequenceClassification(config)  # type: ignore[no-untyped-call]  # untyped in transformers
        inputs = {"input_ids": torch.randint(1000, 20_000, (BATCH, TOKENS))}
    model.train()
    targets = torch.randint(2, (BATCH,))
    return Workload(model, inputs, targets, torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True))


def bare_step(work: Workload) -> Call:
    """Return a step on the whole batch, without shards."""

    def step() -> None:
        loss = nn.functional.cross_entropy(work.forward(work.inputs), work.targets)
        torch.autograd.backward(loss)
        work.update()

    return step


def ddp_step(work: Workload, world: World) -> Call:
    """Return a step of plain DistributedDataParallel on this process's part of the batch."""
    parallel = DistributedDataParallel(work.model, broadcast_buffers=False)
    shard = Workload(parallel, *work.rows(rows_of_shard(BATCH, world.size, world.rank)), work.optimizer)
    return bare_step(shard)


def sharded_step(work: Workload, virtual_devices: int, world: World) -> Call:
    """Return a step as in our jobs."""
    parallel: DataParallel[Tensor] = DataParallel(work.model, work.forward, virtual_devices, world)

    def run_shard(shard: int, context: PassContext) -> Tensor:
        inputs, targets = work.rows(rows_of_shard(BATCH, virtual_devices, shard))
        with context(True):
            loss = nn.functional.cross_entropy(parallel.forward(inputs), targets, reduction="sum")
            torch.autograd.backward(loss / BATCH)
        return loss.detach().double().view(1)

    def step() -> None:
        parallel.step([True] * virtual_devices, run_shard, 1)
        work.update()

    return step


def evaluation(work: Workload, world: World, batches: int = 2) -> Call:
    """Return the evaluation of batches that are dealt to the processes."""

    def evaluate() -> None:
        with torch.no_grad():
            for index in range(batches):
                if index % world.size == world.rank:
                    work.forward(work.inputs)

    return evaluate


def interleave(calls: Mapping[str, Call], rounds: int) -> dict[str, list[Cost]]:
    """Time the calls by turns, after one round that is not counted."""
    costs: dict[str, list[Cost]] = {name: [] for name in calls}
    for number in range(1 + rounds):
        for name, call in calls.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            cost = Cost(time.perf_counter() - wall, time.process_time() - cpu)
            if number:
                costs[name].append(cost)
    return costs


def measure_in_processes(size: int, part: str, kind: str, rounds: int, folder: Path) -> list[dict[str, list[Cost]]]:
    """Measure one of `PARTS` in `size` processes of one thread each; return the costs by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    measurement = Measurement(size, port, part, kind, rounds, folder)
    spawn(_measure, (measurement,), nprocs=size)  # type: ignore[no-untyped-call]
    results = [json.loads((folder / f"{rank}.json").read_text("utf-8")) for rank in range(size)]
    return [{name: [Cost(*cost) for cost in costs] for name, costs in result.items()} for result in results]


def _measure(rank: int, measurement: Measurement) -> None:
    torch.set_num_threads(1)
    keep_freed_memory(equal_sizes=True)
    size, address = measurement.size, f"tcp://127.0.0.1:{measurement.port}"
    torch.distributed.init_process_group("gloo", address, timedelta(minutes=5), rank=rank, world_size=size)
    calls = PARTS[measurement.part](measurement.kind, World(rank, size, rank, size))
    costs = interleave(calls, measurement.rounds)
    values = {name: [(cost.wall, cost.cpu) for cost in own] for name, own in costs.items()}
    (measurement.folder / f"{rank}.json").write_text(json.dumps(values), "utf-8")
    torch.distributed.destroy_process_group()


def _shards(kind: str, world: World) -> dict[str, Call]:
    steps = {f"V={count}": sharded_step(make_workload(kind), count, world) for count in (1, 2, 4, 8)}
    return {"one batch": bare_step(make_workload(kind)), **steps}


def _order(kind: str, world: World) -> dict[str, Call]:
    return {
        "DDP": ddp_step(make_workload(kind), world),
        "fixed order": sharded_step(make_workload(kind), world.size, world),
    }


def _scaling(kind: str, world: World) -> dict[str, Call]:
    return {
        "evaluation": evaluation(make_workload(kind), world),
        "training": sharded_step(make_workload(kind), 2, world),
    }


PARTS: Mapping[str, Callable[[str, World], dict[str, Call]]] = {
    "shards": _shards,
    "order": _order,
    "scaling": _scaling,
}


def count_bytes(rank: int, size: int, port: int, elements: int, repeats: int) -> None:
    """Sum a tensor in fixed order, and print the bytes that the loopback interface of the namespace has sent."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", address, timedelta(minutes=1), rank=rank, world_size=size)
    world = World(rank, size, rank, size)
    all_reduce_in_fixed_order([torch.ones(elements)], size, world)
    world.barrier()
    before = _bytes_sent()
    for _ in range(repeats):
        all_reduce_in_fixed_order([torch.ones(elements)], size, world)
    world.barrier()
    if rank == 0:
        sys.stdout.write(f"{(_bytes_sent() - before) / repeats / size}\n")
        sys.stdout.flush()
    world.barrier()
    os._exit(0)


def _bytes_sent() -> int:
    lines = Path("/proc/self/net/dev").read_text("utf-8").splitlines()
    return next(int(line.split()[9]) for line in lines if line.strip().startswith("lo:"))


def main(arguments: Sequence[str]) -> None:
    """Count bytes in `size` processes, as a program that runs in a network namespace of its own."""
    size, elements, repeats = (int(argument) for argument in arguments)
    spawn(count_bytes, (size, 29_500, elements, repeats), nprocs=size)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main(sys.argv[1:])
