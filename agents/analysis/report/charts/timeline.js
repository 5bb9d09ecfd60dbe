// The lanes of the timeline: attention, policy and value.

function drawAttention() {
  const [pen, width, height] = canvas("attention");
  const { P, w, most } = shown;
  const colour = shown.signed ? signed() : heat();
  const index = (v) => Math.round(shown.signed ? 127.5 + (127.5 * v) / most : (255 * v) / most);
  const span = width - left() - RIGHT;
  const columns = columnsIn(span);
  const means = pooled(w, P, columns);
  cells(
    pen,
    left(),
    0,
    span,
    height - 4,
    columns,
    P,
    (column, p) => colour[index(means[column * P + p])],
  );
  rowLabels(
    pen,
    [...Array(P).keys()].map((p) => `${shown.signed ? "factor" : "slot"} ${p + 1}`),
    0,
    height - 4,
  );
  showRamp(
    "attention-ramp",
    colour,
    shown.signed ? short(-+most.toPrecision(2)) : "0",
    short(+most.toPrecision(2)),
  );
}

function drawPolicy() {
  $("policy").style.height = `${Math.max(60, 13 * A)}px`;
  const [pen, width, height] = canvas("policy");
  const colour = heat();
  const w = width - left() - RIGHT;
  const most = policy.reduce((a, b) => Math.max(a, b), 0);
  const columns = columnsIn(w);
  const means = pooled(policy, A, columns);
  cells(
    pen,
    left(),
    0,
    w,
    height - 4,
    columns,
    A,
    (column, a) => colour[Math.round((255 * means[column * A + a]) / most)],
  );
  rowLabels(pen, data.actionNames, 0, height - 4);
  const mark = Math.max(1, w / T - 1);
  pen.fillStyle = colours.warm;
  for (let t = 0; t < T; t++) {
    pen.fillRect(
      left() + (w * (t + 0.5)) / T - mark / 2,
      ((actions[t] + 0.5) * (height - 4)) / A - 1,
      mark,
      2,
    );
  }
  showRamp("policy-ramp", colour, "0", `${number(100 * most)}%`);
}

function drawValue() {
  const [pen, width, height] = canvas("value");
  const w = width - left() - RIGHT;
  const bottom = height - 20;
  const low = Math.min(0, ...values);
  const high = Math.max(...values, low + 1e-6);
  const y = (v) => 6 + ((high - v) / (high - low)) * (bottom - 8);
  for (const v of ticks(low, high, 4)) {
    pen.fillStyle = colours.rule;
    pen.fillRect(left(), y(v), w, 1);
    write(pen, short(v), left() - 8, y(v));
  }
  for (let t = 0; t < T; t++) {
    if (!rewards[t]) {
      continue;
    }
    pen.fillStyle = rewards[t] > 0 ? colours.good : colours.warm;
    pen.fillRect(left() + (w * (t + 0.5)) / T - 1, bottom - 12, 2, 12);
  }
  stroke(
    pen,
    [...values].map((v, t) => [left() + (w * (t + 0.5)) / T, y(v)]),
    colours.accent,
    1.5,
  );
  for (const s of ticks(0, T / data.rate, w < 400 ? 4 : 8)) {
    const text = `${short(s)} s`;
    const x = left() + (w * s * data.rate) / T;
    const half = pen.measureText(text).width / 2;
    write(pen, text, Math.min(Math.max(x, left() + half), width - half), height - 8, "center");
  }
}
