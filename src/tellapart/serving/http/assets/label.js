/** The labelling page: a person labels the captured images, one after another. */

import { request } from "./api.js";

const MAX_BUTTONS = 12; // classes with a button each
const REASONS = {
  out_of_distribution: "it is out of distribution",
  uncertain: "the prediction is uncertain",
  disagreement: "another model disagrees",
};
const byId = (id) => document.getElementById(id);
const skipped = new Set();
let current = null;
let busy = false;

async function showNext() {
  const captures = await (await request("v1/captures")).json();
  const next = captures.images.find(({ id }) => !skipped.has(id)) ?? null;
  // Load the image before it becomes current, so that a label never goes to another image than the visible one.
  const content = next && (await (await request(`v1/captures/${next.id}`)).blob());
  current = next;
  byId("card").hidden = !current;
  setState(captures);
  if (current) await show(current, content, captures.classes[current.model] ?? []);
}

function setState({ labelled, unlabelled }) {
  Object.assign(byId("state").dataset, { labelled, unlabelled });
  const progress = `${labelled} labelled.`;
  if (!unlabelled) byId("state").textContent = `No images to label. ${progress}`;
  else if (current) byId("state").textContent = `${unlabelled} to label, ${progress}`;
  else byId("state").textContent = `${unlabelled} skipped, ${progress} Reload the page to see the skipped images again.`;
}

async function show({ predicted_label: label, probability, reason }, content, classes) {
  URL.revokeObjectURL(byId("image").src);
  byId("image").src = URL.createObjectURL(content);
  await byId("image").decode();
  byId("prediction").textContent = `Prediction: ${label} (${(100 * probability).toFixed(0)}%). Captured because ${REASONS[reason]}.`;
  byId("label").value = "";
  const options = classes.map((name) => Object.assign(document.createElement("option"), { value: name }));
  byId("classes").replaceChildren(...options);
  byId("choices").replaceChildren(...(classes.length <= MAX_BUTTONS ? classes : [label]).map(choice));
}

function choice(name) {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
  button.onclick = () => run(() => save(name));
  return button;
}

function save(label) {
  const headers = { "content-type": "application/json" };
  return request(`v1/captures/${current.id}`, { method: "PUT", body: JSON.stringify({ label }), headers });
}

/** Run an action on the current image, and show the next one. */
async function run(action) {
  if (busy) return;
  busy = true;
  try {
    await action();
    await showNext();
  } catch (error) {
    byId("state").textContent = `Error: ${error.message}.`;
  }
  busy = false;
}

byId("form").onsubmit = (event) => {
  event.preventDefault();
  run(() => save(byId("label").value));
};
byId("skip").onclick = () => run(() => skipped.add(current.id));
byId("delete").onclick = () => run(() => request(`v1/captures/${current.id}`, { method: "DELETE" }));
run(() => {});
