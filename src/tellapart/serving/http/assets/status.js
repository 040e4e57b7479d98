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
  byId("accuracy-section").hidden = !status.accuracy;
  byId("accuracy").replaceChildren(...Object.entries(status.accuracy ?? {}).map(accuracyItem));
  byId("candidates-section").hidden = !Object.keys(status.candidates ?? {}).length;
  byId("candidates").replaceChildren(...Object.entries(status.candidates ?? {}).map(candidateItem));
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

const NO_ESTIMATE = {
  no_reference: "cannot be estimated: train and export the classifier again, so that its file has the error of its probabilities",
  too_few_images: "cannot be estimated yet: too few images",
  drift: "cannot be estimated: the images have drifted from the validation images. Label some, and evaluate on them",
  out_of_distribution: "cannot be estimated: too many images are out of distribution",
};

function accuracyItem([model, { value, low, high, reason, images, labels }]) {
  const item = document.createElement("li");
  Object.assign(item.dataset, { model, reason: reason ?? "" });
  const percent = (share) => `${(100 * share).toFixed(1)}%`;
  const corrected = labels ? `, corrected by ${labels} labels` : "";
  const estimate = reason ? NO_ESTIMATE[reason] : `${percent(value)} (${percent(low)} to ${percent(high)})${corrected}`;
  item.textContent = `${model}: ${estimate} (${images} images).`;
  return item;
}

function candidateItem([model, candidate]) {
  const { compared, disagreements, labelled, only_current: current, only_candidate: other } = candidate;
  const item = document.createElement("li");
  Object.assign(item.dataset, { model, better: candidate.better ?? "" });
  const share = formatShare(compared - disagreements, compared);
  const labels = `${labelled} of ${disagreements} disagreements are labelled: only the model in use is right on ${current}, only the candidate on ${other}`;
  const details = disagreements ? `; ${labels}. ${verdict(candidate)}` : ".";
  item.textContent = `${model}: the candidate ${candidate.candidate} agrees on ${share} of ${compared} images${details}`;
  return item;
}

function verdict({ better, difference, labels_needed: needed }) {
  if (!better) return needed ? `Not decided; a verdict takes about ${needed} more labels.` : "Not decided: no difference in sight.";
  if (!difference) return `Decided: ${better === "candidate" ? "the candidate" : "the model in use"} is better.`;
  const points = [difference.value, difference.low, difference.high].map((share) => (100 * share).toFixed(2));
  const winner = better === "candidate" ? "The candidate" : "The model in use";
  return `${winner} is better: the accuracy of the candidate differs by ${points[0]} percentage points (95% interval ${points[1]} to ${points[2]}).`;
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
