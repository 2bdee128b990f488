"""The examples send the requests they promise; each runs with its real SDK."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.clients.recording_aws import ACCOUNT, REGION, TRUST, RecordingAws, recording_aws

ROOT = Path(__file__).resolve().parents[2]
BUCKET = "finetune-examples"
IMAGE = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com/finetune:0.2.0"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/finetune"
SDKS = ("sdk_v2", "sdk_v3")
TIMESTAMP = re.compile(r"finetune-[\d-]+")

pytestmark = pytest.mark.slow

Request = dict[str, Any]
Sent = Mapping[str, RecordingAws]

METRICS = [
    {"Name": "train:loss", "Regex": "train:loss=([0-9.]+);"},
    {"Name": "validation:loss", "Regex": "validation:loss=([0-9.]+);"},
    {"Name": "validation:accuracy", "Regex": "validation:accuracy=([0-9.]+);"},
]
# Fields that the SDKs add themselves, with the platform's defaults.
CONVENTIONS: Mapping[str, Request] = {
    "sdk_v2": {"ProfilerConfig": {"DisableProfiler": True}, "StoppingCondition": {"MaxRuntimeInSeconds": 86400}},
    "sdk_v3": {"StoppingCondition": {"MaxRuntimeInSeconds": 3600}},
}


def channel(name: str, uri: str, **more: str) -> Request:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "InputMode": "File", **more}


def plain_request(sdk: str, example: str) -> Request:
    """The expected request of the plain job, without its name."""
    return {
        "AlgorithmSpecification": {"TrainingImage": IMAGE, "TrainingInputMode": "File", "MetricDefinitions": METRICS},
        "RoleArn": ROLE,
        "HyperParameters": {"batch_size": "8", "seed": "1"},
        "InputDataConfig": [
            channel("train", f"s3://{BUCKET}/train"),
            channel("validation", f"s3://{BUCKET}/validation"),
        ],
        "OutputDataConfig": {"S3OutputPath": f"s3://{BUCKET}/{example}"},
        "ResourceConfig": {"InstanceType": "ml.p3.2xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30},
        **CONVENTIONS[sdk],
    }


def normalised(request: Request) -> Request:
    """Without the name, and with the platform's defaults, which one SDK omits and the other states explicitly.

    The Debugger's collections are sorted by name, because the SDK keeps them in a set.
    """
    request = copy.deepcopy(request)
    assert TIMESTAMP.fullmatch(request.pop("TrainingJobName"))
    assert request["OutputDataConfig"].pop("CompressionType", "GZIP") == "GZIP"
    for channel in request["InputDataConfig"]:
        channel.setdefault("InputMode", "File")
    if "CheckpointConfig" in request:
        assert request["CheckpointConfig"].pop("LocalPath", "/opt/ml/checkpoints") == "/opt/ml/checkpoints"
        request["CheckpointConfig"]["S3Uri"] = TIMESTAMP.sub("JOB", request["CheckpointConfig"]["S3Uri"])
    if "DebugHookConfig" in request:
        request["DebugHookConfig"]["CollectionConfigurations"].sort(key=lambda collection: collection["CollectionName"])
    return request


def examples_of(sdk: str) -> list[str]:
    files = sorted((ROOT / "scripts" / "examples" / sdk).glob("*.py"))
    return [path.stem for path in files if "__main__" in path.read_text(encoding="utf-8")]


@pytest.fixture(scope="module")
def sent(environment_of: Callable[[str], Path], quiet: dict[str, str]) -> Sent:
    """For each SDK, the requests sent to AWS by all examples."""
    return {sdk: run_all(sdk, environment_of(sdk.replace("_", "-")), quiet) for sdk in SDKS}


def run_all(sdk: str, environment: Path, quiet: Mapping[str, str]) -> RecordingAws:
    with recording_aws() as aws:
        client = partial(boto3.client, region_name=REGION, endpoint_url=aws.url, **aws.credentials)
        client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        client("iam").create_role(RoleName="finetune", AssumeRolePolicyDocument=json.dumps(TRUST))
        program = str(Path(__file__).with_name("run_examples.py"))
        command = (str(environment / "bin" / "python"), "-P", program, sdk, BUCKET, IMAGE, ROLE, *examples_of(sdk))
        variables = {**quiet, **aws.environment(), "PYTHONPATH": str(ROOT / "scripts")}
        completed = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        assert completed.returncode == 0, completed.stderr
    return aws


def request_of(sent: Sent, sdk: str, example: str) -> Request:
    """The only request for a job by one example."""
    output = f"s3://{BUCKET}/{example}"
    requests = sent[sdk].sent("CreateTrainingJob")
    (found,) = (request for request in requests if request["OutputDataConfig"]["S3OutputPath"] == output)
    return normalised(found)


@pytest.mark.parametrize("sdk", SDKS)
def test_file_mode(sent: Sent, sdk: str) -> None:
    assert request_of(sent, sdk, "train") == plain_request(sdk, "train")


@pytest.mark.parametrize("sdk", SDKS)
def test_fast_file_mode(sent: Sent, sdk: str) -> None:
    expected = plain_request(sdk, "fast_file")
    for channel in expected["InputDataConfig"]:
        channel["InputMode"] = "FastFile"
    assert request_of(sent, sdk, "fast_file") == expected


@pytest.mark.parametrize("sdk", SDKS)
def test_pipe_mode(sent: Sent, sdk: str) -> None:
    expected = plain_request(sdk, "pipe")
    for channel in expected["InputDataConfig"]:
        channel["InputMode"] = "Pipe"
    assert request_of(sent, sdk, "pipe") == expected


@pytest.mark.parametrize("sdk", SDKS)
def test_augmented_manifest(sent: Sent, sdk: str) -> None:
    expected = plain_request(sdk, "augmented_manifest")
    expected["HyperParameters"]["attribute_names"] = "source-ref,class"
    for channel in expected["InputDataConfig"]:
        channel |= {"InputMode": "Pipe", "ContentType": "application/x-recordio", "RecordWrapperType": "RecordIO"}
        source = channel["DataSource"]["S3DataSource"]
        source |= {"S3DataType": "AugmentedManifestFile", "AttributeNames": ["source-ref", "class"]}
    expected["InputDataConfig"][0]["ShuffleConfig"] = {"Seed": 1}
    assert request_of(sent, sdk, "augmented_manifest") == expected


@pytest.mark.parametrize("sdk", SDKS)
def test_spot(sent: Sent, sdk: str) -> None:
    assert request_of(sent, sdk, "spot") == {
        **plain_request(sdk, "spot"),
        "EnableManagedSpotTraining": True,
        "StoppingCondition": {"MaxRuntimeInSeconds": 14400, "MaxWaitTimeInSeconds": 43200},
        "CheckpointConfig": {"S3Uri": f"s3://{BUCKET}/spot/checkpoints/JOB"},
    }


@pytest.mark.parametrize("sdk", SDKS)
def test_incremental_training(sent: Sent, sdk: str) -> None:
    expected = plain_request(sdk, "incremental")
    model = channel("model", f"s3://{BUCKET}/model.tar.gz", ContentType="application/x-sagemaker-model")
    expected["InputDataConfig"].append(model)
    assert request_of(sent, sdk, "incremental") == expected


def test_debugger_configuration(sent: Sent) -> None:
    collections = [
        {"CollectionName": "gradients", "CollectionParameters": {"save_interval": "500"}},
        {"CollectionName": "losses", "CollectionParameters": {"save_interval": "50"}},
    ]
    assert request_of(sent, "sdk_v2", "debugger") == {
        **plain_request("sdk_v2", "debugger"),
        "DebugHookConfig": {
            "S3OutputPath": f"s3://{BUCKET}/debugger/tensors",
            "CollectionConfigurations": collections,
        },
    }


@pytest.mark.parametrize("sdk", SDKS)
def test_tuning(sent: Sent, sdk: str) -> None:
    (request,) = sent[sdk].sent("CreateHyperParameterTuningJob")
    config = request["HyperParameterTuningJobConfig"]
    assert config["Strategy"] == "Bayesian"
    assert config["ResourceLimits"] == {"MaxNumberOfTrainingJobs": 12, "MaxParallelTrainingJobs": 3}
    assert config["HyperParameterTuningJobObjective"] == {
        "Type": "Maximize",
        "MetricName": "validation:accuracy",
    }
    assert config["ParameterRanges"] == {
        "ContinuousParameterRanges": [
            {"Name": "learning_rate", "MinValue": "1e-05", "MaxValue": "0.01", "ScalingType": "Logarithmic"},
            {"Name": "layer_decay", "MinValue": "0.6", "MaxValue": "1.0", "ScalingType": "Auto"},
        ],
        "IntegerParameterRanges": [{"Name": "epochs", "MinValue": "3", "MaxValue": "12", "ScalingType": "Auto"}],
        "CategoricalParameterRanges": [{"Name": "strategy", "Values": ["feature_extraction", "partial", "full"]}],
    }
    plain, job = plain_request(sdk, "tune"), request["TrainingJobDefinition"]
    assert job["StaticHyperParameters"] == plain["HyperParameters"]
    for name in ("AlgorithmSpecification", "RoleArn", "StoppingCondition"):
        assert job[name] == plain[name]
    assert job["OutputDataConfig"]["S3OutputPath"] == plain["OutputDataConfig"]["S3OutputPath"]
    assert [channel["ChannelName"] for channel in job["InputDataConfig"]] == ["train", "validation"]


def container_of(request: Request) -> Request:
    """The only container of a model."""
    containers: list[Request] = request.get("Containers") or [request["PrimaryContainer"]]
    (container,) = containers
    return {name: value for name, value in container.items() if value}


def model_of(aws: RecordingAws, image: str, data: str, **more: object) -> Request:
    """The request for a model by its container; of two equal ones the first."""
    expected = {"Image": image, "ModelDataUrl": f"s3://{BUCKET}/{data}", **more}
    requests = aws.sent("CreateModel")
    found = [request for request in requests if container_of(request).items() >= expected.items()]
    assert found, requests
    assert found[0]["ExecutionRoleArn"] == ROLE
    return found[0]


def assert_deployed(aws: RecordingAws, model: Request) -> None:
    """Check that an endpoint was requested for the model."""
    configurations = {
        request["ProductionVariants"][0]["ModelName"]: request for request in aws.sent("CreateEndpointConfig")
    }
    configuration = configurations[model["ModelName"]]
    (variant,) = configuration["ProductionVariants"]
    assert (variant["InstanceType"], variant["InitialInstanceCount"]) == ("ml.p3.2xlarge", 1)
    name = configuration["EndpointConfigName"]
    assert [request for request in aws.sent("CreateEndpoint") if request["EndpointConfigName"] == name]


@pytest.mark.parametrize("sdk", SDKS)
def test_deployment(sent: Sent, sdk: str) -> None:
    deployed = {
        variant["ModelName"]
        for request in sent[sdk].sent("CreateEndpointConfig")
        for variant in request["ProductionVariants"]
    }
    (model,) = (
        request
        for request in sent[sdk].sent("CreateModel")
        if request["ModelName"] in deployed
        and container_of(request) == {"Image": IMAGE, "ModelDataUrl": f"s3://{BUCKET}/model.tar.gz"}
    )
    assert model["ExecutionRoleArn"] == ROLE
    assert_deployed(sent[sdk], model)


def test_deployment_in_the_image_of_aws(sent: Sent) -> None:
    image = f"763104351884.dkr.ecr.{REGION}.amazonaws.com/pytorch-inference:2.6.0-gpu-py312"
    handler = {"SAGEMAKER_PROGRAM": "inference.py", "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code"}
    assert_deployed(sent["sdk_v2"], model_of(sent["sdk_v2"], image, "model.tar.gz", Environment=handler))


def test_multi_model_endpoint(sent: Sent) -> None:
    assert_deployed(sent["sdk_v2"], model_of(sent["sdk_v2"], IMAGE, "models/", Mode="MultiModel"))


def test_batch_transform(sent: Sent) -> None:
    (request,) = sent["sdk_v2"].sent("CreateTransformJob")
    names = [model["ModelName"] for model in sent["sdk_v2"].sent("CreateModel")]
    assert request["ModelName"] in names
    source = {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"s3://{BUCKET}/train"}}
    assert request["TransformInput"] == {"DataSource": source, "ContentType": "application/x-image"}
    assert request["TransformOutput"]["S3OutputPath"] == f"s3://{BUCKET}/batch_transform"
    assert request["TransformOutput"]["Accept"] == "application/jsonlines"
    assert request["BatchStrategy"] == "SingleRecord"
    assert request["TransformResources"] == {"InstanceCount": 1, "InstanceType": "ml.p3.2xlarge"}


@pytest.mark.parametrize("sdk", SDKS)
def test_every_example_is_tested(sent: Sent, sdk: str) -> None:
    covered = {
        request["OutputDataConfig"]["S3OutputPath"].rsplit("/", 1)[1] for request in sent[sdk].sent("CreateTrainingJob")
    }
    others = {"tune", "deploy", "deploy_aws_image", "multi_model", "batch_transform"}
    assert set(examples_of(sdk)) - covered <= others
