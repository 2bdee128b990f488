"""Is the evaluation of a transformers folder that of transformers, or is the difference named?"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from fuzz.model_faults import HEAD_MUTATIONS, MUTATIONS
from fuzz.model_folders import Folder, fresh, kept_head, reference, write_channel
from fuzz.oracle import Situation, check, close
from fuzz.profile import examples
from fuzz.running import evaluate, folder_for_an_example, read_records
from sagemaker_simulator import Channel


def judge(place: Path, folder: Folder, channel: Path, situation: Situation) -> None:
    run = evaluate(place, {"model": channel, "test": write_channel(place / "test", folder)})
    check(situation, run, reference(folder), close)


@pytest.mark.parametrize("name", MUTATIONS)
@examples(6)
@given(data=st.data())
def test_one_fault(name: str, data: st.DataObject) -> None:
    types, mutate = MUTATIONS[name]
    with folder_for_an_example() as place:
        folder = fresh(place, data.draw(st.sampled_from(types)), data.draw)
        channel = folder.path
        judge(place, folder, channel, mutate(folder))


@examples(40)
@given(data=st.data())
def test_two_faults(data: st.DataObject) -> None:
    with folder_for_an_example() as place:
        model_type = data.draw(st.sampled_from(sorted({kind for types, _ in MUTATIONS.values() for kind in types})))
        suitable = sorted(name for name, (types, _) in MUTATIONS.items() if model_type in types)
        folder = fresh(place, model_type, data.draw)
        channel = folder.path
        situations = []
        for name in data.draw(st.lists(st.sampled_from(suitable), min_size=2, max_size=2, unique=True)):
            try:
                situations.append(MUTATIONS[name][1](folder))
            except (OSError, LookupError, ValueError, TypeError, StopIteration, RuntimeError):
                reject()  # The first one left nothing that the second could change.
        judge(place, folder, channel, Situation.of_several(situations))


@pytest.mark.parametrize("name", HEAD_MUTATIONS)
@pytest.mark.parametrize("reinitialize", ["auto", "false"])
@examples(3)
@given(data=st.data())
def test_head_that_is_trained_on(name: str, reinitialize: str, data: st.DataObject) -> None:
    """A head that is there only in part is a new one, and none that can be kept."""
    types, mutate = MUTATIONS[name]
    with folder_for_an_example() as place:
        folder = fresh(place, data.draw(st.sampled_from(types)), data.draw)
        channels = [Channel("model", folder.path), Channel("train", write_channel(place / "train", folder))]
        situation = mutate(folder)
        wishes = {
            "strategy": "feature_extraction",
            "validation_fraction": "0",
            "reinitialize_top_layer": reinitialize,
        }
        run = read_records(place, channels, wishes, lambda job: job.backbone.weights.kept_head)
        check(situation, run, kept_head(folder, reinitialize), close)
