// Colours of the page's theme, and ramps of 256 colours between them.

let colours = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of [
    "text",
    "muted",
    "rule",
    "accent",
    "warm",
    "good",
    "card",
    "heat-0",
    "heat-1",
    "heat-2",
    "low",
    "mid",
    "high",
  ]) {
    colours[name] = style.getPropertyValue(`--${name}`).trim();
  }
}

const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
// 256 colours, interpolated between the named ones.
function ramp(names) {
  const stops = names.map((name) => rgb(colours[name]));
  return Array.from({ length: 256 }, (_, i) => {
    const place = (i / 255) * (stops.length - 1);
    const k = Math.min(Math.floor(place), stops.length - 2);
    return stops[k].map((c, j) => Math.round(c + (place - k) * (stops[k + 1][j] - c)));
  });
}

const heat = () => ramp(["heat-0", "heat-1", "heat-2"]);
const signed = () => ramp(["low", "mid", "high"]);
function showRamp(id, colour, low, high) {
  if (!$(id)) {
    return;
  }
  const bar = document.createElement("i");
  const stops = [0, 64, 128, 191, 255].map((i) => `rgb(${colour[i]})`);
  bar.style.background = `linear-gradient(90deg, ${stops})`;
  $(id).replaceChildren(low, bar, high);
}
