r"""Deploys a model to an endpoint with the training image, which also serves.

    scripts/example sdk_v2/deploy --image IMAGE --role ROLE --model s3://bucket/jobs/JOB/output/model.tar.gz \
        --instance-type ml.c5.xlarge
    scripts/example sdk_v2/deploy --image IMAGE --local --model file:///tmp/job/model.tar.gz --predict image.jpg

In the program that trained, `estimator.deploy(initial_instance_count=1, instance_type="ml.c5.xlarge")` does the same.
In local mode the endpoint listens on port 8080 of this machine.
"""

from __future__ import annotations

from sagemaker.deserializers import JSONDeserializer
from sagemaker.model import Model
from sagemaker.predictor import Predictor
from sagemaker.serializers import IdentitySerializer
from sagemaker.utils import name_from_base

from examples.sdk_v2.estimators import session_for
from examples.settings import Settings, content_type_of, read_settings

# The most probable classes in a response; without it, it has the probabilities of all classes.
OPTIONS = "top_k=3"


def main(settings: Settings) -> Predictor:
    """Deploy, and predict a file if there is one; else the endpoint costs money until `predictor.delete_endpoint()`.

    Returns:
        A predictor for images: `predictor.predict(Path("image.jpg").read_bytes())`.
    """
    session = session_for(settings)
    model = Model(settings.image, settings.model, role=settings.role, sagemaker_session=session)
    model.name = name_from_base("finetune")
    instance_type = "local" if settings.local else settings.instance_type
    model.deploy(settings.instance_count, instance_type, wait=settings.wait)
    predictor = Predictor(
        model.endpoint_name,
        sagemaker_session=session,
        serializer=IdentitySerializer("application/x-image"),
        deserializer=JSONDeserializer(),
    )
    print(f"The endpoint: {predictor.endpoint_name}")
    if settings.request is not None:
        try:
            arguments = {"ContentType": content_type_of(settings.request), "CustomAttributes": OPTIONS}
            print(f"The answer: {predictor.predict(settings.request.read_bytes(), initial_args=arguments)}")
        finally:
            predictor.delete_endpoint()
    return predictor


if __name__ == "__main__":
    main(read_settings(__doc__, begins_with_model=True, deploys=True))
