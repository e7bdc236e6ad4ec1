// The Look inside page: codes as a picture, one frame in detail, layers changed by hand.

import { usage } from "./codec/codebooks.js";
import { css, layerColour, themeColour } from "./draw/colour.js";
import { drawCodes, fit } from "./draw/sound.js";

const $ = (id) => document.getElementById(id);
const MODES = [
  ["keep", "as it is"],
  ["mute", "muted"],
  ["scramble", "scrambled"],
  ["swap", "swapped"],
];

export class Inside {
  #clip = null;
  #frame = 0;
  #norms = null; // of what each codebook of the clip leaves over
  #places = null;

  constructor(app) {
    this.app = app;
    const { n, size } = app.backend;
    if (n !== 16) $("layer-count").textContent = n;
    $("frame-length").textContent = (1000 * this.#hopSeconds).toFixed(0);
    $("codebook-size").textContent = size;
    this.modes = new Array(n).fill("keep");
    this.colours = Array.from({ length: n }, (_, layer) => layerColour(layer, n));
    $("layers").append(...this.colours.map((colour, layer) => this.#row(layer, colour)));
    const partner = $("partner");
    for (const { id, title } of app.backend.about.samples) partner.append(new Option(title, id));
    partner.addEventListener("change", () => this.modes.includes("swap") && this.#apply());
    for (const button of document.querySelectorAll("[data-preset]")) {
      button.addEventListener("click", () => this.#preset(button.dataset.preset));
    }
    const map = $("codes");
    map.addEventListener("click", (event) => {
      if (!this.#clip) return;
      const box = map.getBoundingClientRect();
      this.select(Math.floor(((event.clientX - box.left) / box.width) * this.#clip.nFrames));
      this.app.player.seek(this.#frame * this.#hopSeconds);
    });
    map.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -25, PageDown: 25 }[event.key];
      if (!step || !this.#clip) return;
      event.preventDefault();
      event.stopPropagation();
      this.select(this.#frame + step);
    });
    new ResizeObserver(() => this.draw()).observe(map);
  }

  get #hopSeconds() {
    const { model } = this.app.backend.about;
    return model.hop_length / model.sample_rate;
  }

  #row(layer, colour) {
    const row = document.createElement("li");
    row.style.setProperty("--layer", css(colour));
    const name = `layer-${layer + 1}`;
    row.innerHTML = `<label for="${name}">${layer + 1}</label><select id="${name}" aria-label="Layer ${layer + 1}"></select>
      <span class="entropy" aria-hidden="true"><i></i></span><span class="use"></span>`;
    const select = row.querySelector("select");
    for (const [value, text] of MODES) select.append(new Option(text, value));
    select.addEventListener("change", () => {
      this.modes[layer] = select.value;
      this.#apply();
    });
    return row;
  }

  async open(clip) {
    this.codebooks ??= await this.app.backend.codebooks();
    this.#norms = this.codebooks.residualNorms(clip.latents, clip.codes);
    this.#clip = clip;
    this.modes.fill("keep");
    this.#show();
    // A recording swapped with itself would not change.
    const partner = $("partner");
    if (partner.selectedOptions[0]?.text === clip.title) {
      partner.selectedIndex = (partner.selectedIndex + 1) % partner.options.length;
    }
    const { n, size } = this.app.backend;
    // No count of so few frames can show more bits than this.
    const most = Math.min(Math.log2(size), Math.log2(clip.nFrames));
    [...$("layers").children].forEach((row, layer) => {
      const { used, bits } = usage(clip.codes, n, layer, size);
      row.querySelector(".entropy i").style.width = `${(100 * bits) / Math.log2(size)}%`;
      row.querySelector(".use").textContent = `${bits.toFixed(1)} bits, ${used} used`;
    });
    $("entropy-note").textContent =
      `Entropy of each codebook's codes over these ${clip.nFrames} frames, of ${Math.log2(size)} bits at most, ` +
      `and how many of its ${size} codewords they use. So few frames cannot show more than ${most.toFixed(1)} bits.`;
    this.select(Math.floor(clip.nFrames / 3));
    this.draw();
  }

  draw() {
    if (!this.#clip || !$("codes").clientWidth) return;
    const { codebooks } = this;
    this.#places ??= codebooks.places();
    drawCodes($("codes"), {
      codes: this.codes ?? this.#clip.codes,
      n: codebooks.n,
      places: this.#places,
      size: codebooks.size,
      colours: this.colours,
      dim: this.modes.map((mode) => mode === "mute"),
    });
    this.#drawResidual();
    this.#mark();
  }

  select(frame) {
    this.#frame = Math.max(0, Math.min(frame, this.#clip.nFrames - 1));
    const { n } = this.app.backend;
    const { codes } = this.#clip;
    const norms = this.#norms;
    const at = this.#frame * (n + 1);
    const relative = (stage) => (norms[at] ? norms[at + stage] / norms[at] : 0);
    $("frame-name").textContent =
      `Frame ${this.#frame + 1} of ${this.#clip.nFrames}, at ${(this.#frame * this.#hopSeconds).toFixed(2)} s`;
    $("codes").setAttribute("aria-valuetext", $("frame-name").textContent);
    $("codes").setAttribute("aria-valuenow", this.#frame + 1);
    $("codes").setAttribute("aria-valuemax", this.#clip.nFrames);
    $("frame-codes").replaceChildren(
      ...this.colours.map((colour, layer) => {
        const item = document.createElement("li");
        item.style.setProperty("--layer", css(colour));
        item.style.setProperty("--left", `${100 * Math.min(1, relative(layer + 1))}%`);
        const code = codes[this.#frame * n + layer];
        item.innerHTML = `<span>${layer + 1}</span><b>${code}</b><i></i><em>${(100 * relative(layer + 1)).toFixed(0)}%</em>`;
        item.setAttribute("aria-label", `codebook ${layer + 1}: codeword ${code}, ${(100 * relative(layer + 1)).toFixed(0)} percent of the vector is left`);
        return item;
      }),
    );
    this.#drawResidual();
    this.#mark();
  }

  #mark() {
    $("frame-mark").style.left = `${(100 * (this.#frame + 0.5)) / this.#clip.nFrames}%`;
  }

  /** The norm of what is left, stage by stage: this frame over all frames of the recording. */
  #drawResidual() {
    const canvas = $("residual");
    if (!this.#clip || !canvas.clientWidth) return;
    const { n } = this.app.backend;
    const { width, height, ratio, context } = fit(canvas);
    const { nFrames } = this.#clip;
    const norms = this.#norms;
    const decibel = (frame, stage) =>
      20 * Math.log10(Math.max(1e-3, norms[frame * (n + 1) + stage] / (norms[frame * (n + 1)] || 1)));
    const lowest = -30;
    const x = (stage) => ((stage + 0.25) / (n + 0.5)) * width;
    const y = (level) => (Math.min(1, Math.max(0, level / lowest)) * 0.86 + 0.05) * height;
    context.clearRect(0, 0, width, height);
    context.font = `${11 * ratio}px ui-sans-serif, system-ui, sans-serif`;
    context.fillStyle = themeColour("soft");
    context.strokeStyle = themeColour("line");
    for (const level of [0, -10, -20, -30]) {
      context.beginPath();
      context.moveTo(0, y(level));
      context.lineTo(width, y(level));
      context.stroke();
      context.fillText(`${level} dB`, 4 * ratio, y(level) - 3 * ratio);
    }
    context.strokeStyle = themeColour("faint");
    const step = Math.max(1, Math.floor(nFrames / 120));
    for (let frame = 0; frame < nFrames; frame += step) {
      context.beginPath();
      for (let stage = 0; stage <= n; stage++) context.lineTo(x(stage), y(decibel(frame, stage)));
      context.stroke();
    }
    context.lineWidth = 2.5 * ratio;
    for (let stage = 0; stage < n; stage++) {
      context.strokeStyle = css(this.colours[stage]);
      context.fillStyle = css(this.colours[stage]);
      context.beginPath();
      context.moveTo(x(stage), y(decibel(this.#frame, stage)));
      context.lineTo(x(stage + 1), y(decibel(this.#frame, stage + 1)));
      context.stroke();
      context.beginPath();
      context.arc(x(stage + 1), y(decibel(this.#frame, stage + 1)), 3.5 * ratio, 0, 7);
      context.fill();
    }
    context.lineWidth = 1;
  }

  #preset(name) {
    const n = this.modes.length;
    const half = Math.floor(n / 2);
    const wanted = {
      keep: () => "keep",
      first: (layer) => (layer === 0 ? "keep" : "mute"),
      notfirst: (layer) => (layer === 0 ? "mute" : "keep"),
      fine: (layer) => (layer < 4 ? "keep" : "scramble"),
      coarse: (layer) => (layer < 2 ? "scramble" : "keep"),
      swap: (layer) => (layer < half ? "swap" : "keep"),
    }[name];
    this.modes = this.modes.map((_, layer) => wanted(layer));
    this.#apply();
  }

  #show() {
    this.codes = null;
    [...$("layers").children].forEach((row, layer) => {
      row.querySelector("select").value = this.modes[layer];
      row.classList.toggle("changed", this.modes[layer] !== "keep");
    });
  }

  /** Make the changed codes, decode and play them. */
  async #apply() {
    const clip = this.#clip;
    if (!clip) return;
    const ask = ++this.app.asked;
    this.#show();
    this.app.say("Decoding…");
    try {
      const other = this.modes.includes("swap") ? await this.app.sample($("partner").value) : null;
      const codes = this.#changed(clip, other);
      const layers = this.modes.map((mode) => mode !== "mute");
      const version = await clip.edited(codes, layers);
      if (ask !== this.app.asked || clip !== this.#clip) return;
      this.codes = codes;
      this.app.say("");
      this.draw();
      this.app.player.change(version.samples);
      document.body.dataset.playing = `edited:${this.modes.join(",")}`;
      await this.app.player.play();
    } catch (error) {
      if (ask === this.app.asked) this.app.say(error.message, true);
    }
  }

  #changed(clip, other) {
    const { n } = this.app.backend;
    const codes = clip.codes.slice();
    const order = shuffled(clip.nFrames);
    this.modes.forEach((mode, layer) => {
      for (let frame = 0; frame < clip.nFrames; frame++) {
        if (mode === "scramble") codes[frame * n + layer] = clip.codes[order[frame] * n + layer];
        if (mode === "swap") codes[frame * n + layer] = other.codes[(frame % other.nFrames) * n + layer];
      }
    });
    return codes;
  }
}

/** The same order every time, so that an edit can be heard again. */
function shuffled(n) {
  const order = Array.from({ length: n }, (_, i) => i);
  let state = 1;
  for (let i = n - 1; i > 0; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const j = state % (i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}
