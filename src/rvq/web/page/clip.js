// One recording in all its versions: original, ours at every bitrate, other codecs, edited.

/**
 * A version: { id, label, samples, bytes, exact, kbps, payloadKbps }.
 * `bytes` is the size of the file; where only codes can be counted, `exact` is false.
 */
export class Clip {
  #made = new Map();
  #queue = Promise.resolve();

  constructor(backend, title, encoded) {
    Object.assign(this, encoded);
    this.backend = backend;
    this.title = title;
    this.nFrames = this.codes.length / backend.n;
    this.seconds = this.samples.length / backend.rate;
    if (this.decoded) {
      const first = this.#ours(backend.about.first_codebooks, this.decoded);
      this.#made.set(first.id, { promise: Promise.resolve(first), done: first });
    }
  }

  #ours(used, samples) {
    const id = `rvq-${used}`;
    return { id, label: "rvq", samples, ...this.size(id) };
  }

  /** Sizes are known before anything is decoded. */
  size(id) {
    const facts = (bytes, exact = true) => ({ bytes, exact, kbps: bytes / 125 / this.seconds });
    if (id === "original") return facts(44 + this.samples.length * 2);
    if (!id.startsWith("rvq-")) return null;
    const n = Number(id.slice(4));
    if (this.fileBytes) return facts(this.fileBytes[n - 1]);
    return facts(Math.ceil((this.nFrames * n * Math.log2(this.backend.size)) / 8), false);
  }

  has(id) {
    return this.#made.get(id)?.done;
  }

  /** Make a version, or give the one made before. Requests wait in line. */
  version(id) {
    let entry = this.#made.get(id);
    if (!entry) {
      entry = { promise: (this.#queue = this.#queue.catch(() => {}).then(() => this.#make(id))) };
      entry.promise.then(
        (version) => (entry.done = version),
        () => this.#made.delete(id),
      );
      this.#made.set(id, entry);
    }
    return entry.promise;
  }

  async #make(id) {
    const { backend, codes, samples } = this;
    if (id === "original") return { id, label: "Original", samples, ...this.size(id) };
    if (id.startsWith("rvq-")) {
      const used = Number(id.slice(4));
      const layers = Array.from({ length: backend.n }, (_, layer) => layer < used);
      const latents = (await backend.codebooks()).sum(codes, layers);
      return this.#ours(used, await backend.decode(latents, samples.length));
    }
    const peer = this.peers.find((one) => one.id === id);
    const found = await backend.throughPeer(peer, this);
    const kbps = (bytes) => (bytes ? bytes / 125 / this.seconds : null);
    return {
      id,
      label: peer.family,
      samples: found.samples,
      bytes: found.fileBytes,
      exact: true,
      kbps: kbps(found.fileBytes),
      payloadKbps: kbps(found.payloadBytes),
    };
  }

  /** Decode codes that were changed by hand. */
  async edited(codes, layers) {
    const { backend } = this;
    const latents = (await backend.codebooks()).sum(codes, layers);
    return { id: "edited", samples: await backend.decode(latents, this.samples.length) };
  }
}
