// Waveforms and spectrograms on canvases.

import { GLOW, css, themeColour } from "./colour.js";

const WINDOW = 512;
const HANN = Float64Array.from({ length: WINDOW }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / WINDOW));
const TURN = Array.from({ length: WINDOW / 2 }, (_, i) => (-2 * Math.PI * i) / WINDOW);
const COSINE = Float64Array.from(TURN, Math.cos);
const SINE = Float64Array.from(TURN, Math.sin);
const FLOOR = -105; // dB that is drawn as night
const CEILING = -25;

/** Fit a canvas to its place on the screen; returns its size in real pixels. */
export function fit(canvas) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  return { width, height, ratio, context: canvas.getContext("2d") };
}

/** Peaks of the samples, column by column, in one colour. */
export function drawWaveform(canvas, samples, colour, scale = 1) {
  const { width, height, context } = fit(canvas);
  context.clearRect(0, 0, width, height);
  context.fillStyle = themeColour("line");
  context.fillRect(0, Math.floor(height / 2), width, 1);
  context.fillStyle = colour;
  for (let x = 0; x < width; x++) {
    const first = Math.floor((x * samples.length) / width);
    const last = Math.max(first + 1, Math.floor(((x + 1) * samples.length) / width));
    let low = Infinity;
    let high = -Infinity;
    for (let i = first; i < last; i++) {
      if (samples[i] < low) low = samples[i];
      if (samples[i] > high) high = samples[i];
    }
    const top = ((1 - Math.min(1, high * scale)) * height) / 2;
    const bottom = ((1 - Math.max(-1, low * scale)) * height) / 2;
    context.fillRect(x, top, 1, Math.max(1, bottom - top));
  }
}

/** Log power spectrogram, 0 Hz at the bottom to half the sample rate at the top. */
export function drawSpectrogram(canvas, samples) {
  const { width, height, context } = fit(canvas);
  const columns = Math.min(width, Math.ceil(samples.length / 64));
  const bins = WINDOW / 2;
  const image = context.createImageData(columns, bins);
  const re = new Float64Array(WINDOW);
  const im = new Float64Array(WINDOW);
  for (let x = 0; x < columns; x++) {
    const start = Math.round(((x + 0.5) * samples.length) / columns) - WINDOW / 2;
    for (let i = 0; i < WINDOW; i++) re[i] = (samples[start + i] ?? 0) * HANN[i];
    im.fill(0);
    fft(re, im);
    for (let bin = 0; bin < bins; bin++) {
      const power = (re[bin] ** 2 + im[bin] ** 2) / (WINDOW / 4) ** 2;
      const level = 10 * Math.log10(power + 1e-12);
      const shade = Math.max(0, Math.min(255, Math.round((255 * (level - FLOOR)) / (CEILING - FLOOR))));
      const at = 4 * ((bins - 1 - bin) * columns + x);
      image.data.set(GLOW[shade], at);
    }
  }
  const sheet = new OffscreenCanvas(columns, bins);
  sheet.getContext("2d").putImageData(image, 0, 0);
  context.drawImage(sheet, 0, 0, width, height);
}

/** Of WINDOW numbers, in place, radix 2. */
function fft(re, im) {
  const n = WINDOW;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      [re[i], re[j], im[i], im[j]] = [re[j], re[i], im[j], im[i]];
    }
  }
  for (let size = 2; size <= n; size *= 2) {
    for (let k = 0; k < size / 2; k++) {
      const c = COSINE[(k * n) / size];
      const s = SINE[(k * n) / size];
      for (let a = k; a < n; a += size) {
        const b = a + size / 2;
        const r = re[b] * c - im[b] * s;
        const i = re[b] * s + im[b] * c;
        [re[b], im[b]] = [re[a] - r, im[a] - i];
        [re[a], im[a]] = [re[a] + r, im[a] + i];
      }
    }
  }
}

/** Codes as a picture: a row per layer in its colour, light and dark by the codeword's place. */
export function drawCodes(canvas, { codes, n, places, size, colours, dim }) {
  const { width, height, context } = fit(canvas);
  const frames = codes.length / n;
  const image = context.createImageData(frames, n);
  for (let frame = 0; frame < frames; frame++) {
    for (let layer = 0; layer < n; layer++) {
      const place = places[layer * size + codes[frame * n + layer]];
      const at = 4 * (layer * frames + frame);
      const [r, g, b] = dim[layer] ? [128, 128, 128] : colours[layer];
      const shade = 0.25 + 0.75 * place;
      const white = 90 * place * place;
      image.data[at] = Math.min(255, r * shade + white);
      image.data[at + 1] = Math.min(255, g * shade + white);
      image.data[at + 2] = Math.min(255, b * shade + white);
      image.data[at + 3] = dim[layer] ? 70 : 255;
    }
  }
  const sheet = new OffscreenCanvas(frames, n);
  sheet.getContext("2d").putImageData(image, 0, 0);
  context.clearRect(0, 0, width, height);
  context.imageSmoothingEnabled = false;
  const gap = height / n > 10 ? 2 : 1;
  for (let layer = 0; layer < n; layer++) {
    const top = Math.round((layer * height) / n);
    const bottom = Math.round(((layer + 1) * height) / n);
    context.drawImage(sheet, 0, layer, frames, 1, 0, top, width, Math.max(1, bottom - top - gap));
  }
}

/** Heights of bars in [0, 1], `colours` one for each, on a faint floor. */
export function drawBars(canvas, values, colours, mark = null) {
  const { width, height, context } = fit(canvas);
  context.clearRect(0, 0, width, height);
  const step = width / values.length;
  values.forEach((value, i) => {
    context.fillStyle = css(colours[i]);
    const tall = Math.max(1, value * height);
    context.fillRect(i * step, height - tall, Math.max(1, step - 1), tall);
  });
  if (mark !== null) {
    context.fillStyle = themeColour("ink");
    context.fillRect(0, height - mark * height, width, 1);
  }
}
