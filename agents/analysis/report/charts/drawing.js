// What the charts are drawn with: axes, cells, lines, dots and legends.

const RIGHT = 8;
const font = () => `${innerWidth < 700 ? 10 : 12}px system-ui, sans-serif`;
const ruler = document.createElement("canvas").getContext("2d");
// Width of the longest label and of its gap to the chart, in CSS pixels.
function widest(names) {
  ruler.font = font();
  return Math.ceil(Math.max(...names.map((name) => ruler.measureText(name).width))) + 10;
}

// The left margin of all lanes of the timeline.
const left = () => widest([...data.actionNames, "factor 10"]);
// A cleared canvas: its context, in CSS pixels, its width and its height.
function canvas(id) {
  const element = $(id);
  const ratio = devicePixelRatio || 1;
  const box = element.getBoundingClientRect();
  element.width = Math.round(box.width * ratio);
  element.height = Math.round(box.height * ratio);
  const pen = element.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = font();
  pen.textBaseline = "middle";
  return [pen, box.width, box.height];
}

function write(pen, text, x, y, align = "right", colour = colours.muted) {
  pen.fillStyle = colour;
  pen.textAlign = align;
  pen.fillText(text, x, y);
}

// Round numbers from low to high.
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) {
    found.push(i * step);
  }
  return found;
}

// Draws columns x rows cells; `colour(column, row)` gives [r, g, b].
function cells(pen, x, y, width, height, columns, rows, colour) {
  const image = new ImageData(columns, rows);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      image.data.set([...colour(column, row), 255], 4 * (row * columns + column));
    }
  }
  const small = document.createElement("canvas");
  small.width = columns;
  small.height = rows;
  small.getContext("2d").putImageData(image, 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, x, y, width, height);
}

// Averages [T * rows] to [columns * rows]: a long episode has more steps than a screen has pixels.
function pooled(w, rows, columns) {
  const result = new Float32Array(columns * rows);
  for (let column = 0; column < columns; column++) {
    const start = Math.floor((column * T) / columns);
    const end = Math.floor(((column + 1) * T) / columns);
    for (let t = start; t < end; t++) {
      for (let row = 0; row < rows; row++) {
        result[column * rows + row] += w[t * rows + row] / (end - start);
      }
    }
  }
  return result;
}

const columnsIn = (width) => Math.max(1, Math.min(T, Math.floor(width * (devicePixelRatio || 1))));
function rowLabels(pen, names, y, height, most = 12) {
  const every = Math.ceil((most * names.length) / height);
  names.forEach((name, i) => {
    if (i % every === 0) {
      write(pen, name, left() - 8, y + ((i + 0.5) * height) / names.length);
    }
  });
}

function stroke(pen, points, colour, width) {
  pen.beginPath();
  points.forEach(([x, y]) => pen.lineTo(x, y));
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.lineJoin = "round";
  pen.stroke();
}

function dot(pen, x, y, radius, colour) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 7);
  pen.fillStyle = colour;
  pen.fill();
}

function showLegend(id, entries) {
  $(id).replaceChildren(
    ...entries.map(([label, colour]) => {
      const entry = document.createElement("span");
      const mark = document.createElement("b");
      mark.style.background = colour;
      entry.append(mark, label);
      return entry;
    }),
  );
}
