"""A run leaves between steps, once asked; asked twice, at once."""

import os
import signal

import pytest

from mmldm.training.distributed import Process
from mmldm.training.stopping import stop_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_is_a_reason_and_handlers_come_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_signals(None, Process()) as stop:
        assert stop.reason(1) is None
        os.kill(os.getpid(), number)
        assert stop.reason(2) == number.name
    assert signal.getsignal(number) is before


def test_second_interrupt_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), stop_signals(None, Process()):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the second signal was swallowed")


def test_time_limit_is_a_reason_and_a_signal_outranks_it() -> None:
    with stop_signals(0.0, Process()) as stop:
        assert stop.reason(1) == "max_minutes"
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason(2) == "SIGTERM"
