// MDCT and MDST with a sine window, as rvq.codec.runtime has them.

/** One matrix [2 * hop, 2 * hop], flat; cosines in the first half of every row. */
export function lappedBasis(hop) {
  const size = 2 * hop;
  const basis = new Float32Array(size * size);
  for (let n = 0; n < size; n++) {
    const window = Math.sin((Math.PI * (n + 0.5)) / size) * Math.sqrt(2 / hop);
    for (let k = 0; k < hop; k++) {
      const angle = (Math.PI / hop) * (n + 0.5 + hop / 2) * (k + 0.5);
      basis[n * size + k] = window * Math.cos(angle);
      basis[n * size + hop + k] = window * Math.sin(angle);
    }
  }
  return basis;
}

/** Samples [(frames + 1) * hop] -> { cosine, sine }, each [frames, hop]. */
export function analyse(samples, hop, basis) {
  const size = 2 * hop;
  const frames = samples.length / hop - 1;
  const cosine = new Float32Array(frames * hop);
  const sine = new Float32Array(frames * hop);
  const row = new Float64Array(size);
  for (let frame = 0; frame < frames; frame++) {
    row.fill(0);
    for (let n = 0; n < size; n++) {
      const sample = samples[frame * hop + n];
      if (sample) for (let k = 0; k < size; k++) row[k] += sample * basis[n * size + k];
    }
    cosine.set(row.subarray(0, hop), frame * hop);
    sine.set(row.subarray(hop), frame * hop);
  }
  return { cosine, sine };
}

/** Coefficients [frames, hop] and the half window before -> samples [frames * hop]; `before` moves on. */
export function synthesise(coefficients, hop, basis, before) {
  const size = 2 * hop;
  const frames = coefficients.length / hop;
  const samples = new Float32Array(frames * hop);
  const window = new Float64Array(size);
  for (let frame = 0; frame < frames; frame++) {
    for (let n = 0; n < size; n++) {
      let sum = 0;
      for (let k = 0; k < hop; k++) sum += coefficients[frame * hop + k] * basis[n * size + k];
      window[n] = sum;
    }
    for (let n = 0; n < hop; n++) {
      samples[frame * hop + n] = window[n] + before[n];
      before[n] = window[hop + n];
    }
  }
  return samples;
}
