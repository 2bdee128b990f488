"""Modified artifacts of earlier jobs, and the answers of the unmodified ones."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from tests.fuzz import model_folders, state_dicts
from tests.fuzz.model_folders import LABELS, WEIGHTS, Folder
from tests.fuzz.oracle import Reference, Situation
from tests.fuzz.running import Predictions, read_predictions, run_whole_job, shared_folder
from tests.support.tiny_transformers import IMAGE_TYPES, TEXT_TYPES

ARTIFACT = "artifact.json"
_KINDS = ("bert", "vit", "mobilenet_v3_small")


@dataclass
class Artifact:
    """An artifact to be placed into the model channel.

    Attributes:
        folder: the artifact, as a model folder.
        answers: of the unmodified artifact.
        draw: hypothesis' draw.
        has_reference: whether the answers still apply.
        names: names that the source library would report instead.
    """

    folder: Folder
    answers: Predictions
    draw: Callable[[st.SearchStrategy[Any]], Any]
    has_reference: bool = True
    names: tuple[str, ...] = ()

    @property
    def is_torchvision(self) -> bool:
        """Whether torchvision builds the model."""
        return self.folder.model_type not in (*TEXT_TYPES, *IMAGE_TYPES)

    def choose(self, values: Sequence[Any]) -> Any:  # noqa: ANN401 - any type
        """Draw one of some values."""
        return self.draw(st.sampled_from(list(values)))


Mutation = Callable[[Artifact], Situation]
MUTATIONS: dict[str, Mutation] = {}


def mutation(function: Mutation) -> Mutation:
    """Register a mutation."""
    MUTATIONS[function.__name__] = function
    return function


@functools.cache
def _base(model_type: str) -> tuple[Path, Predictions]:
    """An artifact exported by a job with `strategy=evaluate`, and its answers."""
    root = shared_folder()
    if model_type in (*TEXT_TYPES, *IMAGE_TYPES):
        folder = model_folders.new_case(root, model_type, lambda _: None)
    else:
        folder = Folder(root / "model", model_type, lambda _: None)
        state_dicts.write_state(folder.path, model_type)
    channels = {"model": folder.path, "test": model_folders.write_channel(root / "test", folder)}
    job = run_whole_job(root, channels, {"strategy": "evaluate", "class_names": ",".join(LABELS)})
    assert job.exit_code == 0, job.log
    return job.folder.model, read_predictions(job)


def new_case(root: Path, draw: Callable[[st.SearchStrategy[Any]], Any]) -> Artifact:
    """An unmodified artifact, of transformers for texts or images, or of torchvision."""
    model_type = draw(st.sampled_from(_KINDS))
    path, predictions = _base(model_type)
    folder = Folder(Path(shutil.copytree(path, root / "model")), model_type, draw)
    return Artifact(folder, predictions, draw)


def reference(artifact: Artifact) -> Reference:
    """The answers of the unmodified artifact."""
    if artifact.has_reference:
        return Reference((artifact.answers,))
    return Reference((), "the artifact contradicts itself", artifact.names)


@mutation
def untouched(artifact: Artifact) -> Situation:
    return Situation(f"artifact of {artifact.folder.model_type}", harmless=True)


@mutation
def remove_field(artifact: Artifact) -> Situation:
    name = artifact.choose(sorted(artifact.folder.json(ARTIFACT)))
    artifact.folder.remove(ARTIFACT, name)
    return Situation(f"artifact of {artifact.folder.model_type} without {name}", (name, ARTIFACT, "name their classes"))


@mutation
def odd_field(artifact: Artifact) -> Situation:
    name = artifact.choose(sorted(artifact.folder.json(ARTIFACT)))
    value = artifact.choose((None, "x", -1, 0, 2, True, [], [1], {}, {"a": 1}, ""))
    artifact.folder.change(ARTIFACT, **{name: value})
    return Situation(
        f"artifact of {artifact.folder.model_type} with {name}={value!r}",
        (name, ARTIFACT, "several classes", "name their classes"),
    )


@mutation
def other_labels(artifact: Artifact) -> Situation:
    labels = artifact.choose(
        (("pos",), ("pos", "neg", "mid"), ("pos", "pos"), (0, 1), ("neg", "pos"), (["pos"], ["neg"]), ("pos", None))
    )
    if artifact.is_torchvision and labels == tuple(reversed(LABELS)):
        return Situation("nothing changed", harmless=True)  # Only this field gives the order.
    artifact.has_reference = False
    artifact.folder.change(ARTIFACT, labels=labels)
    return Situation(
        f"artifact of {artifact.folder.model_type} with labels {labels}", ("labels", "classes", "class", ARTIFACT)
    )


@mutation
def other_preprocessing(artifact: Artifact) -> Situation:
    texts = artifact.folder.is_text
    name, value = artifact.choose(
        (
            ("max_length", 0),
            ("max_length", -1),
            ("max_length", "x"),
            ("max_length", 10**9),
            ("max_length", None),
            ("max_length", 8.5),
            ("texts_per_record", 2),
            ("texts_per_record", "x"),
        )
        if texts
        else (
            ("size", 0),
            ("size", -1),
            ("size", "x"),
            ("size", 33),
            ("size", None),
            ("mean", [0.5]),
            ("mean", "x"),
            ("std", [0, 0, 0]),
            ("interpolation", "lanczos"),
            ("resize", None),
            ("resize", 10**9),
        )
    )
    preprocessing = artifact.folder.json(ARTIFACT)["preprocessing"]
    artifact.folder.change(ARTIFACT, preprocessing={**preprocessing, name: value})
    return Situation(
        f"artifact of {artifact.folder.model_type} with preprocessing {name}={value!r}",
        (name, "preprocessing", ARTIFACT),
    )


@mutation
def damaged_file(artifact: Artifact) -> Situation:
    names = (ARTIFACT, "config.json", WEIGHTS)
    name = artifact.choose([name for name in names if (artifact.folder.path / name).exists()])
    variant, content = artifact.choose(
        (
            ("empty", b""),
            ("a list", b"[]"),
            ("nested 100,000 deep", b'{"labels":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
            ("UTF-16", "{}".encode("utf-16")),
            ("a pointer of Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
        )
    )
    (artifact.folder.path / name).write_bytes(content)
    artifact.has_reference = False
    return Situation(f"artifact of {artifact.folder.model_type} whose {name} is {variant}", (name, "weights in"))


@mutation
def missing_file(artifact: Artifact) -> Situation:
    name = artifact.choose(
        (
            ARTIFACT,
            "config.json",
            WEIGHTS,
            "code/inference.py",
            "metrics.json",
            "requirements.txt",
            "code/requirements.txt",
        )
    )
    (artifact.folder.path / name).unlink(missing_ok=True)
    return Situation(f"artifact of {artifact.folder.model_type} without {name}", (name, "model_name", "order"))


@mutation
def drop_tensor(artifact: Artifact) -> Situation:
    path = artifact.folder.path / WEIGHTS
    tensors = load_file(path)
    name = artifact.choose(sorted(name for name in tensors if not name.endswith("num_batches_tracked")))
    del tensors[name]
    save_file(tensors, path, {"format": "pt"})
    artifact.has_reference = False
    if not artifact.is_torchvision:  # Some tensors have different names in files and in models.
        artifact.names = model_folders.reference(artifact.folder).names
    return Situation(f"artifact of {artifact.folder.model_type} without {name}", (name, "top layer"))


@mutation
def config_of_other_labels(artifact: Artifact) -> Situation:
    names = artifact.choose((tuple(reversed(LABELS)), ("pos", "neg", "mid"), ("a", "b")))
    if artifact.is_torchvision:
        return Situation("nothing changed", harmless=True)
    artifact.has_reference = False
    artifact.folder.change(
        "config.json", id2label=dict(enumerate(names)), label2id={name: at for at, name in enumerate(names)}
    )
    return Situation(
        f"artifact of {artifact.folder.model_type} whose config.json says {names}",
        ("id2label", "config.json", "labels", "classes"),
    )
