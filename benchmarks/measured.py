"""Measured signals through corrsk train and corrsk map: brains, a rock and water.

python benchmarks/measured.py --data FOLDER

The folder has `bids_mini` (three brains in BIDS, with masks under derivatives/masks),
`berea_ir_cpmg.npz` (T1-T2 of a sandstone, signed) and `water_dt2.npz` (T2-D of water); see
docs/results/measured.md. Every result is that of the two commands, run as a user runs them; the
configurations of the models are in benchmarks/measured.

Writes results/measured.json and results/measured.md. `--only TITLE` repeats one case and keeps the
others of the record; `--samples N` trains on N signals; `--keep FOLDER` keeps models and maps.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _measure import RESULTS, record

from corrsk._utils.extras import require
from corrsk._utils.files import read_json

CONFIGURATIONS = Path(__file__).parent / "measured"
N_SAMPLES = 200_000
FITS = "multi-exponential"
BRAIN = "bids_mini/derivatives/masks/{subject}/anat/{subject}_desc-brain_mask.nii.gz"
TRAIN = "echoes_times.json"
_BIDS = {"labels": "seg-compartments_dseg", "multicompartment": "label-multicompartment_probseg",
         "misfit": "desc-misfit_mask", "novelty": "desc-novelty_mask",
         "noise": "desc-residual_noisemap", "mask": "desc-mapped_mask"}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One map: source, model (a configuration of corrsk train, or fits), and further options."""

    source: str
    model: str = FITS
    options: tuple[str, ...] = ()
    every: int = 1  # voxels of the mask that are mapped


def brain(subject: str, *options: str, model: str = FITS, every: int = 1) -> Case:
    return Case(
        "bids_mini", model, ("--participant-label", subject, "--mask", BRAIN, *options), every
    )


CASES = {
    "rock, fits": Case("berea_ir_cpmg.npz", options=("--compartments", "6")),
    "rock, network": Case("berea_ir_cpmg.npz", "rock"),
    "water, fits": Case("water_dt2.npz"),
    "water, network": Case("water_dt2.npz", "water"),
    "sub-ir, fits": brain("ir"),
    "sub-mese, fits, single echoes": brain("mese"),
    "sub-mese, fits, echo train": brain("mese", "--times", TRAIN),
    "sub-mese, network, echo train": brain("mese", "--times", TRAIN, model="echoes"),
    "sub-mese, network, echo train, context": brain(
        "mese", "--times", TRAIN, "--context", model="echoes"
    ),
    "sub-head, fits": brain("head", "--join", "--te", "10", every=3),
}


def run(*arguments: Any) -> float:
    """Run a command of corrsk; return the seconds."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "corrsk.cli", *map(str, arguments)], check=True)
    return round(time.perf_counter() - started, 1)


def thinned(mask: Path, every: int, place: Path) -> Path:
    """Write a mask with one of `every` voxels along both axes of a slice."""
    import nibabel

    image = nibabel.load(mask)
    kept = np.zeros(image.shape, np.uint8)
    kept[::every, ::every] = np.asarray(image.dataobj)[::every, ::every] > 0
    nibabel.save(nibabel.Nifti1Image(kept, image.affine), place)
    return place


def judged(title: str, case: Case, data: Path, work: Path, n_samples: int) -> dict[str, Any]:
    """Run the commands of a case, and read its maps."""
    out = work / title.replace(", ", "_").replace(" ", "-")
    commands, seconds = [], {}
    model = case.model
    if model != FITS:
        model = f"{case.model}.safetensors"
        line = ["train", f"{case.model}.yaml", "--out", model, "--samples", str(n_samples)]
        commands.append(shlex.join(["corrsk", *line]))
        line[1], line[3] = str(CONFIGURATIONS / line[1]), str(work / model)
        seconds["train"] = run(*line, "--force")
    line = ["map", case.source, out.name, "--model", model, *case.options]
    commands.append(shlex.join(["corrsk", *line]))
    places = {case.source: data / case.source, out.name: out, TRAIN: CONFIGURATIONS / TRAIN,
              BRAIN: data / BRAIN, model: model if model == FITS else work / model}  # fmt: skip
    if case.every > 1:
        subject = f"sub-{case.options[1]}"
        whole = Path(str(data / BRAIN).replace("{subject}", subject))
        places[BRAIN] = thinned(whole, case.every, work / f"{subject}_mask.nii.gz")
    seconds["map"] = run(*[places.get(one, one) for one in line], "--preview")
    return {"commands": commands, "seconds": seconds, **read_maps(out)}


def read_maps(out: Path) -> dict[str, Any]:
    """Summarise a folder of maps of one subject."""
    import nibabel

    (report,) = out.rglob("*report.json")
    content = read_json(report)

    def values(key: str) -> np.ndarray | None:
        found = [*out.rglob(f"{key}.nii.gz"), *out.rglob(f"*_{_BIDS.get(key, key)}.nii.gz")]
        return np.asarray(nibabel.load(found[0]).dataobj) if found else None

    mask = values("mask")
    assert mask is not None
    inside = mask > 0
    found: dict[str, Any] = {"n_voxels": int(inside.sum())}
    labels = values("labels")
    assert labels is not None
    counts, numbers = np.unique(labels[inside], return_counts=True)
    found["shares"] = {
        str(k): round(n / int(inside.sum()), 4) for k, n in zip(counts, numbers, strict=True)
    }
    for key in ("multicompartment", "misfit", "novelty"):
        maps = values(key)
        if maps is not None:
            found[key] = round(float(np.nanmean(maps[inside])), 4)
    noise = values("noise")
    found["noise"] = None if noise is None else float(f"{np.nanmedian(noise[inside]):.4g}")
    for name in ("T1", "T2", "D"):
        maps = values(name)
        maps = values(f"desc-onecompartment_{name}map") if maps is None else maps
        if maps is not None:
            found[name] = [float(f"{q:.3g}") for q in np.nanquantile(maps[inside], [0.1, 0.5, 0.9])]
    found["settings"] = content["settings"].get("calibration")
    found["warnings"] = [f"{one['category']}: {one['message']}" for one in content["warnings"]]
    return found


def pages(cases: dict[str, Any]) -> str:
    """Tables of all cases, as Markdown."""
    head = ("case", "voxels", "one / two / more (%)", "mean P(more than one)", "not explained (%)",
            "novel (%)", "T1 (ms)", "T2 (ms)", "D (um^2/ms)", "seconds")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for title, case in cases.items():
        share = [case["shares"].get(str(k), 0.0) for k in range(9)]
        cells = [
            title, f"{case['n_voxels']:,}",
            " / ".join(f"{100 * x:.0f}" for x in (share[1], share[2], sum(share[3:]))),
            f"{case['multicompartment']:.3f}",
            *(f"{100 * case[key]:.0f}" if key in case else "-" for key in ("misfit", "novelty")),
            *(f"{1000 * case[key][1]:.4g}" if key in case else "-" for key in ("T1", "T2")),
            f"{case['D'][1]:.3g}" if "D" in case else "-",
            f"{sum(case['seconds'].values()):.0f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "T1, T2 and D: medians of one compartment. Seconds: of all commands.", ""]
    for title, case in cases.items():
        lines += [f"### {title}", "", "```shell", *case["commands"], "```", ""]
        if case["settings"]:
            lines.append(f"- calibration: {case['settings']}")
        lines += [f"- {text}" for text in case["warnings"]]
        lines.append("")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the cases, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--samples", type=int, default=N_SAMPLES)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args(argv)
    if given.data is None:
        print("skipped: needs --data FOLDER")
        return
    require("nibabel", extra="imaging", purpose="reading maps")
    before = RESULTS / "measured.json"
    cases: dict[str, Any] = {}
    if given.only and before.exists():
        cases = read_json(before)["cases"]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary) if given.keep is None else given.keep
        work.mkdir(parents=True, exist_ok=True)
        for title in [given.only] if given.only else CASES:
            print(title, flush=True)
            cases[title] = judged(title, CASES[title], given.data.resolve(), work, given.samples)
    ordered = {title: cases[title] for title in CASES if title in cases}
    record("measured", {"n_samples": given.samples, "cases": ordered})
    (RESULTS / "measured.md").write_text(pages(ordered), encoding="utf-8")


if __name__ == "__main__":
    main()
