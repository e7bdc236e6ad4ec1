import { css, layerColour, themeColour } from "../draw/colour.js";
import { fit } from "../draw/sound.js";
import { Plane, palette } from "./plane.js";
import { points } from "./points.js";
import { MovingAverages, assign, distortion, lloyd, random } from "./quantize.js";
import { Steps } from "./steps.js";

const SIZE = 8;
const BATCH = 40;
const DECAY = 0.8;

/** k-means and moving averages, side by side. */
export class Learning extends Steps {
  static id = "learning";
  static title = "Two ways to learn a codebook";
  static text = `<p><em>k-means</em> looks at all points before it moves. A network in training never holds still that
    long: the points themselves change. So codecs keep <em>exponential moving averages</em> (EMA) of the points that
    chose a codeword, and move it a little with every batch of ${BATCH}.</p>
    <p>k-means rests after a few rounds. EMA trembles, but follows: drag a cloud while it runs.</p>`;
  static controls = `${Steps.run}
    <button type="button" data-do="step">One step</button><button type="button" data-do="reset">Start again</button>`;
  static figure = `<div class="pair"><figure><figcaption>k-means, all points a step</figcaption><canvas></canvas></figure>
    <figure><figcaption>EMA, ${BATCH} points a step</figcaption><canvas></canvas></figure></div>
    <canvas class="chart" role="img" aria-label="Distortion by step, k-means and moving averages"></canvas>`;

  constructor(root) {
    super(root);
    const [left, right, chart] = root.querySelectorAll("canvas");
    this.chart = chart;
    const plane = (canvas, codewords, label) =>
      new Plane(canvas, {
        handles: () => points.handles(),
        paint: (plane) => this.#paint(plane, codewords()),
        label,
      });
    this.reset();
    this.planes = [
      plane(left, () => this.full, "Codewords by k-means"),
      plane(right, () => this.averages.codewords, "Codewords by moving averages"),
    ];
  }

  reset() {
    this.next = random(11);
    // All codewords start in one corner, to have a way to go.
    this.full = Array.from({ length: SIZE }, () => [-0.9 + 0.4 * this.next(), 0.5 + 0.4 * this.next()]);
    this.averages = new MovingAverages(this.full, DECAY);
    this.history = [this.#errors()];
  }

  step() {
    this.full = lloyd(points.all, this.full);
    const batch = points.batch(BATCH, this.next);
    this.averages.update(batch);
    this.history.push(this.#errors());
    if (this.history.length > 200) this.history.shift();
    this.draw();
  }

  #errors() {
    const variance = points.variance();
    return [this.full, this.averages.codewords].map(
      (codewords) => distortion(points.all, codewords, assign(points.all, codewords)) / variance,
    );
  }

  draw() {
    this.planes.forEach((plane) => plane.draw());
    const { width, height, ratio, context } = fit(this.chart);
    context.clearRect(0, 0, width, height);
    const most = Math.max(...this.history.flat(), 0.1);
    const colours = [css(layerColour(0, 2, 0.1)), css(layerColour(1, 2, -0.08))];
    colours.forEach((colour, line) => {
      context.strokeStyle = colour;
      context.fillStyle = colour;
      context.lineWidth = 2 * ratio;
      context.beginPath();
      this.history.forEach((errors, i) => {
        const x = (i / Math.max(30, this.history.length - 1)) * (width - 60 * ratio);
        context.lineTo(x, height - 4 * ratio - (errors[line] / most) * (height - 16 * ratio));
      });
      context.stroke();
      context.font = `${12 * ratio}px ui-sans-serif, system-ui, sans-serif`;
      context.fillText(["k-means", "EMA"][line], width - 52 * ratio, (14 + 16 * line) * ratio);
    });
    const [full, averages] = this.history.at(-1).map((error) => `${(100 * error).toFixed(1)}%`);
    this.reading.textContent = `Step ${this.history.length - 1}. Lost: k-means ${full}, EMA ${averages} of the variance.`;
  }

  #paint(plane, codewords) {
    const { strong } = palette(SIZE);
    const codes = assign(points.all, codewords);
    plane.dots(points.all, (i) => strong[codes[i]], 1.4);
    points.all.forEach((point, i) => {
      if (i % 5 === 0) plane.line(point, codewords[codes[i]], themeColour("line"), 0.6);
    });
    plane.codewords(codewords, strong);
  }
}
