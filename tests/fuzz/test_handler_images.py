"""The exported model's handler answers as the job evaluated, for every form of image."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from hypothesis import strategies as st

from finetune.export.verify import load_handler
from tests.fuzz.image_folders import MUTATIONS, Images, fresh
from tests.fuzz.oracle import Reference, Run, Situation, check, close
from tests.fuzz.profile import try_examples
from tests.fuzz.running import as_in_production, folder_for_an_example, shared_folder, whole_job
from tests.support.tiny_transformers import write_folder

FORMS = ("formats_and_endings", "modes", "sixteen_bits", "transparent", "turned_by_exif", "several_frames")


@functools.cache
def model() -> Path:
    with as_in_production():
        return write_folder(shared_folder() / "vit", "vit", labels=("ash", "birch"))


@pytest.mark.parametrize("name", FORMS)
def test_handler_predicts_like_job(name: str) -> None:
    def example(data: st.DataObject) -> None:
        with folder_for_an_example() as place:
            images = fresh(place, data.draw)
            situation = MUTATIONS[name](images)
            if all((images.folder / other).is_dir() for other in ("ash", "birch")):
                judge(place, images, situation)

    try_examples(12, example)


def judge(place: Path, images: Images, situation: Situation) -> None:
    ended = whole_job(place, {"model": model(), "test": images.folder}, {"strategy": "evaluate"})
    if ended.exit_code == 1:
        return  # Rejected images are tested with the channel.
    said = {}
    answered: dict[str, object] = {}
    if ended.exit_code == 0:
        with as_in_production():
            handler = load_handler(ended.folder.model)
            network = handler.model_fn(str(ended.folder.model))
            for row in ended.predictions("test"):
                key = row["record"]
                said[key] = [float(row[f"probability:{label}"]) for label in ("ash", "birch")]
                request = handler.input_fn((images.folder / key).read_bytes(), "application/x-image")
                (answer,) = handler.predict_fn(request, network).records
                answered[key] = answer["probabilities"]
    run = Run(ended.exit_code, ended.failure, ended.log, said)
    check(Situation(situation.text, ("handler",)), run, Reference((answered,)), close)
