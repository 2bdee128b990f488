r"""Deploys a model to an endpoint, in AWS's own PyTorch inference image: the artifact contains its handler.

    scripts/example sdk_v2/deploy_aws_image --image IMAGE --role ROLE \
        --model s3://bucket/jobs/JOB/output/model.tar.gz --instance-type ml.c5.large

`sdk_v2/deploy` serves the model with the training image instead. Local mode would need AWS's image from AWS's registry.
"""

from __future__ import annotations

from sagemaker import image_uris
from sagemaker.deserializers import JSONDeserializer
from sagemaker.model import Model
from sagemaker.predictor import Predictor
from sagemaker.serializers import IdentitySerializer
from sagemaker.utils import name_from_base

from examples.sdk_v2.estimators import session_for
from examples.settings import Settings, read_settings

# Path of the handler in the unpacked artifact.
HANDLER = {"SAGEMAKER_PROGRAM": "inference.py", "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code"}


def main(settings: Settings) -> Predictor:
    """Deploy; the endpoint costs money until `predictor.delete_endpoint()`.

    Returns:
        A predictor for images: `predictor.predict(Path("image.jpg").read_bytes())`.
    """
    session = session_for(settings)
    image = image_uris.retrieve(
        "pytorch",
        session.boto_region_name,
        version="2.6.0",
        py_version="py312",
        instance_type=settings.instance_type,
        image_scope="inference",
    )
    model = Model(image, settings.model, role=settings.role, env=HANDLER, sagemaker_session=session)
    model.name = name_from_base("finetune")
    model.deploy(initial_instance_count=1, instance_type=settings.instance_type, wait=settings.wait)
    predictor = Predictor(
        model.endpoint_name,
        sagemaker_session=session,
        serializer=IdentitySerializer("application/x-image"),
        deserializer=JSONDeserializer(),
    )
    print(f"The endpoint: {predictor.endpoint_name}")
    return predictor


if __name__ == "__main__":
    main(read_settings(__doc__, begins_with_model=True, has_local_form=False, deploys=True))
