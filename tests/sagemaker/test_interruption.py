"""SIGTERM sets a flag, however often it arrives."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from finetune.sagemaker.interruption import Interruption


def test_sigterm_is_noted_and_changes_nothing_else() -> None:
    with Interruption() as interruption:
        assert not interruption
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption
        first = interruption.seconds_ago
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.seconds_ago >= first


class Stop(Exception):  # noqa: N818 - control flow, not an error
    pass


def test_work_that_never_asks_is_interrupted_and_only_once() -> None:
    begun = []
    with Interruption() as interruption:
        with pytest.raises(Stop), interruption.raising(Stop):
            begun.append("first")
            os.kill(os.getpid(), signal.SIGTERM)
            while True:
                threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stop), interruption.raising(Stop):
            begun.append("second")
        assert begun == ["first"]


def test_what_a_library_makes_of_the_interruption_is_no_failure() -> None:
    with Interruption() as interruption:
        with pytest.raises(ZeroDivisionError), interruption.raising(Stop):
            raise ZeroDivisionError
        with pytest.raises(Stop), interruption.raising(Stop):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                threading.Event().wait(60)
            except Exception as error:
                raise ValueError("the file cannot be read") from error


def test_the_handler_before_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_outside_the_main_thread_nobody_asks() -> None:
    found = []

    def work() -> None:
        with Interruption() as interruption:
            found.append(bool(interruption))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]
