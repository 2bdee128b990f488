"""The job as a story: read the request, open the data, load the network, plan, train, evaluate, export, prove."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from finetune.contract.interruption import Interruption
from finetune.data.labels import LabelMap, label_map_of
from finetune.data.record import Reader, Stopped
from finetune.errors import DataError, UserError
from finetune.evaluation.predict import Pass, Predictions, predict
from finetune.job.account import Account, AccountBook
from finetune.job.announce import LogObserver, describe_plan
from finetune.job.device import choose_device
from finetune.job.feeds import Frozen, PhaseFeeds
from finetune.job.inputs import Beforehand, Inputs, hold_together, open_readers, sources_of
from finetune.job.learning import Companions, build_training
from finetune.job.loaders import Loaders, build_loaders
from finetune.job.request import Request
from finetune.job.results import Evaluated, Export, export_verified, job_summary, metrics_of, write_outputs
from finetune.job.resume import keeping, specification_of
from finetune.job.streams import StreamPart, announced, open_streams, task_of
from finetune.models.backbone import Backbone
from finetune.models.load import ModelRequest, Source, classes_of, load_backbone, locate
from finetune.observe.progress import Pace
from finetune.spec.job_spec import JobSpec, Task
from finetune.strategies.plan import Plan
from finetune.strategies.presets import Network, make_plan
from finetune.training.feeds import Feed
from finetune.training.loop import fit, restore_best
from finetune.training.precision import Numerics, choose_numerics
from finetune.training.state import Row, TrainingState

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job that is ready to train: everything is read, checked and loaded."""

    request: Request
    inputs: Inputs
    backbone: Backbone
    plan: Plan
    loaders: Loaders
    feeds: PhaseFeeds
    numerics: Numerics
    interruption: Interruption

    @property
    def spec(self) -> JobSpec:
        """The checked hyperparameters."""
        return self.request.spec

    def predict(self, feed: Feed) -> Predictions | None:
        """What the network says now; `None` when asked to stop meanwhile.

        Raises:
            DataError: none of the records can be read.
        """
        how = Pass(self.numerics.device, self.numerics.context, self.interruption.__bool__)
        predictions = predict(self.backbone, feed.source, how, feed.forward)
        if predictions is not None and not len(predictions.positions):
            channel = feed.source.channel
            listing = self.loaders.bad_records[channel].listing()
            key, reason = listing[0]
            raise DataError(
                f"channel {channel!r}: none of the {len(listing)} records to evaluate can be read: {key}"
                f" {reason}; give others, or lower max_bad_records to see such records at once"
            )
        return predictions


def run_job(request: Request, interruption: Interruption) -> None:
    """Run a job until it is done or asked to stop.

    Raises:
        UserError: the request or the data cannot be used as they are.
        PlatformError: the machine failed.
    """
    with tempfile.TemporaryDirectory(prefix="finetune-") as scratch:
        try:
            job = prepare(request, interruption, Path(scratch))
            conclude(job, train(job, checkpoint_folder(request)))
        except Stopped:
            logger.info("Stopped before the first step: there is no model to export.")
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"The device ran out of memory with batch_size={request.spec.optimisation.batch_size}: halve it and"
                " double gradient_accumulation_steps, which gives the same steps."
            ) from error


def prepare(request: Request, interruption: Interruption, scratch: Path) -> Prepared:
    """Read, check and load everything, and print the plan."""
    spec = request.spec
    device = choose_device(request.files.resources.instance_type)
    numerics = choose_numerics(spec.run.precision, device)
    asked = replace(spec.data, task=task_of(request))
    readers = open_readers(sources_of(request.folders(), request.content_types()), asked)
    task = next(iter(readers.values())).task if readers else asked.task
    if task is None:
        raise DataError("There is no channel with records: give a channel 'train'.")
    wanted, source = locate_network(request, task, scratch)
    known = classes_of(wanted, source) if spec.strategy.name == "evaluate" else None
    inputs = gather(request, readers, task, LabelMap(known, spec.data.multi_label) if known else None, interruption)
    backbone = load_backbone(replace(wanted, labels=inputs.labels.names), source)
    place(backbone, numerics)
    names = tuple(group.name for group in backbone.layer_groups())
    network = Network(names, inputs.task, new_head=not backbone.weights.kept_head)
    plan = make_plan(spec.strategy, spec.optimisation, network)
    loaders = build_loaders(inputs, backbone, spec, device)
    feeds = PhaseFeeds(Frozen(backbone, plan, spec, numerics), loaders, scratch)
    logger.info("%s", describe_plan(inputs, backbone, plan, loaders, spec, numerics))
    return Prepared(request, inputs, backbone, plan, loaders, feeds, numerics, interruption)


def gather(
    request: Request, readers: Mapping[str, Reader], task: Task, known: LabelMap | None, interruption: Interruption
) -> Inputs:
    """Everything that the channels hold, from files and from pipes; `known` are the classes of a finished network."""
    spec = request.spec
    streams = open_streams(request, task, interruption.__bool__)
    labels, parts = announced(streams, spec, known) if "train" in streams or not readers else (known, {})
    if streams and labels is None:
        labels = label_map_of(
            next(iter(readers.values())), multi_label=spec.data.multi_label, num_classes=spec.data.num_classes
        )
    parts = parts or {purpose: StreamPart(source) for purpose, source in streams.items()}
    return hold_together(readers, spec, Beforehand(task, labels, known is not None, parts))


def locate_network(request: Request, task: Task, scratch: Path) -> tuple[ModelRequest, Source]:
    """What is asked of the network, as far as it is known before the classes are, and where it comes from."""
    spec = request.spec
    wanted = ModelRequest(
        spec=spec.model,
        task=task,
        labels=(),
        multi_label=spec.data.multi_label,
        pretrained=spec.strategy.name != "from_scratch",
        image_size=spec.data.image_size,
        max_length=spec.data.max_length,
        seed=spec.run.seed,
        model_channel=request.folders().get("model"),
        baked_weights=request.paths.baked_weights,
        scratch=scratch,
        trained=spec.strategy.name != "evaluate",
    )
    return wanted, locate(wanted)


def checkpoint_folder(request: Request) -> Path | None:
    """Where checkpoints belong: the folder that the platform synchronises, or one that the user asks to be kept.

    Without either, nobody would keep what is written there, and nothing is.
    """
    files, spec = request.files, request.spec
    folder = files.checkpoints or request.paths.checkpoints
    asked = spec.checkpoint.s3_uri is not None or spec.checkpoint.interval_steps is not None
    wanted = folder.is_dir() or files.checkpoints is not None or asked
    return folder if wanted else None


def place(backbone: Backbone, numerics: Numerics) -> None:
    """Put the network on its device, in the memory format that convolutions gain from there."""
    on_gpu = numerics.device.type == "cuda"
    pictures = any(parameter.dim() == 4 for parameter in backbone.module.parameters())
    layout = torch.channels_last if on_gpu and pictures else torch.preserve_format
    backbone.module.to(numerics.device, memory_format=layout)  # type: ignore[call-overload]  # not in torch's stub


@dataclass(frozen=True, slots=True)
class Trained:
    """What training came to.

    Attributes:
        state: `None` where nothing was to be trained.
        finished: otherwise it was interrupted.
        account: what interruptions have cost so far.
    """

    state: TrainingState | None
    finished: bool
    account: Account


def train(job: Prepared, folder: Path | None) -> Trained:
    """Train as planned, from the newest checkpoint on where there is one.

    Args:
        job: what to train.
        folder: of the checkpoints; `None` where nobody would keep them.
    """
    book = AccountBook(folder)
    if job.loaders.train is None or job.spec.strategy.name == "evaluate":
        return Trained(None, True, book.account)
    book.open(anew=job.spec.checkpoint.resume == "never")

    def evaluate() -> Row | None:
        feed = job.feeds.validation()
        if feed is None:
            return {}
        predictions = job.predict(feed)
        if predictions is None:
            return None
        return {"validation:loss": predictions.loss, "validation:accuracy": predictions.accuracy}

    stream = job.loaders.position()
    companions = Companions(evaluate, job.interruption.__bool__, job.loaders.bad_records, book, stream)
    training, state = build_training(job.spec, job.backbone, job.plan, job.feeds, job.numerics, companions)
    specification = specification_of(job.spec, job.inputs, job.backbone, job.plan, job.numerics)
    observer = LogObserver(Pace(training.schedule.steps_per_epoch), book)
    with keeping(folder, job.spec.checkpoint, specification, state) as kept:
        book.begin(state.progress.step, kept.load_seconds)
        finished = fit(training, state, observer, kept.checkpoints)
        kept.checkpoints.save_now(state, "final" if finished else "interruption")
        book.close(*kept.seconds())
    restore_best(state)
    return Trained(state, finished, book.account)


def conclude(job: Prepared, trained: Trained) -> None:
    """Evaluate, report, export and prove; a stopped job leaves the model as far as it came."""
    paths = job.request.paths
    state, finished = trained.state, trained.finished
    if state is not None and not finished and not state.progress.step:
        logger.info("Stopped before the first step: there is no model to export.")
        return
    if state is not None:
        # A job that was interrupted behind its last step goes the same way as one that was not, to the last bit.
        job.feeds.enter(job.plan.phase(max(0, state.progress.epoch - 1)))
    evaluated = evaluate_parts(job) if finished else {}
    metrics = {name: metrics_of(one, job.inputs.labels, job.spec.run.top_k) for name, one in evaluated.items()}
    metrics["job"] = job_summary(job.backbone, job.plan, job.spec.strategy.name, state, finished=finished)
    metrics["interruptions"] = dict(trained.account.as_json())
    write_outputs(paths.output_data, metrics, evaluated, job.loaders)
    what = Export(paths.model, job.backbone, job.inputs.task, job.inputs.labels, metrics)
    export_verified(what, next(iter(evaluated.values()), None) or probe(job), job.numerics)
    logger.info("Done." if finished else "Stopped in order; the model is exported as far as it came.")


def evaluate_parts(job: Prepared) -> dict[str, Evaluated]:
    """Predictions about validation and test, about the training records where there is nothing else to evaluate."""
    loaders = job.loaders
    named = {"validation": loaders.validation, "test": loaders.test}
    if job.spec.strategy.name == "evaluate" and not any(named.values()):
        named = {"train": loaders.train}
    evaluated = {}
    for name, batches in named.items():
        feed = job.feeds.validation() if name == "validation" else job.feeds.whole(batches)
        predictions = None if feed is None else job.predict(feed)
        if batches is not None and predictions is not None:
            evaluated[name] = Evaluated(batches, predictions)
            logger.info("%s: loss %.6f, accuracy %.6f", name, predictions.loss, predictions.accuracy)
    return evaluated


def probe(job: Prepared) -> Evaluated | None:
    """Predictions about a few records, where no evaluation is at hand to prove the artifact by."""
    batches = job.loaders.probe or job.loaders.kept()
    if batches is None or not len(batches):
        return None
    numerics = job.numerics
    predictions = predict(job.backbone, batches, Pass(numerics.device, numerics.context, lambda: False))
    return Evaluated(batches, predictions) if predictions else None
