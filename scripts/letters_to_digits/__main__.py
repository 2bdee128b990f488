"""Trains on printed letters, adapts the result to handwritten digits by each strategy, and compares."""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from letters_to_digits.channels import Channels, write_digits, write_letters
from letters_to_digits.jobs import JobFailedError, Outcome, Runner, Workshop
from letters_to_digits.table import BASELINE, comparison
from sagemaker_simulator import Container

STRATEGIES = ("feature_extraction", "partial", "full", BASELINE)

# Mirrored letters and digits are different characters, and the letters are already distorted. In fp32 the table is
# nearly the same on every CPU; by default, CPUs with bf16 multiplication would use it.
IMAGES = {"image_size": "32", "augmentation": "none", "precision": "fp32"}
LETTERS = IMAGES | {
    "model_name": "resnet18",
    "strategy": "from_scratch",
    "epochs": "6",
    "batch_size": "64",
    "label_smoothing": "0.1",
}
# In the container image a job needs no network, and writes only to its own folders.
READ_ONLY = ("--read-only", "--tmpfs", "/tmp")  # noqa: S108 - the container's own

# Few images need small batches: with three images of each of ten classes, batches of ten give three steps per epoch.
DIGITS = IMAGES | {"batch_size": "10"}


@dataclass(frozen=True, slots=True)
class Options:
    """Command-line options."""

    folder: Path
    per_class: int
    variants: int
    epochs: int
    seed: int
    show_logs: bool
    image: str | None = None


def main() -> int:
    """Run the demo; the exit code is 1 if a job failed."""
    options = read_options()
    container = Container(options.image, options=READ_ONLY) if options.image else None
    workshop = Workshop(options.folder / "jobs", sys.stdout if options.show_logs else None, container)
    print(f"Output folder: {options.folder}\n")
    letters = write_letters(options.folder / "letters", options.variants, options.seed)
    digits = write_digits(options.folder / "digits", options.per_class, options.seed)

    print("Training a ResNet-18 on printed letters from random weights:", flush=True)
    base = run(workshop, "letters", letters, LETTERS | {"seed": str(options.seed)})
    if base is None:
        return 1

    print(f"\nFine-tuning its model.tar.gz on handwritten digits, with {options.per_class} images of each:", flush=True)
    outcomes = adapt(workshop, digits, base, options)
    report(outcomes, options.epochs)
    return 0 if len(outcomes) == len(STRATEGIES) else 1


def adapt(workshop: Runner, digits: Channels, base: Outcome, options: Options) -> dict[str, Outcome]:
    """Run one job per strategy; failed ones are missing in the result."""
    outcomes = {}
    for strategy in STRATEGIES:
        hyperparameters = DIGITS | {"strategy": strategy, "epochs": str(options.epochs), "seed": str(options.seed)}
        if strategy == BASELINE:
            channels, hyperparameters = digits, hyperparameters | {"model_name": LETTERS["model_name"]}
        else:
            channels = digits | {"model": base.model}
        outcome = run(workshop, f"digits-{strategy.replace('_', '-')}", channels, hyperparameters)
        if outcome is not None:
            outcomes[strategy] = outcome
    return outcomes


def run(workshop: Runner, name: str, channels: Channels, hyperparameters: dict[str, str]) -> Outcome | None:
    """Run a job and print its result in one line."""
    print(f"  {name}: ", end="", flush=True)
    try:
        outcome = workshop.run(name, channels, hyperparameters)
    except JobFailedError as error:
        print(f"failed: {error}", flush=True)
        return None
    accuracies = ", ".join(f"{channel} {accuracy:.3f}" for channel, accuracy in outcome.accuracy.items())
    print(f"{outcome.seconds:.1f} s, accuracy on {accuracies}", flush=True)
    return outcome


def report(outcomes: dict[str, Outcome], epochs: int) -> None:
    """Print the table, and the paths of all files."""
    if not outcomes:
        return
    some = next(iter(outcomes.values()))
    print(f"\n{comparison(outcomes)}\n")
    print(f"Accuracy on {some.records['test']:,} held-out digits, after {epochs} epochs each.")
    print("Accuracy varies by 0.1 and more with --seed, which draws the training images.")
    print("Seconds include the start of each job.")
    print("\nThe models:")
    for strategy, outcome in outcomes.items():
        print(f"  {strategy:<20}{outcome.model}")


def read_options() -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--folder", type=Path, help="output folder (default: a new temporary folder)")
    parser.add_argument("--per-class", type=int, default=3, help="training images per digit (default: 3)")
    parser.add_argument("--variants", type=int, default=4, help="images per letter and font (default: 4)")
    parser.add_argument("--epochs", type=int, default=5, help="epochs on the digits (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument("--show-logs", action="store_true", help="print the logs of the jobs")
    parser.add_argument("--image", metavar="NAME", help="run the jobs in this Docker image, without network access")
    options = parser.parse_args()
    if not 1 <= options.per_class <= 80:
        parser.error(f"--per-class {options.per_class}: must be 1 to 80, as there are about 180 images per digit")
    if options.folder is not None and options.folder.exists() and any(options.folder.iterdir()):
        parser.error(f"--folder {options.folder} is not empty")
    folder = Path(tempfile.mkdtemp(prefix="finetune-demo-")) if options.folder is None else options.folder.absolute()
    return Options(
        folder,
        options.per_class,
        options.variants,
        options.epochs,
        options.seed,
        options.show_logs,
        options.image,
    )


if __name__ == "__main__":
    sys.exit(main())
