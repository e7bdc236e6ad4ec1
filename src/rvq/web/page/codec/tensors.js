// safetensors: how arrays travel between page and server, and how the model keeps its codebooks.

const TYPES = { F32: Float32Array, I32: Int32Array };

/** Bytes -> { tensors: { name: { shape, data } }, facts }. Half precision becomes single. */
export function parseTensors(buffer) {
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const tensors = {};
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const { dtype, shape, data_offsets: [start, end] } = entry;
    const bytes = buffer.slice(8 + length + start, 8 + length + end);
    if (dtype === "F16") tensors[name] = { shape, data: halves(new Uint16Array(bytes)) };
    else tensors[name] = { shape, data: new TYPES[dtype](bytes) };
  }
  return { tensors, facts: JSON.parse(header.__metadata__?.facts ?? "{}") };
}

/** One float32 array -> bytes. */
export function writeTensor(name, shape, data) {
  const header = { [name]: { dtype: "F32", shape, data_offsets: [0, data.byteLength] } };
  const text = new TextEncoder().encode(JSON.stringify(header));
  const padded = Math.ceil(text.length / 8) * 8;
  const bytes = new Uint8Array(8 + padded + data.byteLength).fill(0x20, 8, 8 + padded);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(padded), true);
  bytes.set(text, 8);
  bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), 8 + padded);
  return bytes;
}

/** Every half-precision number once; there are few, and millions to be read. */
function halves(words) {
  const all = new Float32Array(65536);
  for (let word = 0; word < 32768; word++) {
    const exponent = word >> 10;
    const fraction = word & 1023;
    let value = fraction * 2 ** -24;
    if (exponent === 31) value = fraction ? NaN : Infinity;
    else if (exponent) value = (1 + fraction / 1024) * 2 ** (exponent - 15);
    all[word] = value;
    all[word | 0x8000] = -value;
  }
  const values = new Float32Array(words.length);
  for (let i = 0; i < words.length; i++) values[i] = all[words[i]];
  return values;
}
