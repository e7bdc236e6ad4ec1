// The Listen page: choose a recording, a bitrate and a version; hear and see it.

import { css, layerColour, themeColour } from "./draw/colour.js";
import { drawSpectrogram, drawWaveform } from "./draw/sound.js";

const $ = (id) => document.getElementById(id);
const number = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
const short = (value) => value.toLocaleString("en", { maximumFractionDigits: 1 });

export class Listen {
  #clip = null;
  #shown = null; // the version on the screen
  #ask = 0;

  /** @param app what the pages share: backend, player, say(text). */
  constructor(app) {
    this.app = app;
    const { n, about } = app.backend;
    this.choice = "ours";
    const slider = $("bitrate");
    slider.max = n;
    slider.value = about.first_codebooks;
    slider.addEventListener("input", () => this.choose("ours"));
    $("steps").append(
      ...Array.from({ length: n }, (_, layer) => {
        const step = document.createElement("i");
        step.style.setProperty("--layer", css(layerColour(layer, n)));
        step.style.height = `${100 - (58 * layer) / n}%`;
        return step;
      }),
    );
    for (const id of ["waveform", "spectrogram", "difference-waveform", "difference"]) {
      $(id).parentElement.addEventListener("click", (event) => this.#seek(event));
    }
    $("hear-difference").addEventListener("click", () => this.choose(this.choice === "difference" ? "ours" : "difference"));
    new ResizeObserver(() => this.draw()).observe($("pictures"));
    const top = about.model.sample_rate / 2000;
    $("spectrogram").setAttribute("aria-label", `Spectrogram, 0 to ${short(top)} kHz`);
    $("axis-top").textContent = `${short(top)} kHz`;
    $("axis-middle").textContent = short(top / 2);
    this.#rate();
  }

  get used() {
    return Number($("bitrate").value);
  }

  async open(clip) {
    this.#clip = clip;
    this.#shown = null;
    this.choice = "ours";
    this.#versions();
    await this.choose("ours");
  }

  /** "original", "ours", "difference" or the name of another codec. */
  async choose(choice) {
    if (choice === "ours" || choice === "difference") this.compared = `rvq-${this.used}`;
    else if (choice !== "original") this.compared = choice;
    this.choice = choice;
    this.#rate();
    if (!this.#clip) return;
    const ask = (this.#ask = ++this.app.asked);
    const clip = this.#clip;
    const id = choice === "original" ? "original" : this.compared;
    try {
      if (!clip.has(id)) this.app.say("Decoding…");
      const version = await clip.version(id);
      if (ask !== this.app.asked || clip !== this.#clip) return; // something else was asked for since
      this.app.say("");
      const other = version.samples;
      this.#shown = version;
      const difference = other.map((sample, i) => sample - clip.samples[i]);
      this.difference = difference;
      this.app.player.change(choice === "difference" ? difference : other);
      document.body.dataset.playing = choice === "difference" ? `difference:${id}` : id;
      this.#versions();
      this.draw();
    } catch (error) {
      if (ask === this.app.asked) this.app.say(error.message, true);
    }
  }

  /** Make the other versions ready, one after the other, while this page is shown. */
  async prefetch() {
    const clip = this.#clip;
    const { n } = this.app.backend;
    const likely = [2, 8, 16, 1, ...Array.from({ length: n }, (_, i) => i + 1)].filter((k) => k <= n);
    const ours = likely.map((k) => `rvq-${k}`);
    const ids = ["original", ...clip.peers.map((peer) => peer.id), ...ours];
    for (const id of new Set(ids)) {
      if (clip !== this.#clip || $("page-listen").hidden) return;
      await clip.version(id).catch(() => {});
      this.#versions();
    }
    document.body.dataset.ready = clip.title;
  }

  #rate() {
    const { model } = this.app.backend.about;
    const nominal = (this.used * Math.log2(model.codebook_size) * model.sample_rate) / model.hop_length / 1000;
    const size = this.#clip?.size(`rvq-${this.used}`);
    const kbps = number(size ? size.kbps : nominal, 2);
    $("headline-rate").textContent = kbps;
    const books = `${this.used} of ${model.n_codebooks} codebooks, ${number(nominal, 2)} kbps`;
    $("bitrate-text").textContent = `${books} before entropy coding`;
    $("bitrate").setAttribute("aria-valuetext", `${kbps} kilobits a second, ${this.used} of ${model.n_codebooks} codebooks`);
    [...$("steps").children].forEach((step, layer) => step.classList.toggle("on", layer < this.used));
    $("hear-difference").setAttribute("aria-pressed", this.choice === "difference");
  }

  /** The list of versions with true sizes. */
  #versions() {
    const clip = this.#clip;
    const list = $("versions");
    const rows = [
      ["original", "Original", clip.size("original")],
      ["ours", "rvq", clip.size(`rvq-${this.used}`)],
      ...clip.peers.map((peer) => [peer.id, `${peer.family}`, clip.has(peer.id) || null, peer]),
    ];
    const largest = Math.max(...rows.slice(1).map(([, , size]) => size?.bytes ?? 0));
    const focused = list.contains(document.activeElement) ? document.activeElement.dataset.choice : null;
    list.replaceChildren(
      ...rows.map(([choice, label, size, peer], place) => {
        const button = document.createElement("button");
        button.type = "button";
        button.dataset.choice = choice;
        button.setAttribute("aria-pressed", this.choice === choice);
        const share = size && choice !== "original" ? size.bytes / largest : 1;
        button.style.setProperty("--share", `${100 * share}%`);
        const text = (tag, name, content) => {
          const part = document.createElement(tag);
          part.className = name;
          part.textContent = content;
          return part;
        };
        const rate = size ? `${number(size.kbps, size.kbps < 100 ? 2 : 0)} kbps` : `asked for ${peer.nominal}`;
        button.append(
          text("kbd", "", place + 1),
          text("strong", "", label),
          text("span", "rate", rate),
          text("span", "bytes", size ? `${number(size.bytes)} bytes${size.exact ? "" : " of codes"}` : "…"),
        );
        if (size?.payloadKbps) button.append(text("span", "bytes", `${number(size.payloadKbps, 2)} without Ogg`));
        button.addEventListener("click", () => this.choose(choice));
        const item = document.createElement("li");
        item.append(button);
        return item;
      }),
    );
    if (focused) list.querySelector(`[data-choice="${focused}"]`)?.focus();
    const size = clip.size(`rvq-${this.used}`);
    const times = clip.size("original").bytes / size.bytes;
    $("smaller").textContent = `${number(times, times < 10 ? 1 : 0)} times smaller than 16-bit PCM`;
  }

  /** Come back to this page: what plays is again what it shows, not layers changed elsewhere,
   *  nor those still being decoded. */
  resume() {
    if (this.app.asked !== this.#ask) this.choose(this.choice);
    else this.draw();
    if (this.#clip) this.prefetch();
  }

  draw() {
    if (!this.#shown || !$("pictures").clientWidth) return;
    const { n } = this.app.backend;
    const colour = this.#shown.id.startsWith("rvq-") ? css(layerColour(this.used - 1, n)) : themeColour("ink");
    const same = this.#shown.id === "original";
    const label = same ? "Original" : `${this.#shown.label} at ${number(this.#shown.kbps, 2)} kbps`;
    $("shown-name").textContent = label;
    // As tall as the original allows, and the same for both, so that sizes compare.
    const peak = this.#clip.samples.reduce((most, sample) => Math.max(most, Math.abs(sample)), 1e-3);
    drawWaveform($("waveform"), this.#shown.samples, colour, 0.95 / peak);
    drawSpectrogram($("spectrogram"), this.#shown.samples);
    $("difference-name").textContent = same
      ? "What is missing: nothing, this is the original"
      : `What is missing: ${label} less the original`;
    drawWaveform($("difference-waveform"), this.difference, themeColour("soft"), 0.95 / peak);
    drawSpectrogram($("difference"), this.difference);
  }

  /** Keys of the whole page: digits choose versions. */
  key(digit) {
    $("versions").children[digit - 1]?.firstElementChild.click();
  }

  #seek(event) {
    const box = event.currentTarget.getBoundingClientRect();
    this.app.player.seek(((event.clientX - box.left) / box.width) * this.app.player.duration);
  }
}
