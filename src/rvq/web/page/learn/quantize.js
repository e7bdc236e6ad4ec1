// The algorithms of the lessons, on points [x, y] of a plane.

/** Random numbers in [0, 1) from a seed (mulberry32). */
export function random(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  next.normal = () => Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
  return next;
}

const square = ([a, b], [c, d]) => (a - c) ** 2 + (b - d) ** 2;

/** Index of the codeword with the lowest squared distance plus penalty; of equals the first. */
export function nearest(point, codewords, penalties = null) {
  let best = 0;
  let lowest = Infinity;
  for (let i = 0; i < codewords.length; i++) {
    const cost = square(point, codewords[i]) + (penalties ? penalties[i] : 0);
    if (cost < lowest) {
      lowest = cost;
      best = i;
    }
  }
  return best;
}

export const assign = (points, codewords, penalties) =>
  points.map((point) => nearest(point, codewords, penalties));

/** Mean squared distance of points to the codewords they were given. */
export const distortion = (points, codewords, codes) =>
  points.reduce((sum, point, i) => sum + square(point, codewords[codes[i]]), 0) / points.length;

export function counts(codes, size) {
  const found = new Array(size).fill(0);
  for (const code of codes) found[code]++;
  return found;
}

/** Entropy of codes in bits. */
export function entropy(codes, size) {
  return counts(codes, size).reduce((bits, count) => {
    const share = count / codes.length;
    return share ? bits - share * Math.log2(share) : bits;
  }, 0);
}

/** One round of k-means: codewords move to the means of their cells; empty ones stay. */
export function lloyd(points, codewords, penalties = null) {
  const codes = assign(points, codewords, penalties);
  const sums = codewords.map(() => [0, 0, 0]);
  points.forEach(([x, y], i) => {
    const sum = sums[codes[i]];
    sum[0] += x;
    sum[1] += y;
    sum[2]++;
  });
  return codewords.map((codeword, i) => (sums[i][2] ? [sums[i][0] / sums[i][2], sums[i][1] / sums[i][2]] : codeword));
}

/** k-means++ (Arthur & Vassilvitskii 2007), then rounds of k-means. */
export function kmeans(points, size, { seed = 1, rounds = 25 } = {}) {
  const next = random(seed);
  let codewords = [points[Math.floor(next() * points.length)]];
  const distances = points.map(() => Infinity);
  while (codewords.length < size) {
    const last = codewords.at(-1);
    let total = 0;
    points.forEach((point, i) => {
      distances[i] = Math.min(distances[i], square(point, last));
      total += distances[i];
    });
    let aim = next() * total;
    let chosen = 0;
    while (chosen < points.length - 1 && (aim -= distances[chosen]) > 0) chosen++;
    codewords.push(points[chosen]);
  }
  codewords = codewords.map((codeword) => [...codeword]);
  for (let round = 0; round < rounds; round++) codewords = lloyd(points, codewords);
  return codewords;
}

/** Codebooks, each learned on what the ones before it leave over. */
export function residualCodebooks(points, sizes, seed = 1) {
  let residuals = points;
  return sizes.map((size, stage) => {
    const codebook = kmeans(residuals, size, { seed: seed + stage });
    residuals = residuals.map((point) => minus(point, codebook[nearest(point, codebook)]));
    return codebook;
  });
}

/** The path of a point: partial sums, from the origin on. */
export function path(point, codebooks) {
  let sum = [0, 0];
  const steps = [sum];
  for (const codebook of codebooks) {
    const codeword = codebook[nearest(minus(point, sum), codebook)];
    sum = [sum[0] + codeword[0], sum[1] + codeword[1]];
    steps.push(sum);
  }
  return steps;
}

export const minus = ([a, b], [c, d]) => [a - c, b - d];

/** Exponential moving averages of a codebook, as codecs learn them (van den Oord et al. 2017). */
export class MovingAverages {
  constructor(codewords, decay = 0.9) {
    this.decay = decay;
    this.codewords = codewords.map((codeword) => [...codeword]);
    this.count = codewords.map(() => 1);
    this.sum = codewords.map((codeword) => [...codeword]);
    this.idle = codewords.map(() => 0);
  }

  /** Learn from a batch of points. */
  update(batch) {
    const codes = assign(batch, this.codewords);
    const { decay } = this;
    this.codewords.forEach((_, i) => {
      const own = batch.filter((_, j) => codes[j] === i);
      this.idle[i] = own.length ? 0 : this.idle[i] + 1;
      this.count[i] = decay * this.count[i] + (1 - decay) * own.length;
      for (const axis of [0, 1]) {
        const total = own.reduce((sum, point) => sum + point[axis], 0);
        this.sum[i][axis] = decay * this.sum[i][axis] + (1 - decay) * total;
        if (this.count[i] > 1e-3) this.codewords[i][axis] = this.sum[i][axis] / this.count[i];
      }
    });
  }

  /** Put codewords without points for so many batches onto points of the batch; how many it were. */
  restart(batch, patience, next) {
    let restarted = 0;
    this.idle.forEach((idle, i) => {
      if (idle < patience) return;
      const point = batch[Math.floor(next() * batch.length)];
      this.codewords[i] = [...point];
      this.sum[i] = [...point];
      this.count[i] = 1;
      this.idle[i] = 0;
      restarted++;
    });
    return restarted;
  }
}
