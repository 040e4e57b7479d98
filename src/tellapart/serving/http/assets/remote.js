/** The backend that classifies on the server. A backend exports `ready` (a promise) and `predict`; this one also `explain`. */

import { request } from "./api.js";

const MAX_CONCURRENT = 4;
const MAX_ATTEMPTS = 8; // while the server is at capacity
let freeSlots = MAX_CONCURRENT;
const queue = [];

/** Resolves when the model is available; rejects with an Error otherwise. */
export const ready = request("v1/model").then(() => undefined);

/** Return the prediction for an image file: {label, index, probability, top, prediction_set, in_distribution}; throws an Error. */
export async function predict(blob) {
  await acquireSlot();
  try {
    return await (await sendImage("v1/predict", blob)).json();
  } finally {
    freeSlots += 1;
    queue.shift()?.();
  }
}

/** Return the resized image as a blob, bright where it matters for the class of a prediction. */
export async function explain(blob, { index }) {
  return (await sendImage(`v1/explain?index=${index}`, blob)).blob();
}

async function sendImage(path, blob) {
  for (let attempt = 1; ; attempt++) {
    try {
      // The type that the browser reports may be wrong; the server detects it from the bytes.
      return await request(path, { method: "POST", body: blob, headers: { "content-type": "application/octet-stream" } });
    } catch (error) {
      if (error.status !== 503 || attempt === MAX_ATTEMPTS) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.retryAfter ?? 1)));
    }
  }
}

async function acquireSlot() {
  while (!freeSlots) await new Promise((resolve) => queue.push(resolve));
  freeSlots -= 1;
}
