// The matrix of slots and actions.

function drawMatrix() {
  const { usage, byAction, name, signed: isSigned } = selectionNow();
  const P = usage.length;
  const chosen = [...Array(A).keys()].filter((a) => byAction[a]);
  const top = 64;
  const rowHeight = 20;
  $("matrix").style.height = `${top + 12 + rowHeight * chosen.length + 22}px`;
  const counts = data.actionNames.map((_, a) => actions.filter((b) => b === a).length);
  const labels = chosen.map((a) => `${data.actionNames[a]} (${counts[a]})`);
  const [pen, width] = canvas("matrix");
  const x0 = widest([...labels, "mean"]);
  const w = width - x0 - RIGHT;
  const most = Math.max(...usage.map(Math.abs)) || 1;
  usage.forEach((u, p) => {
    pen.fillStyle = u < 0 ? colours.low : colours.accent;
    const h = (Math.abs(u) / most) * (top - 14);
    pen.fillRect(x0 + (w * p) / P + 1, top - h, w / P - 2, h);
  });
  write(pen, short(+most.toPrecision(2)), x0 - 8, 16);
  write(pen, "mean", x0 - 8, top - 8);
  const all = chosen.flatMap((a) => byAction[a]);
  const end = Math.max(...all.map(Math.abs)) || 1;
  const colour = signed();
  cells(
    pen,
    x0,
    top + 8,
    w,
    rowHeight * chosen.length,
    P,
    chosen.length,
    (p, row) => colour[Math.round(127.5 + (127.5 * byAction[chosen[row]][p]) / end)],
  );
  labels.forEach((label, row) => write(pen, label, x0 - 8, top + 8 + rowHeight * (row + 0.5)));
  const every = Math.ceil((22 * P) / w);
  for (let p = 0; p < P; p += every) {
    write(pen, p + 1, x0 + (w * (p + 0.5)) / P, top + 20 + rowHeight * chosen.length, "center");
  }
  const unit = isSigned
    ? `Factors of ${headNow().name}'s z`
    : `Attention of the ${headNow().name} to its slots of ${name}`;
  $("which").textContent = `${unit}.`;
  showRamp("matrix-ramp", colour, short(-+end.toPrecision(2)), `+${short(+end.toPrecision(2))}`);
}
