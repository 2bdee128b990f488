"""Run several examples in one process, because their SDK takes longer to import than a request to build.

run_examples.py SDK BUCKET IMAGE ROLE NAME...
"""

from __future__ import annotations

import runpy
import sys

WITH_MODEL = {"batch_transform", "deploy", "deploy_aws_image", "incremental", "multi_model"}


def main(sdk: str, bucket: str, image: str, role: str, *names: str) -> None:
    for name in names:
        module = f"examples.{sdk}.{name}"
        channels = ("--channel", f"train=s3://{bucket}/train", "--channel", f"validation=s3://{bucket}/validation")
        values = ("--hyperparameter", "batch_size=8", "--hyperparameter", "seed=1")
        uri = f"s3://{bucket}/models/" if name == "multi_model" else f"s3://{bucket}/model.tar.gz"
        model = ("--model", uri) if name in WITH_MODEL else ()
        location = ("--instance-type", "ml.p3.2xlarge", "--output", f"s3://{bucket}/{name}", "--no-wait")
        sys.argv = [module, "--image", image, "--role", role, *channels, *values, *model, *location]
        runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
