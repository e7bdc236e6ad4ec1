// Two ways to run the codec behind one interface: a server on this machine, or the browser itself.

import { readAudio, writeWav } from "../audio/wav.js";
import { Codebooks } from "./codebooks.js";
import { parseTensors, writeTensor } from "./tensors.js";

/** Learns what the page was served with. */
export async function connect() {
  const about = await (await ask("about.json")).json();
  return about.mode === "browser" ? new BrowserBackend(about) : new ServerBackend(about);
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("no answer; is rvq serve still running?");
  }
  if (!response.ok) {
    const text = await response.text();
    let reason = text;
    try {
      reason = JSON.parse(text).error;
    } catch { /* plain text */ }
    throw new Error(reason || `the host answered ${response.status}`);
  }
  return response;
}

/** The body of an encoded recording -> { samples, latents, codes, fileBytes, secondsRead, decoded }. */
function readEncoded(buffer) {
  const { tensors, facts } = parseTensors(buffer);
  return {
    samples: tensors.samples.data,
    latents: tensors.latents.data,
    codes: tensors.codes.data,
    fileBytes: facts.file_bytes,
    secondsRead: facts.seconds_read,
    decoded: tensors.decoded?.data, // of samples, from the bitrate that is heard first
  };
}

class Backend {
  #codebooks = null;

  constructor(about) {
    const { sample_rate: rate, n_codebooks: n, codebook_size: size, dim } = about.model;
    Object.assign(this, { about, rate, n, size, dim });
  }

  /** The codewords: megabytes, which nobody needs before a first sound. */
  codebooks() {
    this.#codebooks ??= ask("model/codebooks.safetensors")
      .then((answer) => answer.arrayBuffer())
      .then((buffer) => new Codebooks(parseTensors(buffer).tensors.codebooks));
    return this.#codebooks;
  }

  /** A shipped sample, encoded before anybody asked. */
  async encodeSample(id) {
    const encoded = readEncoded(await (await ask(`samples/${id}.safetensors`)).arrayBuffer());
    return { ...encoded, sampleId: id, peers: this.about.peers };
  }

  refuseLarge(size) {
    const most = this.about.max_bytes;
    if (size > most) throw new Error(`this file is too large: at most ${most / 1e6} MB are taken`);
  }

  cut(samples) {
    return samples.slice(0, this.about.max_seconds * this.rate);
  }
}

class ServerBackend extends Backend {
  /** A file -> { samples, latents, codes, fileBytes, secondsRead, peers }. */
  async encodeFile(blob) {
    this.refuseLarge(blob.size);
    try {
      return await this.#encode(blob);
    } catch (error) {
      // The browser may know a format, such as AAC, that the server does not.
      if (!/not audio/.test(error.message)) throw error;
      const samples = await readAudio(await blob.arrayBuffer(), this.rate).catch(() => {
        throw error;
      });
      return this.#encode(writeWav(this.cut(samples), this.rate));
    }
  }

  async encodeSamples(samples) {
    return this.#encode(writeWav(this.cut(samples), this.rate));
  }

  async #encode(body) {
    const answer = await ask("api/encode", { method: "POST", body });
    return { ...readEncoded(await answer.arrayBuffer()), peers: this.about.peers };
  }

  async decode(latents, nSamples) {
    const body = writeTensor("latents", [latents.length / this.dim, this.dim], latents);
    const answer = await ask(`api/decode?n_samples=${nSamples}`, { method: "POST", body });
    return parseTensors(await answer.arrayBuffer()).tensors.samples.data;
  }

  /** What another codec leaves of a clip: { samples, fileBytes, payloadBytes }. */
  async throughPeer(peer, clip) {
    const body = writeTensor("samples", [clip.samples.length], clip.samples);
    const answer = await ask(`api/peer/${peer.id}`, { method: "POST", body });
    const { tensors, facts } = parseTensors(await answer.arrayBuffer());
    return {
      samples: tensors.samples.data,
      fileBytes: facts.file_bytes,
      payloadBytes: facts.payload_bytes,
    };
  }
}

class BrowserBackend extends Backend {
  #worker = null; // with megabytes of networks, so only when there is something to compute
  #waiting = new Map();
  #next = 0;

  #start() {
    this.#worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.#worker.onmessage = ({ data: { id, result, error } }) => {
      const { resolve, reject } = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error) reject(new Error(error));
      else resolve(result);
    };
    this.#worker.onerror = () => {
      for (const { reject } of this.#waiting.values()) {
        reject(new Error("this browser could not start the codec; it needs WebAssembly and modules"));
      }
      this.#waiting.clear();
    };
  }

  #run(task, input) {
    if (!this.#worker) this.#start();
    return new Promise((resolve, reject) => {
      this.#waiting.set(this.#next, { resolve, reject });
      this.#worker.postMessage({ id: this.#next++, task, input });
    });
  }

  async encodeFile(blob) {
    this.refuseLarge(blob.size);
    const samples = await readAudio(await blob.arrayBuffer(), this.rate);
    return { ...(await this.encodeSamples(samples)), secondsRead: samples.length / this.rate };
  }

  async encodeSamples(samples) {
    samples = this.cut(samples);
    return { samples, ...(await this.#run("encode", samples)), peers: [] };
  }

  async decode(latents, nSamples) {
    return (await this.#run("decode", { latents, nSamples })).samples;
  }

  /** Other codecs do not run in a browser: the samples come with what they made of them. */
  async throughPeer(peer, clip) {
    const data = await (await ask(`samples/${clip.sampleId}.${peer.id}.wav`)).arrayBuffer();
    const sizes = this.about.samples.find((sample) => sample.id === clip.sampleId).peers[peer.id];
    const samples = await readAudio(data, this.rate);
    return { samples, fileBytes: sizes.file_bytes, payloadBytes: sizes.payload_bytes };
  }
}
