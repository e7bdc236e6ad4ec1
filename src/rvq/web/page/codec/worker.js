// The codec in the browser: the exported networks in ONNX Runtime Web, off the page's thread.

import * as ort from "../ort/ort.wasm.bundle.min.mjs";
import { Codebooks } from "./codebooks.js";
import { analyse, lappedBasis, synthesise } from "./lapped.js";
import { parseTensors } from "./tensors.js";

const STRETCH = 75; // frames per call of a network

ort.env.wasm.numThreads = 1; // more would need headers that a plain web host does not send
ort.env.wasm.wasmPaths = { wasm: new URL("../ort/ort-wasm-simd-threaded.wasm", import.meta.url).href };

const bytes = async (name) => {
  const response = await fetch(new URL(`../model/${name}`, import.meta.url));
  if (!response.ok) throw new Error(`the model's ${name} is missing on this host`);
  return response.arrayBuffer();
};
const loading = load();

async function load() {
  const [card, encoder, decoder, books] = await Promise.all(
    ["model.json", "encoder.onnx", "decoder.onnx", "codebooks.safetensors"].map(bytes),
  );
  const facts = JSON.parse(new TextDecoder().decode(card));
  return {
    facts,
    encoder: await ort.InferenceSession.create(encoder),
    decoder: await ort.InferenceSession.create(decoder),
    codebooks: new Codebooks(parseTensors(books).tensors.codebooks),
    basis: lappedBasis(facts.hop_length),
  };
}

const tensor = (data, shape) => new ort.Tensor("float32", data, shape);

async function encode(samples) {
  const { facts, encoder, codebooks, basis } = await loading;
  const hop = facts.hop_length;
  const frames = Math.ceil(samples.length / hop) + facts.delay;
  const padded = new Float32Array((frames + 1) * hop); // a hop of silence before the first sample
  padded.set(samples, hop);
  const latents = new Float32Array(frames * codebooks.dim);
  let state = tensor(new Float32Array(facts.encoder_state), [1, facts.encoder_state]);
  for (let start = 0; start < frames; start += STRETCH) {
    const n = Math.min(STRETCH, frames - start);
    const { cosine, sine } = analyse(padded.subarray(start * hop, (start + n + 1) * hop), hop, basis);
    const found = await encoder.run({
      cosine: tensor(cosine, [1, n, hop]),
      sine: tensor(sine, [1, n, hop]),
      state,
    });
    latents.set(found.latents.data, start * codebooks.dim);
    state = found.next_state;
  }
  return { latents, codes: codebooks.search(latents) };
}

async function decode({ latents, nSamples }) {
  const { facts, decoder, codebooks, basis } = await loading;
  const { hop_length: hop, delay } = facts;
  const frames = latents.length / codebooks.dim;
  const samples = new Float32Array(frames * hop);
  const before = new Float64Array(hop);
  let state = tensor(new Float32Array(facts.decoder_state), [1, facts.decoder_state]);
  for (let start = 0; start < frames; start += STRETCH) {
    const n = Math.min(STRETCH, frames - start);
    const stretch = latents.subarray(start * codebooks.dim, (start + n) * codebooks.dim);
    const found = await decoder.run({ latents: tensor(stretch, [1, n, codebooks.dim]), state });
    samples.set(synthesise(found.coefficients.data, hop, basis, before), start * hop);
    state = found.next_state;
  }
  return { samples: samples.slice(delay * hop, delay * hop + nSamples) };
}

// One request at a time: a session cannot run twice at once.
let last = Promise.resolve();
onmessage = ({ data: { id, task, input } }) => {
  last = last.then(async () => {
    try {
      postMessage({ id, result: await { encode, decode }[task](input) });
    } catch (error) {
      postMessage({ id, error: error.message });
    }
  });
};
