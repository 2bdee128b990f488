"""State dict files of torchvision classifiers with one fault each, and the reference answers of torchvision."""

from __future__ import annotations

import collections
import functools
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torchvision.models import get_model, get_model_weights

from tests.fuzz.oracle import Reference, Situation
from tests.fuzz.running import production_warnings
from tests.support.coloured_images import make_image

LABELS = ("neg", "pos")
MODELS = ("mobilenet_v3_small", "mobilenet_v2", "resnet18", "regnet_y_400mf", "densenet121")
"""The smallest models of several families."""

State = dict[str, Tensor]


@dataclass
class File:
    """A state dict to be saved into the model channel.

    Attributes:
        network: torchvision's name of its model.
        state: with torchvision's own names; loaded strictly by the reference.
        folder: the model channel.
        draw: hypothesis' draw.
        hyperparameters: of the job.
        content: object to save; by default the state.
        name: of the file.
        save: function that writes it.
        has_reference: whether any result is right.
        choices: states that may be used instead.
    """

    network: str
    state: State
    folder: Path
    draw: Callable[[st.SearchStrategy[Any]], Any]
    hyperparameters: dict[str, str] = field(default_factory=dict)
    content: Any = None
    name: str = "model.pth"
    save: Callable[[Any, Path], None] = torch.save
    has_reference: bool = True
    choices: Sequence[State] = ()

    def choose(self, values: Sequence[Any]) -> Any:  # noqa: ANN401 - any type
        """Draw one of some values."""
        return self.draw(st.sampled_from(list(values)))

    def write(self) -> None:
        """Write the file, unless a mutation already filled the channel."""
        self.folder.mkdir(exist_ok=True)
        if not any(self.folder.iterdir()):
            self.save(self.state if self.content is None else self.content, self.folder / self.name)


Mutation = Callable[[File], Situation]
MUTATIONS: dict[str, Mutation] = {}


def mutation(function: Mutation) -> Mutation:
    """Register a mutation."""
    MUTATIONS[function.__name__] = function
    return function


@functools.cache
def _build_model(name: str) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]), production_warnings():
        torch.default_generator.manual_seed(3)
        model: torch.nn.Module = get_model(name, weights=None, num_classes=len(LABELS))
        head = list(model.parameters())[-2:]
        with torch.no_grad():
            for parameter in head:
                parameter.normal_()
    return model.eval()


def new_case(root: Path, draw: Callable[[st.SearchStrategy[Any]], Any]) -> File:
    """The unchanged state of a model, whose name is a hyperparameter in half of the cases."""
    name = draw(st.sampled_from(MODELS))
    state = {key: value.clone() for key, value in _build_model(name).state_dict().items()}
    hyperparameters = {"class_names": ",".join(LABELS)}
    # A RegNet is never recognized by its tensors.
    if draw(st.booleans()) or name.startswith("regnet"):
        hyperparameters["model_name"] = name
    return File(name, state, root / "model", draw, hyperparameters)


def write_state(folder: Path, name: str) -> None:
    """Write the state of a model into a new folder."""
    folder.mkdir()
    torch.save(_build_model(name).state_dict(), folder / "model.pth")


def images() -> list[tuple[str, Image.Image]]:
    """Labels and images of the records."""
    return [
        (label, make_image(colour, at))
        for label, colour in zip(LABELS, ("blue", "red"), strict=True)
        for at in range(2)
    ]


def write_channel(root: Path) -> Path:
    """Write the records as the channel `test`."""
    for at, (label, image) in enumerate(images()):
        (root / label).mkdir(parents=True, exist_ok=True)
        image.save(root / label / f"{at}.png")
    return root


def reference(file: File) -> Reference:
    """The answers of torchvision after strict loading of the state, with the transforms of its own weights."""
    if not file.has_reference:
        return Reference((), "no state to load")
    try:
        with production_warnings():
            predictions = [_predictions(file.network, state) for state in (file.state, *file.choices)]
    except (RuntimeError, TypeError, AttributeError) as error:
        return Reference((), str(error)[:300])
    if any(value != value for choice in predictions for row in choice for value in row.values()):  # noqa: PLR0124 - NaN
        return Reference((), "the answers are NaN", ("nan", "finite"))
    return Reference(tuple(predictions))


def _predictions(name: str, state: State) -> list[dict[str, float]]:
    model = get_model(name, weights=None, num_classes=len(LABELS)).eval()
    model.load_state_dict(state, strict=True)
    transform = get_model_weights(name).DEFAULT.transforms()
    with torch.inference_mode():
        predictions = model(torch.stack([transform(image) for _, image in images()])).softmax(-1).tolist()
    return [dict(zip(LABELS, row, strict=True)) for row in predictions]


def _tensor(file: File) -> str:
    names = list(file.state)
    weights = [name for name in names if not name.endswith("num_batches_tracked")]
    return str(file.choose(weights[-2:] if file.draw(st.booleans()) else weights))


# --- Tensors ---------------------------------------------------------------------------------------------------------


@mutation
def unchanged(file: File) -> Situation:
    return Situation(f"{file.network}, unchanged", harmless=True)


@mutation
def drop_tensor(file: File) -> Situation:
    name = _tensor(file)
    del file.state[name]
    return Situation(f"{file.network} without {name}", (name, "set model_name", "top layer"))


@mutation
def rename_tensor(file: File) -> Situation:
    name = _tensor(file)
    file.state[f"{name}_"] = file.state.pop(name)
    return Situation(f"{file.network} with {name} renamed {name}_", (name, "set model_name", "top layer"))


@mutation
def reshape_tensor(file: File) -> Situation:
    name = _tensor(file)
    value = file.state[name]
    file.state[name] = file.choose((value[None], torch.cat([value, value[:1]]), value.flatten()[:-1]))
    return Situation(
        f"{file.network} with {name} of shape {tuple(file.state[name].shape)}", (name, "set model_name", "classes")
    )


@mutation
def drop_head(file: File) -> Situation:
    names = list(file.state)[-2:]
    for name in names:
        del file.state[name]
    return Situation(f"{file.network} without {' and '.join(names)}", (*names, "top layer", "set model_name"))


@mutation
def only_head(file: File) -> Situation:
    file.state = dict(list(file.state.items())[-2:])
    return Situation(f"{file.network}: the head alone", (*file.state, "set model_name", "match", "missing"))


@mutation
def other_number_of_classes(file: File) -> Situation:
    for name in list(file.state)[-2:]:
        file.state[name] = torch.cat([file.state[name], file.state[name][:1]])
    return Situation(f"{file.network} with a head of 3 rows for 2 classes", ("classes",))


@mutation
def add_tensor(file: File) -> Situation:
    head = list(file.state)[-1].rpartition(".")[0]
    name = file.choose((f"{head}.extra", "extra.weight", "n_averaged_", "aux.weight", "encoder.pos_embedding"))
    file.state[name] = torch.ones(3)
    return Situation(f"{file.network} with {name} besides", (name, "set model_name", "top layer"))


@mutation
def without_counters(file: File) -> Situation:
    file.state = {name: value for name, value in file.state.items() if not name.endswith("num_batches_tracked")}
    return Situation(f"{file.network} without num_batches_tracked", harmless=True)


@mutation
def other_number_type(file: File) -> Situation:
    dtype = file.choose((torch.float16, torch.bfloat16, torch.float64))
    file.state = {name: value.to(dtype) if value.is_floating_point() else value for name, value in file.state.items()}
    return Situation(f"{file.network} in {dtype}", harmless=True)


@mutation
def integer_tensors(file: File) -> Situation:
    name, dtype = _tensor(file), file.choose((torch.int8, torch.bool, torch.int64))
    file.state[name] = file.state[name].to(dtype)
    return Situation(
        f"{file.network} with {name} in {dtype}", (name, "set model_name", str(dtype).removeprefix("torch."))
    )


@mutation
def not_finite(file: File) -> Situation:
    name, value = _tensor(file), file.choose((float("nan"), float("inf")))
    file.state[name] = torch.full_like(file.state[name], value)
    return Situation(f"{file.network} with {name} of {value}", (name, "nan", "finite", "infinite"))


@mutation
def weights_of_another_model(file: File) -> Situation:
    other = file.choose([name for name in MODELS if name != file.network])
    file.hyperparameters["model_name"] = other
    file.has_reference = False
    file.content = dict(file.state)
    return Situation(f"{file.network} with model_name={other}", (file.network, "another model"))


# --- Names -----------------------------------------------------------------------------------------------------------


@mutation
def prefixes_of_pytorch(file: File) -> Situation:
    prefix = "".join(file.draw(st.lists(st.sampled_from(("module.", "_orig_mod.")), min_size=1, max_size=4)))
    file.content = {prefix + name: value for name, value in file.state.items()}
    return Situation(f"{file.network} with {prefix} before every name", harmless=True)


@mutation
def prefixes_of_others(file: File) -> Situation:
    prefix = file.choose(("model.", "backbone.", "net.", "encoder.", "student.", "model.module.", "module.model."))
    file.content = {prefix + name: value for name, value in file.state.items()}
    file.has_reference = True
    return Situation(f"{file.network} with {prefix} before every name", (prefix, prefix.split(".")[0]))


@mutation
def prefix_of_some(file: File) -> Situation:
    names = list(file.state)
    some = set(names[:: file.choose((2, 3, len(names)))])
    file.content = {("module." if name in some else "") + name: value for name, value in file.state.items()}
    return Situation(
        f"{file.network} with module. before {len(some)} of {len(names)} names",
        ("module.", "set model_name", *names[:1]),
    )


@mutation
def averaged_model(file: File) -> Situation:
    file.content = {"n_averaged": torch.tensor(3), **{f"module.{name}": value for name, value in file.state.items()}}
    return Situation(f"{file.network}: the state of an AveragedModel", harmless=True)


# --- Wrappers --------------------------------------------------------------------------------------------------------


@mutation
def wrapper(file: File) -> Situation:
    name = file.choose(("state_dict", "model", "model_state_dict", "net", "network", "weights", "params"))
    file.content = {name: file.state, **file.choose(({}, {"epoch": 3, "optimizer": {"state": {}, "param_groups": []}}))}
    known = name in ("state_dict", "model", "model_state_dict")
    return Situation(f"{file.network} in {{{name!r}: ...}}", (name, "state dict"), harmless=known)


@mutation
def nested_wrapper(file: File) -> Situation:
    names = file.choose((("model", "state_dict"), ("state_dict", "model"), ("checkpoint", "model")))
    file.content = {names[0]: {names[1]: file.state}}
    return Situation(f"{file.network} in {{{names[0]!r}: {{{names[1]!r}: ...}}}}", ("state dict", *names))


@mutation
def averaged_and_raw(file: File) -> Situation:
    """Either may be used if the choice is named."""
    raw = {name: value * 0.5 if value.is_floating_point() else value for name, value in file.state.items()}
    names = file.choose(
        (("model", "model_ema"), ("state_dict", "state_dict_ema"), ("model", "ema"), ("net", "ema_net"))
    )
    file.content, file.choices = {names[0]: raw, names[1]: file.state}, (raw,)
    return Situation(f"{file.network} in {names}", (names[1],), must_warn=True, may_inform=True)


@mutation
def containers(file: File) -> Situation:
    kind = file.choose(("OrderedDict", "parameters", "numbers besides", "None besides"))
    state: Any = file.state
    if kind == "OrderedDict":
        file.content = collections.OrderedDict(state)
    elif kind == "parameters":
        file.content = {
            name: torch.nn.Parameter(value) if value.is_floating_point() else value for name, value in state.items()
        }
    else:
        file.content = {**state, "epoch": 7 if kind == "numbers besides" else None}
    return Situation(
        f"{file.network} as {kind}", ("epoch", "state dict"), harmless=kind in ("OrderedDict", "parameters")
    )


@mutation
def not_a_state_dict(file: File) -> Situation:
    kind, content = file.choose(
        (("a list", [torch.ones(2)]), ("a tensor", torch.ones(2)), ("an empty mapping", {}), ("a number", 3))
    )
    file.content, file.has_reference = content, False
    return Situation(f"a file with {kind}", ("state dict", file.name, "tensors"))


@mutation
def pickled_module(file: File) -> Situation:
    file.content, file.has_reference = _build_model("mobilenet_v3_small"), False
    return Situation("a whole module, pickled", ("unpickled", "state dict"))


# --- Files -----------------------------------------------------------------------------------------------------------


def _legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def _safe(content: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: value.contiguous() for name, value in content.items()}, path)


@mutation
def file_names_and_formats(file: File) -> Situation:
    file_format, file.save = file.choose((("zip", torch.save), ("legacy", _legacy), ("safetensors", _safe)))
    file.name = file.choose(
        (
            "model.pth",
            "model.pt",
            "model_best.pth.tar",
            "checkpoint.tar",
            "model.bin",
            "pytorch_model.bin",
            "last.ckpt",
            "weights",
            "model.safetensors",
            "best.model",
            "model.PTH",
            "net.pkl",
            "model.tar.gz",
            "weights.h5",
        )
    )
    return Situation(
        f"{file.network}, {file_format} in {file.name}",
        (file.name,),
        harmless=file.name in ("model.pth", "model.pt", "model_best.pth.tar", "model.safetensors"),
    )


@mutation
def model_name(file: File) -> Situation:
    other = file.choose(MODELS)
    file.name = f"{other}-12345678.pth"
    if not file.network.startswith("regnet"):
        file.hyperparameters.pop("model_name", None)
    return Situation(f"{file.network} in {file.name}", (file.network, "another model"))


@mutation
def damaged_file(file: File) -> Situation:
    file.name = file.choose(("model.pth", "model.safetensors"))
    file.folder.mkdir()
    path = file.folder / file.name
    (_safe if file.name.endswith("safetensors") else torch.save)(file.state, path)
    content = path.read_bytes()
    variant, damaged = file.choose(
        (
            ("empty", b""),
            ("cut short", content[:-1000]),
            ("only its beginning", content[:50]),
            (
                "a pointer of Git LFS",
                b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 9\n",
            ),
            ("an HTML page", b"<!doctype html><html>404</html>"),
            ("a text", b"hello"),
        )
    )
    path.write_bytes(damaged)
    file.has_reference = False
    names = ("LFS",) if "LFS" in variant else (file.name,)
    return Situation(f"{file.network} whose {file.name} is {variant}", names)


@mutation
def several_files(file: File) -> Situation:
    file.folder.mkdir()
    names = file.choose(
        (("a.pth", "b.pth"), ("model.pth", "model.safetensors"), ("best.pt", "last.pt"), ("model.pth", "notes.txt"))
    )
    torch.save(file.state, file.folder / names[0])
    other = {name: value * 0.5 if value.is_floating_point() else value for name, value in file.state.items()}
    if names[1].endswith(".txt"):
        (file.folder / names[1]).write_text("notes")
    else:
        (_safe if names[1].endswith("safetensors") else torch.save)(other, file.folder / names[1])
        file.has_reference = False
    return Situation(f"{file.network} in {' and '.join(names)}", names, harmless=names[1].endswith(".txt"))


@mutation
def in_an_archive(file: File) -> Situation:
    file.folder.mkdir()
    inner = file.folder.parent / "inner"
    inside = file.choose(("model.pth", "model/model.pth", "a/b/model.pth"))
    (inner / inside).parent.mkdir(parents=True)
    torch.save(file.state, inner / inside)
    besides = file.choose(((), ("code/inference.py",), ("code/inference.py", "README.md")))
    for name in besides:
        (inner / name).parent.mkdir(exist_ok=True)
        (inner / name).write_text("print()")
    with tarfile.open(file.folder / "model.tar.gz", "w:gz", compresslevel=1) as archive:
        archive.add(inner, arcname=file.choose((".", "")))
    shutil.rmtree(inner)
    return Situation(
        f"{file.network} as {inside} in model.tar.gz{' beside ' if besides else ''}{', '.join(besides)}",
        ("code", "model.tar.gz", "model"),
        harmless=not besides,
    )


@mutation
def no_class_names(file: File) -> Situation:
    file.hyperparameters.pop("class_names", None)
    return Situation(f"{file.network}, whose classes nobody names", ("order", "class_names"), must_warn=True)
