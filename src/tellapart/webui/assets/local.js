/** The backend that classifies on this device. A backend exports `ready` (a promise) and `predict`. */

import { AppError, deserialize } from "./errors.js";

const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const pending = new Map(); // id -> the functions that settle its promise
let lastId = 0;

/** Resolves when the classifier is loaded; rejects with an AppError otherwise. */
export const ready = new Promise((resolve, reject) => {
  worker.onmessage = ({ data }) => {
    if (data.ready) resolve();
    else if (data.failed) reject(deserialize(data.failed));
    else settle(data);
  };
  worker.onerror = (event) => {
    event.preventDefault();
    reject(new AppError("missing_file", "a file of this page is missing, or the browser is too old; reload the page"));
  };
});

/** Return the prediction for an image file: {label, index, probability, top, ...}; throws an AppError. */
export async function predict(blob) {
  await ready;
  return new Promise((resolve, reject) => {
    pending.set(++lastId, { resolve, reject });
    worker.postMessage({ id: lastId, blob });
  });
}

function settle({ id, prediction, error }) {
  const { resolve, reject } = pending.get(id);
  pending.delete(id);
  if (error) reject(deserialize(error));
  else resolve(prediction);
}
