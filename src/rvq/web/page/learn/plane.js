// A canvas that shows the plane from -1 to 1 and lets things on it be dragged, by pointer or keys.

import { css, oklch, themeColour } from "../draw/colour.js";
import { fit } from "../draw/sound.js";

const REACH = 24; // pixels around a handle that take hold of it

export class Plane {
  #held = null;
  #chosen = 0;

  /**
   * @param handles gives [{ x, y, move(x, y), ring, colour }], asked anew before every use.
   * @param paint draws the rest, given this plane.
   */
  constructor(canvas, { handles = () => [], paint, label }) {
    Object.assign(this, { canvas, handles, paint });
    canvas.className = "plane";
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", `${label}. Enter chooses what to move, arrow keys move it.`);
    canvas.tabIndex = 0;
    canvas.addEventListener("pointerdown", (event) => this.#take(event));
    canvas.addEventListener("pointermove", (event) => this.#drag(event));
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, () => (this.#held = null));
    }
    // On a phone the page scrolls, unless a handle is under the finger.
    canvas.addEventListener("touchstart", (event) => {
      if (this.#near(event.touches[0]) !== null) event.preventDefault();
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  draw() {
    if (!this.canvas.clientWidth) return;
    Object.assign(this, fit(this.canvas));
    this.scale = Math.min(this.width, this.height) / 2;
    this.context.clearRect(0, 0, this.width, this.height);
    this.paint(this);
    for (const [i, { x, y, ring, colour }] of this.handles().entries()) {
      if (ring) this.ring([x, y], colour ?? themeColour("ink"), i === this.#chosen && this.canvas === document.activeElement);
    }
  }

  /** Coordinates of the plane to pixels of the canvas. */
  at([x, y]) {
    return [this.width / 2 + x * this.scale, this.height / 2 - y * this.scale];
  }

  dots(points, colour, radius = 1.6) {
    const { context, ratio } = this;
    points.forEach((point, i) => {
      context.fillStyle = typeof colour === "function" ? colour(i) : colour;
      const [x, y] = this.at(point);
      context.beginPath();
      context.arc(x, y, radius * ratio, 0, 7);
      context.fill();
    });
  }

  ring(point, colour, strong = false) {
    const { context, ratio } = this;
    const [x, y] = this.at(point);
    context.strokeStyle = colour;
    context.lineWidth = (strong ? 4 : 2) * ratio;
    context.beginPath();
    context.arc(x, y, 9 * ratio, 0, 7);
    context.stroke();
    context.lineWidth = 1;
  }

  /** Codewords: a dot with a border, so that it stands out from its cell. */
  codewords(codewords, colours) {
    codewords.forEach((codeword, i) => {
      this.dots([codeword], themeColour("raised"), 7);
      this.dots([codeword], colours[i], 5);
    });
  }

  line(from, to, colour, width = 1.5) {
    const { context, ratio } = this;
    context.strokeStyle = colour;
    context.lineWidth = width * ratio;
    context.beginPath();
    context.moveTo(...this.at(from));
    context.lineTo(...this.at(to));
    context.stroke();
    context.lineWidth = 1;
  }

  /** Paint every pixel with the colour of its cell: `cell([x, y])` says which. */
  cells(cell, colours) {
    const step = Math.ceil(1.5 * this.ratio);
    const [columns, rows] = [Math.ceil(this.width / step), Math.ceil(this.height / step)];
    const image = new ImageData(columns, rows);
    for (let row = 0; row < rows; row++) {
      const y = (this.height / 2 - (row + 0.5) * step) / this.scale;
      for (let column = 0; column < columns; column++) {
        const x = ((column + 0.5) * step - this.width / 2) / this.scale;
        const [r, g, b] = colours[cell([x, y])];
        const at = 4 * (row * columns + column);
        image.data[at] = r;
        image.data[at + 1] = g;
        image.data[at + 2] = b;
        image.data[at + 3] = 255;
      }
    }
    const sheet = new OffscreenCanvas(columns, rows);
    sheet.getContext("2d").putImageData(image, 0, 0);
    this.context.drawImage(sheet, 0, 0, columns * step, rows * step);
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    const scale = Math.min(box.width, box.height) / 2;
    const limitX = box.width / 2 / scale - 0.03;
    const limitY = box.height / 2 / scale - 0.03;
    const x = (event.clientX - box.left - box.width / 2) / scale;
    const y = (box.height / 2 - event.clientY + box.top) / scale;
    return [Math.max(-limitX, Math.min(limitX, x)), Math.max(-limitY, Math.min(limitY, y)), scale];
  }

  #near(event) {
    const [x, y, scale] = this.#place(event);
    let found = null;
    let nearest = REACH / scale;
    this.handles().forEach((handle, i) => {
      const distance = Math.hypot(handle.x - x, handle.y - y);
      if (distance < nearest) {
        nearest = distance;
        found = i;
      }
    });
    return found;
  }

  #take(event) {
    this.#held = this.#near(event);
    if (this.#held === null) return;
    this.#chosen = this.#held;
    this.canvas.setPointerCapture(event.pointerId);
    this.#drag(event);
  }

  #drag(event) {
    if (this.#held === null) {
      this.canvas.style.cursor = this.#near(event) === null ? "default" : "grab";
      return;
    }
    const [x, y] = this.#place(event);
    this.handles()[this.#held].move(x, y);
    this.draw();
  }

  #key(event) {
    const handles = this.handles();
    if (!handles.length) return;
    if (event.key === "Enter") this.#chosen = (this.#chosen + 1) % handles.length;
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key] ?? [0, 0];
    if (event.key !== "Enter" && !dx && !dy) return;
    event.preventDefault();
    const handle = handles[this.#chosen % handles.length];
    if (dx || dy) handle.move(handle.x + 0.03 * dx, handle.y + 0.03 * dy);
    this.draw();
  }
}

/** Soft colours for cells and strong ones for codewords, in light or dark. */
export function palette(n) {
  const dark = isDark();
  const hue = (i) => 275 + i * 137.5; // the golden angle keeps neighbours apart
  return {
    cells: Array.from({ length: n }, (_, i) => oklch(dark ? 0.3 : 0.925, dark ? 0.05 : 0.045, hue(i))),
    strong: Array.from({ length: n }, (_, i) => css(oklch(dark ? 0.78 : 0.52, 0.16, hue(i)))),
  };
}

function isDark() {
  const [r, g, b] = themeColour("paper").match(/\d+/g).map(Number);
  return r + g + b < 380;
}
