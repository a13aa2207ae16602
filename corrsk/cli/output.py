"""Messages, tables and one-line errors on the terminal."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.table import Table

from corrsk._utils.wording import for_commands

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger("corrsk")


def log_to_terminal() -> None:
    """Print the messages of corrsk's loggers to the standard error."""
    logger.handlers[:] = [_TyperHandler()]
    logger.setLevel(logging.INFO)
    logger.propagate = False


class _TyperHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(record.getMessage(), err=True)


def print_table(first_column: str, frame: pd.DataFrame) -> None:
    """Print a table of text with its index as the first column."""
    table = Table()
    table.add_column(first_column)
    for column in frame.columns:
        table.add_column(str(column), justify="right")
    for name, row in frame.iterrows():
        table.add_row(str(name), *row)
    Console().print(table)


@contextmanager
def clear_errors(stopped: str) -> Iterator[None]:
    """Print expected errors in one line, and `stopped` on Ctrl-C and SIGTERM, then exit."""
    before = signal.getsignal(signal.SIGTERM)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with for_commands():
            yield
    except MemoryError as error:
        typer.echo(f"Error: not enough memory ({error}); choose fewer --samples", err=True)
        raise typer.Exit(1) from error
    except (ValueError, OSError, ImportError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo(f"\n{stopped}", err=True)
        raise typer.Exit(130) from None
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)
