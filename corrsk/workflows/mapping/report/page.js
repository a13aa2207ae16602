"use strict";
// Viewer and panel of the report. Voxels are counted from 0 in the images; `part` is the box (or
// every n-th voxel of it) that the viewer shows.
const data = JSON.parse(document.getElementById("data").textContent);
const element = (id) => document.getElementById(id);
const TYPES = { uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array, float32: Float32Array };

async function unpack(entry) {
  const bytes = Uint8Array.from(atob(entry.data), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const values = new TYPES[entry.dtype](await new Response(stream).arrayBuffer());
  const width = entry.shape.slice(1).reduce((a, b) => a * b, 1);
  return { values, width, shape: entry.shape, row: (k) => values.subarray(k * width, (k + 1) * width) };
}

const toPart = (voxel) => voxel.map((v, k) => Math.round((v - data.start[k]) / data.steps[k]));
const toImage = (place) => place.map((p, k) => data.start[k] + data.steps[k] * p);
const key = (place) => place.join(",");
const arrays = {};
const levels = {}; // of the maps of the viewer
const rows = new Map(); // of the voxels of the panel, by their place
let viewer = null;
let current = null;
let isOwnMove = false;

// -- text and shapes ----------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const isShape = ["svg", "path", "circle", "line", "rect", "text", "g", "title"].includes(tag);
  const node = isShape
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function number(value) {
  if (!Number.isFinite(value)) return "none";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(3)));
}

function ticksOf(low, high, isLog) {
  if (isLog) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1)
      for (const factor of [1, 2, 5]) {
        const tick = factor * 10 ** power;
        if (tick >= low * 0.999 && tick <= high * 1.001) found.push(tick);
      }
    return found.length > 6 ? found.filter((t) => Math.abs(Math.log10(t) % 1) < 1e-9) : found;
  }
  const rough = (high - low) / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step)
    found.push(Math.abs(tick) < step / 1e6 ? 0 : tick);
  return found;
}

// Empty axes, and the functions from values to positions.
function axes({ x, y, xLabel, yLabel, xLog = false, yLog = false, height = 260 }) {
  const width = 480, left = 56, right = 10, top = 8, bottom = 38;
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" });
  const scale = (range, isLog, from, to) => {
    const f = isLog ? Math.log : (v) => v;
    const [a, b] = range.map(f);
    return (v) => from + ((f(v) - a) / (b - a || 1)) * (to - from);
  };
  const px = scale(x, xLog, left, width - right);
  const py = scale(y, yLog, height - bottom, top);
  const line = (x1, y1, x2, y2, color) =>
    svg.append(make("line", { x1, y1, x2, y2, stroke: color }));
  for (const tick of ticksOf(...x, xLog)) {
    line(px(tick), top, px(tick), height - bottom, "#eee");
    svg.append(make("text", { x: px(tick), y: height - bottom + 14, "text-anchor": "middle" }, number(tick)));
  }
  for (const tick of ticksOf(...y, yLog)) {
    line(left, py(tick), width - right, py(tick), "#eee");
    svg.append(make("text", { x: left - 5, y: py(tick) + 4, "text-anchor": "end" }, number(tick)));
  }
  line(left, height - bottom, width - right, height - bottom, "#444");
  line(left, top, left, height - bottom, "#444");
  svg.append(make("text", { x: (left + width - right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel));
  const middle = (top + height - bottom) / 2;
  svg.append(make("text", { x: 12, y: middle, transform: `rotate(-90 12 ${middle})`, "text-anchor": "middle" }, yLabel));
  return { svg, px, py };
}

function legendOf(items) {
  const node = make("div", { class: "small" });
  for (const [label, color] of items)
    node.append(make("span", { style: "margin-right: 0.9em; white-space: nowrap" },
      make("span", { class: "swatch", style: `background: ${color}` }), label));
  return node;
}

// -- the panel ----------------------------------------------------------------

function drawPanel(panel, values) {
  const { x, curve, labels, colors, parameter, unit, logarithmic, group, title } = panel;
  const all = Object.values(values).flat();
  const low = Math.min(0, ...all), high = Math.max(0, ...all);
  const span = high - low || 1;
  const from = logarithmic ? Math.min(...x) : Math.min(0, ...x);
  const { svg, px, py } = axes({
    x: [from, Math.max(...x) || 1], y: [low - 0.04 * span, high + 0.04 * span], xLog: logarithmic,
    xLabel: `${parameter} (${unit})`, yLabel: "signal",
  });
  labels.forEach((label, c) => {
    const own = x.map((_, j) => j).filter((j) => curve[j] === c);
    for (const [name, style] of [["one", { "stroke-dasharray": "3 3", opacity: 0.7 }], ["selected", {}]]) {
      if (!values[name]) continue;
      const d = own.map((j, n) => `${n ? "L" : "M"}${px(x[j]).toFixed(1)} ${py(values[name][j]).toFixed(1)}`).join("");
      svg.append(make("path", { d, fill: "none", stroke: colors[c], "stroke-width": 1.4, ...style }));
    }
    for (const j of own)
      svg.append(make("circle", { cx: px(x[j]).toFixed(1), cy: py(values.measured[j]).toFixed(1), r: 2.6, fill: colors[c] },
        make("title", {}, `${label}, ${parameter} ${number(x[j])}: ${number(values.measured[j])}`)));
  });
  const nodes = title ? [make("div", { class: "small" }, title), svg] : [svg];
  if (labels.length > 1) nodes.push(legendOf(labels.map((label, c) => [label, colors[c]])),
    make("div", { class: "small" }, group));
  return nodes;
}

function drawSignal(k) {
  const scale = arrays.scale.values[k] / 32767;
  const names = ["measured", "one", "selected"].filter((name) => arrays[name]);
  let start = 0;
  const nodes = data.panels.flatMap((panel) => {
    const stop = start + panel.x.length;
    const values = Object.fromEntries(names.map((name) =>
      [name, Array.from(arrays[name].row(k).subarray(start, stop), (v) => v * scale)]));
    start = stop;
    return drawPanel(panel, values);
  });
  nodes.push(make("div", { class: "small" }, "points: measured" + (names.length > 1
    ? "; dashed: one compartment; lines: selected number of compartments" : "")));
  element("signal").replaceChildren(...nodes);
}

function drawFits(k) {
  const target = element("fits");
  if (!arrays.tableSelected) {
    target.replaceChildren("No fits: see the list below.");
    return;
  }
  const table = make("table"), properties = data.voxels.properties;
  table.append(make("thead", {}, make("tr", {}, make("th", {}, "fit"), make("th", {}, "fraction"),
    ...properties.map(([name, unit]) => make("th", {}, `${name} (${unit})`)))));
  const body = make("tbody");
  const add = (name, array) => {
    const row = array.row(k), width = properties.length + 1;
    for (let c = 0; c * width < row.length; c += 1) {
      const cells = Array.from(row.subarray(c * width, (c + 1) * width));
      if (!(cells[0] > 0)) continue;
      body.append(make("tr", {}, ...[name, ...cells.map(number)].map((text) => make("td", {}, text))));
    }
  };
  add("one", arrays.tableOne);
  add("selected", arrays.tableSelected);
  table.append(body);
  const flags = arrays.flags.values[k], texts = [];
  if (flags & 1) texts.push("The selected fit does not explain the signal.");
  if (flags & 2) texts.push("A value is at its bound, and is no estimate.");
  target.replaceChildren(table, ...texts.map((text) => make("p", { class: "warnings" }, text)));
}

// Compartments of the maps, with their intervals or errors: other ones than those of the fits, which
// are made for this page.
function drawCompartments(k) {
  if (!arrays.compartments) return;
  const properties = data.voxels.properties, [, , width] = arrays.compartments.shape;
  const each = (width - 1) / properties.length, row = arrays.compartments.row(k);
  const table = make("table", {}, make("thead", {}, make("tr", {}, make("th", {}, "fraction"),
    ...properties.map(([name, unit]) => make("th", {}, `${name} (${unit})`)))));
  const body = make("tbody");
  for (let c = 0; c * width < row.length; c += 1) {
    const cells = Array.from(row.subarray(c * width, (c + 1) * width), number);
    if (!(row[c * width] > 0)) continue;
    const texts = properties.map((_, j) => {
      const [value, ...spread] = cells.slice(1 + j * each, 1 + (j + 1) * each);
      if (!spread.length) return value;
      return spread.length === 2 ? `${value} (${spread.join(" to ")})` : `${value} ± ${spread[0]}`;
    });
    body.append(make("tr", {}, ...[cells[0], ...texts].map((text) => make("td", {}, text))));
  }
  table.append(body);
  element("compartments").replaceChildren(table);
}

function drawSpectrum(k) {
  const target = element("spectrum"), spectrum = data.voxels.spectrum;
  if (!spectrum) {
    target.replaceChildren("No spectrum: see the list below.");
    return;
  }
  const row = arrays.spectrum.row(k), units = Object.fromEntries(data.voxels.properties);
  const [[name, values], second] = spectrum.axes;
  const label = (one) => `${one} (${units[one]})`;
  const half = (axis) => Math.sqrt(axis[1] / axis[0]);
  const ends = (axis) => [axis[0] / half(axis), axis[axis.length - 1] * half(axis)];
  let drawn;
  if (!second) {
    drawn = axes({ x: ends(values), y: [0, 1.05], xLog: true, xLabel: label(name), yLabel: "relative amplitude", height: 200 });
    const d = values.map((v, j) => `${j ? "L" : "M"}${drawn.px(v).toFixed(1)} ${drawn.py(row[j] / 255).toFixed(1)}`).join("");
    drawn.svg.append(make("path", { d, fill: "none", stroke: "#3b6fb6", "stroke-width": 1.6 }));
  } else {
    const [otherName, others] = second;
    drawn = axes({ x: ends(others), y: ends(values), xLog: true, yLog: true, xLabel: label(otherName), yLabel: label(name) });
    const cell = (p, axis, j) => [p(axis[j] / half(axis)), p(axis[j] * half(axis))];
    values.forEach((_, i) => others.forEach((__, j) => {
      const level = row[i * others.length + j];
      if (level < 2) return;
      const [x1, x2] = cell(drawn.px, others, j), [y2, y1] = cell(drawn.py, values, i);
      drawn.svg.append(make("rect", { x: x1.toFixed(1), y: y1.toFixed(1), width: (x2 - x1).toFixed(1), height: (y2 - y1).toFixed(1), fill: "#3b6fb6", opacity: (0.08 + (0.92 * level) / 255).toFixed(2) }));
    }));
    const order = data.voxels.properties.map(([one]) => one), width = order.length + 1;
    const marks = arrays.tableSelected ? arrays.tableSelected.row(k) : [];
    for (let c = 0; c * width < marks.length; c += 1) {
      const at = (one) => marks[c * width + 1 + order.indexOf(one)];
      if (!(marks[c * width] > 0)) continue;
      drawn.svg.append(make("circle", { cx: drawn.px(at(otherName)).toFixed(1), cy: drawn.py(at(name)).toFixed(1), r: 5, fill: "none", stroke: "#c8443c", "stroke-width": 1.8 }));
    }
  }
  const text = [second && arrays.tableSelected ? "circles: compartments of the selected fit" : "",
    spectrum.summed.length ? `summed over ${spectrum.summed.join(", ")}` : ""].filter(Boolean).join("; ");
  target.replaceChildren(drawn.svg, make("div", { class: "small" }, text));
}

// Values of the maps in a voxel that has no row: those of the viewer, which has 248 levels.
function shownValues(place) {
  const index = place[0] + data.part[0] * (place[1] + data.part[1] * place[2]);
  return data.volumes.maps.map((map) => {
    const level = levels[map.key][index];
    if (map.key === "labels") return level / 40;
    if (map.legend.length) return level ? 1 : 0;
    return level ? map.low + ((level - map.first) / (255 - map.first)) * (map.high - map.low) : NaN;
  });
}

function drawValues(values) {
  element("values").replaceChildren(...data.voxels.titles.map((title, j) => make("tr", {},
    make("th", { scope: "row" }, title), make("td", {}, number(values[j])))));
}

function drawProbabilities(k) {
  if (!arrays.probabilities) return;
  const counts = data.volumes.maps.find((map) => map.key === "labels");
  element("probabilities").replaceChildren(...data.classes.map((name, j) => {
    const p = arrays.probabilities.row(k)[j];
    const color = counts.lut[40 * Number(name)] || "#3b6fb6";
    return make("div", { class: "bar" }, make("span", {}, `P(n_c = ${name})`),
      make("span", { class: "track" }, make("i", { style: `width: ${100 * p}%; background: ${color}` })),
      make("span", {}, Number.isFinite(p) ? p.toFixed(3) : "none"));
  }));
}

function nearest(place) {
  let best = null, least = Infinity;
  for (const other of rows.values()) {
    const distance = other.place.reduce((sum, p, k) => sum + ((p - place[k]) * data.steps[k]) ** 2, 0);
    if (distance < least) [best, least] = [other.place, distance];
  }
  return best;
}

function show(place, isFromViewer = false) {
  current = place;
  const voxel = toImage(place);
  ["x", "y", "z"].forEach((name, k) => { element(name).value = voxel[k]; });
  element("heading").textContent = `Voxel ${voxel.join(", ")}`;
  history.replaceState(null, "", `#voxel=${voxel.join(",")}`);
  const found = rows.get(key(place));
  element("panel").hidden = !found;
  element("message").replaceChildren();
  if (found) {
    drawValues(arrays.values.row(found.row));
    drawProbabilities(found.row);
    drawSignal(found.row);
    drawCompartments(found.row);
    drawFits(found.row);
    drawSpectrum(found.row);
  } else {
    const close = nearest(place), button = make("button", { type: "button" }, `Show ${toImage(close).join(", ")}`);
    button.onclick = () => show(close);
    const values = shownValues(place), labels = data.volumes.maps.findIndex((map) => map.key === "labels");
    const mapped = labels >= 0 ? values[labels] > 0
      : values.some((value, j) => !data.volumes.maps[j].legend.length && Number.isFinite(value));
    const reason = mapped ? "The signal of this voxel is not in this file."
      : "This voxel is not mapped: it is outside of the mask, or has no signal.";
    element("message").append(`${reason} The nearest one with a signal: `, button);
    element("probabilities").replaceChildren();
    drawValues(mapped ? values : values.map(() => NaN));
  }
  if (viewer && !isFromViewer) {
    isOwnMove = true;
    viewer.scene.crosshairPos = viewer.mm2frac(toWorld(place));
    viewer.drawScene();
    isOwnMove = false;
  }
}

// -- the viewer -----------------------------------------------------------------

const toWorld = (place) => [0, 1, 2].map((k) =>
  data.affine[k][3] + place.reduce((sum, p, j) => sum + data.affine[k][j] * p, 0));

function fromWorld(mm) {
  const a = data.affine, m = (i, j) => a[i][j];
  const b = mm.slice(0, 3).map((v, k) => v - a[k][3]);
  const det = (u, v, w) => u[0] * (v[1] * w[2] - v[2] * w[1]) - v[0] * (u[1] * w[2] - u[2] * w[1]) + w[0] * (u[1] * v[2] - u[2] * v[1]);
  const columns = [0, 1, 2].map((j) => [0, 1, 2].map((i) => m(i, j)));
  const whole = det(...columns);
  return [0, 1, 2].map((j) => {
    const place = Math.round(det(...columns.map((c, k) => (k === j ? b : c))) / whole);
    return Math.max(0, Math.min(data.part[j] - 1, place));
  });
}

function colormap(map) {
  const channel = (from) => map.lut.map((color) => parseInt(color.slice(from, from + 2), 16));
  return { R: channel(1), G: channel(3), B: channel(5), A: channel(7), I: map.lut.map((_, k) => k) };
}

async function addVolume(map, opacity) {
  viewer.addColormap(map.key, colormap(map));
  viewer.addVolume(await niivue.NVImage.loadFromBase64({
    base64: map.nifti, name: `${map.key}.nii.gz`, colormap: map.key, opacity, cal_min: 0, cal_max: 255,
  }));
}

function drawLegend(map) {
  const node = element("legend");
  if (map.legend.length) {
    node.replaceChildren(...map.legend.map(([label, color]) => make("span", {},
      make("span", { class: "swatch", style: `background: ${color}` }),
      map.key === "labels" ? `${label} compartment${label === "1" ? "" : "s"}` : label)));
    return;
  }
  const stops = map.lut.slice(map.first).filter((_, k) => k % 16 === 0).join(", ");
  node.replaceChildren(make("span", {}, number(map.low)),
    make("span", { class: "ramp", style: `background: linear-gradient(to right, ${stops})` }),
    make("span", {}, `${number(map.high)} ${map.unit}`));
}

async function showMap(name) {
  const map = data.volumes.maps.find((one) => one.key === name);
  drawLegend(map);
  if (!viewer) return;
  const old = viewer.volumes[1];
  await addVolume(map, Number(element("opacity").value));
  if (old) viewer.removeVolume(old);
}

async function startViewer() {
  const canvas = element("canvas");
  try {
    if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser has no WebGL 2");
    viewer = new niivue.Niivue({ backColor: [0, 0, 0, 1], crosshairColor: [1, 0.2, 0.2, 0.8], crosshairWidth: 0.4,
      crosshairWidthUnit: "percent", show3Dcrosshair: false, isNearestInterpolation: true, logLevel: "error", dragAndDropEnabled: false,
      multiplanarShowRender: 0, multiplanarLayout: 2, loadingText: "" });
    await viewer.attachToCanvas(canvas);
    viewer.setSliceType(data.single ? [viewer.sliceTypeSagittal, viewer.sliceTypeCoronal, viewer.sliceTypeAxial][data.plane] : viewer.sliceTypeMultiplanar);
    await addVolume(data.volumes.background, 1);
    viewer.setInterpolation(true);
    viewer.onLocationChange = (location) => {
      if (isOwnMove) return;
      const place = fromWorld(Array.from(location.mm));
      if (!current || key(place) !== key(current)) show(place, true);
    };
  } catch (error) {
    viewer = null;
    canvas.parentElement.replaceChildren(make("p", { class: "warnings" },
      `The slice viewer cannot start (${error.message}). Type the numbers of a voxel below, or look at the pictures.`));
  }
}

// Show a voxel of the images, or the nearest one of the viewer.
function goTo(voxel) {
  const place = toPart(voxel).map((p, k) => Math.max(0, Math.min(data.part[k] - 1, p)));
  show(place);
  if (key(toImage(place)) !== key(voxel))
    element("message").prepend(`Voxel ${voxel.join(", ")} is not in the viewer; this is the nearest one that is. `);
}

// Voxel of the address, or null.
function fromAddress() {
  const found = /^#voxel=(\d+),(\d+),(\d+)$/.exec(location.hash);
  return found && found.slice(1).map(Number);
}

// Show the voxel of the address, or `other` with a sentence if the address names none.
function goToAddress(other) {
  const voxel = fromAddress(), given = location.hash;
  if (voxel) {
    if (!current || key(voxel) !== key(toImage(current))) goTo(voxel);
    return;
  }
  goTo(other);
  if (given.length > 1)
    element("message").prepend(`${given} names no voxel: #voxel= needs three numbers from 0, such as #voxel=${other.join(",")}. `);
}

async function start() {
  for (const [name, entry] of Object.entries(data.voxels.arrays)) arrays[name] = await unpack(entry);
  for (const map of data.volumes.maps) {
    const nifti = await unpack({ data: map.nifti, dtype: "uint8", shape: [1] });
    levels[map.key] = nifti.values.subarray(352); // behind the header
  }
  for (let k = 0; k < arrays.place.shape[0]; k += 1) {
    const place = Array.from(arrays.place.row(k));
    rows.set(key(place), { row: k, place });
  }
  ["x", "y", "z"].forEach((name, k) => { element(name).max = data.shape[k] - 1; });
  element("measurement").textContent = data.volumes.measurement;
  for (const map of data.volumes.maps) element("map").append(make("option", { value: map.key }, map.title));
  await startViewer();
  await showMap(data.volumes.maps[0].key);
  element("map").onchange = (event) => showMap(event.target.value);
  element("opacity").oninput = (event) => { if (viewer) viewer.setOpacity(1, Number(event.target.value)); };
  element("go").onsubmit = (event) => {
    event.preventDefault();
    goTo(["x", "y", "z"].map((name) => Number(element(name).value)));
  };
  addEventListener("hashchange", () => goToAddress(toImage(current)));
  goToAddress(toImage(data.first));
  document.body.dataset.ready = "true";
}

start();
