"""Files of the comparison: CSV, JSON, Markdown, PNG and a self-contained HTML page."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure

from corrsk._utils.files import write_atomically, write_json
from corrsk.workflows._runs import markdown_table
from corrsk.workflows.comparison.figures import plot_accuracy_over_noise, plot_learning_curves
from corrsk.workflows.comparison.tables import best_rows, readable

HOW_TO_READ = (
    "All models are trained on the same signals and tested on the same test signals; each seed has "
    "its own data. Accuracies are means over the seeds, with 95 % bootstrap intervals of the test "
    "signals in brackets. Binary accuracy is that of P(n_c >= 2) > 0.5. Points to the CNN are "
    "differences, in percentage points, to the CNN of the same training size (for a model-based "
    "method: of the largest training size) on the same test signals, with p of McNemar's exact "
    "two-sided test, without adjustment for the number of comparisons; intervals and p cover the "
    "choice of the test signals, not the scatter between trainings. Times and speeds are wall "
    "times, medians over the seeds. AUC and log loss are omitted for methods whose probabilities "
    "are 0 or 1."
)

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem; }
table { border-collapse: collapse; font-size: 0.85rem; display: block; overflow-x: auto; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #444; vertical-align: bottom; }
tbody tr:hover { background: #f2f6fb; }
img { max-width: 100%; height: auto; }
pre { background: #f5f5f5; padding: 0.6rem; overflow-x: auto; }
.small { color: #555; font-size: 0.85rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ about }}</p>
<pre>{{ commands }}</pre>
<h2>Each model at its largest training size</h2>
{{ best }}
<p class="small">{{ how_to_read }}</p>
{% for heading, figure in figures.items() %}
<h2>{{ heading }}</h2>
<img alt="{{ heading }}" src="data:image/png;base64,{{ figure }}">
{% endfor %}
<h2>All training sizes</h2>
{{ all }}
<p class="small">{{ environment }}</p>
</body>
</html>
"""


def write_report(
    out: Path,
    results: pd.DataFrame,
    summary: pd.DataFrame,
    noise: pd.DataFrame,
    run: dict[str, Any],
) -> None:
    """Write results.csv, summary.csv, noise.csv, summary.json, report.md, .png and report.html.

    Parameters
    ----------
    out : Path
        An existing folder.
    results : DataFrame
        See :func:`corrsk.workflows.comparison.results_frame`.
    summary : DataFrame
        See :func:`corrsk.workflows.comparison.summary_frame`.
    noise : DataFrame
        See :func:`corrsk.workflows.comparison.tables.noise_frame`.
    run : dict
        Entries dataset, config, about, commands and environment, for the text.
    """
    name = run["dataset"]
    for stem, frame in {"results": results, "summary": summary, "noise": noise}.items():
        with write_atomically(out / f"{stem}.csv") as partial:
            frame.to_csv(partial, index=False)
    write_json(out / "summary.json", {"run": run, "summary": summary.to_dict(orient="records")})
    figures = {}
    if (summary["n_seeds"] > 0).any():
        unit = "snr" if "snr" in run["config"]["noise"] else "percent"
        figures["learning_curves"] = plot_learning_curves(summary, dataset=name)
        if len(noise):
            figures["accuracy_over_noise"] = plot_accuracy_over_noise(
                noise, summary, dataset=name, noise_unit=unit
            )
    images = {stem: _png(figure) for stem, figure in figures.items()}
    for stem, image in images.items():
        with write_atomically(out / f"{stem}.png") as partial:
            partial.write_bytes(image)
    with write_atomically(out / "report.md") as partial:
        partial.write_text(_markdown(summary, images, run), encoding="utf-8")
    with write_atomically(out / "report.html") as partial:
        partial.write_text(_html(summary, images, run), encoding="utf-8")


def _markdown(summary: pd.DataFrame, images: dict[str, bytes], run: dict[str, Any]) -> str:
    commands = "\n".join(f"    {command}" for command in run["commands"])
    parts = [
        f"# {_title(run)}",
        f"{run['about']} Commands:\n\n{commands}\n\n({_environment(run)}).",
        "## Each model at its largest training size\n\n"
        + markdown_table(readable(best_rows(summary)).set_index("model")),
        HOW_TO_READ,
        *(f"![{_heading(stem)}]({stem}.png)" for stem in images),
        "## All training sizes\n\n" + markdown_table(readable(summary).set_index("model")),
    ]
    return "\n\n".join(parts) + "\n"


def _html(summary: pd.DataFrame, images: dict[str, bytes], run: dict[str, Any]) -> str:
    # autoescape, because an error message may contain markup
    template = jinja2.Environment(autoescape=True).from_string(_PAGE)
    return template.render(
        title=_title(run), about=run["about"], commands="\n".join(run["commands"]),
        how_to_read=HOW_TO_READ,
        best=_html_table(readable(best_rows(summary))), all=_html_table(readable(summary)),
        figures={
            _heading(stem): base64.b64encode(image).decode() for stem, image in images.items()
        },
        environment=_environment(run),
    )  # fmt: skip


def _html_table(frame: pd.DataFrame) -> Markup:
    # pandas has escaped the cells
    return Markup(frame.to_html(index=False, border=0))


def _title(run: dict[str, Any]) -> str:
    return f"How many compartments? Models on {run['dataset']}"


def _heading(stem: str) -> str:
    return stem.replace("_", " ").capitalize()


def _environment(run: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in run["environment"].items())


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
