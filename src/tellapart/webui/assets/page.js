/** The page: takes images, calls the backend for each, and shows the predictions. */

import { enableCamera } from "./camera.js";
import { toCsv } from "./table.js";

const { predict, ready, explain } = await import(document.body.dataset.backend);
const [status, list, save, clear, files, template] = ["status", "images", "save", "clear", "files", "image"].map(
  (id) => document.getElementById(id),
);
const results = new WeakMap(); // card element -> [file name, prediction or {error, code}]
const MAX_LISTED = 12; // classes of a prediction set
let nPending = 0;

/** Add a card per image above the existing ones, and classify the images. */
function addImages(images) {
  if (!images.length) return showStatus("No image found in the dropped or pasted content.", "no_image");
  const cards = images.map((image) => ({ card: createCard(image), image }));
  list.prepend(...cards.map(({ card }) => card));
  clear.hidden = save.hidden = false;
  nPending += images.length;
  showStatus(nPending > 1 ? `Classifying ${nPending} images.` : "Classifying 1 image.", "busy");
  return Promise.all(cards.map(classify));
}

async function classify({ card, image }) {
  let message;
  try {
    const prediction = await predict(image);
    results.set(card, [image.name, prediction]);
    message = showPrediction(card, image.name, prediction);
    if (explain) enableExplanation(card, image, prediction);
  } catch (error) {
    results.set(card, [image.name, { error: error.message, code: error.code ?? "error" }]);
    message = showError(card, image.name, error);
  }
  nPending -= 1;
  card.removeAttribute("aria-busy");
  if (card.isConnected) showStatus(nPending ? `${message} ${nPending} remaining.` : message, nPending ? "busy" : "done");
}

function createCard(image) {
  const card = template.content.firstElementChild.cloneNode(true);
  const [preview, remove] = [card.querySelector("img"), card.querySelector(".remove")];
  card.setAttribute("aria-busy", "true");
  preview.src = URL.createObjectURL(image);
  preview.alt = `Your image ${image.name}`;
  preview.onerror = () => preview.classList.add("broken");
  card.querySelector("h2").textContent = "Classifying …";
  card.querySelector(".name").textContent = image.name;
  remove.setAttribute("aria-label", `Remove ${image.name}`);
  remove.onclick = () => {
    const neighbor = card.nextElementSibling ?? card.previousElementSibling;
    removeCard(card);
    (neighbor?.querySelector(".remove") ?? files).focus();
  };
  return card;
}

/** Fill a card, and return a message for the status line. */
function showPrediction(card, name, prediction) {
  const { label, probability, top, prediction_set: predictionSet, in_distribution: inDistribution } = prediction;
  const outOfDistribution = inDistribution === false;
  card.querySelector("h2").textContent = label;
  card.querySelector(".bars").replaceChildren(...top.map((entry) => createBar(...entry)));
  card.querySelector(".out-of-distribution").hidden = !outOfDistribution;
  const set = card.querySelector(".prediction-set");
  set.hidden = predictionSet === null;
  set.textContent = predictionSet && `Prediction set: ${formatList(predictionSet)}`;
  return `${name}: ${label}, ${formatPercent(probability)}.${outOfDistribution ? " Out of distribution." : ""}`;
}

/** Enable the button that shows which regions of an image support the predicted class. */
function enableExplanation(card, image, prediction) {
  const section = card.querySelector(".why");
  const button = section.querySelector("button");
  section.hidden = false;
  button.onclick = async () => {
    const text = button.textContent;
    button.disabled = true;
    button.textContent = "Computing …";
    try {
      const map = new Image();
      map.src = URL.createObjectURL(await explain(image, prediction));
      map.alt = `${image.name}, bright where it supports ${prediction.label}`;
      await map.decode();
      section.replaceChildren(map);
      showStatus(`${image.name}: bright regions support ${prediction.label}; without them it is less probable.`, "done");
    } catch (error) {
      button.disabled = false;
      button.textContent = text;
      showStatus(`Cannot explain the prediction: ${error.message}.`, "error", error.code);
    }
  };
}

/** Turn a card into an error, and return a message for the status line. */
function showError(card, name, { message, code = "error", reason }) {
  card.classList.add("refused");
  Object.assign(card.dataset, { code, reason: reason ?? "" });
  card.querySelector("h2").textContent = "No prediction";
  const sentence = `${code === "unreadable_image" ? "Cannot read" : "Cannot classify"} ${name}: ${message}.`;
  card.querySelector(".name").textContent = sentence;
  card.querySelector(".bars").remove();
  return sentence;
}

function createBar(label, probability) {
  const [item, name, percent, track, filled] = ["li", "span", "span", "span", "span"].map((tag) =>
    document.createElement(tag),
  );
  name.textContent = label;
  percent.textContent = formatPercent(probability);
  [percent.className, track.className] = ["share", "track"];
  filled.style.width = `${100 * probability}%`;
  track.append(filled);
  item.append(name, " ", percent, track);
  return item;
}

/** Format a probability without rounding it to 0% or 100%. */
function formatPercent(probability) {
  if (probability < 0.0005) return "< 0.1%";
  return probability > 0.9995 ? "> 99.9%" : `${(100 * probability).toFixed(1)}%`;
}

function formatList(names) {
  const more = names.length > MAX_LISTED ? ` and ${names.length - MAX_LISTED} more` : "";
  return names.slice(0, MAX_LISTED).join(", ") + more;
}

function removeCard(card) {
  for (const image of card.querySelectorAll("img")) URL.revokeObjectURL(image.src);
  card.remove();
  clear.hidden = save.hidden = !list.children.length;
  if (clear.hidden) showStatus("Ready.", "ready");
}

/** Show a message. state: ready, busy, done, no_image, error or failed. code: of an error. */
function showStatus(message, state, code = "") {
  status.textContent = message;
  Object.assign(status.dataset, { state, code });
}

files.onchange = () => {
  addImages([...files.files]);
  files.value = ""; // so that the same file can be chosen again
};
clear.onclick = () => {
  [...list.children].forEach(removeCard);
  files.focus();
};
save.onclick = () => {
  const rows = [...list.children].map((card) => results.get(card)).filter(Boolean);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([toCsv(rows)], { type: "text/csv" }));
  link.download = "predictions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};
addEventListener("paste", (event) => addImages([...event.clipboardData.files]));
for (const type of ["dragenter", "dragover"]) {
  addEventListener(type, (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
}
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  addImages([...event.dataTransfer.files]);
});
enableCamera(addImages, (message) => showStatus(message, "error", "no_camera"));
document.body.classList.add("started");
ready.then(
  () => nPending || showStatus("Ready.", "ready"),
  (error) => showStatus(`Cannot load the classifier: ${error.message}.`, "failed", error.code),
);
