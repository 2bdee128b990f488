"""Single faults of a model folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from tests.fuzz.model_folders import LABELS, SHAPES, WEIGHTS, Folder
from tests.fuzz.oracle import Situation
from tests.fuzz.running import production_warnings
from tests.support.tiny_transformers import IMAGE_TYPES, TEXT_TYPES, WORDS

Mutation = Callable[[Folder], Situation]
MUTATIONS: dict[str, tuple[tuple[str, ...], Mutation]] = {}
"""Mutations by name, with the model families that they apply to."""


def mutation(types: Sequence[str] = (*TEXT_TYPES, *IMAGE_TYPES)) -> Callable[[Mutation], Mutation]:
    """Register a mutation."""

    def register(function: Mutation) -> Mutation:
        MUTATIONS[function.__name__] = (tuple(types), function)
        return function

    return register


HEAD_MUTATIONS = ("drop_tensor", "rename_tensor", "reshape_tensor", "other_number_of_rows", "unchanged")


# --- Mutations: tensors ----------------------------------------------------------------------------------------------


def _tensor(folder: Folder) -> tuple[dict[str, Tensor], str]:
    """All tensors, and the name of one: with equal probability of the head or of any layer."""
    tensors = folder.tensors()
    head = [name for name in tensors if name.startswith(("classifier", "score", "pre_classifier")) or "pooler" in name]
    return tensors, folder.choose(sorted(head if folder.draw(st.booleans()) and head else tensors))


def _tail(name: str) -> tuple[str, ...]:
    """The names a message may use for a tensor: its name, with or without the base model's prefix."""
    return name, name.partition(".")[2] or name


@mutation()
def drop_tensor(folder: Folder) -> Situation:
    tensors, name = _tensor(folder)
    del tensors[name]
    folder.save(tensors)
    return Situation(f"{folder.model_type} without {name}", (*_tail(name), "top layer"))


@mutation()
def rename_tensor(folder: Folder) -> Situation:
    tensors, name = _tensor(folder)
    tensors[f"{name}_"] = tensors.pop(name)
    folder.save(tensors)
    return Situation(f"{folder.model_type} with {name} renamed {name}_", (*_tail(name), "top layer"))


@mutation()
def reshape_tensor(folder: Folder) -> Situation:
    tensors, name = _tensor(folder)
    value = tensors[name]
    if value.dim() == 0:
        return Situation("nothing changed")
    variant = folder.choose(("shorter", "longer", "flat", "more dimensions"))
    if variant == "shorter" and len(value) > 1:
        tensors[name] = value[:-1]
    elif variant == "flat" and value.dim() > 1:
        tensors[name] = value.flatten()
    elif variant == "more dimensions":
        tensors[name] = value[None]
    else:
        variant, tensors[name] = "longer", torch.cat([value, value[:1]])
    folder.save(tensors)
    return Situation(f"{folder.model_type} with {name} {variant}", (*_tail(name), "config.json"))


@mutation()
def transpose_tensor(folder: Folder) -> Situation:
    tensors, name = _tensor(folder)
    if tensors[name].dim() < 2:
        return Situation("nothing changed")
    tensors[name] = tensors[name].transpose(0, 1)
    folder.save(tensors)
    return Situation(f"{folder.model_type} with {name} transposed", (*_tail(name), "config.json"))


@mutation()
def retype_all_tensors(folder: Folder) -> Situation:
    dtype = folder.choose((torch.float16, torch.bfloat16, torch.float64))
    folder.save(
        {name: value.to(dtype) if value.is_floating_point() else value for name, value in folder.tensors().items()}
    )
    return Situation(f"{folder.model_type} in {dtype}", harmless=True)


@mutation()
def retype_tensor(folder: Folder) -> Situation:
    tensors, name = _tensor(folder)
    dtype = folder.choose((torch.float16, torch.float64, torch.int8, torch.int64, torch.bool))
    tensors[name] = tensors[name].to(dtype)
    folder.save(tensors)
    return Situation(f"{folder.model_type} with {name} in {dtype}", (*_tail(name), "int8", "int64", "bool"))


@mutation()
def fill_tensor_with_nan(folder: Folder) -> Situation:
    tensors, name = _tensor(folder)
    tensors[name] = torch.full_like(tensors[name].float(), folder.choose((float("nan"), float("inf"))))
    folder.save(tensors)
    return Situation(f"{folder.model_type} with {name} not finite", (*_tail(name), "nan", "finite", "infinite"))


@mutation()
def prefix_all_tensors(folder: Folder) -> Situation:
    folder.clean = Path(shutil.copytree(folder.path, folder.path.parent / "clean"))
    prefix = folder.choose(("module.", "_orig_mod.", "model.", "_orig_mod.module."))
    folder.save({prefix + name: value for name, value in folder.tensors().items()})
    return Situation(f"{folder.model_type} with {prefix} before every name", (prefix, "model.safetensors", "tensors"))


@mutation()
def add_tensor(folder: Folder) -> Situation:
    tensors = folder.tensors()
    name = folder.choose(("cls.predictions.bias", "lm_head.weight", "extra.weight", "classifier.extra.weight"))
    tensors[name] = torch.ones(3)
    folder.save(tensors)
    return Situation(f"{folder.model_type} with {name} besides", (name,))


# --- Mutations: classes ----------------------------------------------------------------------------------------------


@mutation()
def permute_both_label_maps(folder: Folder) -> Situation:
    order = folder.draw(st.permutations(LABELS))
    folder.change("config.json", id2label=dict(enumerate(order)), label2id={name: at for at, name in enumerate(order)})
    return Situation(f"{folder.model_type} with labels {order}", harmless=True)


@mutation()
def only_label2id(folder: Folder) -> Situation:
    order = folder.draw(st.permutations(LABELS))
    folder.remove("config.json", "id2label")
    folder.change("config.json", label2id={name: at for at, name in enumerate(order)})
    return Situation(f"{folder.model_type} with label2id {order} alone", ("label2id",))


@mutation()
def only_id2label(folder: Folder) -> Situation:
    order = folder.draw(st.permutations(LABELS))
    folder.remove("config.json", "label2id")
    folder.change("config.json", id2label=dict(enumerate(order)))
    return Situation(f"{folder.model_type} with id2label {order} alone", ("id2label",), harmless=True)


@mutation()
def contradicting_label_maps(folder: Folder) -> Situation:
    folder.change("config.json", label2id={name: at for at, name in enumerate(reversed(LABELS))})
    return Situation(f"{folder.model_type} whose label2id contradicts id2label", ("label2id", "id2label"))


@mutation()
def no_label_names(folder: Folder) -> Situation:
    if folder.draw(st.booleans()):
        folder.remove("config.json", "id2label", "label2id")
        text = f"{folder.model_type} without id2label and label2id"
    else:
        names = ("LABEL_0", "LABEL_1")
        folder.change("config.json", id2label=dict(enumerate(names)), label2id={n: at for at, n in enumerate(names)})
        text = f"{folder.model_type} with labels LABEL_0 and LABEL_1"
    return Situation(text, ("order", "class_names"), must_warn=True)


@mutation()
def other_number_of_label_names(folder: Folder) -> Situation:
    names = folder.choose((("pos",), ("pos", "neg", "mid"), ("pos", "neg", "mid", "more")))
    folder.change("config.json", id2label=dict(enumerate(names)), label2id={name: at for at, name in enumerate(names)})
    return Situation(
        f"{folder.model_type} with {len(names)} labels and a head of 2 rows",
        ("classifier", "score", "id2label", "one class", "classes"),
    )


@mutation()
def other_number_of_rows(folder: Folder) -> Situation:
    tensors = folder.tensors()
    rows = [name for name in tensors if name.startswith(("classifier", "score")) and tensors[name].shape[0] == 2]
    for name in rows:
        tensors[name] = torch.cat([tensors[name], tensors[name][:1]])
    folder.save(tensors)
    return Situation(f"{folder.model_type} with 2 labels and a head of 3 rows", tuple(rows))


@mutation()
def odd_id2label(folder: Folder) -> Situation:
    value = folder.choose(
        (
            {"1": "pos", "2": "neg"},
            {"0": "pos", "1": "pos"},
            {"0": "pos"},
            {"a": "pos", "b": "neg"},
            ["pos", "neg"],
            {"0": ["pos"], "1": ["neg"]},
            {"0": None, "1": None},
            {"0": 0, "1": 1},
            {},
            "pos,neg",
        )
    )
    folder.remove("config.json", "label2id")
    folder.change("config.json", id2label=value)
    return Situation(f"{folder.model_type} with id2label={value!r}", ("id2label", "config.json", "classes", "class"))


@mutation()
def odd_label2id(folder: Folder) -> Situation:
    value = folder.choose(
        (
            {"pos": 1, "neg": 2},
            {"pos": 0, "neg": 0},
            {"pos": "0", "neg": "1"},
            ["pos", "neg"],
            {},
            {"pos": None, "neg": 1},
        )
    )
    if folder.draw(st.booleans()):
        folder.remove("config.json", "id2label")
    folder.change("config.json", label2id=value)
    return Situation(f"{folder.model_type} with label2id={value!r}", ("label2id", "config.json", "classes", "order"))


@mutation()
def num_labels_and_names(folder: Folder) -> Situation:
    folder.clean = Path(shutil.copytree(folder.path, folder.path.parent / "clean"))
    count = folder.choose((1, 2, 3, 0, -1))
    folder.change("config.json", num_labels=count)
    return Situation(
        f"{folder.model_type} with num_labels={count} beside two names", ("num_labels", "id2label", "class")
    )


@mutation()
def problem_type(folder: Folder) -> Situation:
    kind = folder.choose(("multi_label_classification", "regression", "single_label_classification", "nonsense"))
    folder.change("config.json", problem_type=kind)
    return Situation(
        f"{folder.model_type} with problem_type={kind}",
        ("problem_type", "multi_label", "several classes", "regression"),
        harmless=kind == "single_label_classification",
    )


# --- Mutations: the configuration ------------------------------------------------------------------------------------

_LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "depths")
_UNUSUAL_VALUES: tuple[object, ...] = (None, "x", -1, 0, 1, 0.5, True, [], [1], {}, {"a": 1}, "")
_UNCHANGED_FIELDS = {"id2label", "label2id", "num_labels", "problem_type", "transformers_version", "_name_or_path"}


def _names_of(name: str) -> tuple[str, ...]:
    """The names a message may use for a field, such as "attention heads" for `num_attention_heads`."""
    return name, name.removeprefix("num_").replace("_", " ")


@mutation()
def remove_configuration_field(folder: Folder) -> Situation:
    names = sorted(set(folder.json("config.json")) - _UNCHANGED_FIELDS)
    name = folder.choose(names)
    folder.remove("config.json", name)
    return Situation(f"{folder.model_type} without {name}", (*_names_of(name), "config.json"))


@mutation()
def odd_configuration_field(folder: Folder) -> Situation:
    names = sorted(set(folder.json("config.json")) - _UNCHANGED_FIELDS)
    name, value = folder.choose(names), folder.choose(_UNUSUAL_VALUES)
    folder.change("config.json", **{name: value})
    return Situation(f"{folder.model_type} with {name}={value!r}", (*_names_of(name), "config.json"))


@mutation()
def other_number_of_layers(folder: Folder) -> Situation:
    config = folder.json("config.json")
    name = next(name for name in _LAYERS if name in config)
    value = config[name]
    change = folder.choose((-1, 1))
    folder.change(
        "config.json", **{name: [value[0] + change, *value[1:]] if isinstance(value, list) else value + change}
    )
    return Situation(f"{folder.model_type} with {name} {change:+d}", (name, "layer", "config.json"))


@mutation()
def follows_configuration(folder: Folder) -> Situation:
    config = folder.json("config.json")
    changes = {
        "layer_norm_eps": 0.1,
        "layer_norm_epsilon": 0.1,
        "hidden_act": "relu",
        "activation": "relu",
        "activation_function": "relu",
        "scale_attn_weights": False,
        "qkv_bias": False,
        "position_biased_input": True,
        "downsample_in_first_stage": True,
        "use_absolute_embeddings": True,
        "norm_rel_ebd": "none",
        "sinusoidal_pos_embds": True,
        "dtype": "float16",
        "is_decoder": True,
        "encoder_stride": 8,
        "summary_type": "first",
        "max_relative_positions": 4,
        "tie_word_embeddings": False,
        "hidden_dropout_prob": 0.9,
        "output_attentions": True,
        "output_hidden_states": True,
        "return_dict": False,
        "use_return_dict": False,
        "torchscript": True,
        "use_cache": False,
        "chunk_size_feed_forward": 1,
    }
    name = folder.choose([name for name in changes if name in config or name in _ALWAYS_ALLOWED])
    folder.change("config.json", **{name: changes[name]})
    return Situation(f"{folder.model_type} with {name}={changes[name]!r}", (name, "config.json"))


_ALWAYS_ALLOWED = (
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "torchscript",
    "chunk_size_feed_forward",
    "dtype",
)


@mutation()
def unusable_configuration(folder: Folder) -> Situation:
    name, value = folder.choose(
        (
            ("hidden_act", "nonsense"),
            ("quantization_config", {"quant_method": "bitsandbytes", "load_in_8bit": True}),
            ("quantization_config", {"quant_method": "gptq", "bits": 4}),
            ("quantization_config", {"quant_method": "nonsense"}),
            ("_attn_implementation", "flash_attention_2"),
            ("attn_implementation", "flash_attention_2"),
            ("auto_map", {"AutoModelForSequenceClassification": "code.Network"}),
            ("architectures", ["NonsenseForNothing"]),
            ("model_type", "nonsense"),
            ("model_type", None),
            ("dtype", "nonsense"),
            ("torch_dtype", "int8"),
        )
    )
    folder.change("config.json", **{name: value})
    return Situation(f"{folder.model_type} with {name}={value!r}", (name, "config.json", "flash", "quantiz"))


@mutation()
def damaged_json_file(folder: Folder) -> Situation:
    names = sorted(path.name for path in folder.path.glob("*.json"))
    name = folder.choose(names)
    content = (folder.path / name).read_bytes()
    variant, damaged = folder.choose(
        (
            ("empty", b""),
            ("cut short", content[: len(content) // 2]),
            ("a list", b"[]"),
            ("nested 100,000 deep", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
            ("UTF-16", content.decode().encode("utf-16")),
            ("a pointer of Git LFS", _pointer(1234)),
            ("an HTML page", b"<!doctype html><html>404</html>"),
        )
    )
    (folder.path / name).write_bytes(damaged)
    return Situation(f"{folder.model_type} whose {name} is {variant}", (name, "tokenizer"))


def _pointer(size: int) -> bytes:
    return b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize %d\n" % size


# --- Mutations: the tokenizer ----------------------------------------------------------------------------------------


@mutation(TEXT_TYPES)
def padding_number(folder: Folder) -> Situation:
    number = folder.choose((1, 2, len(WORDS) - 1, len(WORDS), 10_000, -1, None, "0"))
    folder.change("config.json", pad_token_id=number)
    return Situation(f"{folder.model_type} with pad_token_id={number!r} in config.json", ("pad_token_id", "padding"))


@mutation(TEXT_TYPES)
def added_token(folder: Folder) -> Situation:
    from transformers import AutoTokenizer

    used = folder.draw(st.booleans())
    with production_warnings():
        tokenizer: Any = AutoTokenizer.from_pretrained(folder.path, local_files_only=True)
        tokenizer.add_tokens(["newword"])
        tokenizer.save_pretrained(folder.path)
    folder.word = "newword" if used else ""
    return Situation(
        f"{folder.model_type} whose tokenizer has an added word, {'used' if used else 'not used'}",
        ("token", "embedding"),
        harmless=False,
    )


@mutation(TEXT_TYPES)
def added_padding_token(folder: Folder) -> Situation:
    from transformers import AutoTokenizer

    with production_warnings():
        tokenizer: Any = AutoTokenizer.from_pretrained(folder.path, local_files_only=True)
        tokenizer.add_special_tokens({"pad_token": "[NEWPAD]"})
        tokenizer.save_pretrained(folder.path)
    return Situation(f"{folder.model_type} with an added padding token", ("token", "embedding"))


@mutation(TEXT_TYPES)
def vocabulary_size(folder: Folder) -> Situation:
    size = folder.choose((len(WORDS) - 1, len(WORDS) + 1, 1))
    folder.change("config.json", vocab_size=size)
    return Situation(f"{folder.model_type} with vocab_size={size}", ("vocab_size", "embedding", "config.json"))


@mutation(TEXT_TYPES)
def fewer_embeddings(folder: Folder) -> Situation:
    tensors = folder.tensors()
    name = next(name for name in tensors if name.endswith(("word_embeddings.weight", "wte.weight")))
    rows = folder.choose((len(WORDS) - 1, 5, 4))
    tensors[name] = tensors[name][:rows]
    folder.save(tensors)
    folder.change("config.json", vocab_size=rows)
    return Situation(
        f"{folder.model_type} with {rows} embeddings for {len(WORDS)} tokens", ("token", "embedding", "vocab_size")
    )


@mutation(TEXT_TYPES)
def more_embeddings(folder: Folder) -> Situation:
    tensors = folder.tensors()
    name = next(name for name in tensors if name.endswith(("word_embeddings.weight", "wte.weight")))
    tensors[name] = torch.cat([tensors[name], tensors[name][:3]])
    folder.save(tensors)
    folder.change("config.json", vocab_size=len(WORDS) + 3)
    return Situation(f"{folder.model_type} with more embeddings than tokens", harmless=True)


@mutation(TEXT_TYPES)
def tokenizer_field(folder: Folder) -> Situation:
    name, value = folder.choose(
        (
            ("model_max_length", 6),
            ("model_max_length", 10**30),
            ("model_max_length", 6.0),
            ("model_max_length", None),
            ("model_max_length", -1),
            ("model_max_length", "6"),
            ("truncation_side", "left"),
            ("padding_side", "left"),
            ("model_input_names", ["input_ids", "attention_mask"]),
            ("pad_token", "mat"),
            ("pad_token", None),
            ("pad_token", 7),
            ("cls_token", "the"),
            ("tokenizer_class", "NonsenseTokenizer"),
            ("tokenizer_class", None),
            ("tokenizer_class", "BertTokenizer"),
            ("do_lower_case", True),
            ("add_prefix_space", True),
        )
    )
    folder.pairs = folder.draw(st.booleans()) and folder.model_type != "gpt2"
    folder.change("tokenizer_config.json", **{name: value})
    pair = " and pairs of texts" if folder.pairs else ""
    return Situation(f"{folder.model_type} with {name}={value!r} in tokenizer_config.json{pair}", (name, "tokenizer"))


@mutation([name for name in TEXT_TYPES if name != "gpt2"])
def pairs_of_texts(folder: Folder) -> Situation:
    folder.pairs = True
    return Situation(f"{folder.model_type} with pairs of texts", harmless=True)


@mutation(TEXT_TYPES)
def left_padding_in_file(folder: Folder) -> Situation:
    tokenizer = folder.json("tokenizer.json")
    length = folder.choose((4, 12))
    tokenizer["padding"] = {
        "strategy": {"Fixed": length},
        "direction": folder.choose(("Left", "Right")),
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    if folder.draw(st.booleans()):
        tokenizer["truncation"] = {"direction": "Left", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    folder.write("tokenizer.json", tokenizer)
    return Situation(f"{folder.model_type} whose tokenizer.json pads to {length}", ("tokenizer",))


@mutation(TEXT_TYPES)
def few_positions(folder: Folder) -> Situation:
    names = ("max_position_embeddings", "n_positions")
    config = folder.json("config.json")
    name = next(name for name in names if name in config)
    value = folder.choose((8, 31, 33, 64))
    folder.change("config.json", **{name: value})
    return Situation(f"{folder.model_type} with {name}={value}", (name, "position", "config.json"))


# --- Mutations: the image processor ----------------------------------------------------------------------------------

PROCESSOR = "preprocessor_config.json"


@mutation(IMAGE_TYPES)
def images_of_other_sizes(folder: Folder) -> Situation:
    folder.shapes = SHAPES
    return Situation(
        f"{folder.model_type} with images of {SHAPES} pixels", ("size", "resize", "aspect", "shape", "crop")
    )


@mutation(IMAGE_TYPES)
def processor_switch(folder: Folder) -> Situation:
    name = folder.choose(
        (
            "do_resize",
            "do_normalize",
            "do_rescale",
            "do_center_crop",
            "do_convert_rgb",
            "do_flip_channel_order",
            "do_pad",
            "do_reduce_labels",
            "do_color_quantize",
        )
    )
    value = folder.choose((False, True))
    folder.change(PROCESSOR, **{name: value})
    return Situation(f"{folder.model_type} with {name}={value}", (name, PROCESSOR))


@mutation(IMAGE_TYPES)
def processor_value(folder: Folder) -> Situation:
    name, value = folder.choose(
        (
            ("rescale_factor", 1 / 127.5),
            ("rescale_factor", 1.0),
            ("rescale_factor", 0),
            ("rescale_offset", True),
            ("image_mean", [0.1, 0.2, 0.3]),
            ("image_mean", 0.5),
            ("image_mean", [0.5]),
            ("image_mean", None),
            ("image_std", [0.1, 0.2, 0.3]),
            ("image_std", [0.0, 0.1, 0.1]),
            ("image_std", [1, 1, 1]),
            ("resample", 0),
            ("resample", 1),
            ("resample", 2),
            ("resample", 4),
            ("resample", 5),
            ("resample", None),
            ("resample", "bicubic"),
            ("crop_pct", 0.875),
            ("crop_pct", 1.0),
            ("do_reduce_labels", True),
            ("image_processor_type", "ConvNextImageProcessor"),
            ("image_processor_type", "BitImageProcessor"),
            ("image_processor_type", "CLIPImageProcessor"),
            ("image_processor_type", "EfficientNetImageProcessor"),
            ("image_processor_type", "NonsenseImageProcessor"),
            ("image_processor_type", None),
            ("image_processor_type", "ViTImageProcessorFast"),
            ("feature_extractor_type", "ViTFeatureExtractor"),
            ("pad_size", {"height": 40, "width": 40}),
            ("data_format", "channels_last"),
            ("input_data_format", "channels_last"),
            ("size_divisor", 32),
            ("default_to_square", False),
        )
    )
    folder.shapes = folder.choose((folder.shapes, ((64, 64),) * 4))
    folder.change(PROCESSOR, **{name: value})
    return Situation(f"{folder.model_type} with {name}={value!r}, images {folder.shapes[0]}", (name, PROCESSOR))


@mutation(IMAGE_TYPES)
def processor_size(folder: Folder) -> Situation:
    size = folder.choose(
        (
            {"shortest_edge": 32},
            {"height": 32, "width": 32},
            32,
            {"shortest_edge": 40},
            {"height": 40, "width": 32},
            {"longest_edge": 32},
            {"shortest_edge": 32, "longest_edge": 64},
            [32, 32],
            {"height": 0, "width": 0},
            {"height": 33, "width": 33},
            None,
            "32",
            {"max_height": 32, "max_width": 32},
            {"height": 64, "width": 64},
        )
    )
    changes: dict[str, object] = {"size": size}
    if folder.draw(st.booleans()):
        changes |= {
            "do_center_crop": True,
            "crop_size": folder.choose((32, {"height": 32, "width": 32}, {"height": 24, "width": 32})),
        }
    folder.shapes = folder.choose((folder.shapes, ((64, 64),) * 4))
    folder.change(PROCESSOR, **changes)
    return Situation(
        f"{folder.model_type} with {changes!r}, images {folder.shapes[0]}", ("size", PROCESSOR, "image_size", "pixels")
    )


@mutation(IMAGE_TYPES)
def remove_processor_field(folder: Folder) -> Situation:
    name = folder.choose(sorted(folder.json(PROCESSOR)))
    folder.shapes = folder.choose((folder.shapes, ((64, 64),) * 4))
    folder.remove(PROCESSOR, name)
    return Situation(f"{folder.model_type} without {name}, images {folder.shapes[0]}", (name, PROCESSOR))


# --- Mutations: files ------------------------------------------------------------------------------------------------


@mutation()
def remove_file(folder: Folder) -> Situation:
    name = folder.choose(sorted(path.name for path in folder.path.iterdir()))
    (folder.path / name).unlink()
    return Situation(
        f"{folder.model_type} without {name}", (name, "tokenizer") if name.startswith("tokenizer") else (name,)
    )


@mutation()
def only_weights(folder: Folder) -> Situation:
    for path in folder.path.iterdir():
        if path.name != WEIGHTS:
            path.unlink()
    return Situation(f"{folder.model_type}: model.safetensors alone", ("config.json",))


@mutation()
def damaged_weights(folder: Folder) -> Situation:
    content = (folder.path / WEIGHTS).read_bytes()
    variant, damaged = folder.choose(
        (
            ("a pointer of Git LFS", _pointer(len(content))),
            ("empty", b""),
            ("cut short", content[:-100]),
            ("without its header", content[100:]),
            ("an HTML page", b"<!doctype html><html>404</html>"),
            ("longer", content + b"x" * 10),
        )
    )
    names = ("LFS",) if "LFS" in variant else (WEIGHTS, "the weights in")
    (folder.path / WEIGHTS).write_bytes(damaged)
    return Situation(f"{folder.model_type} whose model.safetensors is {variant}", names)


@mutation()
def weights_in_other_files(folder: Folder) -> Situation:
    tensors = folder.tensors()
    variant = folder.choose(
        (
            "pytorch_model.bin",
            "both, different",
            "weights.safetensors",
            "pytorch_model.pt",
            "model.bin",
            "tf_model.h5",
            "flax_model.msgpack",
        )
    )
    if variant == "both, different":
        torch.save({name: value * 2 for name, value in tensors.items()}, folder.path / "pytorch_model.bin")
        return Situation(
            f"{folder.model_type} with a pytorch_model.bin of other values besides", ("pytorch_model.bin",)
        )
    (folder.path / WEIGHTS).unlink()
    if variant.endswith("safetensors"):
        save_file(tensors, folder.path / variant, {"format": "pt"})
    elif variant.endswith((".h5", ".msgpack")):
        (folder.path / variant).write_bytes(b"\x89HDF\r\n\x1a\n")
    else:
        torch.save(tensors, folder.path / variant)
    return Situation(
        f"{folder.model_type} with {variant} instead of model.safetensors", (variant, WEIGHTS, "TensorFlow", "flax")
    )


@mutation()
def shards(folder: Folder) -> Situation:
    variant = folder.choose(
        (
            "whole",
            "without index",
            "one missing",
            "outside",
            "absolute",
            "sub folder",
            "not text",
            "tensor in the wrong one",
            "link outside",
        )
    )
    tensors = folder.tensors()
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    (folder.path / WEIGHTS).unlink()
    for file, part in halves.items():
        save_file({name: tensors[name] for name in part}, folder.path / file, {"format": "pt"})
    second = folder.path / "model-00002-of-00002.safetensors"
    outside = folder.path.parent / "outside.safetensors"
    weight_map: dict[str, Any] = {name: file for file, part in halves.items() for name in part}
    target: Any = {
        "outside": "../outside.safetensors",
        "absolute": str(outside),
        "sub folder": "sub/second.safetensors",
        "not text": 7,
    }.get(variant)
    if variant in ("outside", "absolute", "link outside"):
        second.rename(outside)
    if variant == "link outside":
        second.symlink_to(outside)
    if variant == "sub folder":
        (folder.path / "sub").mkdir()
        second.rename(folder.path / "sub" / "second.safetensors")
    if variant == "one missing":
        second.unlink()
    if target is not None:
        weight_map = {name: target if file == second.name else file for name, file in weight_map.items()}
    if variant == "tensor in the wrong one":
        weight_map[names[1]] = "model-00001-of-00002.safetensors"
    if variant != "without index":
        folder.write(f"{WEIGHTS}.index.json", {"metadata": {"total_size": 1}, "weight_map": weight_map})
    if variant in ("outside", "absolute", "link outside"):
        folder.forbidden = "a file outside of the folder"
    named = (second.name, outside.name, f"{WEIGHTS}.index.json", "weight_map", "index", "shard")
    return Situation(
        f"{folder.model_type} in shards, {variant}",
        named,
        harmless=variant == "whole",
        must_refuse=bool(folder.forbidden),
    )


@mutation()
def linked_file(folder: Folder) -> Situation:
    name = folder.choose(sorted(path.name for path in folder.path.iterdir()))
    target = folder.path.parent / f"other-{name}"
    (folder.path / name).rename(target)
    variant = folder.choose(("a file outside", "nothing", "itself"))
    folder.forbidden = "a link" if variant == "a file outside" else ""
    (folder.path / name).symlink_to({"a file outside": target, "nothing": "nothing-there", "itself": name}[variant])
    return Situation(f"{folder.model_type} whose {name} is a link to {variant}", (name, "link", "tokenizer"))


@mutation()
def adapter(folder: Folder) -> Situation:
    only_one = folder.draw(st.booleans())
    if only_one:
        for path in folder.path.iterdir():
            path.unlink()
    folder.write("adapter_config.json", {"peft_type": "LORA", "base_model_name_or_path": "x", "r": 8})
    save_file({"base_model.model.lora_A.weight": torch.ones(2, 2)}, folder.path / "adapter_model.safetensors")
    return Situation(
        f"{folder.model_type} {'replaced by' if only_one else 'with'} an adapter", ("adapter",), must_warn=True
    )


@mutation()
def harmless_files(folder: Folder) -> Situation:
    for name in (".DS_Store", "README.md", "training_args.bin", "optimizer.pt", "trainer_state.json", "rng_state.pth"):
        (folder.path / name).write_bytes(b"{}")
    return Situation(f"{folder.model_type} with files of a trainer", harmless=True)


@mutation()
def nested_folder(folder: Folder) -> Situation:
    inner = folder.path / "inner"
    inner.mkdir()
    for path in [path for path in folder.path.iterdir() if path != inner]:
        path.rename(inner / path.name)
    folder.path = inner
    return Situation(f"{folder.model_type} in a folder of its own", harmless=True)


@mutation()
def unchanged(folder: Folder) -> Situation:
    return Situation(f"{folder.model_type}, unchanged", harmless=True)
