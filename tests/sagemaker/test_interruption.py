"""SIGTERM sets a flag, however often it arrives."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from finetune.sagemaker.interruption import Interruption


def test_sigterm_sets_flag_however_often_it_arrives() -> None:
    with Interruption() as interruption:
        assert not interruption.requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.requested()
        first = interruption.seconds_ago
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.seconds_ago >= first


class Stop(Exception):  # noqa: N818 - control flow, not an error
    pass


def test_blocking_work_is_interrupted_once() -> None:
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


def test_exception_translated_by_library_counts_as_interruption() -> None:
    with Interruption() as interruption:
        with pytest.raises(ZeroDivisionError), interruption.raising(Stop):
            raise ZeroDivisionError
        with pytest.raises(Stop), interruption.raising(Stop):
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                threading.Event().wait(60)
            except Exception as error:
                raise ValueError("the file cannot be read") from error


def test_previous_handler_is_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interruption():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_is_ignored_while_a_process_ends() -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with Interruption(ends_process=True) as interruption:
            os.kill(os.getpid(), signal.SIGTERM)
            assert interruption.requested()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_no_handler_outside_main_thread() -> None:
    requested = []

    def work() -> None:
        with Interruption() as interruption:
            requested.append(interruption.requested())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert requested == [False]
