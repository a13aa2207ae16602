"""HTML report of the maps of a subject."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone

from corrsk import (
    AcquisitionProtocol,
    MultiExponentialClassifier,
    NNLSSpectrum,
    TissuePrior,
    load_images,
    make_correlation_signals,
)
from corrsk.evaluation.map_displays import COUNT_COLORS
from corrsk.imaging import Grid
from corrsk.workflows.mapping import MapSettings, find_subjects, map_subjects, write_report
from corrsk.workflows.mapping.report import _detail, _fits, _payload
from tests.workflows._browser import CHROMIUM, Tab, browser

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("nilearn")
pytest.importorskip("skimage")

SHAPE = (9, 7, 4)
# axes are permuted and turned round, so that the viewer has to find its way back
AFFINE = np.array([[0, -2.0, 0, 9], [0, 0, 3.0, -7], [-2.5, 0, 0, 4], [0, 0, 0, 1]])
NAME = "<script>alert(1)<"
DARK = (4, 3, 1)


def values():
    """Volume whose voxels with x > 4 have several compartments, with a dark voxel."""
    signals, y = make_correlation_signals(900, noise_level=0.01, norm=None, random_state=0)
    rng = np.random.default_rng(0)
    several = np.arange(SHAPE[0])[:, None, None] > 4
    rows = np.where(
        np.broadcast_to(several, SHAPE),
        rng.choice(np.flatnonzero(y > 2), SHAPE), rng.choice(np.flatnonzero(y == 1), SHAPE),
    )  # fmt: skip
    volume = (400 * signals[rows]).astype(np.float32)
    volume[DARK] = 0
    return volume


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """Subject and folder of the maps, with the report."""
    folder = tmp_path_factory.mktemp("report")
    path = folder / f"{NAME}.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values(), AFFINE), path)
    atlas = np.ones(SHAPE, np.uint8)
    atlas[5:] = 2
    nibabel.save(nibabel.Nifti1Image(atlas, AFFINE), folder / "atlas.nii.gz")
    mask = np.ones(SHAPE, np.uint8)
    mask[0] = 0
    nibabel.save(nibabel.Nifti1Image(mask, AFFINE), folder / "mask.nii.gz")
    subjects = find_subjects(path, times="ir-se-8x8")
    settings = MapSettings(
        "midl2024", mask=folder / "mask.nii.gz", atlas=folder / "atlas.nii.gz", report=True
    )
    map_subjects(subjects, folder / "maps", settings, n_jobs=1, verbose=False)
    return subjects[0], folder / "maps"


class Tags(HTMLParser):
    """Elements of a page, with their text."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append([tag, dict(attributes), ""])

    def handle_data(self, content):
        if self.found:
            self.found[-1][2] += content

    def of(self, tag):
        return [
            [name, attributes, text.rstrip("\n")]
            for name, attributes, text in self.found
            if name == tag
        ]


def data_of(page):
    (content,) = (tag[2] for tag in Tags(page).of("script") if tag[1].get("id") == "data")
    return json.loads(content)


def unpacked(entry):
    content = gzip.decompress(base64.b64decode(entry["data"]))
    return np.frombuffer(content, np.dtype(entry["dtype"])).reshape(entry["shape"])


def test_the_page_has_warnings_first_and_every_table(mapped):
    _, out = mapped
    page = (out / "report.html").read_text()
    record = json.loads((out / "report.json").read_text())
    headings = [tag[2] for tag in Tags(page).of("h2")]
    assert headings == ["Warnings", "Summary", "What was read", "Viewer", "Pictures",
                        "Labels of the atlas", "Record"]  # fmt: skip
    (warned,) = [one for one in record["warnings"] if one["category"] == "NoSignalWarning"]
    assert warned["message"] in page
    cells = [tag[2] for tag in Tags(page).of("td")]
    labels = np.asarray(nibabel.load(out / "labels.nii.gz").dataobj)
    mask = np.asarray(nibabel.load(out / "mask.nii.gz").dataobj) > 0
    assert f"{int(mask.sum())}" in cells
    assert f"{(labels[mask] > 1).mean():.1%}" in cells
    for count in np.unique(labels[mask]):
        assert f"{int((labels[mask] == count).sum())}" in cells
    assert record["sources"][0]["sha256"] in page
    assert "8 TI x 8 TE: TI 50..2000 ms" in page


def test_names_are_escaped_and_no_address_is_loaded(mapped):
    _, out = mapped
    page = (out / "report.html").read_text()
    tags = Tags(page)
    assert "<script>alert" not in page
    assert tags.of("h1")[0][2] == f"Tissue compartments of {NAME}"
    assert len(tags.of("script")) == 3
    assert not tags.of("link")
    for tag in tags.found:
        for name in ("src", "href"):
            assert tag[1].get(name, "data:").startswith("data:")
    policy = next(tag[1]["content"] for tag in tags.of("meta") if "http-equiv" in tag[1])
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_voxels_have_their_measured_signals_fits_and_spectra(mapped):
    subject, out = mapped
    data = data_of((out / "report.html").read_text())
    arrays = {key: unpacked(entry) for key, entry in data["voxels"]["arrays"].items()}
    places = arrays["place"] + np.array(data["start"])
    assert data["steps"] == [1, 1, 1]
    assert len(places) == 8 * 7 * 4 - 1
    assert DARK not in set(map(tuple, places))
    at = tuple(places.T.astype(int))
    signals = values()[at]
    shown = arrays["scale"][:, None] * arrays["measured"] / 32767
    order = np.lexsort((subject.images.protocol.te, subject.images.protocol.ti))
    np.testing.assert_allclose(shown, signals[:, order], atol=1e-4 * signals.max())
    residual = arrays["selected"].astype(float) - arrays["measured"]
    assert np.sqrt((residual**2).mean()) < 0.05 * 32767
    one = arrays["one"].astype(float) - arrays["measured"]
    assert (residual**2).sum() < (one**2).sum()
    probabilities = np.asarray(nibabel.load(out / "probabilities.nii.gz").dataobj)
    np.testing.assert_allclose(arrays["probabilities"], probabilities[at], atol=1e-6)
    t1 = np.asarray(nibabel.load(out / "T1.nii.gz").dataobj)
    name = data["voxels"]["names"].index("T1")
    np.testing.assert_allclose(arrays["values"][:, name], 1e3 * t1[at], rtol=1e-6)  # ms
    fractions = arrays["tableSelected"][..., 0]
    np.testing.assert_allclose(fractions.sum(axis=1), 1, atol=1e-5)
    spectra = arrays["spectrum"]
    assert spectra.shape[1:] == tuple(len(axis) for _, axis in data["voxels"]["spectrum"]["axes"])
    assert (spectra.max(axis=(1, 2)) == 255).all()


def test_the_volumes_of_the_viewer_are_the_maps(mapped, tmp_path):
    _, out = mapped
    data = data_of((out / "report.html").read_text())
    labels = next(one for one in data["volumes"]["maps"] if one["key"] == "labels")
    (tmp_path / "a.nii").write_bytes(gzip.decompress(base64.b64decode(labels["nifti"])))
    image = nibabel.load(tmp_path / "a.nii")
    whole = nibabel.load(out / "labels.nii.gz")
    where = tuple(slice(start, start + n) for start, n in
                  zip(data["start"], data["part"], strict=True))  # fmt: skip
    np.testing.assert_array_equal(np.asarray(image.dataobj), 40 * np.asarray(whole.dataobj)[where])
    corner = AFFINE @ [*data["start"], 1]
    np.testing.assert_allclose(image.affine[:, 3], corner, atol=1e-4)
    for count in (1, 2, 3):
        assert labels["lut"][40 * count] == f"{COUNT_COLORS[count - 1]}ff"
    assert labels["lut"][0].endswith("00")


def test_probabilities_are_transparent_where_the_signal_is_novel(mapped, tmp_path):
    subject, out = mapped
    copy = tmp_path / "maps"
    shutil.copytree(out, copy)
    novelty = np.zeros(SHAPE, np.uint8)
    novelty[6, 3] = 1
    nibabel.save(nibabel.Nifti1Image(novelty, AFFINE), copy / "novelty.nii.gz")
    record = json.loads((copy / "report.json").read_text())
    record["maps"]["novelty"] = "novelty.nii.gz"
    record["shown"]["novelty"] = {"title": "novel", "kind": "mask"}
    (copy / "report.json").write_text(json.dumps(record))
    page = write_report(subject, copy, n_voxels=5, n_jobs=1).read_text()
    data = data_of(page)
    maps = {one["key"]: one for one in data["volumes"]["maps"]}
    levels = {}
    for key in ("multicompartment", "novelty"):
        content = gzip.decompress(base64.b64decode(maps[key]["nifti"]))[352:]
        levels[key] = np.frombuffer(content, np.uint8).reshape(data["part"], order="F")
    x, y, _ = np.array([6, 3, 0]) - data["start"]
    assert (levels["novelty"][x, y] == 255).all()
    assert (levels["multicompartment"][x, y] == 0).all()
    assert (levels["multicompartment"][x - 1, y] > 0).all()
    assert "Share of voxels: novel" in page


def test_a_report_of_spectra_has_those_of_the_maps(tmp_path):
    nibabel.save(nibabel.Nifti1Image(values()[:, :2, :2], AFFINE), tmp_path / "scan.nii.gz")
    (subject,) = find_subjects(tmp_path / "scan.nii.gz", times="ir-se-8x8")
    model = NNLSSpectrum(n_bins={"T1": 9, "T2": 11}, inversion_efficiency=0.99)
    settings = MapSettings(
        model, mask="none", report=True, windows={"myelin water": {"T2": (0, 40)}}
    )
    map_subjects([subject], tmp_path / "maps", settings, n_jobs=1, verbose=False)
    page = (tmp_path / "maps" / "report.html").read_text()
    data = data_of(page)
    arrays = {key: unpacked(entry) for key, entry in data["voxels"]["arrays"].items()}
    places = tuple((arrays["place"] + np.array(data["start"])).T.astype(int))
    signals = values()[:, :2, :2][places]
    fitted = clone(model).set_params(protocol="ir-se-8x8", verbose=False).fit(signals)
    found = fitted.invert(signals)
    largest = found.amplitudes.max(axis=(1, 2), keepdims=True)
    expected = np.rint(255 * found.amplitudes / largest)
    np.testing.assert_allclose(arrays["spectrum"], expected, atol=1)
    assert "probabilities" not in arrays
    assert "Spectra by the model of the maps" in page
    assert "Share of voxels: not explained" in page
    assert "Myelin water (%), median" in page
    assert "Pictures" not in [tag[2] for tag in Tags(page).of("h2")]
    # a page that is written later has the same spectra
    (tmp_path / "maps" / "report.html").unlink()
    map_subjects([subject], tmp_path / "maps", settings, resume=True, n_jobs=1, verbose=False)
    later = data_of((tmp_path / "maps" / "report.html").read_text())
    assert later["voxels"]["arrays"]["spectrum"] == data["voxels"]["arrays"]["spectrum"]


@pytest.mark.parametrize("magnitude", [False, True])
def test_fits_of_a_classifier_with_other_columns_come_back_in_order(magnitude):
    protocol = AcquisitionProtocol.from_grid(ti=[50, 300, 900, 2500], te=[10, 30, 70, 150])
    X, _ = make_correlation_signals(
        8, protocol=protocol, noise_level=0.002, norm=None, random_state=0,
        prior=TissuePrior.named("t1t2-detr", n_compartments=(1,)),
    )  # fmt: skip
    signals = np.abs(X) if magnitude else X
    images = load_images(signals.reshape(4, 2, 1, 16), protocol)
    order = np.random.default_rng(0).permutation(16)
    other = AcquisitionProtocol({name: one[order] for name, one in protocol.contrasts.items()})
    fits = MultiExponentialClassifier(
        other, counts=(1, 2), criterion="bic", random_state=0, verbose=False,
        noise_distribution="rician" if magnitude else "gaussian", n_jobs=1,
    ).fit(signals[:, order])  # fmt: skip
    found = _fits.fit_voxels(
        images, signals, inversion_efficiency=1.0, fits=fits, order=order, n_jobs=1
    )
    np.testing.assert_allclose(found.signals_one, signals, atol=0.02)
    assert found.spectra.shape == (8, 24, 24)
    assert ("magnitudes with the signs" in " ".join(found.methods)) == magnitude
    few = _fits.fit_voxels(
        load_images(signals[:, :3].reshape(4, 2, 1, 3), protocol.subset([0, 1, 2])),
        signals[:, :3], inversion_efficiency=1.0,
    )  # fmt: skip
    assert few.signals is None
    assert few.methods[0].startswith("Without fits and spectra")


def test_a_smaller_file_has_less_detail_and_a_sentence_on_it(mapped, tmp_path):
    subject, out = mapped
    copy = tmp_path / "maps"
    shutil.copytree(out, copy)
    path = write_report(subject, copy, n_voxels=20)
    page = path.read_text()
    places = unpacked(data_of(page)["voxels"]["arrays"]["place"])
    assert len(places) <= 20
    assert re.search(
        rf"signals of {len(places)} of the 223 mapped voxels: every \d\w\w voxel along x .* of "
        r"slice \d along z", page
    )  # fmt: skip
    few = write_report(subject, copy, max_bytes=2_910_000)
    assert few.stat().st_size < 2_910_000
    assert len(unpacked(data_of(few.read_text())["voxels"]["arrays"]["place"])) < 60
    before = path.read_bytes()
    with pytest.raises(ValueError, match="max_bytes is too small: with the viewer"):
        write_report(subject, copy, max_bytes=2_000_000)
    assert path.read_bytes() == before
    assert not list(copy.glob(".*"))


def test_the_report_of_an_interrupted_run_is_added(mapped, tmp_path, monkeypatch):
    subject, out = mapped
    copy = tmp_path / "maps"
    shutil.copytree(out, copy)

    def interrupted(self, *arguments, **options):
        raise KeyboardInterrupt

    before = (copy / "report.html").read_bytes()
    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(subject, copy, n_voxels=2)
    monkeypatch.undo()
    assert (copy / "report.html").read_bytes() == before
    assert not list(copy.glob(".*"))
    (copy / "report.html").unlink()
    folder = out.parent
    settings = MapSettings(
        "midl2024", mask=folder / "mask.nii.gz", atlas=folder / "atlas.nii.gz", report=True
    )
    map_subjects([subject], copy, settings, resume=True, n_jobs=1, verbose=False)
    assert data_of((copy / "report.html").read_text()) == data_of(before.decode())


def test_missing_maps_are_one_sentence(mapped, tmp_path):
    subject, out = mapped
    with pytest.raises(FileNotFoundError, match="has no maps of .*map_subjects first"):
        write_report(subject, tmp_path)
    copy = tmp_path / "maps"
    shutil.copytree(out, copy)
    (copy / "T1.nii.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"T1.nii.gz, which the record names"):
        write_report(subject, copy)
    record = json.loads((copy / "report.json").read_text())
    record["sources"][0]["file"] = "/elsewhere.nii.gz"
    (copy / "report.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="record of other images"):
        write_report(subject, copy)


def test_the_detail_is_lowered_along_the_finest_axis():
    mask = np.zeros((40, 30, 10), bool)
    mask[10:30, 5:25, 2:8] = True
    grid = Grid(mask.shape, np.diag([1.0, 2, 5, 1]))
    detail = _detail.Detail.from_mask(mask, grid, 10**6)
    assert detail.shape == (24, 24, 10)
    assert "Every mapped voxel" in detail.describe()
    detail = _detail.Detail.from_mask(mask, grid, 2000)
    assert detail.n_voxels <= 2000
    assert detail.steps == [3, 1, 1]
    assert "the viewer has every 3rd voxel along x only" in detail.describe()
    part = grid.part(detail.where)
    np.testing.assert_allclose(part.affine @ [1, 1, 1, 1], grid.affine @ [11, 4, 1, 1])
    chosen = _detail.Chosen.from_mask(mask[detail.where], detail, 2, 300)
    assert chosen.slices == (4, 5)
    assert len(chosen.places) == 280


@pytest.mark.parametrize(
    ("n_levels", "n_curves", "n_shown"), [((3, 5), 3, 15), ((40, 2000), 16, 256)]
)
def test_curves_are_over_te_and_few(n_levels, n_curves, n_shown):
    n_ti, n_te = n_levels
    protocol = AcquisitionProtocol.from_grid(
        ti=np.linspace(50, 3000, n_ti), te=np.linspace(1, 500, n_te)
    )
    (panel,) = _payload.measurement_panels(protocol)
    assert panel["parameter"] == "TE"
    assert len(panel["labels"]) == n_curves
    assert len(panel["x"]) <= n_shown
    positions = panel["positions"]
    np.testing.assert_array_equal(panel["x"], protocol.te[positions])
    for number, label in enumerate(panel["labels"]):
        own = positions[np.array(panel["curve"]) == number]
        assert label == f"TI {protocol.ti[own[0]]:.4g}"
        assert np.ptp(protocol.ti[own]) == 0


def test_each_series_has_a_panel_over_what_it_varies():
    recovery = AcquisitionProtocol({"TI": [50, 300, 2500], "TE": [10, 10, 10]}, tr=8000)
    echoes = AcquisitionProtocol({"TE": [10, 30, 70, 150]}, tr=3000)
    both = AcquisitionProtocol.concatenate([recovery, echoes], same_gain=False)
    first, second = _payload.measurement_panels(both)
    assert (first["parameter"], first["x"], first["labels"]) == ("TI", [50, 300, 2500], ["signal"])
    assert (second["parameter"], second["x"]) == ("TE", [10, 30, 70, 150])
    assert [*first["positions"], *second["positions"]] == list(range(7))
    assert second["title"] == "series 1"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not there")
def test_a_click_shows_the_voxel_at_both_widths(mapped):
    _, out = mapped
    page = out / "report.html"
    labels = np.asarray(nibabel.load(out / "labels.nii.gz").dataobj)

    async def visit(address):
        async with Tab.open(address) as tab:
            await check(tab)

    async def check(tab):
        for width in (1200, 400):
            await tab.go(page.as_uri(), width)
            assert await tab.run("document.documentElement.scrollWidth") <= width
            await tab.run("element('opacity').value = 1; element('opacity').oninput({target: "
                          "element('opacity')}); viewer.opts.crosshairWidth = 0; "
                          "viewer.drawScene()")  # fmt: skip
            box = await tab.run(
                "(() => { const e = element('canvas'); e.scrollIntoView({block: 'center'}); "
                "const r = e.getBoundingClientRect(); "
                "return [r.left, r.top, r.width, r.height] })()"
            )
            signals, counts = set(), set()
            for x, y in np.mgrid[0.15:0.85:4j, 0.2:0.8:3j].reshape(2, -1).T:
                x, y = box[0] + x * box[2], box[1] + y * box[3]
                await tab.click(x, y)
                voxel = json.loads(await tab.run("JSON.stringify(toImage(current))"))
                assert await tab.run("location.hash") == f"#voxel={','.join(map(str, voxel))}"
                shown = await tab.run("element('values').rows[0].cells[1].textContent")
                assert shown == str(labels[tuple(voxel)])
                # the colour below the pointer is that of the voxel's count
                color = (await tab.picture())[int(y), int(x)]
                if int(shown) and voxel != list(DARK):
                    named = [int(COUNT_COLORS[int(shown) - 1][k : k + 2], 16) for k in (1, 3, 5)]
                    if np.abs(255 * color - named).max() < 12:
                        counts.add((int(shown), tuple(voxel)))
                signals.add(await tab.run("element('signal').innerHTML"))
            assert len({voxel for _, voxel in counts}) > 3
            assert len({count for count, _ in counts}) > 1
            assert len(signals) > 3
        # an address leads to a voxel, and a voxel without signal to its neighbour
        await tab.go(f"{page.as_uri()}#voxel=6,3,2", 1200)
        assert await tab.run("element('heading').textContent") == "Voxel 6, 3, 2"
        await tab.run(f"show(toPart({list(DARK)}))")
        assert await tab.run("element('panel').hidden")
        await tab.run("element('message').querySelector('button').click()")
        assert not await tab.run("element('panel').hidden")
        # one that is not mapped, typed into the form
        await tab.run("element('x').value = 0; element('go').requestSubmit()")
        assert await tab.run("element('heading').textContent") == "Voxel 0, 3, 1"
        assert "is not mapped" in await tab.run("element('message').textContent")
        assert "none" in await tab.run("element('values').textContent")
        # an address that names no voxel
        await tab.run("location.hash = '#voxel=abc'")
        await asyncio.sleep(0.2)
        assert "#voxel=abc names no voxel" in await tab.run("element('message').textContent")
        assert await tab.run("element('heading').textContent") == "Voxel 0, 3, 1"
        # the wheel leads to other slices
        place = await tab.run("element('heading').textContent")
        await tab.run("element('canvas').scrollIntoView({block: 'center'})")
        box = await tab.run("(() => { const r = element('canvas').getBoundingClientRect(); "
                            "return [r.left + r.width / 2, r.top + r.height / 2] })()")  # fmt: skip
        await tab.call("Input.dispatchMouseEvent", type="mouseWheel", x=box[0], y=box[1],
                       deltaX=0, deltaY=120)  # fmt: skip
        await asyncio.sleep(0.2)
        assert place != await tab.run("element('heading').textContent")
        await tab.run("goTo([99, 3, 1])")
        assert await tab.run("element('heading').textContent") == "Voxel 8, 3, 1"
        assert "Voxel 99, 3, 1 is not in the viewer" in await tab.run(
            "element('message').textContent"
        )
        # without a graphics processor, voxels are chosen by their numbers
        await tab.call("Page.addScriptToEvaluateOnNewDocument",
                       source="HTMLCanvasElement.prototype.getContext = () => null")  # fmt: skip
        await tab.go(f"{page.as_uri()}#voxel=6,3,2", 1200)
        assert "no WebGL 2" in await tab.run("document.querySelector('.screen').textContent")
        assert await tab.run("element('signal').querySelectorAll('circle').length") == 64
        assert tab.errors == []
        assert {address.split(":")[0] for address in tab.addresses} <= {"file", "data", "about"}

    with browser() as address:
        asyncio.run(visit(address))
