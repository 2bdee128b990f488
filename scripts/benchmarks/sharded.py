"""Peak memory per process of training steps with sharded parameters, compared with plain ones."""

from __future__ import annotations

import os
import resource
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from benchmarks.table import begin, row, say
from finetune.distributed.data_parallel import DataParallel, PassContext
from finetune.distributed.gradient_norm import clip_grad_norm
from finetune.distributed.sharding.fully_sharded import FullySharded
from finetune.distributed.sharding.sharded_model import ShardedModel
from finetune.distributed.world import World

_PROCESSES = 2
_WIDTH, _LAYERS = 1024, 20
_QUICK_WIDTH, _QUICK_LAYERS = 64, 4
_STEPS = 2
_TOKENS = 16
_GIGABYTE = 1e9


def main(*, quick: bool) -> None:
    """Print the peak memory of a plain model in one process, and of the same model sharded over two."""
    width, layers = (_QUICK_WIDTH, _QUICK_LAYERS) if quick else (_WIDTH, _LAYERS)
    begin("Sharded parameters", ("weights, GB", "plain, GB", f"per process of {_PROCESSES}, GB", "ratio"))
    plain, sharded = _peak(1, width, layers), _peak(_PROCESSES, width, layers)
    weights = sum(parameter.nbytes for parameter in _build(width, layers, "meta").parameters())
    figures = (f"{size / _GIGABYTE:.2f}" for size in (weights, plain, sharded))
    row((*figures, f"{sharded / plain:.2f}"))
    say(
        "\nGrowth of the peak resident memory from before the model is built, of the process with the larger one:"
        f" {_STEPS} steps of AdamW with gradient clipping, {_TOKENS} tokens per process, float32."
    )


def _peak(processes: int, width: int, layers: int) -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="benchmark-sharded-") as folder:
        spawn(_train, (processes, width, layers, port, Path(folder)), nprocs=processes)  # type: ignore[no-untyped-call]  # untyped in torch
        return max(int(file.read_text("utf-8")) for file in Path(folder).iterdir())


def _build(width: int, layers: int, device: str = "cpu") -> nn.Sequential:
    """Return transformer layers, which have 12 parameters per square of the width."""
    with torch.device(device):
        return nn.Sequential(
            *(nn.TransformerEncoderLayer(width, 16, 4 * width, batch_first=True) for _ in range(layers))
        )


def _train(rank: int, processes: int, width: int, layers: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    world = World(rank, processes, rank)
    before = _resident_bytes()
    if processes > 1:
        torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    try:
        torch.manual_seed(0)
        model = _build(width, layers)
        parallel = _parallel(model, world, torch.ones(1, _TOKENS, width))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        for _ in range(_STEPS):
            _step(model, parallel, optimizer, world, width)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        (folder / str(rank)).write_text(str(peak - before), "utf-8")
    finally:
        if processes > 1:
            torch.distributed.destroy_process_group()


def _parallel(model: nn.Module, world: World, example: Tensor) -> DataParallel[Tensor] | FullySharded[Tensor]:
    def forward(inputs: Mapping[str, Tensor]) -> Tensor:
        result: Tensor = model(inputs["x"])
        return result

    if world.size == 1:
        return DataParallel(model, forward, 1, world)
    sharded = ShardedModel(model, list(model.children()), [lambda: model(example)], world)
    return FullySharded(sharded, forward, world.size, world, lambda run: run({"x": example}).square().mean())


def _step(
    model: nn.Module,
    parallel: DataParallel[Tensor] | FullySharded[Tensor],
    optimizer: torch.optim.Optimizer,
    world: World,
    width: int,
) -> None:
    def run_shard(shard: int, context: PassContext) -> Tensor:
        torch.manual_seed(shard)
        with context(True):
            loss = parallel.forward({"x": torch.randn(1, _TOKENS, width)}).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]  # untyped in torch
        return loss.detach().double().view(1)

    parallel.step([1] * world.size, run_shard, 1)
    clip_grad_norm(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
