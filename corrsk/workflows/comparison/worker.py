"""Worker process that trains and tests the models; the comparison survives its crash."""

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
from corrsk.simulation.datasets import simulate_dataset
from corrsk.simulation.definition import DatasetDefinition
from corrsk.workflows.comparison.models import BOOSTING_PACKAGES, MODELS, BuildOptions
from corrsk.workflows.comparison.runs import Run, RunResult, fingerprint, train_and_judge

_PATIENCE = 10.0  # seconds until a process is killed
_TICK = 0.2  # seconds between two updates of the progress


@dataclass(frozen=True)
class RunContext:
    """Settings that all runs share.

    Parameters
    ----------
    definition : DatasetDefinition
        Definition of the data.
    n_samples : int
        Number of signals to simulate for each seed.
    max_test : int
        Largest number of test signals.
    threads : int
        Number of threads.
    device : str
        Device of the networks.
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
        """Return the options of the model of a run."""
        plain = BuildOptions.from_definition(self.definition, run.seed)
        # the name of the checkpoint contains a hash of the parameters
        digest = hashlib.blake2b(fingerprint(MODELS[run.model], plain).encode(), digest_size=4)
        checkpoint = self.runs / f"{run.stem}-{digest.hexdigest()}.checkpoint"
        return replace(plain, n_jobs=self.threads, device=self.device, checkpoint=checkpoint)


class Worker:
    """Context manager that executes runs one after another in a separate process.

    If a learner crashes or is killed (such as for lack of memory), only its own
    run fails: the next run gets a new process.

    Parameters
    ----------
    context : RunContext
        Settings of all runs.
    """

    def __init__(self, context: RunContext) -> None:
        self.context = context
        self._process: Any = None
        self._connection: Connection | None = None
        self._busy = False

    def run(self, run: Run, tick: Callable[[], None]) -> RunResult:
        """Execute a run; `tick` is called several times a second meanwhile.

        Raises
        ------
        RuntimeError
            If no process can be started, as from a script without a main guard.
        """
        if self._process is None or not self._process.is_alive():
            self._start(tick)
        assert self._connection is not None
        self._busy = True
        try:
            self._connection.send(run)
            result: RunResult = self._receive(tick)
        except (EOFError, OSError):
            how = self._exit_reason()
            return RunResult(run, "failed", f"the process of the run died: {how}", {})
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
        # not fork: the parent may have threads, and those of torch do not survive a fork
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(
            target=_serve, args=(theirs, self.context), daemon=True, name="corrsk-comparison"
        )
        self._process.start()
        theirs.close()
        try:
            self._receive(tick)  # the message "ready"
        except (EOFError, OSError):
            raise RuntimeError(
                f"the process that trains the models could not start ({self._exit_reason()}); a "
                "script that calls compare() needs a main guard: if __name__ == '__main__': .."
            ) from None

    def _stop(self) -> None:
        if self._process is not None:
            assert self._connection is not None
            self._connection.close()  # upon which an idle process ends by itself
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
    # Ctrl-C reaches every process of the terminal; the parent handles it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_the_parent, daemon=True).start()
    seed, data = None, None
    # the connection is closed if the parent has died
    with contextlib.suppress(EOFError, OSError), _threads(context.threads):
        connection.send("ready")
        while True:
            run: Run = connection.recv()
            try:
                if seed != run.seed or data is None:
                    seed, data = run.seed, None  # free the old data before simulating new data
                    data = simulate_dataset(
                        context.definition, context.n_samples, seed,
                        n_jobs=context.threads, verbose=False,
                    )  # fmt: skip
                result = train_and_judge(run, data, context.options(run, data), context.max_test)
                result.content["environment"] = environment(
                    context.threads, more_packages=BOOSTING_PACKAGES
                )
            except Exception as error:  # an error of one model must not end the comparison
                reason = "".join(traceback.format_exception_only(error)).strip()
                result = RunResult(run, "failed", reason, {"traceback": traceback.format_exc()})
            connection.send(result)


def _die_with_the_parent() -> None:
    """End the process when its parent has died, instead of training on for hours."""
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
        return f"{name} (often due to lack of memory)" if name == "SIGKILL" else name
    return f"exit code {code}"
