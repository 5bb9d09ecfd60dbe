// The learning curve.

function drawCurve() {
  const { lines, random, human } = data.curve;
  const [pen, width, height] = canvas("curve");
  const looks = {
    training: ["Training", "accent"],
    sampled: ["Evaluation, sampled", "warm"],
    greedy: ["Evaluation, greedy", "good"],
  };
  const all = Object.values(lines);
  const ys = all.flatMap((line) => line[1]);
  let low = Math.min(...ys, random ?? Infinity);
  let high = Math.max(...ys, random ?? -Infinity);
  if (human !== null && human < high + 2 * (high - low)) {
    high = Math.max(high, human);
  }
  const pad = (high - low) * 0.06 || 1;
  const end = Math.max(...all.flatMap((line) => line[0])) || 1;
  low -= pad;
  high += pad;
  const x0 = 56;
  const x = (step) => x0 + (step / end) * (width - x0 - 24);
  const y = (s) => 10 + ((high - s) / (high - low)) * (height - 50);
  for (const s of ticks(low, high, 5)) {
    pen.fillStyle = colours.rule;
    pen.fillRect(x0, y(s), width - x0 - 24, 1);
    write(pen, short(s), x0 - 8, y(s));
  }
  for (const step of ticks(0, end, width < 500 ? 3 : 6)) {
    write(pen, short(step), x(step), height - 26, "center");
  }
  write(pen, "agent steps", x(end), height - 8);
  for (const [name, score] of [
    ["published random", random],
    ["published human", human],
  ]) {
    if (score === null || score > high) {
      continue;
    }
    pen.setLineDash([5, 4]);
    stroke(
      pen,
      [
        [x0, y(score)],
        [x(end), y(score)],
      ],
      colours.muted,
      1,
    );
    pen.setLineDash([]);
    write(pen, name, x(end), y(score) - 8);
  }
  const legend = [];
  for (const [name, [steps, scores]] of Object.entries(lines)) {
    const [label, colour] = looks[name];
    const points = steps.map((step, i) => [x(step), y(scores[i])]);
    stroke(pen, points, colours[colour], name === "training" ? 2 : 1);
    // A line through one point would show nothing.
    if (name !== "training" || points.length === 1) {
      for (const [px, py] of points) {
        dot(pen, px, py, 4, colours[colour]);
      }
    }
    legend.push([label, colours[colour]]);
  }
  if (human !== null && human > high) {
    legend.push([`published human: ${number(human)}, above the chart`, "transparent"]);
  }
  showLegend("curve-legend", legend);
}
