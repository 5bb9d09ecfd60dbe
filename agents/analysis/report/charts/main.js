// Draws everything, and again when the size or the theme changes.

function draw() {
  readColours();
  seek.style.width = `calc(100% - ${left() + RIGHT - 16}px)`;
  seek.style.marginLeft = `${left() - 8}px`;
  if (data.curve) {
    drawCurve();
  }
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
  if (data.gallery) {
    fillGallery();
  }
  select();
  for (const id of ["head", "memory", "component", "colour"]) {
    $(id)?.addEventListener("change", () => {
      select();
      draw();
    });
  }
  $("plane").addEventListener("click", (event) => {
    const box = event.target.getBoundingClientRect();
    const x = event.clientX - box.left;
    const y = event.clientY - box.top;
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
