/** The status page: shows the recent activity of the server, and updates every two seconds while it is visible. */

import { request } from "./api.js";

const INTERVAL = 2000; // milliseconds
const byId = (id) => document.getElementById(id);

async function update() {
  if (!document.hidden) {
    try {
      show(await (await request("v1/status")).json());
    } catch (error) {
      setState(`The status is not available: ${error.message}.`, "error");
    }
  }
  setTimeout(update, INTERVAL);
}

function show(status) {
  if (status.ready) setState("Ready.", "ready");
  else setState("Not ready: no worker process is running yet.", "starting");
  byId("models").textContent = status.models.join(" · ");
  byId("rate").textContent = status.requests_per_second.toFixed(1);
  for (const id of ["p50", "p99"]) byId(id).textContent = formatLatency(status.latency_ms[id]);
  byId("failed").textContent = status.failed_requests;
  byId("out-of-distribution").textContent = formatShare(status.out_of_distribution, status.predictions);
  const bars = Object.entries(status.predicted_classes).map(([label, count]) => bar(label, count, status.predictions));
  byId("classes").replaceChildren(...bars);
  byId("alarms").replaceChildren(...alarms(status).map(paragraph));
}

function alarms({ drift, capture_error: error }) {
  const messages = Object.entries(drift ?? {}).flatMap(([model, distributions]) =>
    Object.entries(distributions)
      .filter(([, { alarm }]) => alarm)
      .map(([name, shift]) => driftMessage(model, name, shift)),
  );
  if (error) messages.push(`Images cannot be captured: ${error}.`);
  return messages;
}

function driftMessage(model, name, { psi, images }) {
  const subject = name === "classes" ? "predicted classes" : "distances from the training images";
  return `${model}: the ${subject} have drifted from the validation images (population stability index ${psi.toFixed(2)}, ${images} images in 24 hours).`;
}

function paragraph(message) {
  return Object.assign(document.createElement("p"), { className: "alarm", textContent: message });
}

function bar(label, count, total) {
  const [item, name, share, track, fill] = ["li", "span", "span", "span", "span"].map((tag) => document.createElement(tag));
  name.textContent = label;
  share.textContent = formatShare(count, total);
  [share.className, track.className] = ["share", "track"];
  fill.style.width = `${(100 * count) / total}%`;
  track.append(fill);
  item.append(name, " ", share, track);
  return item;
}

function formatLatency(milliseconds) {
  return milliseconds === null ? "–" : `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)}\u00a0ms`;
}

function formatShare(count, total) {
  return total ? `${((100 * count) / total).toFixed(1)}%` : "–";
}

function setState(message, state) {
  byId("state").dataset.state = state;
  if (byId("state").textContent !== message) byId("state").textContent = message; // else screen readers repeat it
}

update();
