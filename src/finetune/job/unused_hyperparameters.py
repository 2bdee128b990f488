"""Finds hyperparameters without effect in this job, given its channels and its plan."""

from __future__ import annotations

from finetune.config.unused import UNUSED_IN_JOB, JobFacts, unused_hyperparameter_notes, unused_hyperparameters
from finetune.features.plan import CachePlan
from finetune.job.inputs import Inputs
from finetune.job.request import Request


def idle_remarks(request: Request, inputs: Inputs, frozen: CachePlan) -> list[str]:
    """One sentence for each reason why a hyperparameter set by the user has no effect."""
    spec, phases = frozen.spec, [phase for phase in frozen.plan.phases if phase.trainable]
    named = {"train": inputs.train, "validation": inputs.validation, "test": inputs.test}
    there = {name for name, part in named.items() if part is not None} | inputs.streams.keys()
    facts = JobFacts(
        spec,
        inputs.task,
        channels=frozenset(there - ({"validation"} if inputs.split else set())),
        piped=frozenset(inputs.streams.keys() - ({"validation"} if inputs.split else set())),
        freezes=any(map(frozen.split_index, phases)),
        varies=any(map(frozen.augments, phases)),
        keeps_checkpoints=request.checkpoint_folder() is not None,
    )
    return unused_hyperparameter_notes(unused_hyperparameters(UNUSED_IN_JOB, facts, spec.given))
