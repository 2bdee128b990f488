"""Searches hyperparameters by Optuna: a job per trial, unpromising ones stopped early, and resumable."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from finetune.errors import UserError
from finetune.local.log_events import Epoch, Event, FinalMetrics
from finetune.local.process import Listener, SilentListener, StopRequests, run_job
from finetune.local.results import cause_of_failure
from finetune.local.run_folder import RunFolder, Status
from finetune.local.search_space import Choices, IntegerRange, SearchRange, find_objective
from finetune.local.training import TrainingOptions, prepare
from finetune.runtime.live_progress import Progress

if TYPE_CHECKING:
    import optuna

_STUDY = "study"
_DATABASE = "study.db"
_REQUEST = "request"
_RUN = "run"
_COUNTS = "counts"
"""Attribute of failed trials; those that were stopped on request have the same state, but are repeated."""
_MAX_FAILURES = 3
"""Failed trials after which a search without a result ends."""
_STARTUP_TRIALS, _WARMUP_EPOCHS = 4, 1
"""Trials and epochs that are never stopped, as there is nothing to compare them with."""


@dataclass(frozen=True, slots=True)
class Search:
    """A search.

    Attributes:
        options: the job of each trial; its `output` is the folder of the search.
        ranges: ranges of the hyperparameters to search.
        objective: name of the metric to optimize.
        trials: number of trials.
        seed: seed of the sampler.
        keep_models: whether to keep the models of all trials, not only that of the best.
    """

    options: TrainingOptions
    ranges: Mapping[str, SearchRange]
    objective: str
    trials: int
    seed: int = 0
    keep_models: bool = False


@dataclass(frozen=True, slots=True)
class TrialResult:
    """A trial that has ended.

    Attributes:
        number: counted from 0.
        parameters: sampled hyperparameters.
        state: `complete`, `pruned` (stopped early), `failed`, or `stopped` on request.
        value: the objective; of a pruned trial the last one.
        path: folder of its job.
        is_best: whether it is the best trial so far.
        cause: cause of a failure.
    """

    number: int
    parameters: Mapping[str, object]
    state: str
    value: float | None
    path: Path
    is_best: bool = False
    cause: str = ""


class SearchListener(Protocol):
    """Receives the events of a search."""

    def trial_begins(self, number: int, parameters: Mapping[str, object]) -> Listener:
        """Return the listener of a trial's job."""
        ...

    def trial_ends(self, result: TrialResult) -> None:
        """Receive the result of a trial."""
        ...


class _Trial(SilentListener):
    """Reports each epoch of a trial to the study, and kills its job if it is unpromising."""

    def __init__(self, trial: optuna.Trial, objective: str, requests: StopRequests, listener: Listener) -> None:
        self._trial = trial
        self._objective = objective
        self._requests = requests
        self._listener = listener
        self.value: float | None = None
        self.pruned = False

    def event(self, event: Event) -> None:
        """Report the objective of an epoch."""
        self._listener.event(event)
        if not isinstance(event, Epoch | FinalMetrics) or self._objective not in event.metrics:
            return
        self.value = event.metrics[self._objective]
        if isinstance(event, Epoch) and event.number and not self._requests.count:
            self._trial.report(self.value, event.number)
            if self._trial.should_prune():
                self.pruned = True
                self._requests.discard()

    def progress(self, progress: Progress) -> None:
        """Pass the progress on."""
        self._listener.progress(progress)

    def stopping(self) -> None:
        """Pass a stop on."""
        self._listener.stopping()


def run_search(search: Search, listener: SearchListener) -> TrialResult | None:
    """Run the trials that are missing, and return the best one; `None` if the search was stopped before any.

    Raises:
        UserError: Optuna is not installed, the folder contains another search, or the first trials failed.
    """
    study = open_study(search)
    failures = 0
    while len(_ended(study)) < search.trials:
        result = _run_trial(study, search, listener)
        listener.trial_ends(result)
        if result.state == "stopped":
            break
        if result.state == "failed":
            failures += 1
            if failures >= min(_MAX_FAILURES, search.trials) and _best(study) is None:
                raise UserError(f"The first {failures} trials failed, the last one because: {result.cause}")
    return _best(study)


def open_study(search: Search) -> optuna.Study:
    """Open the study of a search, or create it.

    Trials that were running when the process ended are repeated.

    Raises:
        UserError: Optuna is not installed, or the folder contains another search.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("finetune tune needs Optuna: pip install 'finetune[tune]', or pip install optuna.") from error

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    folder = _folder(search)
    folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / _DATABASE}",
        study_name=_STUDY,
        direction="maximize" if find_objective(search.objective)[1] == "Maximize" else "minimize",
        # Another seed for the trials of a resumed search, which would otherwise repeat the first ones.
        sampler=optuna.samplers.TPESampler(seed=search.seed + _count(folder)),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_STARTUP_TRIALS, n_warmup_steps=_WARMUP_EPOCHS),
        load_if_exists=True,
    )
    request = _describe(search)
    if study.user_attrs.setdefault(_REQUEST, request) != request:
        raise UserError(
            f"--output {folder} contains another search: choose another folder, or repeat the command of that search"
            " with the same data, model, hyperparameters, ranges and metric to continue it."
        )
    study.set_user_attr(_REQUEST, request)
    for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def _run_trial(study: optuna.Study, search: Search, listener: SearchListener) -> TrialResult:
    import optuna

    trial = study.ask()
    parameters = {name: _suggest(trial, name, found) for name, found in search.ranges.items()}
    root = _folder(search) / f"trial-{trial.number:03d}"
    trial.set_user_attr(_RUN, root.name)
    run = prepare(
        replace(search.options, hyperparameters={**search.options.hyperparameters, **parameters}, output=root)
    )
    requests = StopRequests()
    follower = _Trial(trial, search.objective, requests, listener.trial_begins(trial.number, parameters))
    status = run_job(run, follower, requests)
    state = _state(status, follower)
    result = TrialResult(trial.number, parameters, state, follower.value, root)
    if state == "failed":
        trial.set_user_attr(_COUNTS, True)
    if state == "complete":
        study.tell(trial, follower.value)
        best = study.best_trial.number == trial.number
        result = replace(result, is_best=best)
    elif state == "pruned":
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    else:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        if state == "stopped":
            study.enqueue_trial(parameters)
        else:
            cause = cause_of_failure(run) if status == "failed" else f"the job logged no {search.objective}"
            result = replace(result, cause=cause)
    if not search.keep_models:
        _remove_models(study, search)
    return result


def _state(status: Status, follower: _Trial) -> str:
    if follower.pruned and status != "finished":
        return "pruned"
    if status == "finished":
        return "failed" if follower.value is None else "complete"
    return "stopped" if status == "stopped" else "failed"


def _suggest(trial: optuna.Trial, name: str, found: SearchRange) -> object:
    if isinstance(found, Choices):
        return trial.suggest_categorical(name, found.values)
    if isinstance(found, IntegerRange):
        return trial.suggest_int(name, found.low, found.high, log=found.log)
    return trial.suggest_float(name, found.low, found.high, log=found.log)


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the trials that count: stopped ones are repeated."""
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state.name in {"COMPLETE", "PRUNED"} or _COUNTS in trial.user_attrs]


def _best(study: optuna.Study) -> TrialResult | None:
    with suppress(ValueError):  # no trial is complete
        best = study.best_trial
        path = Path(str(study.user_attrs[_REQUEST]["folder"])) / str(best.user_attrs[_RUN])
        return TrialResult(best.number, best.params, "complete", best.value, path, is_best=True)
    return None


def _remove_models(study: optuna.Study, search: Search) -> None:
    """Remove the models and checkpoints of all trials but the best."""
    best = _best(study)
    for root in _folder(search).glob("trial-*"):
        run = RunFolder(root)
        if best is None or root != best.path:
            shutil.rmtree(run.model, ignore_errors=True)
            run.model.mkdir(parents=True, exist_ok=True)
            run.remove_checkpoints()


def _folder(search: Search) -> Path:
    folder = search.options.output
    assert folder is not None  # noqa: S101 - set by the command
    return folder.absolute()


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.glob("trial-*"))


def _describe(search: Search) -> dict[str, str]:
    options = search.options
    return {
        "folder": str(_folder(search)),
        "data": str(options.data.absolute()),
        "channels": json.dumps({name: str(path) for name, path in sorted(options.channels.items()) if path}),
        "model": options.model or "",
        "hyperparameters": json.dumps(dict(options.hyperparameters), sort_keys=True),
        "ranges": repr(dict(sorted(search.ranges.items()))),
        "objective": search.objective,
    }
