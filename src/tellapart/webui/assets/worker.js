/** Decodes, resizes and runs the network, one picture at a time, beside the page so that the page never waits. */

import { env, InferenceSession, Tensor } from "./onnxruntime-web.js";
import { answerOf } from "./answers.js";
import { decode } from "./decode.js";
import { resize } from "./resize.js";

env.wasm.numThreads = 1; // more need headers that plain hosts do not send
env.wasm.wasmPaths = { wasm: new URL("./onnxruntime-web.wasm", import.meta.url).href };
env.logLevel = "error";

const opened = open();
let queue = opened.then(
  () => postMessage({ ready: true }),
  (error) => postMessage({ failed: error.message }),
);

onmessage = ({ data: { id, blob } }) => {
  queue = queue.then(async () => {
    try {
      postMessage({ id, answer: await answer(blob) });
    } catch (error) {
      postMessage({ id, error: error.message });
    }
  });
};

async function answer(blob) {
  const { about, session } = await opened;
  const { size } = about.preprocess;
  const picture = await decode(blob);
  let pixels;
  try {
    pixels = resize(picture.read, picture.height, picture.width, about.preprocess);
  } finally {
    picture.close();
  }
  const outputs = await session.run({
    image: new Tensor("uint8", new Uint8Array(0), [0, 0, 3]),
    images: new Tensor("uint8", pixels, [1, size, size, 3]),
  });
  return answerOf(outputs.probabilities.data, outputs.distances?.data[0] ?? null, about);
}

async function open() {
  const [about, model] = await Promise.all([
    fetched("classifier.json").then((response) => response.json()),
    fetched("model.onnx").then((response) => response.arrayBuffer()),
  ]);
  // Where the page has no secure address, the browser computes no checksum.
  if (globalThis.crypto.subtle && (await checksum(model)) !== about.sha256) {
    throw new Error("model.onnx is not the one that classifier.json describes: load the page anew");
  }
  return { about, session: await InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] }) };
}

async function fetched(name) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new Error(`${name} cannot be fetched (${response.status}): load the page anew`);
  return response;
}

async function checksum(content) {
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
