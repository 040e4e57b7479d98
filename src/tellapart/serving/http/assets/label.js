/** The page on which a person says what the kept pictures show, one after another. */

import { ask } from "./ask.js";

const BUTTONS = 12; // classes that get a button each
const place = (id) => document.getElementById(id);
const skipped = new Set();
let current = null;
let busy = false;

async function next() {
  const found = await (await ask("v1/collected")).json();
  const chosen = found.pictures.find(({ id }) => !skipped.has(id)) ?? null;
  // The picture first: never may what is chosen be another than what is seen.
  const content = chosen && (await (await ask(`v1/collected/${chosen.id}`)).blob());
  current = chosen;
  place("picture").hidden = !current;
  place("state").textContent = told(found);
  if (current) await show(current, content, found.classes[current.model] ?? []);
}

function told({ labelled, unlabelled }) {
  const done = `${labelled} labelled so far.`;
  if (!unlabelled) return `There is nothing to label. ${done}`;
  return current ? `${unlabelled} to go, ${done}` : `You skipped the ${unlabelled} that are left. ${done}`;
}

async function show({ guess, probability, reason }, content, classes) {
  URL.revokeObjectURL(place("image").src);
  place("image").src = URL.createObjectURL(content);
  await place("image").decode();
  place("about").textContent = `It said ${guess} (${(100 * probability).toFixed(0)} %), and was kept as ${reason}.`;
  place("label").value = "";
  place("classes").replaceChildren(...classes.map((name) => Object.assign(document.createElement("option"), { value: name })));
  const named = classes.length <= BUTTONS ? classes : [guess];
  place("guesses").replaceChildren(...named.map(button));
}

function button(name) {
  const made = Object.assign(document.createElement("button"), { type: "button", textContent: name });
  made.onclick = () => act(() => save(name));
  return made;
}

function save(label) {
  const headers = { "content-type": "application/json" };
  return ask(`v1/collected/${current.id}`, { method: "PUT", body: JSON.stringify({ label }), headers });
}

/** Do something to the picture that is shown, and go on to the next. */
async function act(what) {
  if (busy) return;
  busy = true;
  try {
    await what();
    await next();
  } catch (error) {
    place("state").textContent = `That did not work: ${error.message}.`;
  }
  busy = false;
}

place("given").onsubmit = (event) => {
  event.preventDefault();
  act(() => save(place("label").value));
};
place("later").onclick = () => act(() => skipped.add(current.id));
place("drop").onclick = () => act(() => ask(`v1/collected/${current.id}`, { method: "DELETE" }));
act(() => {});
