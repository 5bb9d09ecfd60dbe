// The report's data, and what its charts are drawn with: colours, scales, cells, lines.
// page.py puts this before report.js, in one function.

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const TYPES = { uint8: Uint8Array, float32: Float32Array };
const unpack = (array) => {
  const bytes = Uint8Array.from(atob(array.data), (c) => c.charCodeAt(0));
  return { shape: array.shape, at: new TYPES[array.type](bytes.buffer) };
};
const actions = unpack(data.actions).at, rewards = unpack(data.rewards).at;
const values = unpack(data.values).at, policy = unpack(data.probabilities).at;
const T = actions.length, A = data.actionNames.length;
const scores = []; // after each decision
rewards.reduce((sum, r, t) => (scores[t] = sum + r), 0);
const number = (x, digits = 0) => x.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", "−");
const clock = (t) => `${Math.floor(t / data.rate / 60)}:${((t / data.rate) % 60).toFixed(1).padStart(4, "0")}`;
const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#a58a00"];

// ---- Colours

let colours = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["text", "muted", "rule", "accent", "warm", "good", "card", "heat-0", "heat-1", "heat-2", "low", "mid", "high"]) {
    colours[name] = style.getPropertyValue(`--${name}`).trim();
  }
}
const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
function ramp(names) { // 256 colours through those of the names
  const stops = names.map((name) => rgb(colours[name]));
  return Array.from({ length: 256 }, (_, i) => {
    const place = (i / 255) * (stops.length - 1), k = Math.min(Math.floor(place), stops.length - 2);
    return stops[k].map((c, j) => Math.round(c + (place - k) * (stops[k + 1][j] - c)));
  });
}
const heat = () => ramp(["heat-0", "heat-1", "heat-2"]), signed = () => ramp(["low", "mid", "high"]);
function showRamp(id, colour, low, high) {
  if (!$(id)) return;
  const bar = document.createElement("i");
  bar.style.background = `linear-gradient(90deg, ${[0, 64, 128, 191, 255].map((i) => `rgb(${colour[i]})`)})`;
  $(id).replaceChildren(low, bar, high);
}

// ---- Drawing

const RIGHT = 8;
const font = () => `${innerWidth < 700 ? 10 : 12}px system-ui, sans-serif`;
const ruler = document.createElement("canvas").getContext("2d");
function widest(names) { // in CSS pixels, with the gap to the chart
  ruler.font = font();
  return Math.ceil(Math.max(...names.map((name) => ruler.measureText(name).width))) + 10;
}
// All lanes of the timeline begin at the same place.
const left = () => widest([...data.actionNames, "factor 10"]);
function canvas(id) { // cleared, in CSS pixels
  const element = $(id), ratio = devicePixelRatio || 1, box = element.getBoundingClientRect();
  element.width = Math.round(box.width * ratio);
  element.height = Math.round(box.height * ratio);
  const pen = element.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = font();
  pen.textBaseline = "middle";
  return [pen, box.width, box.height];
}
function write(pen, text, x, y, align = "right", colour = colours.muted) {
  pen.fillStyle = colour;
  pen.textAlign = align;
  pen.fillText(text, x, y);
}
function ticks(low, high, count) { // round numbers within
  const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(i * step);
  return found;
}
const short = (x) => (Math.abs(x) >= 1e6 ? `${+(x / 1e6).toFixed(2)} M` : Math.abs(x) >= 1e4 ? `${+(x / 1e3).toFixed(1)} k` : `${+x.toFixed(4)}`).replace("-", "−");
// Cells as an image, enlarged: columns x rows, from a function to [r, g, b].
function cells(pen, x, y, width, height, columns, rows, colour) {
  const image = new ImageData(columns, rows);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) image.data.set([...colour(column, row), 255], 4 * (row * columns + column));
  }
  const small = document.createElement("canvas");
  small.width = columns;
  small.height = rows;
  small.getContext("2d").putImageData(image, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, x, y, width, height);
}
// [T * rows] as [columns * rows]: a long game has more decisions than a narrow screen has pixels.
function pooled(w, rows, columns) {
  const result = new Float32Array(columns * rows);
  for (let column = 0; column < columns; column++) {
    const start = Math.floor((column * T) / columns), end = Math.floor(((column + 1) * T) / columns);
    for (let t = start; t < end; t++) for (let row = 0; row < rows; row++) result[column * rows + row] += w[t * rows + row] / (end - start);
  }
  return result;
}
const columnsIn = (width) => Math.max(1, Math.min(T, Math.floor(width * (devicePixelRatio || 1))));
function rowLabels(pen, names, y, height, most = 12) {
  const every = Math.ceil((most * names.length) / height);
  names.forEach((name, i) => {
    if (i % every === 0) write(pen, name, left() - 8, y + ((i + 0.5) * height) / names.length);
  });
}
function stroke(pen, points, colour, width) {
  pen.beginPath();
  points.forEach(([x, y]) => pen.lineTo(x, y));
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.lineJoin = "round";
  pen.stroke();
}
function dot(pen, x, y, radius, colour) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 7);
  pen.fillStyle = colour;
  pen.fill();
}
function showLegend(id, entries) {
  $(id).replaceChildren(...entries.map(([label, colour]) => {
    const entry = document.createElement("span"), mark = document.createElement("b");
    mark.style.background = colour;
    entry.append(mark, label);
    return entry;
  }));
}
