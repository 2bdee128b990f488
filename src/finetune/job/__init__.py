"""The whole job from top to bottom; the only package that knows every stage."""

from finetune.job.run import run_job

__all__ = ["run_job"]
