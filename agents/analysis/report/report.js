// Draws the report's charts and ties them to the video. No library; see agents/report_page.py.

// ---- Learning curve

function drawCurve() {
  const { lines, random, human } = data.curve, [pen, width, height] = canvas("curve");
  const looks = { training: ["Training", "accent"], sampled: ["Evaluation, sampled", "warm"], greedy: ["Evaluation, greedy", "good"] };
  const all = Object.values(lines), ys = all.flatMap((line) => line[1]);
  let low = Math.min(...ys, random ?? Infinity), high = Math.max(...ys, random ?? -Infinity);
  if (human !== null && human < high + 2 * (high - low)) high = Math.max(high, human);
  const pad = (high - low) * 0.06 || 1, end = Math.max(...all.flatMap((line) => line[0])) || 1;
  low -= pad;
  high += pad;
  const x0 = 56, x = (step) => x0 + (step / end) * (width - x0 - 24), y = (s) => 10 + ((high - s) / (high - low)) * (height - 50);
  for (const s of ticks(low, high, 5)) {
    pen.fillStyle = colours.rule;
    pen.fillRect(x0, y(s), width - x0 - 24, 1);
    write(pen, short(s), x0 - 8, y(s));
  }
  for (const step of ticks(0, end, width < 500 ? 3 : 6)) write(pen, short(step), x(step), height - 26, "center");
  write(pen, "decisions of training", x(end), height - 8);
  for (const [name, score] of [["published random", random], ["published human", human]]) {
    if (score === null || score > high) continue;
    pen.setLineDash([5, 4]);
    stroke(pen, [[x0, y(score)], [x(end), y(score)]], colours.muted, 1);
    pen.setLineDash([]);
    write(pen, name, x(end), y(score) - 8);
  }
  const legend = [];
  for (const [name, [steps, scores]] of Object.entries(lines)) {
    const [label, colour] = looks[name], points = steps.map((step, i) => [x(step), y(scores[i])]);
    stroke(pen, points, colours[colour], name === "training" ? 2 : 1);
    if (name !== "training") for (const [px, py] of points) dot(pen, px, py, 4, colours[colour]);
    legend.push([label, colours[colour]]);
  }
  if (human !== null && human > high) legend.push([`published human: ${number(human)}, above the chart`, "transparent"]);
  showLegend("curve-legend", legend);
}

// ---- What is selected above the heat map

const arrays = new Map();
const weightsOf = (selection) => arrays.get(selection) ?? arrays.set(selection, unpack(selection.weights)).get(selection);
const headNow = () => data.heads[$("head").value];
const selectionNow = () => headNow().selections[$("memory")?.value ?? 0];
let shown = null; // [T * P], of the chosen component or the mean over all
function select() {
  const selection = selectionNow(), { shape: [, r, P], at } = weightsOf(selection);
  const component = $("component")?.value ?? "mean", scale = selection.signed ? 1 : 1 / 255;
  const taken = component === "mean" ? [...Array(r).keys()] : [Number(component)];
  const w = new Float32Array(T * P);
  for (let t = 0; t < T; t++) for (const n of taken) for (let p = 0; p < P; p++) w[t * P + p] += (at[(t * r + n) * P + p] * scale) / taken.length;
  const most = w.reduce((a, b) => Math.max(a, Math.abs(b)), 0) || 1;
  shown = { P, w, most, signed: selection.signed };
}
function option(element, entries) {
  element.replaceChildren(...entries.map(([value, label]) => new Option(label, value)));
}
function fillSelectors() {
  option($("head"), data.heads.map((head, i) => [i, head.name]));
  if (!$("memory")) return;
  option($("memory"), headNow().selections.map((s, i) => [i, s.name]));
  const r = headNow().selections[0].weights.shape[1];
  option($("component"), [["mean", "mean of all"], ...(r > 1 ? [...Array(r).keys()].map((n) => [n, n + 1]) : [])]);
}

// ---- Timeline

function drawAttention() {
  const [pen, width, height] = canvas("attention"), { P, w, most } = shown;
  const colour = shown.signed ? signed() : heat();
  const index = (v) => Math.round(shown.signed ? 127.5 + (127.5 * v) / most : (255 * v) / most);
  const span = width - left() - RIGHT, columns = columnsIn(span), means = pooled(w, P, columns);
  cells(pen, left(), 0, span, height - 4, columns, P, (column, p) => colour[index(means[column * P + p])]);
  rowLabels(pen, [...Array(P).keys()].map((p) => `${shown.signed ? "factor" : "slot"} ${p + 1}`), 0, height - 4);
  showRamp("attention-ramp", colour, shown.signed ? short(-+most.toPrecision(2)) : "0", short(+most.toPrecision(2)));
}
function drawPolicy() {
  $("policy").style.height = `${Math.max(60, 13 * A)}px`;
  const [pen, width, height] = canvas("policy"), colour = heat(), w = width - left() - RIGHT;
  const most = policy.reduce((a, b) => Math.max(a, b), 0);
  const columns = columnsIn(w), means = pooled(policy, A, columns);
  cells(pen, left(), 0, w, height - 4, columns, A, (column, a) => colour[Math.round((255 * means[column * A + a]) / most)]);
  rowLabels(pen, data.actionNames, 0, height - 4);
  const mark = Math.max(1, w / T - 1);
  pen.fillStyle = colours.warm;
  for (let t = 0; t < T; t++) pen.fillRect(left() + (w * (t + 0.5)) / T - mark / 2, ((actions[t] + 0.5) * (height - 4)) / A - 1, mark, 2);
  showRamp("policy-ramp", colour, "0", `${number(100 * most)}%`);
}
function drawValue() {
  const [pen, width, height] = canvas("value"), w = width - left() - RIGHT, bottom = height - 20;
  const low = Math.min(0, ...values), high = Math.max(...values, low + 1e-6);
  const y = (v) => 6 + ((high - v) / (high - low)) * (bottom - 8);
  for (const v of ticks(low, high, 4)) {
    pen.fillStyle = colours.rule;
    pen.fillRect(left(), y(v), w, 1);
    write(pen, short(v), left() - 8, y(v));
  }
  for (let t = 0; t < T; t++) {
    if (!rewards[t]) continue;
    pen.fillStyle = rewards[t] > 0 ? colours.good : colours.warm;
    pen.fillRect(left() + (w * (t + 0.5)) / T - 1, bottom - 12, 2, 12);
  }
  stroke(pen, [...values].map((v, t) => [left() + (w * (t + 0.5)) / T, y(v)]), colours.accent, 1.5);
  for (const s of ticks(0, T / data.rate, w < 400 ? 4 : 8)) write(pen, `${short(s)} s`, left() + (w * s * data.rate) / T, height - 8, s ? "center" : "left");
}

// ---- Slots and actions

function drawMatrix() {
  const { usage, byAction, name, signed: isSigned } = selectionNow(), P = usage.length;
  const chosen = [...Array(A).keys()].filter((a) => byAction[a]);
  const top = 64, rowHeight = 20;
  $("matrix").style.height = `${top + 12 + rowHeight * chosen.length + 22}px`;
  const counts = data.actionNames.map((_, a) => actions.filter((b) => b === a).length);
  const labels = chosen.map((a) => `${data.actionNames[a]} (${counts[a]})`);
  const [pen, width] = canvas("matrix"), x0 = widest(labels), w = width - x0 - RIGHT;
  const most = Math.max(...usage.map(Math.abs)) || 1;
  usage.forEach((u, p) => {
    pen.fillStyle = u < 0 ? colours.low : colours.accent;
    const h = (Math.abs(u) / most) * (top - 14);
    pen.fillRect(x0 + (w * p) / P + 1, top - h, w / P - 2, h);
  });
  write(pen, short(+most.toPrecision(2)), x0 - 8, 16);
  write(pen, "mean", x0 - 8, top - 8);
  const all = chosen.flatMap((a) => byAction[a]), end = Math.max(...all.map(Math.abs)) || 1, colour = signed();
  cells(pen, x0, top + 8, w, rowHeight * chosen.length, P, chosen.length, (p, row) => colour[Math.round(127.5 + (127.5 * byAction[chosen[row]][p]) / end)]);
  labels.forEach((label, row) => write(pen, label, x0 - 8, top + 8 + rowHeight * (row + 0.5)));
  const every = Math.ceil((22 * P) / w);
  for (let p = 0; p < P; p += every) write(pen, p + 1, x0 + (w * (p + 0.5)) / P, top + 20 + rowHeight * chosen.length, "center");
  const unit = isSigned ? `Factors of ${headNow().name}'s z` : `Attention of the ${headNow().name} to its slots of ${name}`;
  $("which").textContent = `${unit}.`;
  showRamp("matrix-ramp", colour, short(-+end.toPrecision(2)), `+${short(+end.toPrecision(2))}`);
}

// ---- The plane of programs

let places = [];
function drawPlane() {
  const [pen, width, height] = canvas("plane"), at = unpack(headNow().plane).at, margin = 16;
  const xs = at.filter((_, i) => i % 2 === 0), ys = at.filter((_, i) => i % 2 === 1);
  const span = (v) => [Math.min(...v), Math.max(...v)], [x0, x1] = span(xs), [y0, y1] = span(ys);
  // One scale for both axes: distances are to be compared.
  const scale = Math.min((width - 2 * margin) / (x1 - x0 || 1), (height - 2 * margin) / (y1 - y0 || 1));
  places = [...xs].map((x, t) => [width / 2 + (x - (x0 + x1) / 2) * scale, height / 2 - (ys[t] - (y0 + y1) / 2) * scale]);
  const by = $("colour").value, frequent = [...Array(A).keys()].map((a) => [actions.filter((b) => b === a).length, a]).sort((a, b) => b[0] - a[0]);
  const rank = new Map(frequent.map(([, a], i) => [a, i])), colour = heat();
  const [v0, v1] = by === "time" ? [0, T] : span(values);
  // The pale end of the ramp would vanish in the page.
  const shade = (v) => `rgb(${colour[60 + Math.round((195 * (v - v0)) / (v1 - v0 || 1))]})`;
  pen.globalAlpha = 0.8;
  places.forEach(([x, y], t) => dot(pen, x, y, 3.5, by === "action" ? PALETTE[rank.get(actions[t])] ?? colours.muted : shade(by === "time" ? t : values[t])));
  pen.globalAlpha = 1;
  if (by === "action") {
    const entries = frequent.slice(0, PALETTE.length).filter(([n]) => n).map(([n, a], i) => [`${data.actionNames[a]} (${n})`, PALETTE[i]]);
    if (frequent.slice(PALETTE.length).some(([n]) => n)) entries.push(["others", colours.muted]);
    showLegend("plane-legend", entries);
  } else {
    showLegend("plane-legend", by === "time" ? [["start", shade(v0)], ["end", shade(v1)]] : [[short(+v0.toFixed(2)), shade(v0)], [short(+v1.toFixed(2)), shade(v1)]]);
  }
  const [first, second] = headNow().explained;
  $("explained").textContent = `The axes hold ${number(100 * first)}% and ${number(100 * second)}% of the variance of its ${number(headNow().dimensions)} numbers (${headNow().name}).`;
}

function fillGallery() {
  const kind = data.heads[0].selections[0].signed ? "Factor" : "Slot";
  $("gallery").append(...data.gallery.map((pictures, slot) => {
    const figure = document.createElement("section"), title = document.createElement("h3"), row = document.createElement("div");
    figure.style.cssText = "all:unset;display:block";
    title.textContent = `${kind} ${slot + 1}`;
    row.append(...pictures.map(({ t, weight, picture }) => {
      const button = document.createElement("button"), image = new Image();
      image.src = picture;
      image.alt = `Screen at ${clock(t)}`;
      button.type = "button";
      button.append(image, short(+weight.toFixed(3)));
      button.addEventListener("click", () => {
        go(t);
        const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
        $("video").scrollIntoView({ block: "center", behavior: still ? "auto" : "smooth" });
      });
      return button;
    }));
    figure.append(title, row);
    return figure;
  }));
}

// ---- The moment

const video = $("video"), seek = $("seek");
let now = 0;
const bars = data.actionNames.map((name) => {
  const bar = document.createElement("div");
  bar.className = "bar";
  const [label, track, share] = ["span", "div", "span"].map((tag) => document.createElement(tag));
  label.textContent = name;
  track.append(document.createElement("i"));
  bar.append(label, track, share);
  return bar;
});
$("policy-bars").append(...bars);
seek.max = T - 1;
function show(t) { // without touching the video
  now = Math.max(0, Math.min(T - 1, t));
  const box = $("timeline").getBoundingClientRect();
  $("cursor").style.left = `${left() + ((now + 0.5) / T) * (box.width - left() - RIGHT)}px`;
  seek.value = now;
  seek.setAttribute("aria-valuetext", `decision ${now + 1} of ${T}, ${clock(now)}`);
  $("clock").textContent = `${clock(now)} · decision ${number(now + 1)} of ${number(T)}`;
  $("now-score").textContent = number(scores[now]);
  $("now-value").textContent = number(values[now], 2);
  $("now-action").textContent = data.actionNames[actions[now]];
  bars.forEach((bar, a) => {
    const share = policy[now * A + a];
    bar.classList.toggle("chosen", a === actions[now]);
    bar.children[1].firstChild.style.width = `${100 * share}%`;
    bar.children[2].textContent = (100 * share).toFixed(1);
  });
  if (places.length) {
    $("ring").style.left = `${places[now][0]}px`;
    $("ring").style.top = `${places[now][1]}px`;
  }
}
function go(t) {
  show(t);
  video.currentTime = (now + 0.25) / data.rate; // within the first of its two pictures
}
const decision = () => Math.floor(video.currentTime * data.rate + 1e-6);
function follow() {
  if (decision() !== now) show(decision());
  if (!video.paused && !video.ended) requestAnimationFrame(follow);
}
video.addEventListener("play", () => {
  $("play").textContent = "Pause";
  requestAnimationFrame(follow);
});
for (const event of ["pause", "ended"]) video.addEventListener(event, () => ($("play").textContent = "Play"));
const toggle = () => (video.paused ? video.play() : video.pause());
$("play").addEventListener("click", toggle);
video.addEventListener("click", toggle);
$("back").addEventListener("click", () => go(now - 1));
$("forth").addEventListener("click", () => go(now + 1));
$("speed").addEventListener("change", (event) => (video.playbackRate = Number(event.target.value)));
seek.addEventListener("input", () => go(Number(seek.value)));
document.addEventListener("keydown", (event) => {
  if (event.key === " " && (event.target === document.body || event.target === seek)) {
    event.preventDefault();
    toggle();
  }
});

const timeline = $("timeline");
function under(event) { // decision and, in the heat map, slot under the pointer
  const box = timeline.getBoundingClientRect();
  const share = (event.clientX - box.left - left()) / (box.width - left() - RIGHT);
  return Math.max(0, Math.min(T - 1, Math.floor(share * T)));
}
let dragging = false;
timeline.addEventListener("pointerdown", (event) => {
  if (event.target.tagName !== "CANVAS") return;
  dragging = true;
  go(under(event));
});
addEventListener("pointerup", () => (dragging = false));
addEventListener("pointercancel", () => (dragging = false));
timeline.addEventListener("pointermove", (event) => {
  if (event.target.tagName !== "CANVAS") return;
  const t = under(event), box = event.target.getBoundingClientRect();
  const row = (rows) => Math.max(0, Math.min(rows - 1, Math.floor(((event.clientY - box.top) / (box.height - 4)) * rows)));
  let text = `${clock(t)}, decision ${number(t + 1)}: `;
  if (event.target.id === "attention") {
    const p = row(shown.P);
    text += `${shown.signed ? "factor" : "slot"} ${p + 1}, ${number(shown.w[t * shown.P + p], 3)}`;
  } else if (event.target.id === "policy") {
    const a = row(A);
    text += `${data.actionNames[a]} ${number(100 * policy[t * A + a], 1)}%, chosen ${data.actionNames[actions[t]]}`;
  } else {
    text += `value ${number(values[t], 2)}, reward ${number(rewards[t])}`;
  }
  $("readout").textContent = text;
  if (dragging) go(t);
});

function draw() {
  readColours();
  seek.style.width = `calc(100% - ${left() + RIGHT - 16}px)`;
  seek.style.marginLeft = `${left() - 8}px`;
  if (data.curve) drawCurve();
  drawPolicy();
  drawValue();
  if (data.heads.length) {
    drawAttention();
    drawMatrix();
    drawPlane();
  }
  show(now);
}
readColours();
if (data.heads.length) {
  fillSelectors();
  fillGallery();
  select();
  for (const id of ["head", "memory", "component", "colour"]) {
    $(id)?.addEventListener("change", () => {
      select();
      draw();
    });
  }
  $("plane").addEventListener("click", (event) => {
    const box = event.target.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const far = places.map(([px, py]) => (px - x) ** 2 + (py - y) ** 2);
    go(far.indexOf(Math.min(...far)));
  });
}
draw();
let waiting = 0;
addEventListener("resize", () => {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(draw);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
