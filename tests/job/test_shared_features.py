"""Jobs with frozen layers give the same bits for any number of processes, which share features and decoded images."""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from finetune.distributed.world import World
from finetune.job.request import read_request
from finetune.job.run import run_job
from finetune.messages import OWN_LOGGER
from finetune.sagemaker.interruption import Interruption
from finetune.sagemaker.paths import Paths
from sagemaker_simulator import Channel, TrainingRequest, lay_out
from tests.support.coloured_images import write_images
from tests.support.processes import run_processes
from tests.support.tiny_transformers import WORDS, write_folder

pytestmark = [
    pytest.mark.slow,
    # DeBERTa's modules still use torch.jit.script at import.
    pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning"),
]

COMMON = {"epochs": "3", "batch_size": "8", "max_bad_records": "1"}
HEAD = {"strategy": "feature_extraction", "augmentation": "none"}
PARTIAL = {"strategy": "partial", "virtual_devices": "3", "augmentation_views": "2", "epochs": "4"}
GRADUAL = {"strategy": "gradual", "virtual_devices": "3", "epochs": "4"}

Jobs = tuple[tuple[int, Mapping[str, str]], ...]
CASES: Mapping[str, tuple[str, Mapping[str, str], Jobs]] = {
    # Name: model, hyperparameters, and for each job its number of processes and further hyperparameters.
    "images-head": (
        "resnet",
        HEAD,
        ((1, {"virtual_devices": "1"}), (2, {}), (3, {"virtual_devices": "5", "feature_cache": "off"})),
    ),
    "texts-head": ("gpt2", HEAD, ((1, {"virtual_devices": "1"}), (3, {}))),
    "images-partial": ("resnet", PARTIAL, ((1, {}), (2, {}), (3, {"cache_size_gb": "0.00002"}))),
    "images-gradual": ("resnet", GRADUAL, ((1, {}), (2, {}), (3, {}))),
}
WARM = "images-gradual"
"""The case whose last jobs run in a warm pool: the second job saves features, and the third loads them."""


def write_texts(folder: Path) -> None:
    lines = ["label,text"]
    for number in range(45):
        words = [WORDS[4 + (number * step) % 11] for step in range(1, 3 + number % 13)]
        lines.append(f"{'no' if number % 2 else 'yes'},{' '.join(words)}")
    (folder / "train.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def job_folder(folder: Path, case: str, number: int) -> Path:
    return folder / f"{case}-{number}"


def saved_features(pool: Path) -> dict[str, int]:
    """When each file of features in a warm pool was written."""
    return {str(path): path.stat().st_mtime_ns for path in pool.rglob("features.safetensors")}


def run_rank(world: World, paths: Paths) -> None:
    """Run a job in one of its processes."""
    log = logging.getLogger(OWN_LOGGER)
    lines = logging.StreamHandler(io.StringIO())
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    with Interruption() as interruption:
        request = read_request(paths)
        run_job(request, interruption, world)
    log.removeHandler(lines)
    joint = "they compute the frozen layers together"
    replicated = world.size > 1 and request.spec.strategy.name == "feature_extraction"
    assert (joint in lines.stream.getvalue()) == (world.is_main and replicated)


def run_jobs(world: World, folder: Path) -> None:
    """Run the jobs of all cases, each in the first processes of this world."""
    pool = folder / "pool"
    for case, (_, _, jobs) in CASES.items():
        for number, (size, _) in enumerate(jobs):
            before = saved_features(pool)
            paths = Paths(job_folder(folder, case, number), warm_pool=pool if case == WARM and number else None)
            joined = world.first(size)
            if joined is not None:
                run_rank(joined, paths)
            world.barrier()
            assert bool(before) == (case == WARM and number == 2)
            assert not before or saved_features(pool) == before
            world.barrier()


def test_result_does_not_depend_on_number_of_processes(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 15)
    (images / "red" / "damaged.png").write_bytes(b"no image")
    (tmp_path / "texts").mkdir()
    (tmp_path / "pool").mkdir()
    write_texts(tmp_path / "texts")
    for case, (model, options, jobs) in CASES.items():
        model_folder = tmp_path / f"model-{model}"
        if not model_folder.exists():
            write_folder(model_folder, model)
        channels = (
            Channel("train", images if model == "resnet" else tmp_path / "texts"),
            Channel("model", model_folder),
        )
        for number, (_, changes) in enumerate(jobs):
            request = TrainingRequest(channels=channels, hyperparameters={**COMMON, **options, **changes})
            lay_out(job_folder(tmp_path, case, number), request)
    run_processes(3, run_jobs, tmp_path)
    for case, (_, _, jobs) in CASES.items():
        results = []
        for number in range(len(jobs)):
            root = job_folder(tmp_path, case, number)
            metrics = json.loads((root / "output/data/metrics.json").read_text())
            bad = [path.read_bytes() for path in (root / "output/data").glob("bad_records.json")]
            weights = hashlib.sha256((root / "model/model.safetensors").read_bytes()).hexdigest()
            results.append((weights, metrics["job"]["history"], metrics["validation"], bad))
        assert all(result == results[0] for result in results), (case, [result[:2] for result in results])
