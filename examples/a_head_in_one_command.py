"""
A head in one command
=====================

The images of a scanner are a folder of files; the answer is a folder of maps. Between them are
two commands: ``corrsk train`` makes a model of the protocol, ``corrsk map`` applies it. Here both
run on a simulated head, whose truth is known, and the same work is done from Python.
"""

import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel
import numpy as np
import pandas as pd
import yaml
from typer.testing import CliRunner

from corrsk import AcquisitionProtocol, CorrelationSignalGenerator, load
from corrsk.cli.app import app
from corrsk.workflows.mapping import (
    MapSettings,
    Subject,
    describe_plan,
    find_subjects,
    map_subjects,
    write_report,
)
from corrsk.workflows.training import TrainingConfiguration, train

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)


def command(*arguments):
    """Run a command as in a terminal, and show the end of its output."""
    print("$ corrsk", *[str(one).replace(f"{folder}/", "") for one in arguments])
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    print("\n".join(result.output.replace(f"{folder}/", "").splitlines()[-12:]))
    assert result.exit_code == 0


# %%
# The head: white matter with three compartments, grey matter with two, fluid with one, and a lesion
# of two compartments, in air. 6 inversion times and 6 echo times, an SNR of about 200.
protocol = AcquisitionProtocol.from_grid(
    ti=[50, 150, 400, 900, 1800, 3500], te=[10, 25, 50, 90, 150, 250], tr=8000
)
shape = (48, 40, 3)
x, y, _ = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
radius = np.hypot(x, y)
tissue = np.zeros(shape, int)
tissue[radius < 0.9] = 2  # grey matter
tissue[radius < 0.75] = 1  # white matter
tissue[np.hypot(2.2 * (np.abs(x) - 0.15), y) < 0.3] = 3  # ventricles
tissue[np.hypot(x - 0.4, y - 0.35) < 0.13] = 4  # lesion
compartments = {  # T1, T2 in ms and fraction
    1: [(120, 20, 0.2), (950, 100, 0.425), (700, 75, 0.375)],
    2: [(1140, 105, 0.45), (840, 45, 0.55)],
    3: [(2750, 290, 1.0)],
    4: [(400, 30, 0.4), (1800, 180, 0.6)],
}
records = []
for kind in tissue[tissue > 0]:
    parts = compartments[kind] + [(np.nan, np.nan, 0.0)] * (3 - len(compartments[kind]))
    records.append([value for quantity in zip(*parts, strict=True) for value in quantity])
columns = [f"{name}_{k}" for name in ("T1", "T2", "f") for k in (1, 2, 3)]
table = pd.DataFrame(records, columns=columns)
signals = CorrelationSignalGenerator(
    protocol, noise_level=0.005, random_state=0, verbose=False
).fit_transform(table)
volume = np.random.default_rng(0).normal(0, 3, (*shape, protocol.n_measurements))
volume[tissue > 0] = 600 * signals
affine = np.diag([4.0, 4.0, 6.0, 1.0])
nibabel.save(nibabel.Nifti1Image(volume.astype(np.float32), affine), folder / "head.nii.gz")
protocol.to_json(folder / "times.json")

# %%
# One file has all that a model depends on: tissue, nuisances, protocol, noise, and the size of the
# training, which is short here; ``--minutes 5`` in its place measures the speed of the machine.
configuration = {
    "prior": {
        "n_compartments": [1, 2, 3],
        "ranges": {
            "T1": {"low": 100, "high": 4000, "scale": "log"},
            "T2": {"low": 10, "high": 500, "scale": "log"},
        },
        "min_fraction": 0.1,
    },
    "protocol": "times.json",
    "noise": {"snr": [80, 800], "snr_scale": "log", "reference": "max"},
    "training": {"samples": 60_000, "validation": 1000, "seed": 0},
}
(folder / "mine.yaml").write_text(yaml.safe_dump(configuration))
command("train", folder / "mine.yaml", "--out", folder / "mine.safetensors")

# %%
# The maps. ``--dry`` shows what would be read and written; warnings come before the work, and are
# in the report.
arguments = ["map", folder / "head.nii.gz", folder / "maps", "--times", folder / "times.json"]
arguments += ["--model", folder / "mine.safetensors"]
command(*arguments, "--dry")
command(*arguments, "--preview")
print(sorted(path.name for path in (folder / "maps").iterdir() if path.suffix != ".json"))
report = json.loads((folder / "maps" / "report.json").read_text())
print(report["mask"], [warning["category"] for warning in report["warnings"]])

# %%
# The mask is made of the images: the air has no maps. Each sidecar has units, sources and model.
print((folder / "maps" / "T1.json").read_text())
preview = plt.imread(folder / "maps" / "preview.png")
plt.figure(figsize=(11, 11 * preview.shape[0] / preview.shape[1]))
plt.imshow(preview)
plt.axis("off")
plt.tight_layout()
plt.show()

# %%
# The truth of this head: how sure is the model of more than one compartment in each tissue?
multi = np.asarray(nibabel.load(folder / "maps" / "multicompartment.nii.gz").dataobj)
for kind, name in enumerate(("white matter", "grey matter", "fluid", "lesion"), start=1):
    print(f"{name:13} {len(compartments[kind])} compartments, mean P(more than one) "
          f"{np.nanmean(multi[tissue == kind]):.2f}")  # fmt: skip

# %%
# From Python, with a table for each label of an atlas. Several subjects, also of a folder in BIDS,
# are a list; a run that was interrupted continues with ``resume=True``. With the option
# ``--report``, or this function, an HTML page has the maps in a slice viewer, and for each voxel of
# some slices the signal with its fits, the probabilities and the spectrum.
nibabel.save(nibabel.Nifti1Image(tissue.astype(np.uint8), affine), folder / "atlas.nii.gz")
subjects: list[Subject] = find_subjects(folder / "head.nii.gz", times=folder / "times.json")
settings = MapSettings(load(folder / "mine.safetensors"), atlas=folder / "atlas.nii.gz")
print(describe_plan(subjects, "from_python", settings).splitlines()[0])
map_subjects(subjects, folder / "from_python", settings, verbose=False)
statistics = pd.read_csv(folder / "from_python" / "statistics.tsv", sep="\t")
print(statistics.iloc[:, :9].round(2).to_string(index=False))
page = write_report(subjects[0], folder / "from_python", n_voxels=100)
print(page.name, f"{page.stat().st_size / 1e6:.1f} MB")

# %%
# Spectra in place of counts: fractions in windows of T2, number of peaks, M0 and mean times.
# A file has the settings, and the protocol is that of the images.
(folder / "spectrum.json").write_text(
    json.dumps({"n_bins": 12, "windows": {"myelin water": {"T2": [0, 40]}}})
)
command("map", folder / "head.nii.gz", folder / "spectra", "--times", folder / "times.json",
        "--model", folder / "spectrum.json", "--mask", folder / "maps" / "mask.nii.gz")  # fmt: skip
fraction = np.asarray(nibabel.load(folder / "spectra" / "MWF.nii.gz").dataobj)
for kind, name in enumerate(("white matter", "grey matter", "fluid", "lesion"), start=1):
    short = sum(f for _, t2, f in compartments[kind] if t2 < 40)
    print(f"{name:13} {np.nanmean(fraction[tissue == kind]):5.1f} % (truth {100 * short:.0f} %)")

# %%
# The training from Python, of the same file with another seed:
again = TrainingConfiguration.from_file(folder / "mine.yaml", samples=10_000, seed=1)
model = train(again, folder / "short.safetensors", verbose=False)
print(model.n_samples, "signals")
temporary.cleanup()
