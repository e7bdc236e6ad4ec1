// The points that all lessons share: four clouds whose centres can be dragged.

import { random } from "./quantize.js";

const SHARES = [0.46, 0.27, 0.17, 0.1];
const N = 500;

class Points extends EventTarget {
  clouds = [
    { x: -0.42, y: -0.28, spread: 0.17 },
    { x: 0.4, y: 0.3, spread: 0.14 },
    { x: 0.48, y: -0.48, spread: 0.1 },
    { x: -0.52, y: 0.55, spread: 0.08 },
  ];
  #draws;

  constructor() {
    super();
    const next = random(7);
    this.#draws = Array.from({ length: N }, (_, i) => {
      let cloud = 0;
      for (let share = SHARES[0]; (i + 0.5) / N > share; share += SHARES[cloud]) cloud++;
      return [cloud, next.normal(), next.normal()];
    });
    this.#make();
  }

  #make() {
    this.all = this.#draws.map(([cloud, a, b]) => {
      const { x, y, spread } = this.clouds[cloud];
      return [x + spread * a, y + spread * (0.8 * b + 0.4 * a)];
    });
  }

  /** The centres as things to drag on a plane. */
  handles() {
    return this.clouds.map((cloud) => ({
      x: cloud.x,
      y: cloud.y,
      ring: true,
      move: (x, y) => {
        cloud.x = x;
        cloud.y = y;
        this.#make();
        this.dispatchEvent(new Event("change"));
      },
    }));
  }

  /** Some of the points, drawn with replacement by random numbers in [0, 1). */
  batch(n, next) {
    return Array.from({ length: n }, () => this.all[Math.floor(next() * this.all.length)]);
  }

  /** Mean squared distance from the mean: the distortion of knowing nothing. */
  variance() {
    const n = this.all.length;
    const mean = [0, 1].map((axis) => this.all.reduce((sum, point) => sum + point[axis], 0) / n);
    return this.all.reduce((sum, [x, y]) => sum + (x - mean[0]) ** 2 + (y - mean[1]) ** 2, 0) / n;
  }
}

export const points = new Points();
