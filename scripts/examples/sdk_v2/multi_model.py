r"""Deploys all models below an S3 prefix to one endpoint, which loads them on request, with the training image.

    scripts/example sdk_v2/multi_model --image IMAGE --role ROLE --model s3://bucket/models/ \
        --instance-type ml.c5.xlarge

A request names its archive below the prefix. Local mode has no multi-model endpoints; `docker run IMAGE serve` with
`SAGEMAKER_MULTI_MODEL=true` does (docs/serving.md).
"""

from __future__ import annotations

from sagemaker.deserializers import JSONDeserializer
from sagemaker.multidatamodel import MultiDataModel
from sagemaker.predictor import Predictor
from sagemaker.serializers import IdentitySerializer
from sagemaker.utils import name_from_base

from examples.sdk_v2.estimators import session_for
from examples.settings import Settings, read_settings


def main(settings: Settings) -> Predictor:
    """Deploy; the endpoint costs money until `predictor.delete_endpoint()`.

    Returns:
        A predictor for images: `predictor.predict(image_bytes, target_model="first.tar.gz")`.
    """
    session = session_for(settings)
    models = MultiDataModel(
        name=name_from_base("finetune"),
        model_data_prefix=settings.model,
        image_uri=settings.image,
        role=settings.role,
        sagemaker_session=session,
    )
    models.deploy(settings.instance_count, settings.instance_type, wait=settings.wait)
    predictor = Predictor(
        models.endpoint_name,
        sagemaker_session=session,
        serializer=IdentitySerializer("application/x-image"),
        deserializer=JSONDeserializer(),
    )
    print(f"The endpoint: {predictor.endpoint_name}")
    return predictor


if __name__ == "__main__":
    main(read_settings(__doc__, begins_with_model=True, has_local_form=False, deploys=True))
