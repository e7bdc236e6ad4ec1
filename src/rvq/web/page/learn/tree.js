import { css, layerColour, themeColour } from "../draw/colour.js";
import { Plane } from "./plane.js";
import { points } from "./points.js";
import { minus, nearest, path, residualCodebooks } from "./quantize.js";

const STAGES = 4;

/** Residual codebooks as a coarse-to-fine tree. */
export class Tree {
  static id = "tree";
  static title = "Residual codebooks: describe what is left over";
  static text = `<p>A thousand cells need a thousand codewords, a million cells a million: one codebook cannot grow for
    long. So a second small codebook describes the <em>residual</em>, the arrow from the codeword to the point; a third
    what is left of that. Every sum of one codeword from each is a place that can be said: ${STAGES} codebooks of 4 say
    ${4 ** STAGES} places with ${4 * STAGES} codewords.</p>
    <p>Drag the probe. Its path runs from coarse to fine, and stopping early is a lower bitrate: that is the slider of
    the Listen page.</p>`;
  static controls = `<label>codebooks <input type="range" min="1" max="${STAGES}" value="3"></label>
    <label class="check"><input type="checkbox"> all that can be said</label>`;
  static figure = `<canvas></canvas><div class="trio">${[1, 2, 3]
    .map((stage) => `<figure><figcaption>left after ${stage}</figcaption><canvas></canvas></figure>`)
    .join("")}</div>`;

  probe = [0.62, 0.12];

  constructor(root) {
    [this.slider, this.all] = root.querySelectorAll("input");
    this.reading = root.querySelector("output");
    const [main, ...small] = root.querySelectorAll("canvas");
    this.plane = new Plane(main, {
      handles: () => [
        {
          x: this.probe[0],
          y: this.probe[1],
          ring: true,
          colour: themeColour("accent"),
          move: (...place) => {
            this.probe = place;
            this.draw();
          },
        },
        ...points.handles(),
      ],
      paint: (plane) => this.#paint(plane),
      label: "Paths through residual codebooks",
    });
    this.small = small.map(
      (canvas, i) => new Plane(canvas, { paint: (plane) => this.#paintResidual(plane, i + 1), label: `What is left after ${i + 1} codebooks` }),
    );
    for (const { canvas } of this.small) canvas.removeAttribute("tabindex");
    this.slider.addEventListener("input", () => this.draw());
    this.all.addEventListener("change", () => this.draw());
    this.moved();
  }

  moved() {
    this.codebooks = residualCodebooks(points.all, new Array(STAGES).fill(4));
    this.residuals = [points.all];
    for (const codebook of this.codebooks) {
      this.residuals.push(this.residuals.at(-1).map((point) => minus(point, codebook[nearest(point, codebook)])));
    }
  }

  draw() {
    this.plane.draw();
    this.small.forEach((plane) => plane.draw());
  }

  #colour(stage) {
    return css(layerColour(stage, STAGES));
  }

  #paint(plane) {
    const used = this.codebooks.slice(0, Number(this.slider.value));
    plane.dots(points.all, themeColour("line"), 1.6);
    let level = [[0, 0]];
    used.forEach((codebook, stage) => {
      const next = [];
      for (const [x, y] of level) {
        for (const [dx, dy] of codebook) {
          next.push([x + dx, y + dy]);
          if (this.all.checked) {
            plane.context.globalAlpha = 0.45;
            plane.line([x, y], [x + dx, y + dy], this.#colour(stage), 1.4 - 0.25 * stage);
            plane.context.globalAlpha = 1;
          }
        }
      }
      level = next;
      if (this.all.checked || stage === 0) plane.dots(level, this.#colour(stage), 4.5 - stage);
    });
    const steps = path(this.probe, used);
    const codes = [];
    used.forEach((codebook, stage) => {
      const from = steps[stage];
      // The choice at this stage: the four codewords around the place reached so far.
      codebook.forEach(([dx, dy]) => plane.line(from, [from[0] + dx, from[1] + dy], themeColour("soft"), 0.6));
      plane.line(from, steps[stage + 1], this.#colour(stage), 3.5);
      plane.dots([steps[stage + 1]], this.#colour(stage), 5.5 - 0.6 * stage);
      codes.push(nearest(minus(this.probe, from), codebook));
    });
    const left = Math.hypot(...minus(this.probe, steps.at(-1)));
    this.reading.textContent = `The probe is written as ${codes.join(", ")}: ${2 * used.length} bits. ` +
      `${left.toFixed(3)} is left, of ${Math.hypot(...this.probe).toFixed(3)}.`;
  }

  #paintResidual(plane, stage) {
    plane.line([-1, 0], [1, 0], themeColour("line"), 1);
    plane.line([0, -1], [0, 1], themeColour("line"), 1);
    plane.dots(this.residuals[stage], this.#colour(stage - 1), 1.4);
  }
}
