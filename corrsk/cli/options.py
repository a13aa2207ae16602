"""Options shared by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corrsk.simulation.datasets import DATASETS, resolve_dataset
from corrsk.simulation.definition import DatasetDefinition

NAMES = ", ".join(DATASETS)

Dataset = Annotated[
    str,
    typer.Option(
        help=f"Named data set: {NAMES}. 'midl2024' has the noise levels in the text of the paper "
        "(1 to 5 % of M0); 'midl2024-low-noise' has a tenth of them, which agrees with the results "
        "of the paper; 't1t2-detr' is the data set of that thesis, with 1 to 3 compartments; "
        "'scanner-ir-se-8x8' and 'scanner-ir-se-8x8-magnitude' have imperfect pulses that differ "
        "between voxels, and Gaussian or Rician noise; 'canales2021' has two continuous "
        "distributions of T2, and no compartment counts to learn."
    ),
]
Samples = Annotated[int, typer.Option(help="Number of signals to simulate.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed; the same seed gives the same result.")]
Jobs = Annotated[
    int | None, typer.Option(help="Number of threads. Default: OMP_NUM_THREADS, or all cores.")
]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu or cuda.")]
Config = Annotated[
    Path | None,
    typer.Option(
        help="Definition of the data in place of a named data set: a .json or .yaml file with the "
        "entries prior, protocol, noise, inversion_efficiency and norm; see the user guide, "
        "Simulation."
    ),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        help="Protocol in place of that of the data set: a .json file written by "
        'AcquisitionProtocol.to_json or by hand ({"ti": [..], "te": [..]} in ms), a .mat file '
        "with vectors ti and te (ms), or a name. Columns of signals are in its order."
    ),
]


def chosen_dataset(
    context: typer.Context, dataset: str, config: Path | None
) -> DatasetDefinition | str:
    """Return the data of the options --dataset and --config of a command.

    Parameters
    ----------
    context : typer.Context
        Context of the command.
    dataset : str
        Name of a data set.
    config : Path or None
        File of a definition, which has precedence over the default of --dataset.

    Returns
    -------
    DatasetDefinition or str
        The definition in the file, or the name.

    Raises
    ------
    ValueError
        If both options are given, or the file is invalid.
    """
    if config is None:
        return dataset
    source = context.get_parameter_source("dataset")
    if source is not None and source.name != "DEFAULT":
        raise ValueError(
            f"--dataset {dataset} and --config {config} both define the data; pass only one"
        )
    return resolve_dataset(DatasetDefinition.from_file(config))
