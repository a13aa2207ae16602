"""Command line application: all commands and the global options."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import typer

from corrsk import __version__
from corrsk.cli.compare import compare
from corrsk.cli.map import map_command
from corrsk.cli.output import log_to_terminal, logger
from corrsk.cli.pretrain import pretrain
from corrsk.cli.reproduce import reproduce
from corrsk.cli.simulate import simulate
from corrsk.cli.train import train

app = typer.Typer(
    name="corrsk",
    help="Count the tissue compartments in correlation MRI signals.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"corrsk {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    log_to_terminal()


for command in (reproduce, compare, simulate, pretrain, train):
    app.command()(command)
app.command("map")(map_command)


@app.command("benchmark", hidden=True)
@functools.wraps(compare)
def _benchmark(**options: Any) -> None:
    logger.warning(
        "corrsk benchmark is deprecated and will be removed in the next release; use corrsk compare"
    )
    compare(**options)
