"""The `corrsk` command."""

from __future__ import annotations

import dataclasses
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from corrsk import __version__
from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.physics.noise_levels import SNRRange
from corrsk.simulation.datasets import DATASETS, dataset_definition, simulate_dataset
from corrsk.simulation.files import SUFFIXES, check_suffix, write_dataset

if TYPE_CHECKING:
    import pandas as pd

    from corrsk.evaluation import Evaluation

_DATASETS = ", ".join(DATASETS)
_SUFFIXES = ", ".join(SUFFIXES)

app = typer.Typer(
    name="corrsk",
    help="How many tissue compartments does a correlation MRI signal hold?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Dataset = Annotated[
    str,
    typer.Option(
        help=f"Named data set: {_DATASETS}. 'midl2024' reads the paper's noise literally (1 to "
        "5 % of M0), 'midl2024-low-noise' takes a tenth of it, at which its figures fit; "
        "'t1t2-detr' is the data of that thesis, of 1 to 3 compartments."
    ),
]
Samples = Annotated[int, typer.Option(help="Number of signals to simulate.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed; the same one gives the same result.")]
Jobs = Annotated[int | None, typer.Option(help="Number of threads. Default: every core.")]

Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu or cuda.")]
Protocol = Annotated[
    str | None,
    typer.Option(
        help="Your own protocol in place of the data set's: a .json file written by "
        "AcquisitionProtocol.to_json, a .mat file with vectors ti and te (ms), or a name."
    ),
]


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
    pass


@app.command()
def reproduce(
    out: Annotated[
        Path, typer.Option(help="Folder for the results; new, empty, or one to --resume.")
    ] = Path("corrsk-reproduce"),
    dataset: Dataset = "midl2024-low-noise",
    mat: Annotated[
        Path | None,
        typer.Option(
            help="Use the data of this file in place of simulated ones. Its layout is that of the "
            "code published with the paper: input_train (n, 1, n_ti, n_te), label_train, .."
        ),
    ] = None,
    samples: Samples = 1_000_000,
    recipe: Annotated[
        str,
        typer.Option(
            help="How to train the paper's network: 'default' is the best that was found within "
            "minutes, 'paper' the published training (3000 epochs; hours without a GPU)."
        ),
    ] = "default",
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Number of epochs. Default: the recipe's.")
    ] = None,
    device: Device = "auto",
    jobs: Jobs = None,
    seed: Seed = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out that was cut off.")
    ] = False,
) -> None:
    """Run the paper's experiment: simulate, fit, judge, write a report.

    Simulates voxels of 1 to 4 compartments, splits their signals 70/20/10,
    trains the paper's CNN to count the compartments, and writes a folder with
    report.md, metrics.json, figures and the fitted model. The results stand
    beside the paper's.
    """
    from corrsk.workflows.reproduction import REPORT, Configuration
    from corrsk.workflows.reproduction import reproduce as run

    configuration = Configuration(
        dataset=dataset, mat=None if mat is None else str(mat), samples=samples,
        recipe=recipe, epochs=epochs, seed=seed,
    )  # fmt: skip
    with _clear_errors(f"stopped; the same command with --resume goes on (results in {out})"):
        evaluation = run(configuration, out, resume=resume, device=device, n_jobs=jobs, say=_say)
        _print_results(evaluation)
        _say(f"report: {out / REPORT}")


@app.command()
def benchmark(
    out: Annotated[
        Path, typer.Option(help="Folder for the results; new, empty, or one to --resume.")
    ] = Path("corrsk-benchmark"),
    dataset: Dataset = "midl2024",
    models: Annotated[
        str,
        typer.Option(help="Models to compare, separated by commas, or 'all'; --list shows them."),
    ] = "all",
    train_sizes: Annotated[
        str, typer.Option(help="Numbers of training signals, separated by commas.")
    ] = "1000,10000,100000",
    seeds: Annotated[
        int, typer.Option(min=1, help="Repetitions, each with data and models of its own seed.")
    ] = 1,
    samples: Samples = 1_000_000,
    test_samples: Annotated[
        int | None, typer.Option(min=10, help="Test signals to judge on, at most. Default: all.")
    ] = None,
    protocol: Protocol = None,
    device: Device = "auto",
    jobs: Jobs = None,
    limits: Annotated[
        bool,
        typer.Option(
            "--limits/--no-limits",
            help="Whether to skip models beyond the training size that ends within minutes.",
        ),
    ] = True,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the comparison in --out, with what is not there yet; models, "
            "training sizes and seeds may be added.",
        ),
    ] = False,
    show_models: Annotated[bool, typer.Option("--list", help="List the models and stop.")] = False,
) -> None:
    """Compare the CNN with classical learners and model-based methods.

    All are trained on the same simulated signals and judged on the same test
    signals. Writes tables (CSV, JSON, Markdown), figures and report.html, one
    self-contained page. A model that fails is a row with its error.
    """
    from corrsk.workflows.comparison import ComparisonSettings, compare

    if show_models:
        _print_models()
        return
    with _clear_errors(f"stopped; the same command with --resume goes on (results in {out})"):
        settings = ComparisonSettings(
            dataset=dataset, models=None if models == "all" else tuple(_names(models)),
            train_sizes=tuple(_numbers("--train-sizes", train_sizes)), n_seeds=seeds,
            samples=samples, test_samples=test_samples,
            protocol=None if protocol is None else _read_protocol(protocol), limits=limits,
        )  # fmt: skip
        comparison = compare(settings, out, resume=resume, device=device, n_jobs=jobs)
        _print_comparison(comparison.summary)
        _say(f"report: {out / 'report.html'}")


@app.command()
def simulate(
    out: Annotated[
        Path, typer.Argument(help=f"File to write; its suffix names the format: {_SUFFIXES}.")
    ],
    dataset: Dataset = "midl2024",
    samples: Samples = 1_000_000,
    protocol: Protocol = None,
    noise_level: Annotated[
        list[float] | None,
        typer.Option(
            min=0,
            help="Noise level in place of the data set's, as a fraction (0.01 is 1 %). May be "
            "given several times; each is then equally frequent.",
        ),
    ] = None,
    noise_reference: Annotated[
        str | None,
        typer.Option(help="What the noise level is relative to: m0, max (largest signal) or rms."),
    ] = None,
    seed: Seed = 0,
    jobs: Jobs = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Simulate a data set and write it to a file.

    .npz holds the arrays (data, target, noise_level, tissue, indices of the
    70/20/10 split), .parquet one row per signal, .mat the layout that the code
    published with the paper reads (input_train, label_train, ..).
    """
    with _clear_errors("stopped; nothing was written"):
        check_suffix(out)
        if out.exists() and not force:
            raise FileExistsError(f"{out} exists; choose another name or pass --force")
        if not out.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {out.parent}")
        definition = dataset_definition(dataset)
        if protocol is not None:
            definition = dataclasses.replace(definition, protocol=_read_protocol(protocol))
        if noise_level:
            definition = dataclasses.replace(definition, noise_levels=tuple(noise_level))
        if noise_reference is not None:
            definition = dataclasses.replace(definition, noise_reference=noise_reference)
        _say(f"simulating {samples:,} signals of {dataset}")
        data = simulate_dataset(definition, samples, seed, n_jobs=jobs)
        if out.suffix == ".mat" and not _whole_percents(definition.noise_levels):
            _say(
                "note: the published code takes noise levels as whole percents; those of this "
                "data set it will round to 0 in its plots over the noise level"
            )
        _say(f"writing {out}")
        write_dataset(data, out)


@app.command()
def pretrain(
    name: Annotated[str, typer.Argument(help=f"Named data set to train on: {_DATASETS}.")],
    out: Annotated[Path, typer.Option(help="Folder for the model and its card.")] = Path("models"),
    signals: Annotated[
        int | None,
        typer.Option(
            min=1000,
            help="How many signals to train on, each seen once.",
            show_default="as the shipped model",
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    jobs: Jobs = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing model.")] = False,
) -> None:
    """Train one of the models that come with corrsk, on a stream of fresh signals.

    Writes NAME.safetensors (load_pretrained(NAME, folder=OUT) reads it) and its
    card, NAME.json and NAME.md. The same command goes on with a training that was
    cut off.
    """
    from corrsk.pretrained.training import pretrain as run

    with _clear_errors(f"stopped; the same command goes on (checkpoint in {out})"):
        card = run(
            name, out, n_signals=signals, seed=seed, device=device, n_jobs=jobs, force=force,
            say=_say,
        )  # fmt: skip
        for metric, figure in card.metrics.items():
            typer.echo(
                f"{metric.replace('_', ' ')}: {figure['value']:.4f} "
                f"({figure['low']:.4f} to {figure['high']:.4f})"
            )


def _whole_percents(levels: tuple[float, ...] | SNRRange) -> bool:
    return not isinstance(levels, SNRRange) and not any(round(100 * x, 9) % 1 for x in levels)


def _read_protocol(name: str) -> AcquisitionProtocol:
    readers = {".json": AcquisitionProtocol.from_json, ".mat": AcquisitionProtocol.from_mat}
    return readers.get(Path(name).suffix, AcquisitionProtocol.named)(name)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(number.replace("_", "")) for number in _names(text)]
    except ValueError:
        raise ValueError(
            f"{option} must be whole numbers separated by commas, such as 1000,10000; got {text!r}"
        ) from None


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _print_results(evaluation: Evaluation) -> None:
    from corrsk.evaluation import results_table
    from corrsk.workflows.reproduction import paper_reference

    table = results_table(evaluation, paper_reference(evaluation))
    _print_table(f"test set of {evaluation.n_samples:,}", table)


def _print_comparison(summary: pd.DataFrame) -> None:
    from corrsk.workflows.comparison.tables import SHORT_COLUMNS, best_rows, readable

    _print_table("model", readable(best_rows(summary))[SHORT_COLUMNS].set_index("model"))


def _print_models() -> None:
    from corrsk.workflows.comparison import RIVALS

    for rival in RIVALS.values():
        typer.echo(f"{rival.name:24}{rival.description} ({rival.kind})")


def _print_table(first_column: str, frame: pd.DataFrame) -> None:
    table = Table()
    table.add_column(first_column)
    for column in frame.columns:
        table.add_column(str(column), justify="right")
    for name, row in frame.iterrows():
        table.add_row(str(name), *row)
    Console().print(table)


@contextmanager
def _clear_errors(stopped: str) -> Iterator[None]:
    """What a user can mend is one line; Ctrl-C says what is left, and so does a request to end."""
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except MemoryError as error:
        typer.echo(f"Error: there is not enough memory ({error}); take fewer --samples", err=True)
        raise typer.Exit(1) from error
    except (ValueError, OSError) as error:
        typer.echo(f"Error: {error}", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        typer.echo(f"\n{stopped}", err=True)
        raise typer.Exit(130) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def main() -> None:
    """Entry point of the `corrsk` command."""
    sys.exit(app())


if __name__ == "__main__":
    main()
