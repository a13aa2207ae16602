"""Options shared by several commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from corrsk.acquisition.protocol import AcquisitionProtocol
from corrsk.simulation.datasets import DATASETS

NAMES = ", ".join(DATASETS)

Dataset = Annotated[
    str,
    typer.Option(
        help=f"Named data set: {NAMES}. 'midl2024' has the noise levels in the text of the paper "
        "(1 to 5 % of M0); 'midl2024-low-noise' has a tenth of them, which agrees with the results "
        "of the paper; 't1t2-detr' is the data set of that thesis, with 1 to 3 compartments."
    ),
]
Samples = Annotated[int, typer.Option(help="Number of signals to simulate.")]
Seed = Annotated[int, typer.Option(min=0, help="Random seed; the same seed gives the same result.")]
Jobs = Annotated[
    int | None, typer.Option(help="Number of threads. Default: OMP_NUM_THREADS, or all cores.")
]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu or cuda.")]
Protocol = Annotated[
    str | None,
    typer.Option(
        help="Protocol in place of that of the data set: a .json file written by "
        "AcquisitionProtocol.to_json, a .mat file with vectors ti and te (ms), or a name."
    ),
]


def read_protocol(name: str) -> AcquisitionProtocol:
    """Read a protocol from a file, or return a named one.

    Parameters
    ----------
    name : str
        Path of a .json or .mat file, or name of a protocol.

    Returns
    -------
    AcquisitionProtocol
        The protocol.
    """
    readers = {".json": AcquisitionProtocol.from_json, ".mat": AcquisitionProtocol.from_mat}
    return readers.get(Path(name).suffix, AcquisitionProtocol.named)(name)
