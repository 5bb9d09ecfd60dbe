// The plane of programs: agent steps on two principal components.

let places = [];
function drawPlane() {
  const [pen, width, height] = canvas("plane");
  const at = unpack(headNow().plane).at;
  const margin = 16;
  const xs = at.filter((_, i) => i % 2 === 0);
  const ys = at.filter((_, i) => i % 2 === 1);
  const span = (v) => [Math.min(...v), Math.max(...v)];
  const [x0, x1] = span(xs);
  const [y0, y1] = span(ys);
  // One scale for both axes, so that distances can be compared.
  const scale = Math.min(
    (width - 2 * margin) / (x1 - x0 || 1),
    (height - 2 * margin) / (y1 - y0 || 1),
  );
  places = [...xs].map((x, t) => [
    width / 2 + (x - (x0 + x1) / 2) * scale,
    height / 2 - (ys[t] - (y0 + y1) / 2) * scale,
  ]);
  const by = $("colour").value;
  const frequent = [...Array(A).keys()]
    .map((a) => [actions.filter((b) => b === a).length, a])
    .sort((a, b) => b[0] - a[0]);
  const rank = new Map(frequent.map(([, a], i) => [a, i]));
  const colour = heat();
  const [v0, v1] = by === "time" ? [0, T] : span(values);
  // The pale end of the ramp would be invisible on the page.
  const shade = (v) => `rgb(${colour[60 + Math.round((195 * (v - v0)) / (v1 - v0 || 1))]})`;
  pen.globalAlpha = 0.8;
  places.forEach(([x, y], t) =>
    dot(
      pen,
      x,
      y,
      3.5,
      by === "action"
        ? (PALETTE[rank.get(actions[t])] ?? colours.muted)
        : shade(by === "time" ? t : values[t]),
    ),
  );
  pen.globalAlpha = 1;
  if (by === "action") {
    const entries = frequent
      .slice(0, PALETTE.length)
      .filter(([n]) => n)
      .map(([n, a], i) => [`${data.actionNames[a]} (${n})`, PALETTE[i]]);
    if (frequent.slice(PALETTE.length).some(([n]) => n)) {
      entries.push(["others", colours.muted]);
    }
    showLegend("plane-legend", entries);
  } else {
    showLegend(
      "plane-legend",
      by === "time"
        ? [
            ["start", shade(v0)],
            ["end", shade(v1)],
          ]
        : [
            [short(+v0.toFixed(2)), shade(v0)],
            [short(+v1.toFixed(2)), shade(v1)],
          ],
    );
  }
  const [first, second] = headNow().explained;
  const { name, dimensions } = headNow();
  $("explained").textContent =
    `The axes explain ${number(100 * first)}% and ${number(100 * second)}% of the variance of ` +
    `the ${name}'s ${number(dimensions)} numbers.`;
}
