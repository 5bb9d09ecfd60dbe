// The player: the video, its controls, and the step that is shown.

const video = $("video");
const seek = $("seek");
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
// Shows a step everywhere but in the video.
function show(t) {
  now = Math.max(0, Math.min(T - 1, t));
  const box = $("timeline").getBoundingClientRect();
  $("cursor").style.left = `${left() + ((now + 0.5) / T) * (box.width - left() - RIGHT)}px`;
  seek.value = now;
  seek.setAttribute("aria-valuetext", `step ${now + 1} of ${T}, ${clock(now)}`);
  $("clock").textContent = `${clock(now)} · step ${number(now + 1)} of ${number(T)}`;
  $("now-score").textContent = score(scores[now]);
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
  video.currentTime = (now + 0.25) / data.rate; // within the step, away from its edges
}

const currentStep = () => Math.floor(video.currentTime * data.rate + 1e-6);
function follow() {
  if (currentStep() !== now) {
    show(currentStep());
  }
  if (!video.paused && !video.ended) {
    requestAnimationFrame(follow);
  }
}
video.addEventListener("play", () => {
  $("play").textContent = "Pause";
  requestAnimationFrame(follow);
});
for (const event of ["pause", "ended"]) {
  video.addEventListener(event, () => ($("play").textContent = "Play"));
}

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
