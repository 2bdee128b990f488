"""The contents of `/opt/ml` and the environment of a container."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import pytest

from sagemaker_simulator import Channel, JobFolder, PipeSource, RequestError, Resources, TrainingRequest, lay_out
from sagemaker_simulator.environment import job_environment


def read_json(folder: JobFolder, name: str) -> object:
    return json.loads((folder.config / f"{name}.json").read_text())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "cats").mkdir(parents=True)
    (folder / "cats" / "1.txt").write_text("a cat")
    return folder


def test_new_machine_has_all_folders(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "ml", TrainingRequest())
    folders = {path.relative_to(folder.root).as_posix() for path in folder.root.rglob("*") if path.is_dir()}
    assert folders == {"input", "input/config", "input/data", "model", "output", "output/data", "checkpoints"}


def test_hyperparameters_are_strings(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "ml", TrainingRequest(hyperparameters={"epochs": "3", "resume": "True"}))
    assert read_json(folder, "hyperparameters") == {"epochs": "3", "resume": "True"}


def test_channel_configuration_follows_developer_guide(tmp_path: Path, source: Path) -> None:
    channels = (Channel("train", source, content_type="application/x-image"), Channel("validation", source))
    folder = lay_out(tmp_path / "ml", TrainingRequest(channels=channels))
    common = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    assert read_json(folder, "inputdataconfig") == {
        "train": {"ContentType": "application/x-image", **common},
        "validation": common,
    }


def test_resource_configuration_of_two_hosts(tmp_path: Path) -> None:
    resources = Resources(hosts=("algo-2", "algo-1"), current_host="algo-2")
    folder = lay_out(tmp_path / "ml", TrainingRequest(resources=resources))
    assert read_json(folder, "resourceconfig") == {
        "current_host": "algo-2",
        "current_instance_type": "ml.m5.xlarge",
        "current_group_name": "homogeneousCluster",
        "hosts": ["algo-1", "algo-2"],
        "instance_groups": [
            {
                "instance_group_name": "homogeneousCluster",
                "instance_type": "ml.m5.xlarge",
                "hosts": ["algo-1", "algo-2"],
            }
        ],
        "network_interface_name": "eth0",
    }


def test_checkpoint_folder_follows_request(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "ml", TrainingRequest(checkpoint_path=PurePosixPath("/opt/ml/saved/here")))
    assert folder.checkpoints == tmp_path / "ml" / "saved" / "here"
    assert folder.checkpoints.is_dir()
    config = read_json(folder, "checkpointconfig")
    assert isinstance(config, dict)
    assert config["LocalPath"] == str(folder.checkpoints)


def test_job_without_checkpoint_configuration(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "ml", TrainingRequest(checkpoint_path=None))
    assert not (folder.config / "checkpointconfig.json").exists()
    assert not folder.checkpoints.exists()


def test_debug_hook_is_written_only_on_request(tmp_path: Path) -> None:
    folder = lay_out(tmp_path / "a", TrainingRequest())
    assert not (folder.config / "debughookconfig.json").exists()
    folder = lay_out(tmp_path / "b", TrainingRequest(debug_hook={"LocalPath": "/opt/ml/output/tensors"}))
    assert read_json(folder, "debughookconfig") == {"LocalPath": "/opt/ml/output/tensors"}


def test_linked_channel_contains_source_files(tmp_path: Path, source: Path) -> None:
    folder = lay_out(tmp_path / "ml", TrainingRequest(channels=(Channel("train", source),)))
    assert (folder.data / "train" / "cats" / "1.txt").read_text() == "a cat"
    assert (folder.data / "train").resolve() == source


def test_copied_channel_protects_source(tmp_path: Path, source: Path) -> None:
    folder = lay_out(tmp_path / "ml", TrainingRequest(channels=(Channel("train", source, "copy"),)))
    (folder.data / "train" / "cats" / "1.txt").write_text("a dog")
    assert (source / "cats" / "1.txt").read_text() == "a cat"


@pytest.mark.parametrize("placement", ["link", "copy"])
def test_file_channel_contains_only_that_file(tmp_path: Path, source: Path, placement: str) -> None:
    channel = Channel("train", source / "cats" / "1.txt", "link" if placement == "link" else "copy")
    folder = lay_out(tmp_path / "ml", TrainingRequest(channels=(channel,)))
    assert [path.name for path in (folder.data / "train").iterdir()] == ["1.txt"]
    file = folder.data / "train" / "1.txt"
    assert not file.is_symlink()  # it would point outside the channel
    assert file.samefile(channel.source) == (placement == "link")


def test_nonempty_job_folder_is_rejected(tmp_path: Path) -> None:
    lay_out(tmp_path / "ml", TrainingRequest())
    with pytest.raises(RequestError, match="not empty"):
        lay_out(tmp_path / "ml", TrainingRequest())


def test_invalid_requests_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="channel name"):
        Channel("my channel", tmp_path)
    with pytest.raises(RequestError, match="does not exist"):
        Channel("train", tmp_path / "nowhere")
    with pytest.raises(RequestError, match="2 times"):
        TrainingRequest(channels=(Channel("train", tmp_path), Channel("train", tmp_path)))
    with pytest.raises(RequestError, match="job name"):
        TrainingRequest(name="under_score")
    with pytest.raises(RequestError, match="algo-3"):
        Resources(current_host="algo-3")
    with pytest.raises(RequestError, match="checkpoint path"):
        TrainingRequest(checkpoint_path=PurePosixPath("/tmp/elsewhere"))


def test_channel_name_must_not_equal_pipe_name(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="'train_0' has the path of a pipe of channel 'train'"):
        TrainingRequest(channels=(Channel("train_0", tmp_path), Channel("train", tmp_path, pipe=PipeSource())))
    TrainingRequest(channels=(Channel("train_lst", tmp_path), Channel("train", tmp_path, pipe=PipeSource())))


def test_environment_combines_platform_and_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OF_THE_CALLER", "1")
    monkeypatch.setenv("PYTHONPATH", "relative")
    monkeypatch.chdir(tmp_path)
    request = TrainingRequest(name="my-job", environment={"MINE": "2"}, region="eu-west-1")
    environment = job_environment(request, JobFolder(tmp_path / "ml"))
    assert environment["TRAINING_JOB_NAME"] == "my-job"
    assert environment["TRAINING_JOB_ARN"] == "arn:aws:sagemaker:eu-west-1:111122223333:training-job/my-job"
    assert environment["AWS_REGION"] == "eu-west-1"
    assert environment["SAGEMAKER_BASE_DIR"] == str(tmp_path / "ml")
    assert environment["MINE"] == "2"
    assert environment["PYTHONPATH"] == str(tmp_path / "relative")
    assert "OF_THE_CALLER" not in environment
