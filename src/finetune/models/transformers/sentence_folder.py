"""Reads how a sentence-transformers folder turns the token states of its encoder into one vector per text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from finetune.errors import UserError
from finetune.models.weights.sources import CONFIG_FILE, read_json_value
from finetune.models.weights.state_dict import StateDict, read_state_file

MODULES_FILE = "modules.json"
SETTINGS_FILE = "sentence_bert_config.json"
CLASSIFIER_FILE = "classifier.safetensors"
POOLING_FOLDER = "1_Pooling"
# In the order in which sentence-transformers concatenates the vectors of several modes.
POOLING_MODES = ("cls", "max", "mean", "lasttoken")
_OLD_NAMES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
ACTIVATIONS = ("Tanh", "Identity", "ReLU", "GELU", "Sigmoid")
_DENSE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_MODULE_KINDS = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout")


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """A linear layer after the pooling, with its activation, a class of `torch.nn`."""

    in_features: int
    out_features: int
    bias: bool
    activation: str


@dataclass(frozen=True, slots=True)
class SentencePooling:
    """What follows the encoder in a sentence-transformers folder.

    Attributes:
        modes: pooling modes, whose vectors are concatenated.
        dense: linear layers after the pooling.
        normalize: whether the vectors are normalized.
        max_length: maximum number of tokens, if the folder limits it.
        tensors: weights of the linear layers and, in an artifact, of the classifier.
    """

    modes: tuple[str, ...]
    dense: tuple[DenseLayer, ...] = ()
    normalize: bool = False
    max_length: int | None = None
    tensors: StateDict = field(default_factory=dict)

    @property
    def arguments(self) -> dict[str, object]:
        """JSON values from which the handler of an artifact rebuilds the layers."""
        layers = [[layer.in_features, layer.out_features, layer.bias, layer.activation] for layer in self.dense]
        return {"pooling": list(self.modes), "dense": layers, "normalize": self.normalize}


def read_sentence_pooling(folder: Path, location: str) -> SentencePooling | None:
    """Read the modules of a sentence-transformers folder; None if there are none, or only part of them.

    Args:
        folder: folder of the encoder: the whole folder, or its first module.
        location: description of the folder for messages.

    Raises:
        UserError: a file is damaged, or a module is not supported.
    """
    root = next((root for root in (folder, folder.parent) if (root / MODULES_FILE).is_file()), None)
    if root is None:
        return None
    kinds = [(_kind(entry), str(entry.get("path", ""))) for entry in _read_modules(root, location)]
    if not kinds or kinds[0][0] != "Transformer" or (root / kinds[0][1]).resolve() != folder.resolve():
        return None
    unsupported = [kind for kind, _ in kinds[1:] if kind not in _MODULE_KINDS[1:]]
    if unsupported:
        raise UserError(
            f"{MODULES_FILE} in the {location} has the module {unsupported[0][:60]!r}, which is not supported: remove"
            f" it, or remove {MODULES_FILE} for a classifier of the first token."
        )
    paths = {kind: root / path for kind, path in kinds}
    if "Pooling" not in paths or not (paths["Pooling"] / CONFIG_FILE).is_file():
        return None
    layers: list[DenseLayer] = []
    tensors: StateDict = {}
    for kind, path in kinds:
        if kind == "Dense":
            layer, state = _read_dense(root / path, location)
            tensors |= {f"pooling.dense.{len(layers)}.{name}": tensor for name, tensor in state.items()}
            layers.append(layer)
    if (root / CLASSIFIER_FILE).is_file():
        tensors |= read_state_file(root / CLASSIFIER_FILE).tensors
    modes = _read_modes(paths["Pooling"], location)
    return SentencePooling(modes, tuple(layers), "Normalize" in paths, _max_length(folder, location), tensors)


def _read_modules(root: Path, location: str) -> list[Mapping[str, object]]:
    modules = read_json_value(root / MODULES_FILE, location)
    if not isinstance(modules, list) or not all(isinstance(entry, dict) for entry in modules):
        raise UserError(f"{MODULES_FILE} in the {location} is not a list of modules.")
    return modules


def _kind(entry: Mapping[str, object]) -> str:
    return str(entry.get("type", "")).rpartition(".")[2]


def _read_modes(folder: Path, location: str) -> tuple[str, ...]:
    content = read_json_value(folder / CONFIG_FILE, location)
    content = content if isinstance(content, dict) else {}
    stated = content.get("pooling_mode", [mode for name, mode in _OLD_NAMES.items() if content.get(name) is True])
    modes = (stated,) if isinstance(stated, str) else tuple(stated) if isinstance(stated, list) else ()
    unsupported = [str(mode) for mode in modes if mode not in POOLING_MODES]
    if unsupported or not modes:
        raise UserError(
            f"{folder.name}/{CONFIG_FILE} in the {location} has the pooling mode {', '.join(unsupported) or 'none'},"
            f" which is not supported: use one or several of {', '.join(POOLING_MODES)}."
        )
    return modes


def _read_dense(folder: Path, location: str) -> tuple[DenseLayer, StateDict]:
    content = read_json_value(folder / CONFIG_FILE, location)
    weights = next((folder / name for name in _DENSE_WEIGHTS if (folder / name).is_file()), None)
    match content:
        case {"in_features": int(inputs), "out_features": int(outputs), **more} if inputs > 0 and outputs > 0:
            activation = str(more.get("activation_function", "torch.nn.modules.activation.Tanh")).rpartition(".")[2]
            if activation in ACTIVATIONS and weights is not None:
                tensors = read_state_file(weights).tensors
                return DenseLayer(inputs, outputs, more.get("bias") is not False, activation), {
                    name.removeprefix("linear."): tensor for name, tensor in tensors.items()
                }
    raise UserError(
        f"{folder.name} in the {location} is not a supported Dense module: it needs in_features, out_features and an"
        f" activation_function of {', '.join(ACTIVATIONS)} in {CONFIG_FILE}, and {_DENSE_WEIGHTS[0]}."
    )


def _max_length(folder: Path, location: str) -> int | None:
    if not (folder / SETTINGS_FILE).is_file():
        return None
    settings = read_json_value(folder / SETTINGS_FILE, location)
    length = settings.get("max_seq_length") if isinstance(settings, dict) else None
    return length if isinstance(length, int) and length > 0 else None
