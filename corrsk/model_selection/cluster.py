"""Searches on a dask cluster that outlive its workers.

joblib's dask backend takes any search of scikit-learn to a cluster::

    with joblib.parallel_config("dask"):
        search.fit(X, y)

but it sends each array to a single worker: X, y, and the row numbers of every split.
When that worker dies, what only it held is gone, and with it the search. Copies on
all workers do not help by themselves, since dask drops those that it thinks are too
many. :func:`cluster_search` sees to both.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import check_cv

from corrsk._utils.extras import require

Splits = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


@contextmanager
def cluster_search(
    X: Any, y: Any, *, cv: Any = None, groups: Any = None, client: Any = None
) -> Iterator[Splits]:
    """Run the searches of a `with` block on a dask cluster, safe from the death of workers.

    Parameters
    ----------
    X : DataFrame or array of shape (n, columns)
        What the search will be given: the very object, not a copy. It is sent to
        every worker once, before the search.
    y : array of shape (n,)
        The labels, likewise.
    cv : int, splitter or iterable of (train, test), optional
        How to split, as for `GridSearchCV` with a classifier: None is 5 folds.
    groups : array of shape (n,), optional
        For splitters that want them.
    client : dask.distributed.Client, optional
        None is the current client, the one that was made last.

    Yields
    ------
    list of (train, test), arrays of row numbers
        The splits, to be given to the search as its `cv`: these arrays lie on every
        worker as well.

    Raises
    ------
    ImportError
        If dask is not installed.
    ValueError
        If there is no client, it is closed or asynchronous, its cluster has no
        workers yet, or `cv` is none.

    Notes
    -----
    The scores are those of a search in one process, bit for bit, if torch has as many
    threads there as in a worker: one, unless OMP_NUM_THREADS says otherwise. The final
    fit of a search on all data (`refit`) runs here, not on the cluster, as does what
    joblib does not see. `n_jobs` means nothing: all workers work.

    Each worker needs memory for X and y beside that of the fits that it runs at a
    time, one per thread: start workers with one thread each (``threads_per_worker=1``).

    A fit that was under way on a worker that died is run again on another one. dask
    gives up on a fit that took four workers with it, as one that needs more memory
    than there is does. A worker that joins later takes part.

    dask's Active Memory Manager, which drops copies, is stopped for the block and
    started again after it if it ran before. It is the cluster's: others who use the
    same cluster meanwhile do without it too.

    Ctrl-C ends the block: fits that wait are dropped, fits that run end by themselves.
    ``verbose=1`` of a search prints its progress, and ``client.dashboard_link`` has more.

    Examples
    --------
    >>> from corrsk.model_selection import cluster_search
    >>> client = Client(n_workers=2, threads_per_worker=1)  # doctest: +SKIP
    >>> with cluster_search(tissue, n_c, cv=3) as splits:  # doctest: +SKIP
    ...     GridSearchCV(pipeline, grid, cv=splits).fit(tissue, n_c)
    """
    client = _checked(client)
    splits = list(check_cv(cv, y, classifier=True).split(X, y, groups))
    manager_ran = client.amm.running()
    client.amm.stop()
    everywhere = _SendsToAll(client)
    try:
        data = [X, y, *(rows for split in splits for rows in split)]
        with joblib.parallel_config("dask", client=everywhere, scatter=data):
            yield splits
    finally:
        try:
            if client.status == "running":  # the block may have closed it
                everywhere.cancel_unfinished()
        finally:
            if manager_ran and client.status == "running":
                client.amm.start()
            gc.collect()  # joblib's backend, a cycle, would keep the data on the cluster


def _checked(client: Any) -> Any:
    require("distributed", extra="dask", purpose="cluster_search")
    import distributed

    library: Any = distributed  # its functions have no types
    if client is None:
        try:
            client = library.default_client()
        except ValueError as error:
            raise ValueError(
                "there is no dask client; make one first, such as Client(n_workers=2, "
                "threads_per_worker=1) or Client('scheduler-address:8786')"
            ) from error
    if client.asynchronous:
        raise ValueError("cluster_search needs a client that is not asynchronous")
    if client.status != "running":
        raise ValueError(f"the dask client is {client.status}; make a new one")
    if not client.nthreads():
        raise ValueError(
            "the dask cluster has no workers; start some and wait for them, such as "
            "cluster.scale(2) and client.wait_for_workers(1)"
        )
    return client


class _SendsToAll:
    """A client as joblib uses one, which sends data to all workers and can drop its tasks.

    What joblib was not told of beforehand (the smaller samples of a halving search)
    it sends to one worker when it comes across it.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        # weak: a future that is held keeps its result on the cluster
        self._futures: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()  # joblib submits from the thread of the client's loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def scatter(self, data: Any, **options: Any) -> Any:
        return self._client.scatter(data, **(options | {"broadcast": True}))

    def submit(self, *args: Any, **options: Any) -> Any:
        future = self._client.submit(*args, **options)
        with self._lock:
            self._futures.add(future)
        return future

    def cancel_unfinished(self) -> None:
        with self._lock:
            futures = list(self._futures)
        self._client.cancel([future for future in futures if not future.done()])
