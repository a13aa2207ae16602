"""The documentation: executed examples of every public name, docstrings, figures, the README."""

from __future__ import annotations

import importlib
import inspect
import io
import re
import tokenize
import tomllib
from enum import Enum
from typing import Any

import pytest
import yaml
from numpydoc.validate import validate

import corrsk
from corrsk.simulation import DatasetDefinition
from tests._helpers import ROOT

PACKAGES = [
    "acquisition", "baselines", "evaluation", "imaging", "model_selection", "neural", "novelty",
    "persistence", "physics", "preprocessing", "pretrained", "relaxometry", "simulation", "tissue",
    "trained", "workflows.comparison", "workflows.paper", "workflows.reproduction",
]  # fmt: skip
PUBLIC = {f"corrsk.{name}" for name in corrsk.__all__} | {
    f"corrsk.{package}.{name}"
    for package in PACKAGES
    for name in importlib.import_module(f"corrsk.{package}").__all__
}


def test_every_public_name_is_in_an_executed_example():
    used = set()
    for path in (ROOT / "examples").glob("*.py"):
        tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        used |= {token.string for token in tokens if token.type == tokenize.NAME}
    missing = sorted(name for name in PUBLIC if name.rpartition(".")[2] not in used)
    assert not missing, "add these to a script of examples/"


def public_objects() -> dict[str, Any]:
    """Public classes, their own methods and properties, and functions, without duplicates."""
    found: dict[str, Any] = {}
    for name in sorted(PUBLIC):
        module, _, attribute = name.rpartition(".")
        value = getattr(importlib.import_module(module), attribute)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        path = f"{value.__module__}.{value.__qualname__}"
        found[path] = value
        if inspect.isclass(value):
            for member, content in inspect.getmembers(value):
                owner = next((cls for cls in value.__mro__ if member in vars(cls)), object)
                if member.startswith("_") or not owner.__module__.startswith("corrsk"):
                    continue
                if member.startswith("set_") and member.endswith("_request"):  # scikit-learn's
                    continue
                if getattr(content, "__name__", "") == "<lambda>":  # default of a dataclass
                    continue
                if callable(content) or isinstance(vars(owner)[member], property):
                    found[f"{owner.__module__}.{owner.__qualname__}.{member}"] = content
    return found


def checks() -> set[str]:
    """Codes of numpydoc that pyproject.toml selects: all but those that it lists."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        left_out = tomllib.load(file)["tool"]["numpydoc_validation"]["checks"]
    assert left_out[0] == "all"
    return set(left_out[1:])


OBJECTS = public_objects()


@pytest.mark.parametrize("path", sorted(OBJECTS))
def test_docstring(path):
    left_out = checks()
    if inspect.isclass(OBJECTS[path]) and issubclass(OBJECTS[path], Enum):
        left_out.add("PR01")  # the signature of an Enum is that of its functional API
    errors = [f"{code}: {text}" for code, text in validate(path)["errors"] if code not in left_out]
    assert not errors


def blocks(path, language):
    """Code blocks of a Markdown page in a language."""
    text = path.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_CODE = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    """All blocks of a page, in their order, with fewer signals and epochs."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page, "python"):
        smaller = re.sub(r"\b\d+(_\d{3})+\b", "600", block).replace("n_jobs=2", "n_jobs=1")
        network = r"\b((CorrelationCNN|ResidualMLP)Classifier)\("
        smaller = re.sub(network, r"\1(max_epochs=2, ", smaller)
        exec(compile(smaller, str(page), "exec"), namespace)


def test_the_definitions_of_the_pages_are_valid():
    found = [block for page in PAGES for block in blocks(page, "yaml")]
    assert found
    for block in found:
        DatasetDefinition.from_dict({"name": "page"} | yaml.safe_load(block))


def test_no_summary_is_cut():
    """Sphinx ends a summary at the first full stop, also at that of an abbreviation."""
    cut = re.compile(r"\b(Fig|Eq|Sec|vs|al|cf|e\.g|i\.e)\. ")
    summaries = {
        path: (inspect.getdoc(value) or "").split("\n\n")[0] for path, value in OBJECTS.items()
    }
    assert not [path for path, text in summaries.items() if cut.search(text)]


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert len(re.findall(r"!\[", text)) == 1


def test_the_readme_has_the_figures_of_the_records(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    records = importlib.import_module("records")
    recorded = records.reproduction_table().splitlines()
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = [
        line for line in text.splitlines() if line.startswith(("| 4-class", "| AUC", "| binary"))
    ]
    assert rows
    assert set(rows) <= set(recorded)


def test_every_public_name_has_a_page(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    pages = importlib.import_module("reference_pages")
    text = "\n".join(pages.api_page(*item) for item in pages.PACKAGES.items())
    missing = [
        name for name in sorted(PUBLIC)
        if not re.search(rf"\.{re.escape(name.rpartition('.')[2])}\b", text)
        and not name.endswith("__version__")
    ]  # fmt: skip
    assert not missing
