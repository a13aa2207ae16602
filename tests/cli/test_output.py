"""What a command prints and returns at its end."""

from __future__ import annotations

import os
import signal
import time

import pytest
import typer

from corrsk.cli.output import clear_errors


@pytest.mark.skipif(os.name == "nt", reason="there are no signals to send")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_command_with_a_sentence(capsys, monkeypatch, number):
    # a test run in the background of a script inherits an ignored SIGINT
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.raises(typer.Exit) as caught, clear_errors("stopped; --resume resumes"):
            os.kill(os.getpid(), number)
            time.sleep(5)  # the signal arrives at the latest here
        assert caught.value.exit_code == 130
        assert capsys.readouterr().err == "\nstopped; --resume resumes\n"
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_of_the_input_ends_a_command_with_a_sentence(capsys):
    with pytest.raises(typer.Exit) as caught, clear_errors(""):
        raise ValueError("there is no TI")
    assert caught.value.exit_code == 1
    assert capsys.readouterr().err == "Error: there is no TI\n"
