"""Work for subjects on a dask cluster, which survives the loss of workers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from corrsk._utils.extras import require
from corrsk._utils.parallel import PROGRESS_DELAY
from corrsk.model_selection.cluster import checked_client

_PATIENCE = 15  # seconds until the scheduler has to answer
_one_at_a_time = threading.Lock()  # warnings of threads of one worker would be mixed


@contextmanager
def connected(address: str | Path) -> Iterator[Any]:
    """Connect to the scheduler of a dask cluster.

    Parameters
    ----------
    address : str or Path
        Address, such as "tcp://host:8786", or the scheduler's file.

    Yields
    ------
    dask.distributed.Client
        The client, which is closed at the end of the block.

    Raises
    ------
    ImportError
        If dask is not installed.
    OSError
        If no scheduler answers at the address.
    """
    require("distributed", extra="dask", purpose="work on a cluster")
    import distributed

    library: Any = distributed  # its functions have no types
    is_file = Path(address).is_file()
    options = {"scheduler_file": str(address)} if is_file else {"address": str(address)}
    try:
        client = library.Client(**options, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError, KeyError) as error:
        raise OSError(f"no dask scheduler answers at {address}: {error}") from error
    with client:
        yield client


def on_workers(
    client: Any, work: Callable[..., Any], tasks: Mapping[str, tuple[Any, ...]], *, verbose: bool
) -> Iterator[tuple[str, Any]]:
    """Run tasks on the workers of a cluster, one at a time in each worker process.

    Parameters
    ----------
    client : dask.distributed.Client
        Client of the cluster.
    work : callable
        Function of a module.
    tasks : mapping of str to tuple
        Arguments of each task, by name.
    verbose : bool
        Whether to show a progress bar.

    Yields
    ------
    name : str
        Name of a finished task.
    result : object
        Its result, or the exception that it has raised.

    Raises
    ------
    ValueError
        If the client is closed or asynchronous, or the cluster has no workers.

    Notes
    -----
    A task of a lost worker is repeated on another one. dask gives up a task that has killed four
    workers, such as one that exceeds their memory. If the block is left, waiting tasks are
    cancelled; running ones end by themselves.
    """
    client = checked_client(client, "work on a cluster")
    import distributed

    library: Any = distributed
    names = {
        client.submit(_alone, work, *arguments, pure=False): name
        for name, arguments in tasks.items()
    }
    with client.as_current():
        finished = library.as_completed(list(names))
    bar = tqdm(total=len(names), unit="subjects", delay=PROGRESS_DELAY, disable=not verbose)
    try:
        with bar:
            for future in finished:
                error = future.exception()
                yield names[future], future.result() if error is None else error
                bar.update()
    finally:
        client.cancel([future for future in names if not future.done()])


def _alone(work: Callable[..., Any], *arguments: Any) -> Any:
    with _one_at_a_time:
        return work(*arguments)
