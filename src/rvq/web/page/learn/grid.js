import { themeColour } from "../draw/colour.js";
import { Plane } from "./plane.js";
import { points } from "./points.js";

/** Scalar quantization: every number rounded for itself. */
export class Grid {
  static id = "grid";
  static title = "Round every number for itself";
  static text = `<p>A point is two numbers. <em>Scalar quantization</em> rounds each to one of a few levels,
    so the plane becomes a grid, and a point becomes the number of its box.</p>
    <p>It is simple, and it wastes: every box has a number, though most of them never see a point. Drag a cloud
    and see which boxes fill.</p>`;
  static controls = `<label>bits per number <input type="range" min="1" max="5" value="3"></label>`;
  static figure = `<canvas></canvas>`;

  constructor(root) {
    this.slider = root.querySelector("input");
    this.reading = root.querySelector("output");
    this.plane = new Plane(root.querySelector("canvas"), {
      handles: () => points.handles(),
      paint: (plane) => this.#paint(plane),
      label: "Points in boxes of a grid",
    });
    this.slider.addEventListener("input", () => this.draw());
  }

  draw() {
    this.plane.draw();
  }

  #paint(plane) {
    const levels = 2 ** Number(this.slider.value);
    const width = 2 / levels;
    const index = (value) => Math.max(0, Math.min(levels - 1, Math.floor((value + 1) / width)));
    const used = new Set();
    let error = 0;
    for (const [x, y] of points.all) {
      const [i, j] = [index(x), index(y)];
      used.add(j * levels + i);
      error += (x + 1 - (i + 0.5) * width) ** 2 + (y + 1 - (j + 0.5) * width) ** 2;
    }
    const { context } = plane;
    const corner = (i, j) => plane.at([i * width - 1, j * width - 1]);
    for (let i = 0; i < levels; i++) {
      for (let j = 0; j < levels; j++) {
        const [left, bottom] = corner(i, j);
        const [right, top] = corner(i + 1, j + 1);
        const full = used.has(j * levels + i);
        context.fillStyle = themeColour(full ? "faint" : "raised");
        context.fillRect(left, top, right - left, bottom - top);
        context.strokeStyle = themeColour("line");
        context.strokeRect(left, top, right - left, bottom - top);
        if (full) plane.dots([[(i + 0.5) * width - 1, (j + 0.5) * width - 1]], themeColour("accent"), 3);
      }
    }
    plane.dots(points.all, themeColour("soft"), 1.3);
    const bits = 2 * Number(this.slider.value);
    this.reading.textContent = `${bits} bits a point: ${levels * levels} boxes, of which ${used.size} hold points. ` +
      `What is lost: ${((100 * error) / points.all.length / points.variance()).toFixed(1)}% of the variance.`;
  }
}
