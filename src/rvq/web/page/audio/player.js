// Plays one of several versions of a recording and changes between them without losing its place.

const FADE = 0.012; // seconds of crossfade: no click, no gap

export class Player extends EventTarget {
  #source = null;
  #began = 0; // time of the context at which position 0 was, or would have been
  #rested = 0; // position while not playing
  #samples = null;

  constructor(rate) {
    super();
    this.rate = rate;
    this.loop = true;
  }

  get playing() {
    return this.#source !== null;
  }

  get duration() {
    return this.#samples ? this.#samples.length / this.rate : 0;
  }

  get position() {
    if (!this.playing) return this.#rested;
    const passed = this.context.currentTime - this.#began;
    return this.loop ? passed % this.duration : Math.min(passed, this.duration);
  }

  /** Put other samples of the same recording in place of those playing, at the same position. */
  change(samples) {
    const same = this.#samples?.length === samples.length;
    const position = same ? this.position : 0;
    this.#samples = samples;
    if (this.playing) this.#start(position);
    else this.#rested = position;
    this.dispatchEvent(new Event("change"));
  }

  async play() {
    if (!this.#samples || this.playing) return;
    this.context ??= new AudioContext({ sampleRate: this.rate, latencyHint: "interactive" });
    await this.context.resume();
    this.#start(this.#rested >= this.duration ? 0 : this.#rested);
    this.dispatchEvent(new Event("change"));
  }

  pause() {
    if (!this.playing) return;
    this.#rested = this.position;
    this.#fadeOut();
    this.dispatchEvent(new Event("change"));
  }

  seek(position) {
    position = Math.max(0, Math.min(position, this.duration - 0.01));
    if (this.playing) this.#start(position);
    else this.#rested = position;
    this.dispatchEvent(new Event("change"));
  }

  #start(position) {
    const { context } = this;
    const buffer = new AudioBuffer({ length: this.#samples.length, sampleRate: this.rate });
    buffer.copyToChannel(this.#samples, 0);
    const now = context.currentTime;
    const gain = new GainNode(context, { gain: 0 });
    gain.gain.setValueAtTime(0, now).linearRampToValueAtTime(1, now + FADE);
    gain.connect(context.destination);
    const source = new AudioBufferSourceNode(context, { buffer, loop: this.loop });
    source.connect(gain);
    this.#fadeOut();
    source.start(now, position);
    source.addEventListener("ended", () => {
      if (this.#source?.source !== source) return;
      this.#source = null;
      this.#rested = 0;
      this.dispatchEvent(new Event("change"));
    });
    this.#source = { source, gain };
    this.#began = now - position;
  }

  #fadeOut() {
    if (!this.#source) return;
    const { source, gain } = this.#source;
    const now = this.context.currentTime;
    gain.gain.cancelScheduledValues(now).setValueAtTime(gain.gain.value, now);
    gain.gain.linearRampToValueAtTime(0, now + FADE);
    source.stop(now + FADE);
    this.#source = null;
  }
}
