// The page's data, and how times are written.

const $ = (id) => document.getElementById(id);
const data = JSON.parse($("data").textContent);
const TYPES = { uint8: Uint8Array, float32: Float32Array };
const unpack = (array) => {
  const bytes = Uint8Array.from(atob(array.data), (c) => c.charCodeAt(0));
  return { shape: array.shape, at: new TYPES[array.type](bytes.buffer) };
};
const actions = unpack(data.actions).at;
const rewards = unpack(data.rewards).at;
const values = unpack(data.values).at;
const policy = unpack(data.probabilities).at;
const T = actions.length;
const A = data.actionNames.length;
const scores = []; // after each step
rewards.reduce((sum, r, t) => (scores[t] = sum + r), 0);
const clock = (t) =>
  `${Math.floor(t / data.rate / 60)}:${((t / data.rate) % 60).toFixed(1).padStart(4, "0")}`;
const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#a58a00"];
