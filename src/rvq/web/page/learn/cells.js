import { themeColour } from "../draw/colour.js";
import { Plane, palette } from "./plane.js";
import { points } from "./points.js";
import { assign, counts, distortion, kmeans, lloyd, nearest, random } from "./quantize.js";

/** One codebook and its Voronoi cells. */
export class Cells {
  static id = "cells";
  static title = "One codebook: put the boxes where the points are";
  static text = `<p>A <em>codebook</em> is a list of points, its <em>codewords</em>. Every point is replaced by the
    nearest codeword, and only that codeword's number is kept. The plane falls into <em>Voronoi cells</em>: all places
    that are nearest to one codeword.</p>
    <p>Drag codewords yourself, then let <em>k-means</em> do it: every codeword moves to the middle of the points of
    its cell, again and again.</p>`;
  static controls = `<label>codewords <input type="range" min="1" max="6" value="3" aria-label="codewords, as a power of two"></label>
    <button type="button" data-do="step">One step of k-means</button>
    <button type="button" data-do="run">Until it rests</button>
    <button type="button" data-do="reset">Scatter</button>`;
  static figure = `<canvas></canvas>`;

  constructor(root) {
    this.slider = root.querySelector("input");
    this.reading = root.querySelector("output");
    this.plane = new Plane(root.querySelector("canvas"), {
      handles: () => [
        ...this.codewords.map(([x, y], i) => ({ x, y, move: (...place) => (this.codewords[i] = place) })),
        ...points.handles(),
      ],
      paint: (plane) => this.#paint(plane),
      label: "Codewords and their cells",
    });
    this.#scatter();
    this.slider.addEventListener("input", () => this.#scatter());
    root.querySelector('[data-do="step"]').addEventListener("click", () => this.#set(lloyd(points.all, this.codewords)));
    root.querySelector('[data-do="run"]').addEventListener("click", () => {
      let next = this.codewords;
      for (let round = 0; round < 60; round++) next = lloyd(points.all, next);
      this.#set(next);
    });
    root.querySelector('[data-do="reset"]').addEventListener("click", () => this.#scatter());
  }

  #seed = 2;

  #scatter() {
    const next = random(this.#seed++);
    const size = 2 ** Number(this.slider.value);
    this.#set(Array.from({ length: size }, () => [next() * 1.8 - 0.9, next() * 1.8 - 0.9]));
  }

  #set(codewords) {
    this.codewords = codewords;
    this.draw();
  }

  draw() {
    this.plane.draw();
  }

  #paint(plane) {
    const { codewords } = this;
    const { cells, strong } = palette(codewords.length);
    const codes = assign(points.all, codewords);
    plane.cells((place) => nearest(place, codewords), cells);
    plane.dots(points.all, (i) => strong[codes[i]], 1.6);
    plane.codewords(codewords, strong);
    const share = (error) => `${((100 * error) / points.variance()).toFixed(1)}%`;
    const empty = counts(codes, codewords.length).filter((count) => !count).length;
    const best = kmeans(points.all, codewords.length);
    const settled = distortion(points.all, best, assign(points.all, best));
    this.reading.textContent =
      `${Math.log2(codewords.length)} bits a point, ${share(distortion(points.all, codewords, codes))} of the variance lost` +
      ` (k-means from a good start: ${share(settled)})` + (empty ? `; ${empty} codewords without points.` : ".");
    this.reading.style.borderColor = themeColour(empty ? "wrong" : "accent");
  }
}
