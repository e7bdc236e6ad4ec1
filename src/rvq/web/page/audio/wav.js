// Audio files: own WAV, to the bit; everything else by the browser's decoders.

/** 16-bit mono WAV of samples in [-1, 1], as a Blob. */
export function writeWav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + samples.length * 2));
  const text = (at, letters) => [...letters].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + samples.length * 2, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, rate * 2, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, samples.length * 2, true);
  samples.forEach((sample, i) => {
    view.setInt16(44 + i * 2, Math.max(-32768, Math.min(32767, Math.round(sample * 32768))), true);
  });
  return new Blob([view], { type: "audio/wav" });
}

/** The bytes of any file the browser can decode -> mono samples at `rate`. */
export async function readAudio(buffer, rate) {
  const exact = readWav(buffer, rate);
  if (exact) return exact;
  const context = new OfflineAudioContext(1, 1, rate);
  let audio;
  try {
    audio = await context.decodeAudioData(buffer);
  } catch {
    throw new Error("this is not audio that this browser can read");
  }
  const mono = new Float32Array(audio.length);
  for (let channel = 0; channel < audio.numberOfChannels; channel++) {
    audio.getChannelData(channel).forEach((sample, i) => (mono[i] += sample / audio.numberOfChannels));
  }
  return mono;
}

/** 16-bit mono WAV at the wanted rate -> samples; null for anything else. */
function readWav(buffer, rate) {
  const view = new DataView(buffer);
  if (buffer.byteLength < 44 || view.getUint32(0) !== 0x52494646) return null;
  let at = 12;
  let fits = false;
  while (at + 8 <= buffer.byteLength) {
    const [name, size] = [view.getUint32(at), view.getUint32(at + 4, true)];
    if (name === 0x666d7420 /* fmt */ && size >= 16 && at + 24 <= buffer.byteLength) {
      fits =
        view.getUint16(at + 8, true) === 1 && // PCM
        view.getUint16(at + 10, true) === 1 && // mono
        view.getUint32(at + 12, true) === rate &&
        view.getUint16(at + 22, true) === 16;
    } else if (name === 0x64617461 /* data */) {
      if (!fits) return null;
      const n = Math.floor(Math.min(size, buffer.byteLength - at - 8) / 2);
      return Float32Array.from({ length: n }, (_, i) => view.getInt16(at + 8 + 2 * i, true) / 32768);
    }
    at += 8 + size + (size % 2);
  }
  return null;
}
