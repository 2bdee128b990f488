"""SIGTERM becomes a question, however often it comes."""

from __future__ import annotations

import os
import signal
import threading

from finetune.contract.interruption import Interruption


def test_sigterm_is_noted_and_changes_nothing_else() -> None:
    with Interruption() as interruption:
        assert not interruption
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption
        first = interruption.seconds_ago
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.seconds_ago >= first


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
