"""Pages of the reference: the API from `__all__`, the command line from its application.

The files go to docs/reference and are git-ignored, so that no name can be missing.
"""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from sphinx.util.nodes import make_refnode

import corrsk

# room of the house -> title of its page
PACKAGES = {
    "acquisition": "Acquisition protocols",
    "tissue": "Tissue",
    "physics": "Signal model",
    "simulation": "Simulation",
    "preprocessing": "Preprocessing",
    "imaging": "Measured images",
    "neural": "Networks",
    "relaxometry": "Relaxometry and the ideal observer",
    "baselines": "Classical learners",
    "novelty": "Novelty detection",
    "trained": "Models trained by simulation",
    "spatial": "Spatial context",
    "evaluation": "Evaluation",
    "model_selection": "Model selection",
    "pretrained": "Trained models",
    "persistence": "Saving and loading",
    "workflows.reproduction": "Reproduction of the paper",
    "workflows.comparison": "Comparison of models",
    "workflows.paper": "Published figures",
    "workflows.mapping": "Maps of measured images",
    "workflows.training": "Training from a file",
}

# objects that docstrings refer to and that have to be imported from their module
DETAILS = {
    "neural": [
        "corrsk.neural.networks.CorrelationCNN",
        "corrsk.neural.networks.ResidualMLP",
        "corrsk.neural.networks.HalfWhitenedNetwork",
        "corrsk.neural.training.optimizers.MuonWithAdamW",
        "corrsk.neural.training.schedules.constant",
        "corrsk.neural.training.schedules.steps",
        "corrsk.neural.training.schedules.one_cycle",
    ],
    "evaluation": [
        "corrsk.evaluation.metrics.count_metrics",
        "corrsk.evaluation.metrics.binary_metrics",
    ],
    "workflows.comparison": [
        "corrsk.workflows.comparison.tables.results_frame",
        "corrsk.workflows.comparison.tables.summary_frame",
        "corrsk.workflows.comparison.tables.noise_frame",
    ],
}

MODULES = {"neural": ["corrsk.neural.training.schedules"]}

# constants have no docstring that Python keeps
CONSTANTS = {
    "physics.CONTRASTS": "Registered contrasts by the name of their scan parameter: a mapping of "
    "str to {class}`corrsk.physics.Contrast`. {func}`corrsk.physics.register_contrast` adds one.",
    "physics.NOISE_DISTRIBUTIONS": "Valid values of `noise_distribution`.",
    "physics.NOISE_REFERENCES": "Valid values of `noise_reference`: what a noise level is a part "
    "of (M0, the largest signal of the voxel, the root mean square of its signals, or the first).",
    "physics.NORMS": "Valid values of `norm`.",
    "tissue.FRACTION_LAWS": "Distributions of the compartment fractions by name; the valid values "
    "of `fraction_law`.",
    "simulation.DATASETS": "Definitions of the data sets by name: a mapping of str to "
    "{class}`corrsk.simulation.DatasetDefinition`.",
    "evaluation.SCORERS": "Scorers of both questions by name, for the argument `scoring` of a "
    "search.",
    "baselines.BASELINES": "Classical learners by name: a mapping of str to "
    "{class}`corrsk.baselines.Baseline`.",
    "workflows.reproduction.RECIPES": "Trainings by name: `default` and the published one, "
    "`paper`.",
    "workflows.comparison.MODELS": "Models of the comparison by name: a mapping of str to "
    "{class}`corrsk.workflows.comparison.ComparedModel`.",
    "workflows.paper.PAPER": "Figures that the paper prints, a "
    "{class}`corrsk.evaluation.Reference`.",
    "workflows.paper.PAPER_NOTE": "How the paper's figures compare with the two readings of its "
    "noise.",
    "workflows.paper.T1T2_DETR_ACCURACY": "Count accuracy that the thesis t1t2-detr publishes, by "
    "signal-to-noise ratio.",
}


def public_names(package: str) -> list[str]:
    """Names in `__all__` of a module of corrsk, and those that only `corrsk` itself exports."""
    module = importlib.import_module(f"corrsk.{package}")
    elsewhere = {
        name
        for name in corrsk.__all__
        if getattr(getattr(corrsk, name), "__module__", "").startswith(f"corrsk.{package}.")
    }
    return sorted({*module.__all__, *elsewhere}, key=str.lower)


def documented_as(package: str, name: str) -> str:
    """Path under which the object has its page: `corrsk.X` if it is exported there."""
    if name in corrsk.__all__:
        return f"corrsk.{name}"
    return f"corrsk.{package}.{name}"


def api_page(package: str, title: str) -> str:
    """Markdown of one package: its classes, functions and constants."""
    module = importlib.import_module(f"corrsk.{package}")
    kinds: dict[str, list[str]] = {"Classes": [], "Functions": [], "Constants": []}
    for name in public_names(package):
        value = getattr(module, name, None) or getattr(corrsk, name)
        if f"{package}.{name}" in CONSTANTS:
            kinds["Constants"].append(name)
        else:
            kinds["Classes" if inspect.isclass(value) else "Functions"].append(name)
    summary = (inspect.getdoc(module) or "").split("\n\n")[0].replace("\n", " ")
    parts = [f"# {title}", f"`corrsk.{package}`: {summary}"]
    for kind in ("Classes", "Functions"):
        if kinds[kind]:
            paths = [documented_as(package, name) for name in kinds[kind]]
            parts += [f"## {kind}", _summaries(paths)]
    if kinds["Constants"]:
        parts.append("## Constants")
        for name in kinds["Constants"]:
            text = CONSTANTS[f"{package}.{name}"]
            parts.append(f":::{{py:data}} corrsk.{package}.{name}\n\n{text}\n:::")
    if package in DETAILS:
        parts += [
            "## Details",
            "The documentation above refers to these; import them from their module.",
            _summaries(DETAILS[package]),
            *(f":::{{py:module}} {path}\n:::" for path in MODULES.get(package, ())),
        ]
    return "\n\n".join(parts) + "\n"


def _summaries(paths: list[str]) -> str:
    rows = "\n".join(f"   ~{path}" for path in paths)
    return (
        "```{eval-rst}\n.. autosummary::\n   :toctree: generated\n   :nosignatures:\n\n"
        f"{rows}\n```"
    )


def api_index() -> str:
    """Markdown of the reference's first page."""
    pages = "\n".join(package.replace(".", "_") for package in PACKAGES)
    rows = "\n".join(
        f"| [{title}]({package.replace('.', '_')}.md) | `corrsk.{package}` |"
        for package, title in PACKAGES.items()
    )
    return (
        "# API reference\n\nThe names in the first list can be imported from `corrsk` itself; all "
        "others from their package.\n\n"
        + ", ".join(f"{{any}}`{name} <corrsk.{name}>`" for name in _top_level())
        + f".\n\n| page | import from |\n|---|---|\n{rows}\n"
        "| [The command line](command_line.md) | the command `corrsk` |\n\n"
        f"```{{toctree}}\n:hidden:\n\n{pages}\ncommand_line\n```\n"
    )


def _top_level() -> list[str]:
    return sorted((name for name in corrsk.__all__ if not name.startswith("__")), key=str.lower)


def command_line_page() -> str:
    """Markdown of the commands and their options."""
    import typer

    from corrsk.cli.app import app

    group: Any = typer.main.get_command(app)
    parts = [
        "# The command line",
        'The command `corrsk` comes with `pip install "corrsk[cli]"`. Every command has `--help`.',
    ]
    for name, command in sorted(group.commands.items()):
        if command.hidden:
            continue
        parts.append(f"## corrsk {name}\n\n{inspect.cleandoc(command.help or '')}")
        rows = [
            f"| {_option(parameter)} | {_cell(parameter.help or '')} | {_default(parameter)} |"
            for parameter in command.params
            if parameter.name != "help" and not getattr(parameter, "hidden", False)
        ]
        parts.append("| option | meaning | default |\n|---|---|---|\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _option(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return f"`{parameter.name.upper()}`"
    return ", ".join(f"`{each}`" for each in [*parameter.opts, *parameter.secondary_opts])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _default(parameter: Any) -> str:
    if parameter.default is None or callable(parameter.default):
        return "required" if parameter.required else ""
    return f"`{parameter.default}`"


def write_pages(app: Any, config: Any) -> None:
    """Write the pages; a file that would not change keeps its date."""
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    pages = {"index": api_index(), "command_line": command_line_page()}
    for package, title in PACKAGES.items():
        pages[package.replace(".", "_")] = api_page(package, title)
    text_of_all = "\n".join(pages.values()) + "\n"
    for path in folder.glob("generated/*.rst"):  # of names that were removed
        if f"   ~{path.stem}\n" not in text_of_all:
            path.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def resolve_short_name(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Link a reference to an object of corrsk by its last name, whatever its path.

    Docstrings name objects by the module that defines them or by their bare name; their pages
    have the path of import.
    """
    if node.get("refdomain") != "py":
        return None
    parts = node["reftarget"].split(".")
    domain = env.domains["py"]
    for length in (1, 2):  # name, or class.method
        ending = ".".join(parts[-length:])
        found = [name for name in domain.objects if name.endswith(f".{ending}")]
        pages = {domain.objects[name].docname for name in found}
        if len(parts) >= length and len(pages) == 1:
            entry = domain.objects[min(found, key=len)]
            return make_refnode(
                app.builder, node.get("refdoc", ""), entry.docname, entry.node_id, contnode
            )
    return None


def setup(app: Any) -> dict[str, bool]:
    """Register the extension."""
    # before Sphinx lists the files, in which autosummary looks for its directives
    app.connect("config-inited", write_pages)
    app.connect("missing-reference", resolve_short_name)
    return {"parallel_read_safe": True}
