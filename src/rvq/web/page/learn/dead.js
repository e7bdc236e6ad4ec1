import { oklch, themeColour } from "../draw/colour.js";
import { drawBars } from "../draw/sound.js";
import { Plane, palette } from "./plane.js";
import { points } from "./points.js";
import { MovingAverages, assign, counts, distortion, entropy, random } from "./quantize.js";
import { Steps } from "./steps.js";

const SIZE = 16;
const BATCH = 60;
const PATIENCE = 6;

/** Dead codewords, and how restarts bring them back. */
export class Dead extends Steps {
  static id = "dead";
  static title = "Dead codewords, and their second chance";
  static text = `<p>A codeword that is nobody's nearest is never moved, so it stays nobody's nearest: it is <em>dead</em>,
    and its share of the bits is paid for nothing. Bad starts kill codewords, and so do points that wander off.</p>
    <p>The cure is to <em>restart</em>: whoever had no point for ${PATIENCE} batches is put onto a point of the current
    batch. <em>Perplexity</em> counts the codewords really in use.</p>`;
  static controls = `${Steps.run}
    <button type="button" data-do="reset">Bad start</button>
    <label class="check"><input type="checkbox"> restart the dead</label>`;
  static figure = `<canvas></canvas><canvas class="chart" role="img" aria-label="Points of each codeword"></canvas>`;

  constructor(root) {
    super(root);
    this.restarts = root.querySelector("input");
    const [main, chart] = root.querySelectorAll("canvas");
    this.chart = chart;
    this.reset();
    this.plane = new Plane(main, {
      handles: () => points.handles(),
      paint: (plane) => this.#paint(plane),
      label: "Codewords, some of them dead",
    });
  }

  reset() {
    this.next = random(3);
    const start = Array.from({ length: SIZE }, (_, i) =>
      i < 3 ? [this.next() - 0.5, this.next() - 0.5] : [0.55 + 0.55 * this.next(), 0.72 + 0.25 * this.next()],
    );
    this.averages = new MovingAverages(start, 0.8);
    this.revived = 0;
    this.steps = 0;
  }

  step() {
    const batch = points.batch(BATCH, this.next);
    this.averages.update(batch);
    if (this.restarts.checked) this.revived += this.averages.restart(batch, PATIENCE, this.next);
    this.steps++;
    this.draw();
  }

  draw() {
    this.plane.draw();
    const { codewords } = this.averages;
    const codes = assign(points.all, codewords);
    const used = counts(codes, SIZE);
    const most = Math.max(...used);
    drawBars(this.chart, used.map((count) => (count / most) * 0.95), used.map((_, i) => oklch(0.62, 0.15, 275 + i * 137.5)));
    const lost = (100 * distortion(points.all, codewords, codes)) / points.variance();
    this.reading.textContent =
      `Step ${this.steps}: ${used.filter((count) => !count).length} of ${SIZE} codewords are dead, perplexity ` +
      `${(2 ** entropy(codes, SIZE)).toFixed(1)}, ${lost.toFixed(1)}% of the variance lost; ${this.revived} restarts.`;
  }

  #paint(plane) {
    const { codewords } = this.averages;
    const { strong } = palette(SIZE);
    const codes = assign(points.all, codewords);
    const used = counts(codes, SIZE);
    plane.dots(points.all, (i) => strong[codes[i]], 1.5);
    codewords.forEach((codeword, i) => {
      if (used[i]) return plane.codewords([codeword], [strong[i]]);
      const [x, y] = codeword;
      const colour = themeColour("wrong");
      plane.line([x - 0.025, y - 0.025], [x + 0.025, y + 0.025], colour, 2);
      plane.line([x - 0.025, y + 0.025], [x + 0.025, y - 0.025], colour, 2);
    });
  }
}
