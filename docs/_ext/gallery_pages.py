"""Order of the gallery, and its figures that pyplot does not manage."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any
from weakref import WeakSet

from matplotlib.figure import Figure
from sphinx_gallery.scrapers import figure_rst

# from simulating to judging and searching; a script that is not listed comes last
ORDER = (
    "simulate_signals",
    "signal_model",
    "imperfect_pulses",
    "data_sets",
    "fit_and_judge",
    "use_pretrained",
    "train_a_model_of_my_scanner",
    "how_noisy_are_my_data",
    "a_head_in_one_command",
    "images_to_maps",
    "spatial_context",
    "train_networks",
    "compare_learners",
    "relaxometry_fits",
    "spectra_and_windows",
    "my_scanners_data",
    "magnitude_or_signed",
    "ideal_observer",
    "abstain_and_warn",
    "grid_search",
    "search_protocols",
    "select_measurements",
    "search_on_a_cluster",
    "run_workflows",
)
_seen: WeakSet[Figure] = WeakSet()


def place(filename: str) -> tuple[int, str]:
    """Sorting key of a script."""
    name = PurePosixPath(filename).stem
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def save_figures(block: Any, block_vars: dict[str, Any], gallery_conf: dict[str, Any]) -> str:
    """Save the figures among a script's variables that were created without pyplot.

    sphinx-gallery finds pyplot's figures only; corrsk's displays create `Figure` objects.
    """
    paths = []
    for value in block_vars["example_globals"].values():
        if not isinstance(value, Figure) or value in _seen:
            continue
        _seen.add(value)
        if value.canvas.manager is None:  # not one of pyplot's, which are closed after the block
            paths.append(str(next(block_vars["image_path_iterator"])))
            value.savefig(paths[-1])
    return figure_rst(paths, gallery_conf["src_dir"]) if paths else ""
