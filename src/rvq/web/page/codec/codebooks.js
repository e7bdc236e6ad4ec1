// The stack of codebooks: codes <-> vectors, and what can be said of codes.

export class Codebooks {
  /** @param data float32 [n, size, dim], flat. */
  constructor({ shape: [n, size, dim], data }) {
    Object.assign(this, { n, size, dim, data });
  }

  offset(layer, code) {
    return (layer * this.size + code) * this.dim;
  }

  /**
   * Codes [frames, n] -> vectors [frames, dim]: sums of codewords.
   * @param layers which codebooks take part, an array of n booleans.
   */
  sum(codes, layers) {
    const { n, dim, data } = this;
    const frames = codes.length / n;
    const vectors = new Float32Array(frames * dim);
    for (let frame = 0; frame < frames; frame++) {
      for (let layer = 0; layer < n; layer++) {
        if (!layers[layer]) continue;
        const start = this.offset(layer, codes[frame * n + layer]);
        for (let i = 0; i < dim; i++) vectors[frame * dim + i] += data[start + i];
      }
    }
    return vectors;
  }

  /** Norms of what is left of vectors [frames, dim] before and after each codebook: [frames, n + 1]. */
  residualNorms(vectors, codes) {
    const { n, dim, data } = this;
    const frames = codes.length / n;
    const norms = new Float32Array(frames * (n + 1));
    const residual = new Float64Array(dim);
    const norm = () => Math.sqrt(residual.reduce((sum, value) => sum + value * value, 0));
    for (let frame = 0; frame < frames; frame++) {
      for (let i = 0; i < dim; i++) residual[i] = vectors[frame * dim + i];
      norms[frame * (n + 1)] = norm();
      for (let layer = 0; layer < n; layer++) {
        const start = this.offset(layer, codes[frame * n + layer]);
        for (let i = 0; i < dim; i++) residual[i] -= data[start + i];
        norms[frame * (n + 1) + layer + 1] = norm();
      }
    }
    return norms;
  }

  /** Nearest codewords, one codebook after the other: vectors [frames, dim] -> codes [frames, n]. */
  search(vectors) {
    const { n, size, dim } = this;
    // In double precision, so that only true ties depend on the order of additions.
    this.exact ??= Float64Array.from(this.data);
    this.halfNorms ??= this.#halfNorms();
    const { exact, halfNorms } = this;
    const frames = vectors.length / dim;
    const codes = new Int32Array(frames * n);
    const best = new Int32Array(4);
    const high = new Float64Array(4);
    // Four frames at once: every codeword is fetched once for all, and no sum waits for another.
    const residual = new Float64Array(4 * dim);
    for (let first = 0; first < frames; first += 4) {
      const held = Math.min(4, frames - first);
      residual.fill(0).set(vectors.subarray(first * dim, (first + held) * dim));
      for (let layer = 0; layer < n; layer++) {
        high.fill(-Infinity);
        for (let code = 0, at = layer * size * dim; code < size; code++, at += dim) {
          let a = 0, b = 0, c = 0, d = 0;
          for (let i = 0; i < dim; i++) {
            const value = exact[at + i];
            a += residual[i] * value;
            b += residual[dim + i] * value;
            c += residual[2 * dim + i] * value;
            d += residual[3 * dim + i] * value;
          }
          const half = halfNorms[layer * size + code];
          if (a - half > high[0]) [high[0], best[0]] = [a - half, code];
          if (b - half > high[1]) [high[1], best[1]] = [b - half, code];
          if (c - half > high[2]) [high[2], best[2]] = [c - half, code];
          if (d - half > high[3]) [high[3], best[3]] = [d - half, code];
        }
        for (let k = 0; k < held; k++) {
          codes[(first + k) * n + layer] = best[k];
          const start = this.offset(layer, best[k]);
          for (let i = 0; i < dim; i++) {
            residual[k * dim + i] = Math.fround(residual[k * dim + i] - exact[start + i]);
          }
        }
      }
    }
    return codes;
  }

  #halfNorms() {
    const norms = new Float64Array(this.n * this.size);
    for (let row = 0; row < norms.length; row++) {
      for (let i = 0; i < this.dim; i++) norms[row] += this.data[row * this.dim + i] ** 2 / 2;
    }
    return norms;
  }

  /**
   * Place of every codeword along its codebook's first principal component: [n, size] in [0, 1].
   * Near codewords get near places, so that a picture of codes shows structure.
   */
  places() {
    const { n, size, dim, data } = this;
    const places = new Float32Array(n * size);
    for (let layer = 0; layer < n; layer++) {
      const first = this.offset(layer, 0);
      const mean = new Float64Array(dim);
      for (let i = 0; i < size * dim; i++) mean[i % dim] += data[first + i] / size;
      let axis = Float64Array.from({ length: dim }, (_, i) => Math.sin(i + 1));
      const along = new Float64Array(size);
      for (let round = 0; round < 12; round++) {
        const next = new Float64Array(dim);
        for (let code = 0; code < size; code++) {
          let dot = 0;
          for (let i = 0; i < dim; i++) dot += (data[first + code * dim + i] - mean[i]) * axis[i];
          along[code] = dot;
          for (let i = 0; i < dim; i++) next[i] += dot * (data[first + code * dim + i] - mean[i]);
        }
        const norm = Math.hypot(...next) || 1;
        axis = next.map((value) => value / norm);
      }
      const order = Array.from(along.keys()).sort((a, b) => along[a] - along[b]);
      order.forEach((code, rank) => (places[layer * size + code] = rank / (size - 1)));
    }
    return places;
  }
}

/** How one codebook is used: { counts [size], used, bits } with the plug-in entropy in bits. */
export function usage(codes, n, layer, size) {
  const counts = new Uint32Array(size);
  const frames = codes.length / n;
  for (let frame = 0; frame < frames; frame++) counts[codes[frame * n + layer]]++;
  let bits = 0;
  let used = 0;
  for (const count of counts) {
    if (!count) continue;
    used++;
    bits -= (count / frames) * Math.log2(count / frames);
  }
  return { counts, used, bits };
}
