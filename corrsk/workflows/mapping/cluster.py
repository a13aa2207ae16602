"""Work for subjects on a dask cluster, which survives the loss of workers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from corrsk._utils.extras import require
from corrsk._utils.parallel import PROGRESS_DELAY
from corrsk._utils.wording import for_commands, in_command
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
) -> Generator[tuple[str, Any]]:
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
        client.submit(_alone, in_command(), work, *arguments, pure=False): name
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


def on_one_worker(client: Any, work: Callable[..., Any], *arguments: Any) -> Any:
    """Submit one task; see :func:`on_workers`.

    Parameters
    ----------
    client : dask.distributed.Client
        Client of the cluster.
    work : callable
        Function of a module.
    *arguments : object
        Its arguments.

    Returns
    -------
    dask.distributed.Future
        The future, whose result other tasks can have as an argument.
    """
    return client.submit(_alone, in_command(), work, *arguments, pure=False)


def in_order(
    client: Any, work: Callable[..., Any], tasks: Iterable[tuple[Any, ...]]
) -> Generator[Any]:
    """Run tasks on the workers of a cluster, with their results in the order of the tasks.

    Parameters
    ----------
    client : dask.distributed.Client
        Client of the cluster.
    work : callable
        Function of a module; see :func:`on_workers`.
    tasks : iterable of tuple
        Arguments of each task.

    Yields
    ------
    object
        Result of a task. At most two tasks for each worker are submitted before their results
        are fetched, so that few results are in the memory of the cluster.

    Raises
    ------
    Exception
        That of a task, which ends the others.
    """
    most = 2 * n_workers(client)
    submitted: deque[Any] = deque()
    try:
        for arguments in tasks:
            submitted.append(on_one_worker(client, work, *arguments))
            if len(submitted) >= most:
                yield submitted.popleft().result()
        while submitted:
            yield submitted.popleft().result()
    finally:
        client.cancel(list(submitted))


def n_workers(client: Any) -> int:
    """Number of worker processes of a cluster.

    Parameters
    ----------
    client : dask.distributed.Client
        Client of the cluster.

    Returns
    -------
    int
        Number, at least 1.

    Raises
    ------
    ValueError
        If the client is closed or asynchronous, or the cluster has no workers.
    """
    return len(checked_client(client, "work on a cluster").nthreads())


def on_every_worker(client: Any, work: Callable[[], Any]) -> None:
    """Call a function in each worker process that is there."""
    with suppress(OSError, ValueError, RuntimeError):  # of a cluster that has ended
        client.run(work, on_error="ignore")


def _alone(for_command: bool, work: Callable[..., Any], *arguments: Any) -> Any:
    """Run a task, whose messages have the words of the interface of the client."""
    with _one_at_a_time, for_commands() if for_command else nullcontext():
        return work(*arguments)
