// The pointer on the timeline: reads values, and moves through the episode.

const timeline = $("timeline");
// The step under the pointer.
function under(event) {
  const box = timeline.getBoundingClientRect();
  const share = (event.clientX - box.left - left()) / (box.width - left() - RIGHT);
  return Math.max(0, Math.min(T - 1, Math.floor(share * T)));
}

let dragging = false;
timeline.addEventListener("pointerdown", (event) => {
  if (event.target.tagName !== "CANVAS") {
    return;
  }
  dragging = true;
  go(under(event));
});
addEventListener("pointerup", () => (dragging = false));
addEventListener("pointercancel", () => (dragging = false));
timeline.addEventListener("pointermove", (event) => {
  if (event.target.tagName !== "CANVAS") {
    return;
  }
  const t = under(event);
  const box = event.target.getBoundingClientRect();
  const height = (event.clientY - box.top) / (box.height - 4);
  const row = (rows) => Math.max(0, Math.min(rows - 1, Math.floor(height * rows)));
  let text = `${clock(t)}, step ${number(t + 1)}: `;
  if (event.target.id === "attention") {
    const p = row(shown.P);
    text += `${shown.signed ? "factor" : "slot"} ${p + 1}, ${number(shown.w[t * shown.P + p], 3)}`;
  } else if (event.target.id === "policy") {
    const a = row(A);
    text += `${data.actionNames[a]} ${number(100 * policy[t * A + a], 1)}%, `;
    text += `chosen ${data.actionNames[actions[t]]}`;
  } else {
    text += `value ${number(values[t], 2)}, reward ${score(rewards[t])}`;
  }
  $("readout").textContent = text;
  if (dragging) {
    go(t);
  }
});
