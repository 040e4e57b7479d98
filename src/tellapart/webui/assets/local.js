/** The backend that answers on this device. A backend has `ready`, a promise, and `answer`. */

const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const waiting = new Map(); // by number: what to do with the answer, or with the error
let count = 0;

/** Fulfilled when the first picture can be answered; rejected with an Error whose message says why none can. */
export const ready = new Promise((resolve, reject) => {
  worker.onmessage = ({ data }) => {
    if (data.ready) resolve();
    else if (data.failed) reject(new Error(data.failed));
    else settle(data);
  };
  worker.onerror = (event) => {
    event.preventDefault();
    reject(new Error("a part of this page cannot be fetched, or the browser is too old: load the page anew"));
  };
});

/** Return {label, probability, top, set, familiar} of a picture file; throws an Error whose message says why not. */
export async function answer(blob) {
  await ready;
  return new Promise((resolve, reject) => {
    waiting.set(++count, { resolve, reject });
    worker.postMessage({ id: count, blob });
  });
}

function settle({ id, answer: found, error }) {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error === undefined) resolve(found);
  else reject(new Error(error));
}
