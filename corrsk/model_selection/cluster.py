"""Searches on a dask cluster that survive the loss of workers.

joblib's dask backend runs any search of scikit-learn on a cluster::

    with joblib.parallel_config("dask"):
        search.fit(X, y)

but the backend sends each array (X, y, and the row numbers of every split) to a single worker.
If that worker dies, its arrays are lost and the search fails. Copies on all workers are not
sufficient, because dask drops copies that it considers superfluous. :func:`cluster_search`
sends copies and prevents dask from dropping them.
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
    """Run the searches of a `with` block on a dask cluster, robust to the loss of workers.

    Parameters
    ----------
    X : DataFrame or array of shape (n_samples, n_features)
        Input of the search: the same object that is passed to `fit`, not a copy. It is sent to
        every worker once, before the search.
    y : array of shape (n_samples,)
        Labels: the same object that is passed to `fit`.
    cv : int, splitter or iterable of (train, test), optional
        Splits, as for `GridSearchCV` with a classifier; None for 5 folds.
    groups : array of shape (n_samples,), optional
        Groups, for splitters that need them.
    client : dask.distributed.Client, optional
        The client; None for the current one, which is the latest.

    Yields
    ------
    list of (train, test), arrays of row numbers
        The splits, to pass to the search as `cv`; these arrays are copied to every worker, too.

    Raises
    ------
    ImportError
        If dask is not installed.
    ValueError
        If there is no client, the client is closed or asynchronous, its cluster has no
        workers yet, or `cv` is invalid.

    Notes
    -----
    The scores are bit-identical to those of a search in one process if torch uses as many
    threads there as in a worker: one, unless OMP_NUM_THREADS sets another number. The final
    fit of a search on all data (`refit`) runs in the calling process, as does everything
    outside joblib. `n_jobs` has no effect: all workers are used.

    Each worker needs memory for X and y in addition to the fits that it runs at the same
    time, one per thread: start workers with one thread each (``threads_per_worker=1``).

    A fit that was running on a lost worker is repeated on another one. dask raises an error for
    a fit that has killed four workers, such as one that exceeds their memory. A worker
    that joins later takes part.

    dask's Active Memory Manager, which drops copies, is stopped for the block and
    restarted after it if it was running before. The manager belongs to the cluster: other users
    of the cluster have no memory manager during the block.

    Ctrl-C ends the block: waiting fits are dropped, running fits end by themselves.
    ``verbose=1`` of a search prints its progress, and ``client.dashboard_link`` has more.

    Examples
    --------
    >>> from corrsk.model_selection import cluster_search
    >>> client = Client(n_workers=2, threads_per_worker=1)  # doctest: +SKIP
    >>> with cluster_search(tissue, n_c, cv=3) as splits:  # doctest: +SKIP
    ...     GridSearchCV(pipeline, grid, cv=splits).fit(tissue, n_c)
    """
    client = checked_client(client, "cluster_search")
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
            gc.collect()  # joblib's backend is a cycle and would keep the data on the cluster


def checked_client(client: Any, purpose: str) -> Any:
    """Return a usable dask client.

    Parameters
    ----------
    client : dask.distributed.Client or None
        The client; None for the current one, which is the latest.
    purpose : str
        Name of the work, for messages.

    Returns
    -------
    dask.distributed.Client
        The client.

    Raises
    ------
    ImportError
        If dask is not installed.
    ValueError
        If there is no client, the client is closed or asynchronous, or its cluster has no workers.
    """
    require("distributed", extra="dask", purpose=purpose)
    import distributed

    library: Any = distributed  # its functions have no types
    if client is None:
        try:
            client = library.default_client()
        except ValueError as error:
            raise ValueError(
                "there is no dask client; create one, such as Client(n_workers=2, "
                "threads_per_worker=1) or Client('scheduler-address:8786')"
            ) from error
    if client.asynchronous:
        raise ValueError(f"{purpose} needs a synchronous client, got an asynchronous one")
    if client.status != "running":
        raise ValueError(f"the dask client is {client.status}; create a new one")
    if not client.nthreads():
        raise ValueError(
            "the dask cluster has no workers; start workers with cluster.scale(2), then call "
            "client.wait_for_workers(1)"
        )
    return client


class _SendsToAll:
    """Client for joblib that sends data to all workers and can cancel its tasks.

    Arrays that were not passed to joblib in advance (the smaller samples of a halving search)
    are sent to one worker when a task needs them.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        # weak: a reference to a future keeps its result on the cluster
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
