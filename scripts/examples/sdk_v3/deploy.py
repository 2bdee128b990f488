r"""Deploys a model to an endpoint with the training image, which also serves.

    scripts/example sdk_v3/deploy --image IMAGE --role ROLE --model s3://bucket/jobs/JOB/output/model.tar.gz \
        --instance-type ml.c5.xlarge
    scripts/example sdk_v3/deploy --image IMAGE --local --model file:///tmp/job/model.tar.gz --predict image.jpg

The local mode of `ModelBuilder` starts AWS's own servers only, so the local form calls the SDK's local session. Its
endpoint listens on port 8080 of this machine until the program ends.
"""

from __future__ import annotations

from sagemaker.core.local.local_session import LocalSession
from sagemaker.serve.model_builder import ModelBuilder

from examples.settings import Settings, content_type_of, read_settings

NAME = "finetune"
# The most probable classes in a response; without it, it has the probabilities of all classes.
OPTIONS = "top_k=3"


def main(settings: Settings) -> None:
    """Deploy, and predict a file if there is one; else the endpoint costs money until `endpoint.delete()`."""
    if settings.local:
        _deploy_locally(settings)
        return
    builder = ModelBuilder(
        image_uri=settings.image,
        s3_model_data_url=settings.model,
        role_arn=settings.role,
        instance_type=settings.instance_type,
    )
    builder.build()
    endpoint = builder.deploy(initial_instance_count=settings.instance_count, wait=settings.wait)
    print(f"The endpoint: {endpoint.endpoint_name}")
    if settings.request is not None:
        try:
            response = endpoint.invoke(
                body=settings.request.read_bytes(),
                content_type=content_type_of(settings.request),
                custom_attributes=OPTIONS,
            )
            print(f"The answer: {response.body.read().decode()}")
        finally:
            endpoint.delete()


def _deploy_locally(settings: Settings) -> None:
    """Deploy on this machine's Docker engine, and predict the file."""
    session = LocalSession()
    client, runtime = session.sagemaker_client, session.sagemaker_runtime_client
    container: dict[str, object] = {"Image": settings.image, "ModelDataUrl": settings.model, "Environment": {}}
    client.create_model(ModelName=NAME, PrimaryContainer=container)
    variant = {"VariantName": "all", "ModelName": NAME, "InitialInstanceCount": 1, "InstanceType": "local"}
    client.create_endpoint_config(EndpointConfigName=NAME, ProductionVariants=[variant])
    client.create_endpoint(EndpointName=NAME, EndpointConfigName=NAME)
    try:
        if settings.request is not None:
            content_type = content_type_of(settings.request)
            response = runtime.invoke_endpoint(
                Body=settings.request.read_bytes(),
                EndpointName=NAME,
                ContentType=content_type,
                Accept="application/json",
                CustomAttributes=OPTIONS,
            )
            print(f"The answer: {response['Body'].read().decode()}")
    finally:
        client.delete_endpoint(EndpointName=NAME)


if __name__ == "__main__":
    main(read_settings(__doc__, begins_with_model=True, deploys=True))
