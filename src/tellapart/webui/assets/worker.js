/** A web worker that decodes, resizes and classifies images one after another, without blocking the page. */

import { env, InferenceSession, Tensor } from "./onnxruntime-web.js";
import { decode } from "./decode.js";
import { AppError, serialize } from "./errors.js";
import { toPrediction } from "./prediction.js";
import { resize } from "./resize.js";

env.wasm.numThreads = 1; // more threads require headers that plain hosts do not send
env.wasm.wasmPaths = { wasm: new URL("./onnxruntime-web.wasm", import.meta.url).href };
env.logLevel = "error";

const loading = load();
let queue = loading.then(
  () => postMessage({ ready: true }),
  (error) => postMessage({ failed: serialize(error) }),
);

onmessage = ({ data: { id, blob } }) => {
  queue = queue.then(async () => {
    try {
      postMessage({ id, prediction: await predict(blob) });
    } catch (error) {
      postMessage({ id, error: serialize(error) });
    }
  });
};

async function predict(blob) {
  const { classifier, session } = await loading;
  const { size } = classifier.preprocess;
  const image = await decode(blob);
  let pixels;
  try {
    pixels = resize(image.read, image.height, image.width, classifier.preprocess);
  } finally {
    image.close();
  }
  const outputs = await session.run({
    image: new Tensor("uint8", new Uint8Array(0), [0, 0, 3]),
    images: new Tensor("uint8", pixels, [1, size, size, 3]),
  });
  return toPrediction(outputs.probabilities.data, outputs.distances?.data[0] ?? null, classifier);
}

async function load() {
  const [classifier, model] = await Promise.all([
    fetchFile("./classifier.json").then((response) => response.json()),
    fetchFile("./model.onnx").then((response) => response.arrayBuffer()),
  ]);
  // Browsers compute no checksums for pages at an insecure address.
  if (globalThis.crypto.subtle && (await sha256(model)) !== classifier.sha256) {
    throw new AppError("checksum_mismatch", "model.onnx does not match classifier.json; reload the page");
  }
  return { classifier, session: await InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] }) };
}

async function fetchFile(name) {
  const response = await fetch(new URL(name, import.meta.url));
  if (!response.ok) throw new AppError("missing_file", `cannot load ${name} (status ${response.status}); reload the page`);
  return response;
}

async function sha256(content) {
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
