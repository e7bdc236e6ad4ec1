import { css, layerColour, themeColour } from "../draw/colour.js";
import { fit } from "../draw/sound.js";
import { points } from "./points.js";
import { assign, distortion, kmeans, minus, nearest, residualCodebooks } from "./quantize.js";

const MOST = 8; // bits; beyond, 500 points have a codeword each

/** Bits against distortion: grid, one codebook, residual codebooks. */
export class Bits {
  static id = "bits";
  static title = "Bits against distortion";
  static text = `<p>The whole bargain in one picture, for the points above: how much is lost with so many bits. The grid
    pays for empty boxes. One codebook is best, and costs 2<sup>bits</sup> codewords to store and to search. Residual
    codebooks come close with a handful: that is why they can go on to 180 bits a frame, as the codec here does, where
    one codebook would need 10<sup>54</sup> codewords.</p>
    <p>In two dimensions every bit can halve the loss: 3 dB. Drag a cloud in any figure, and watch the lines.</p>`;
  static controls = "";
  static figure = `<canvas class="chart tall" role="img" aria-label="Distortion in decibels by bits a point, for a grid, one codebook and residual codebooks"></canvas>`;

  #late = 0;

  constructor(root) {
    this.reading = root.querySelector("output");
    this.chart = root.querySelector("canvas");
    new ResizeObserver(() => this.draw()).observe(this.chart);
  }

  moved() {
    this.lines = null;
  }

  /** Learning all these codebooks takes a moment: wait until a drag is over. */
  draw() {
    if (this.lines) return this.#draw();
    clearTimeout(this.#late);
    this.#late = setTimeout(() => {
      this.lines = this.#measure();
      this.#draw();
    }, 150);
  }

  #measure() {
    const variance = points.variance();
    const decibel = (error) => 10 * Math.log10(Math.max(error / variance, 1e-5));
    const grid = [];
    const one = [];
    for (let bits = 2; bits <= MOST; bits++) {
      if (bits % 2 === 0) grid.push([bits, decibel(gridError(2 ** (bits / 2)))]);
    }
    for (let bits = 1; bits <= MOST - 1; bits++) {
      const codebook = kmeans(points.all, 2 ** bits, { rounds: 12 });
      one.push([bits, decibel(distortion(points.all, codebook, assign(points.all, codebook)))]);
    }
    let residuals = points.all;
    const residual = residualCodebooks(points.all, [4, 4, 4, 4]).map((codebook, stage) => {
      residuals = residuals.map((point) => minus(point, codebook[nearest(point, codebook)]));
      const error = residuals.reduce((sum, [x, y]) => sum + x * x + y * y, 0) / residuals.length;
      return [2 * (stage + 1), decibel(error)];
    });
    return { "a grid": grid, "one codebook": one, "residual codebooks": residual };
  }

  #draw() {
    if (!this.chart.clientWidth) return;
    const { width, height, ratio, context } = fit(this.chart);
    const font = `${12 * ratio}px ui-sans-serif, system-ui, sans-serif`;
    const x = (bits) => (50 * ratio) + (bits / MOST) * (width - 70 * ratio);
    const y = (level) => 24 * ratio + ((5 - level) / 35) * (height - 60 * ratio);
    context.clearRect(0, 0, width, height);
    context.font = font;
    for (let level = 0; level >= -30; level -= 10) {
      context.fillStyle = themeColour("line");
      context.fillRect(x(0), y(level), width - x(0), 1);
      context.fillStyle = themeColour("soft");
      context.fillText(`${level} dB`, 4, y(level) + 4 * ratio);
    }
    for (let bits = 0; bits <= MOST; bits += 2) context.fillText(bits, x(bits) - 3 * ratio, height - 18 * ratio);
    context.fillText("bits a point", width - 84 * ratio, height - 3 * ratio);
    context.setLineDash([4 * ratio, 5 * ratio]);
    context.strokeStyle = themeColour("soft");
    context.beginPath();
    context.moveTo(x(0), y(0));
    context.lineTo(x(MOST), y(-3.01 * MOST));
    context.stroke();
    context.setLineDash([]);
    context.fillText("dashed: 3 dB a bit", x(0.1), 23 * ratio);
    const colours = [themeColour("soft"), css(layerColour(0, 2, 0.1)), css(layerColour(1, 2, -0.08))];
    Object.entries(this.lines).forEach(([name, line], i) => {
      context.strokeStyle = colours[i];
      context.fillStyle = colours[i];
      context.lineWidth = 2.5 * ratio;
      context.beginPath();
      for (const [bits, level] of line) context.lineTo(x(bits), y(level));
      context.stroke();
      for (const [bits, level] of line) {
        context.beginPath();
        context.arc(x(bits), y(level), 4 * ratio, 0, 7);
        context.fill();
      }
      context.fillRect(width - 168 * ratio, (18 + 20 * i) * ratio, 18 * ratio, 3 * ratio);
      context.fillText(name, width - 142 * ratio, (23 + 20 * i) * ratio);
    });
    context.lineWidth = 1;
    const six = Object.values(this.lines).map((line) => line.find(([bits]) => bits === 6)[1].toFixed(1));
    this.reading.textContent = `At 6 bits: a grid ${six[0]} dB, one codebook of 64 ${six[1]} dB, three residual codebooks of 4 ${six[2]} dB.`;
  }
}

function gridError(levels) {
  const width = 2 / levels;
  const middle = (value) => (Math.max(0, Math.min(levels - 1, Math.floor((value + 1) / width))) + 0.5) * width - 1;
  return points.all.reduce((sum, [x, y]) => sum + (x - middle(x)) ** 2 + (y - middle(y)) ** 2, 0) / points.all.length;
}
