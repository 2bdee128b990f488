"""Saves tensors with a Debugger configuration, which the platform passes to the container.

    scripts/example sdk_v2/debugger --image IMAGE --role ROLE --channel train=s3://bucket/train --output s3://bucket/jobs

Debugger's own rules run outside the container and are closed to new customers, so none is requested. Local mode writes
no Debugger configuration.
"""

from __future__ import annotations

from sagemaker.debugger import CollectionConfig, DebuggerHookConfig

from examples.sdk_v2.estimators import estimator_for
from examples.settings import Settings, read_settings


def main(settings: Settings) -> None:
    """Train, and save losses every 50 steps and gradients every 500."""
    hook = DebuggerHookConfig(
        s3_output_path=f"{settings.output}/tensors",
        collection_configs=[
            CollectionConfig(name="losses", parameters={"save_interval": "50"}),
            CollectionConfig(name="gradients", parameters={"save_interval": "500"}),
        ],
    )
    estimator_for(settings, debugger_hook_config=hook).fit(dict(settings.channels), wait=settings.wait)


if __name__ == "__main__":
    main(read_settings(__doc__, has_local_form=False))
