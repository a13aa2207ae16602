"""Structure of the package: rooms, floors and arrows of its imports, and the files of a fit.

    python benchmarks/structure.py

A room is a sub-package, or a module at the top of corrsk. An arrow joins two rooms if a module of
one imports a module of the other. The floor of a room is the longest path of arrows below it. Last
come the files of corrsk with a call during `fit` of each estimator, after a first fit that does
all imports. Imports are read by grimp, which comes with import-linter. The script runs on older
versions of corrsk as well.
"""

from __future__ import annotations

import functools
import sys
import warnings
from pathlib import Path
from typing import Any

import grimp

import corrsk
from corrsk import make_correlation_signals

PACKAGE = Path(corrsk.__file__).parent


def rooms_and_arrows() -> tuple[set[str], set[tuple[str, str]]]:
    """Return the rooms of the package, and the pairs of importing and imported room."""
    graph = grimp.build_graph("corrsk")
    room = {
        module: ".".join(module.split(".")[:2]) for module in graph.modules if module != "corrsk"
    }
    arrows = {
        (room[importer], room[imported])
        for importer in room
        for imported in graph.find_modules_directly_imported_by(importer)
        if imported in room and room[importer] != room[imported]
    }
    return set(room.values()), arrows


def number_of_floors(rooms: set[str], arrows: set[tuple[str, str]]) -> int:
    """Return the number of rooms on the longest path of arrows."""

    @functools.cache
    def floor(room: str) -> int:
        return 1 + max((floor(below) for above, below in arrows if above == room), default=0)

    return max(floor(room) for room in rooms)


def files_of_fit(estimator: Any, X: Any, y: Any) -> list[str]:
    """Return the files of corrsk with a call during `fit`."""
    files = set()

    def note(frame: Any, event: str, argument: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            files.add(str(path.relative_to(PACKAGE)))

    estimator.fit(X, y)
    sys.setprofile(note)
    try:
        estimator.fit(X, y)
    finally:
        sys.setprofile(None)
    return sorted(files)


def main() -> None:
    """Print the structure."""
    warnings.simplefilter("ignore")
    rooms, arrows = rooms_and_arrows()
    print(
        f"{len(rooms)} rooms, {number_of_floors(rooms, arrows)} floors, {len(arrows)} arrows "
        f"between them; {len(list(PACKAGE.glob('*.py')))} files at the top of corrsk"
    )
    X, y = make_correlation_signals(300, random_state=0, verbose=False)
    options: dict[str, Any] = {"max_epochs": 1, "random_state": 0, "verbose": False}
    classes = [
        name
        for name in ("CorrelationCNNClassifier", "ResidualMLPClassifier", "SignalNormalizer")
        if hasattr(corrsk, name)
    ]
    for name in classes:
        own = {} if name == "SignalNormalizer" else options
        files = files_of_fit(getattr(corrsk, name)(**own), X, y)
        print(f"{name}.fit: {len(files)} files: {', '.join(files)}")


if __name__ == "__main__":
    main()
