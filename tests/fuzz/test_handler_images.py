"""The exported model's handler answers as the job evaluated, for every form of image."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from hypothesis import strategies as st

from finetune.export.handler import load_handler
from tests.fuzz.image_folders import MUTATIONS, Images, new_case
from tests.fuzz.oracle import Reference, Run, Situation, check, is_close
from tests.fuzz.profile import try_examples
from tests.fuzz.running import example_folder, production_warnings, run_whole_job, shared_folder
from tests.support.tiny_transformers import write_folder

MUTATION_NAMES = ("formats_and_endings", "modes", "sixteen_bits", "transparent", "exif_orientation", "several_frames")


@functools.cache
def model() -> Path:
    with production_warnings():
        return write_folder(shared_folder() / "vit", "vit", labels=("ash", "birch"))


@pytest.mark.parametrize("name", MUTATION_NAMES)
def test_handler_predicts_like_job(name: str) -> None:
    def example(data: st.DataObject) -> None:
        with example_folder() as root:
            images = new_case(root, data.draw)
            situation = MUTATIONS[name](images)
            if all((images.folder / expected).is_dir() for expected in ("ash", "birch")):
                judge(root, images, situation)

    try_examples(12, example)


def judge(root: Path, images: Images, situation: Situation) -> None:
    job = run_whole_job(root, {"model": model(), "test": images.folder}, {"strategy": "evaluate"})
    if job.exit_code == 1:
        return  # Rejected images are tested with the channel.
    predictions = {}
    answered: dict[str, object] = {}
    if job.exit_code == 0:
        with production_warnings():
            handler = load_handler(job.folder.model)
            loaded_model = handler.model_fn(str(job.folder.model))
            for row in job.predictions("test"):
                key = row["record"]
                predictions[key] = [float(row[f"probability:{label}"]) for label in ("ash", "birch")]
                request = handler.input_fn((images.folder / key).read_bytes(), "application/x-image")
                (response,) = handler.predict_fn(request, loaded_model).records
                answered[key] = response["probabilities"]
    run = Run(job.exit_code, job.failure, job.log, predictions)
    check(Situation(situation.text, ("handler",)), run, Reference((answered,)), is_close)
