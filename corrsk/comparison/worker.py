"""A process that trains and judges, and may die without taking the comparison along."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from sklearn.utils import Bunch
from threadpoolctl import threadpool_limits

from corrsk.comparison.cells import Cell, CellResult, run_cell
from corrsk.comparison.rivals import Task
from corrsk.datasets import DatasetDefinition, simulate_dataset
from corrsk.training import limited_threads

_TICK = 0.2  # seconds between two looks at a cell that runs


@dataclass(frozen=True)
class Workplace:
    """What all cells have in common.

    Parameters
    ----------
    definition : DatasetDefinition
    n_samples : int
        Number of signals that are simulated for each seed.
    max_test : int
        Number of test signals that are used, at most.
    threads : int
    device : str
    cells : Path
        Folder for the checkpoints of long trainings.
    """

    definition: DatasetDefinition
    n_samples: int
    max_test: int
    threads: int
    device: str
    cells: Path

    def task(self, cell: Cell, data: Bunch) -> Task:
        """What the rival of a cell is built for."""
        return Task(
            data.protocol, cell.seed, self.threads, self.device,
            self.cells / f"{cell.stem}.checkpoint",
        )  # fmt: skip


class Worker:
    """Runs cells one after another in a process of its own; a context manager.

    A learner that is killed (for want of memory, say) or crashes costs its own
    cell: the next one gets a new process.
    """

    def __init__(self, workplace: Workplace) -> None:
        self.workplace = workplace
        self._process: Any = None
        self._connection: Connection | None = None

    def run(self, cell: Cell, tick: Callable[[], None]) -> CellResult:
        """Run a cell; `tick` is called several times a second meanwhile."""
        if self._process is None:
            self._start()
        assert self._connection is not None
        try:
            self._connection.send(cell)
            while not self._connection.poll(_TICK):
                tick()
                if not self._process.is_alive() and not self._connection.poll():
                    raise EOFError
            result: CellResult = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(timeout=10)
            how = _exit_in_words(self._process.exitcode)
            self._stop()
            return CellResult(cell, "failed", f"its process died: {how}", {})
        return result

    def _start(self) -> None:
        # not fork: the parent may run threads, and torch's do not survive one
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self.workplace), daemon=True, name="corrsk-comparison"
        )
        self._process.start()
        theirs.close()

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            assert self._connection is not None
            self._connection.close()
        self._process = self._connection = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()


def _serve(connection: Connection, workplace: Workplace) -> None:
    # Ctrl-C reaches every process of the terminal; the parent decides what it means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    seed, data = None, None
    # a parent that died has closed the connection
    with contextlib.suppress(EOFError, OSError), _threads(workplace.threads):
        while True:
            cell: Cell = connection.recv()
            try:
                if seed != cell.seed or data is None:
                    seed, data = cell.seed, None  # the old data go before the new ones come
                    data = simulate_dataset(
                        workplace.definition, workplace.n_samples, seed,
                        n_jobs=workplace.threads, verbose=False,
                    )  # fmt: skip
                result = run_cell(cell, data, workplace.task(cell, data), workplace.max_test)
            except Exception as error:  # whatever it is, it is this rival's, not the others'
                reason = "".join(traceback.format_exception_only(error)).strip()
                result = CellResult(cell, "failed", reason, {"traceback": traceback.format_exc()})
            connection.send(result)


@contextlib.contextmanager
def _threads(n_threads: int) -> Any:
    with threadpool_limits(limits=n_threads), limited_threads(n_threads):
        yield


def _exit_in_words(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{name} (often want of memory)" if name == "SIGKILL" else name
    return f"exit code {code}"
