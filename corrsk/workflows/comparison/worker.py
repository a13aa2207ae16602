"""A process that trains and judges, and may die without taking the comparison along."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from sklearn.utils import Bunch
from threadpoolctl import threadpool_limits

from corrsk._utils.environment import environment
from corrsk.neural.training.device import limited_threads
from corrsk.simulation.datasets import DatasetDefinition, simulate_dataset
from corrsk.workflows.comparison.models import BOOSTING_PACKAGES, MODELS, BuildOptions
from corrsk.workflows.comparison.runs import Run, RunResult, fingerprint, train_and_judge

_PATIENCE = 10.0  # seconds for a process to end by itself
_TICK = 0.2  # seconds between two looks at a run that runs


@dataclass(frozen=True)
class RunContext:
    """What all runs have in common.

    Parameters
    ----------
    definition : DatasetDefinition
    n_samples : int
        Number of signals that are simulated for each seed.
    max_test : int
        Number of test signals that are used, at most.
    threads : int
    device : str
    runs : Path
        Folder for the checkpoints of long trainings.
    """

    definition: DatasetDefinition
    n_samples: int
    max_test: int
    threads: int
    device: str
    runs: Path

    def options(self, run: Run, data: Bunch) -> BuildOptions:
        """What the model of a run is built for."""
        plain = BuildOptions.from_definition(self.definition, run.seed)
        # a checkpoint of other parameters is not this run's
        digest = hashlib.blake2b(fingerprint(MODELS[run.model], plain).encode(), digest_size=4)
        checkpoint = self.runs / f"{run.stem}-{digest.hexdigest()}.checkpoint"
        return replace(plain, n_jobs=self.threads, device=self.device, checkpoint=checkpoint)


class Worker:
    """Runs runs one after another in a process of its own; a context manager.

    A learner that is killed (for want of memory, say) or crashes costs its own
    run: the next one gets a new process.

    Raises
    ------
    RuntimeError
        If no process can be started, as from a script without a main guard.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self._process: Any = None
        self._connection: Connection | None = None
        self._busy = False

    def run(self, run: Run, tick: Callable[[], None]) -> RunResult:
        """Run a run; `tick` is called several times a second meanwhile."""
        if self._process is None or not self._process.is_alive():
            self._start(tick)
        assert self._connection is not None
        self._busy = True
        try:
            self._connection.send(run)
            result: RunResult = self._receive(tick)
        except (EOFError, OSError):
            how = self._exit_reason()
            return RunResult(run, "failed", f"its process died: {how}", {})
        self._busy = False
        return result

    def _receive(self, tick: Callable[[], None]) -> Any:
        assert self._connection is not None
        while not self._connection.poll(_TICK):
            tick()
            if not self._process.is_alive() and not self._connection.poll():
                raise EOFError
        return self._connection.recv()

    def _exit_reason(self) -> str:
        self._process.join(timeout=10)
        how = _exit_in_words(self._process.exitcode)
        self._stop()
        return how

    def _start(self, tick: Callable[[], None]) -> None:
        self._stop()
        # not fork: the parent may run threads, and torch's do not survive one
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(
            target=_serve, args=(theirs, self.context), daemon=True, name="corrsk-comparison"
        )
        self._process.start()
        theirs.close()
        try:
            self._receive(tick)  # it says that it is there
        except (EOFError, OSError):
            raise RuntimeError(
                f"the process that trains the models could not start ({self._exit_reason()}); a "
                "script that calls compare() needs a main guard: if __name__ == '__main__': .."
            ) from None

    def _stop(self) -> None:
        if self._process is not None:
            assert self._connection is not None
            self._connection.close()  # on which one with nothing to do ends by itself
            if not self._busy:
                self._process.join(timeout=_PATIENCE)
            self._process.kill()
            self._process.join()
        self._process = self._connection = None
        self._busy = False

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()


def _serve(connection: Connection, context: RunContext) -> None:
    # Ctrl-C reaches every process of the terminal; the parent decides what it means
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_the_parent, daemon=True).start()
    seed, data = None, None
    # a parent that died has closed the connection
    with contextlib.suppress(EOFError, OSError), _threads(context.threads):
        connection.send("ready")
        while True:
            run: Run = connection.recv()
            try:
                if seed != run.seed or data is None:
                    seed, data = run.seed, None  # the old data go before the new ones come
                    data = simulate_dataset(
                        context.definition, context.n_samples, seed,
                        n_jobs=context.threads, verbose=False,
                    )  # fmt: skip
                result = train_and_judge(run, data, context.options(run, data), context.max_test)
                result.content["environment"] = environment(
                    context.threads, more_packages=BOOSTING_PACKAGES
                )
            except Exception as error:  # whatever it is, it is this model's, not the others'
                reason = "".join(traceback.format_exception_only(error)).strip()
                result = RunResult(run, "failed", reason, {"traceback": traceback.format_exc()})
            connection.send(result)


def _die_with_the_parent() -> None:
    """A parent that is killed cannot tell its worker, which would train on for hours."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def _threads(n_threads: int) -> Any:
    with threadpool_limits(limits=n_threads), limited_threads(n_threads):
        yield


def _exit_in_words(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"{name} (often want of memory)" if name == "SIGKILL" else name
    return f"exit code {code}"
