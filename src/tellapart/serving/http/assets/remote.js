/** The backend that answers by a server. A backend has `ready`, a promise, and `answer`; this one also `explain`. */

import { ask } from "./ask.js";

const AT_ONCE = 4; // pictures sent at a time
const TRIES = 8; // while the server is busy
let free = AT_ONCE;
const queue = [];

/** Fulfilled when the first picture can be answered; rejected with an Error whose message says why none can. */
export const ready = ask("v1/model").then(() => undefined);

/** Return {label, probability, top, set, familiar} of a picture file; throws an Error whose message says why not. */
export async function answer(blob) {
  await place();
  try {
    return await (await sent("v1/predict", blob)).json();
  } finally {
    free += 1;
    queue.shift()?.();
  }
}

/** Return a picture as the network sees it, bright where it speaks for the class of an answer. */
export async function explain(blob, { index }) {
  return (await sent(`v1/explain?index=${index}`, blob)).blob();
}

async function sent(path, blob) {
  for (let tries = 1; ; tries++) {
    try {
      // A picture's type as the browser knows it may be wrong: the server looks at its bytes.
      return await ask(path, { method: "POST", body: blob, headers: { "content-type": "application/octet-stream" } });
    } catch (error) {
      if (error.status !== 503 || tries === TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000 * (error.after ?? 1)));
    }
  }
}

async function place() {
  while (!free) await new Promise((resolve) => queue.push(resolve));
  free -= 1;
}
