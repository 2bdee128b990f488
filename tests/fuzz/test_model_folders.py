"""Evaluating a transformers folder gives the results of transformers, or the difference is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import reject
from hypothesis import strategies as st

from sagemaker_simulator import Channel
from tests.fuzz.model_faults import HEAD_MUTATIONS, MUTATIONS
from tests.fuzz.model_folders import Folder, existing_head, new_case, reference, write_channel
from tests.fuzz.oracle import Situation, check, is_close
from tests.fuzz.profile import try_examples
from tests.fuzz.running import evaluate, example_folder, read_records

EXAMPLES = {
    "unchanged": 10,
    "drop_tensor": 16,
    "rename_tensor": 16,
    "reshape_tensor": 16,
    "transpose_tensor": 16,
    "contradicting_label_maps": 10,
    "no_label_names": 20,
    "odd_id2label": 30,
    "odd_label2id": 24,
    "odd_configuration_field": 40,
    "follows_configuration": 30,
    "unusable_configuration": 40,
    "damaged_json_file": 30,
    "padding_number": 30,
    "added_token": 14,
    "added_padding_token": 7,
    "tokenizer_field": 30,
    "pairs_of_texts": 6,
    "processor_switch": 54,
    "processor_value": 80,
    "processor_size": 30,
    "remove_file": 20,
    "damaged_weights": 12,
    "weights_in_other_files": 14,
    "shards": 30,
    "linked_file": 16,
    "adapter": 20,
}
"""Maximum number of examples per mutation; if there are fewer distinct ones, each is tried."""


def judge(root: Path, folder: Folder, channel: Path, situation: Situation) -> None:
    run = evaluate(root, {"model": channel, "test": write_channel(root / "test", folder)})
    check(situation, run, reference(folder), is_close)


@pytest.mark.parametrize("name", MUTATIONS)
def test_single_fault(name: str) -> None:
    types, mutate = MUTATIONS[name]

    def example(data: st.DataObject) -> None:
        with example_folder() as root:
            folder = new_case(root, data.draw(st.sampled_from(types)), data.draw)
            channel = folder.path
            judge(root, folder, channel, mutate(folder))

    try_examples(EXAMPLES.get(name, 8), example)


def test_pair_of_faults() -> None:
    kinds = sorted({kind for types, _ in MUTATIONS.values() for kind in types})

    def example(data: st.DataObject) -> None:
        with example_folder() as root:
            model_type = data.draw(st.sampled_from(kinds))
            suitable = sorted(name for name, (types, _) in MUTATIONS.items() if model_type in types)
            folder = new_case(root, model_type, data.draw)
            channel = folder.path
            situations = []
            for name in data.draw(st.lists(st.sampled_from(suitable), min_size=2, max_size=2, unique=True)):
                try:
                    situations.append(MUTATIONS[name][1](folder))
                except (OSError, LookupError, ValueError, TypeError, StopIteration, RuntimeError):
                    reject()  # The first mutation left nothing for the second to change.
            judge(root, folder, channel, Situation.combine(situations))

    try_examples(60, example)


@pytest.mark.parametrize("name", HEAD_MUTATIONS)
@pytest.mark.parametrize("reinitialize", ["auto", "false"])
def test_head_kept_for_training(name: str, reinitialize: str) -> None:
    """A partial head is newly initialized, and cannot be kept."""
    types, mutate = MUTATIONS[name]

    def example(data: st.DataObject) -> None:
        with example_folder() as root:
            folder = new_case(root, data.draw(st.sampled_from(types)), data.draw)
            channels = [Channel("model", folder.path), Channel("train", write_channel(root / "train", folder))]
            situation = mutate(folder)
            settings = {
                "strategy": "feature_extraction",
                "validation_fraction": "0",
                "reinitialize_top_layer": reinitialize,
            }
            run = read_records(root, channels, settings, lambda job: job.backbone.weights.kept_head)
            check(situation, run, existing_head(folder, reinitialize), is_close)

    try_examples(6, example)
