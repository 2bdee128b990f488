"""The oracle of the fuzz suite: equal to the source library, or exit 1 with a cause, or a warning that names it.

Every generator describes a situation and the right result; only `check` decides whether a run is acceptable. A run is
never acceptable if it ends in an internal error, or differs from the reference without a warning that names the
difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

USER_ERROR, INTERNAL_ERROR = 1, 3
"""Exit codes of user errors and of internal errors."""

_CAUSELESS_PREFIXES = ("Internal error", "Traceback", "Framework Error")


class FuzzFault(AssertionError):  # noqa: N818 - a finding, not an error of the suite
    """A run that the oracle does not accept."""


@dataclass(frozen=True, slots=True)
class Situation:
    """The situation of a run.

    Attributes:
        text: the shortest description from which a person can reproduce it.
        names: the cause of a failure, or a warning, must mention one of these (case-insensitive).
        harmless: whether a failure is unacceptable, since nothing is wrong.
        must_refuse: whether any result is unacceptable, even with a warning.
        must_warn: whether a result is unacceptable without a warning, even if it equals the reference, since the
            reference rests on an assumption.
        may_inform: whether a log line at any level is enough to name a choice, if each choice is a reference.
    """

    text: str
    names: tuple[str, ...] = ()
    harmless: bool = False
    must_refuse: bool = False
    must_warn: bool = False
    may_inform: bool = False

    def with_text(self, words: str) -> Situation:
        """The same with more words in its description."""
        return replace(self, text=f"{self.text}, {words}")

    @classmethod
    def combine(cls, situations: Sequence[Situation]) -> Situation:
        """Several situations at once; one of them may hide the others."""
        return cls(
            "; ".join(situation.text for situation in situations),
            tuple(name for situation in situations for name in situation.names),
            harmless=all(situation.harmless for situation in situations),
            must_refuse=any(situation.must_refuse for situation in situations),
            must_warn=all(situation.must_warn for situation in situations),
        )


@dataclass(frozen=True, slots=True)
class Run:
    """Outcome of a run of the product.

    Attributes:
        exit_code: 0, or as in `finetune.errors`.
        failure: content of the failure file; empty if there is none.
        log: all lines.
        value: the result, in a form that `check` can compare; `None` if there is none.
    """

    exit_code: int
    failure: str
    log: str
    value: object = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """Log lines at level WARNING, except those that rate the result: rules and the verdict."""
        return tuple(
            line
            for line in self.log.splitlines()
            if line.startswith(("WARNING: ", "ERROR: ")) and not line.startswith(("WARNING: rule ", "WARNING: Verdict"))
        )


@dataclass(frozen=True, slots=True)
class Reference:
    """The answer of the source library, or of the generator's own records.

    Attributes:
        values: acceptable results; empty if there is none, so that the product has to fail or to warn.
        reason: why there is none.
        names: named by the library in its error, added to the situation's names.
    """

    values: tuple[object, ...] = ()
    reason: str = ""
    names: tuple[str, ...] = ()


def check(situation: Situation, run: Run, reference: Reference, equal: Callable[[object, object], bool]) -> None:
    """Accept a run or raise.

    Raises:
        FuzzFault: the run is an internal error, a failure without its cause, a failure although nothing is wrong, or a
            silent difference.
    """
    fault = _fault(situation, run, reference, equal)
    if fault:
        raise FuzzFault(f"{fault}\n  situation: {situation.text}\n  {_summary(run, reference)}")


def _fault(situation: Situation, run: Run, reference: Reference, equal: Callable[[object, object], bool]) -> str:
    names = (*situation.names, *reference.names)
    if run.exit_code == 0:
        return _fault_of_success(situation, run, reference, equal)
    if run.exit_code != USER_ERROR:
        kind = "internal error" if run.exit_code == INTERNAL_ERROR else "blames the machine"
        return f"{kind}: exit code {run.exit_code}"
    if run.failure.startswith(_CAUSELESS_PREFIXES) or not run.failure.strip():
        return "failure without a cause"
    if situation.harmless:
        return "refused, though nothing is wrong"
    return "" if _mentions(run.failure, names) else f"the cause names none of {', '.join(map(repr, names))}"


def _fault_of_success(
    situation: Situation, run: Run, reference: Reference, equal: Callable[[object, object], bool]
) -> str:
    names = (*situation.names, *reference.names)
    if situation.must_refuse:
        return "not refused"
    if any(_mentions(line, names) for line in run.warnings):
        return ""
    if not any(equal(run.value, value) for value in reference.values):
        return "silent difference"
    informed = situation.may_inform and _mentions(run.log, names)
    return "an assumption without a warning" if situation.must_warn and not informed else ""


def _mentions(text: str, names: Sequence[str]) -> bool:
    lowered = text.lower()
    return any(name.lower() in lowered for name in names if name)


def _summary(run: Run, reference: Reference) -> str:
    reference_text = (
        f"right: {reference.values}"[:600] if reference.values else f"no reference: {reference.reason}"[:600]
    )
    reported = run.failure[:600] or " / ".join(run.warnings)[:600] or "no warning"
    return f"exit code {run.exit_code}: {reported}\n  result: {str(run.value)[:600]}\n  {reference_text}"


def is_close(value: object, expected: object, tolerance: float = 1e-4) -> bool:
    """Whether nested values are equal, with a tolerance for numbers; NaN never equals anything."""
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(is_close(value[key], expected[key], tolerance) for key in value)
    if isinstance(value, list | tuple) and isinstance(expected, list | tuple):
        return len(value) == len(expected) and all(map(lambda a, b: is_close(a, b, tolerance), value, expected))
    if isinstance(value, float) or isinstance(expected, float):
        numbers = isinstance(value, int | float) and isinstance(expected, int | float)
        return numbers and math.isclose(value, expected, rel_tol=0.0, abs_tol=tolerance)  # type: ignore[arg-type]
    return value == expected
