"""Train, deploy and transform with one `Estimator` in SDK 2's local mode, and write the endpoint's answers to a file.

serve_locally.py IMAGE TRAIN_FOLDER IMAGE_FOLDER OUTPUT_FOLDER NAME=VALUE...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from sagemaker.deserializers import JSONDeserializer
from sagemaker.serializers import IdentitySerializer

from examples.sdk_v2.estimators import estimator_for
from examples.settings import Settings

IMAGES = "application/x-image"


def main(image: str, train: str, images: str, output: str, *values: str) -> None:
    settings = Settings(
        image=image,
        role="arn:aws:iam::000000000000:role/local-mode",
        channels={"train": f"file://{train}"},
        output=f"file://{output}",
        model=None,
        hyperparameters=dict(value.split("=", 1) for value in values),
        instance_type="local",
        instance_count=1,
        local=True,
        wait=True,
    )
    estimator = estimator_for(settings)
    estimator.fit(dict(settings.channels))
    predictor = estimator.deploy(1, "local", serializer=IdentitySerializer(IMAGES), deserializer=JSONDeserializer())
    try:
        paths = sorted(Path(images).iterdir())
        answers = {path.name: predictor.predict(path.read_bytes()) for path in paths}
        answers["top"] = predictor.predict(paths[-1].read_bytes(), initial_args={"CustomAttributes": "top_k=1"})
        (Path(output) / "answers.json").write_text(json.dumps(answers), encoding="utf-8")
    finally:
        predictor.delete_endpoint()
    transformer = estimator.transformer(
        1, "local", strategy="SingleRecord", accept="application/jsonlines", output_path=f"file://{output}/transformed"
    )
    transformer.transform(f"file://{images}", content_type=IMAGES, wait=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
