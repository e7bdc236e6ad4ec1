import { Plane, palette } from "./plane.js";
import { points } from "./points.js";
import { assign, counts, distortion, entropy, kmeans, lloyd, nearest } from "./quantize.js";

const SIZE = 12;

/** Entropy-constrained cells: squared distance plus a price for bits. */
export class Weighted {
  static id = "weighted";
  static title = "Weighted cells: frequent codewords are cheap";
  static text = `<p>An entropy coder writes frequent codewords with few bits and rare ones with many. So let every
    codeword cost <em>squared distance + λ × its bits</em>: cells of frequent codewords grow, those of rare ones
    shrink, and some disappear (Chou, Lookabaugh &amp; Gray 1989).</p>
    <p>λ is the price of a bit. Raise it, and the same codebook trades precision for size.</p>`;
  static controls = `<label>price of a bit, λ <input type="range" min="0" max="100" value="40"></label>`;
  static figure = `<canvas></canvas>`;

  constructor(root) {
    this.slider = root.querySelector("input");
    this.reading = root.querySelector("output");
    this.plane = new Plane(root.querySelector("canvas"), {
      handles: () => points.handles(),
      paint: (plane) => this.#paint(plane),
      label: "Cells weighted by the codewords' bits",
    });
    this.slider.addEventListener("input", () => {
      this.moved();
      this.draw();
    });
    this.moved();
  }

  /** Cells, bits and codewords depend on each other: settle them in turn. */
  moved() {
    const lambda = 0.25 * (Number(this.slider.value) / 100) ** 2;
    let codewords = kmeans(points.all, SIZE);
    const plain = assign(points.all, codewords);
    this.plain = { error: distortion(points.all, codewords, plain), bits: entropy(plain, SIZE) };
    let penalties = null;
    for (let round = 0; round < 15; round++) {
      const used = counts(assign(points.all, codewords, penalties), SIZE);
      penalties = used.map((count) => -lambda * Math.log2(Math.max(count, 0.3) / points.all.length));
      codewords = lloyd(points.all, codewords, penalties);
    }
    Object.assign(this, { codewords, penalties });
  }

  draw() {
    this.plane.draw();
  }

  #paint(plane) {
    const { codewords, penalties } = this;
    const { cells, strong } = palette(SIZE);
    const codes = assign(points.all, codewords, penalties);
    plane.cells((place) => nearest(place, codewords, penalties), cells);
    plane.dots(points.all, (i) => strong[codes[i]], 1.6);
    const used = counts(codes, SIZE);
    codewords.forEach((codeword, i) => used[i] && plane.codewords([codeword], [strong[i]]));
    const lost = (error) => `${((100 * error) / points.variance()).toFixed(1)}%`;
    this.reading.textContent =
      `${entropy(codes, SIZE).toFixed(2)} bits a point on average, ${lost(distortion(points.all, codewords, codes))} lost, ` +
      `${used.filter(Boolean).length} of ${SIZE} codewords in use. ` +
      `At λ = 0: ${this.plain.bits.toFixed(2)} bits, ${lost(this.plain.error)}.`;
  }
}
