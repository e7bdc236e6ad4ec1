// The microphone, as plain samples.

export class Recorder {
  #parts = [];

  /** @param onLevel called with the peak of every piece, 0 to 1. */
  constructor(rate, onLevel) {
    Object.assign(this, { rate, onLevel });
  }

  async start() {
    if (!navigator.mediaDevices) throw new Error("recording needs a secure page: localhost or https");
    const wishes = { channelCount: 1, echoCancellation: false, noiseSuppression: false };
    try {
      this.stream = await navigator.mediaDevices.getUserMedia({ audio: wishes });
    } catch {
      throw new Error("the browser gave no microphone; allow it in the address bar and try again");
    }
    // The browser's clock drives the microphone, so its default rate is the safe one.
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule(new URL("tap.js", import.meta.url));
    this.tap = new AudioWorkletNode(this.context, "tap", { channelCount: 1, channelCountMode: "explicit" });
    this.tap.port.onmessage = ({ data }) => {
      this.#parts.push(data);
      this.onLevel(data.reduce((peak, sample) => Math.max(peak, Math.abs(sample)), 0));
    };
    this.context.createMediaStreamSource(this.stream).connect(this.tap);
    await this.context.resume();
  }

  /** Let go of the microphone. */
  close() {
    this.stream.getTracks().forEach((track) => track.stop());
    return this.context.close();
  }

  /** Samples at the wanted rate. */
  async stop() {
    const from = this.context.sampleRate;
    await this.close();
    const n = this.#parts.reduce((sum, part) => sum + part.length, 0);
    if (!n) throw new Error("the microphone gave no sound");
    const samples = new Float32Array(n);
    let at = 0;
    for (const part of this.#parts) {
      samples.set(part, at);
      at += part.length;
    }
    const offline = new OfflineAudioContext(1, Math.ceil((n * this.rate) / from), this.rate);
    const buffer = new AudioBuffer({ length: n, sampleRate: from });
    buffer.copyToChannel(samples, 0);
    const source = new AudioBufferSourceNode(offline, { buffer });
    source.connect(offline.destination);
    source.start();
    return (await offline.startRendering()).getChannelData(0);
  }
}
