"""Signals that stop a run."""

import os
import signal

import pytest

from pipeline.signals import Terminated, sigterm_interrupts, stops_wait


def test_sigterm_interrupts_and_comes_out_as_what_it_is():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGTERM)  # another one does not disturb what is done now
            seen.append("committed")
            raise

    with pytest.raises(Terminated), sigterm_interrupts():
        work()
    assert seen == ["committed"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_interruptions_stay_what_they_are():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored here
    try:
        with pytest.raises(KeyboardInterrupt), sigterm_interrupts():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_stop_waits_for_the_end_of_what_must_not_be_cut():
    done = []

    @stops_wait()
    def commit() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("whole")

    with pytest.raises(Terminated), sigterm_interrupts():
        commit()
    assert done == ["whole"]
