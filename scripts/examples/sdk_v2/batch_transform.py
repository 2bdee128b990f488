r"""Classifies all files of a folder by batch transform, with the training image; each image is a request.

    scripts/example sdk_v2/batch_transform --image IMAGE --role ROLE --model s3://bucket/jobs/JOB/output/model.tar.gz \
        --channel data=s3://bucket/new/ --output s3://bucket/predictions --instance-type ml.c5.xlarge
    scripts/example sdk_v2/batch_transform --image IMAGE --local --model file:///tmp/job/model.tar.gz \
        --channel data=file:///data/new --output file:///tmp/predictions

`--hyperparameter content_type=text/csv` classifies the rows of CSV files instead, as many per request as fit. The
output has a file `NAME.out` per file of the input, with a JSON object per line.
"""

from __future__ import annotations

from sagemaker.model import Model
from sagemaker.utils import name_from_base

from examples.sdk_v2.estimators import session_for
from examples.settings import Settings, read_settings

DATA = "data"


def main(settings: Settings) -> None:
    """Transform the channel `data`, or the first one."""
    content_type = settings.hyperparameters.get("content_type", "application/x-image")
    has_lines = content_type.startswith("text/") or content_type == "application/jsonlines"
    model = Model(settings.image, settings.model, role=settings.role, sagemaker_session=session_for(settings))
    model.name = name_from_base("finetune")
    transformer = model.transformer(
        instance_count=settings.instance_count,
        instance_type="local" if settings.local else settings.instance_type,
        strategy="MultiRecord" if has_lines else "SingleRecord",
        assemble_with="Line" if has_lines else None,
        accept="application/jsonlines",
        output_path=settings.output,
    )
    data = settings.channels.get(DATA) or next(iter(settings.channels.values()))
    split_type = "Line" if has_lines else None
    # In local mode the call returns at the end of the job; waiting would query CloudWatch for its log.
    wait = settings.wait and not settings.local
    transformer.transform(data, content_type=content_type, split_type=split_type, wait=wait)
    print(f"The predictions: {settings.output}")


if __name__ == "__main__":
    main(read_settings(__doc__, begins_with_model=True))
