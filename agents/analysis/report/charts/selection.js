// What is selected above the heat map: head, memory and component.

const arrays = new Map();
const weightsOf = (selection) =>
  arrays.get(selection) ?? arrays.set(selection, unpack(selection.weights)).get(selection);
const headNow = () => data.heads[$("head").value];
const selectionNow = () => headNow().selections[$("memory")?.value ?? 0];
let shown = null; // weights [T * P] of the selected component, or their mean over all
function select() {
  const selection = selectionNow();
  const { shape, at } = weightsOf(selection);
  const [, r, P] = shape;
  const component = $("component")?.value ?? "mean";
  const scale = selection.signed ? 1 : 1 / 255;
  const taken = component === "mean" ? [...Array(r).keys()] : [Number(component)];
  const w = new Float32Array(T * P);
  for (let t = 0; t < T; t++) {
    for (const n of taken) {
      for (let p = 0; p < P; p++) {
        w[t * P + p] += (at[(t * r + n) * P + p] * scale) / taken.length;
      }
    }
  }
  const most = w.reduce((a, b) => Math.max(a, Math.abs(b)), 0) || 1;
  shown = { P, w, most, signed: selection.signed };
}

function option(element, entries) {
  element.replaceChildren(...entries.map(([value, label]) => new Option(label, value)));
}

function fillSelectors() {
  option(
    $("head"),
    data.heads.map((head, i) => [i, head.name]),
  );
  if (!$("memory")) {
    return;
  }
  option(
    $("memory"),
    headNow().selections.map((s, i) => [i, s.name]),
  );
  const r = headNow().selections[0].weights.shape[1];
  option($("component"), [
    ["mean", "mean of all"],
    ...(r > 1 ? [...Array(r).keys()].map((n) => [n, n + 1]) : []),
  ]);
}
