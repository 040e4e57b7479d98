/** The page: takes pictures, asks the backend about each, and shows what it says. It knows nothing of how that is done. */

import { offerCamera } from "./camera.js";
import { table } from "./table.js";

const { answer, ready, explain } = await import(document.body.dataset.backend);
const [status, list, save, clear, files, template] = ["status", "pictures", "save", "clear", "files", "picture"].map(
  (id) => document.getElementById(id),
);
const answers = new WeakMap(); // by the element of a picture: its name, and what was said of it
const LISTED = 12; // candidates named
let waiting = 0;

/** Show pictures, in their order above those already there, and ask about each. */
function add(pictures) {
  if (!pictures.length) return say("There was no picture in that.");
  const cards = pictures.map(card);
  list.prepend(...cards.map(({ element }) => element));
  clear.hidden = save.hidden = false;
  waiting += pictures.length;
  say(waiting > 1 ? `Looking at ${waiting} pictures.` : "Looking at it.");
  return Promise.all(cards.map(ask));
}

async function ask({ element, picture }) {
  let sentence;
  try {
    const found = await answer(picture);
    answers.set(element, [picture.name, found]);
    sentence = show(element, picture.name, found);
    if (explain) offerWhy(element, picture, found);
  } catch (error) {
    answers.set(element, [picture.name, { error: error.message }]);
    sentence = refuse(element, picture.name, error.message);
  }
  waiting -= 1;
  element.removeAttribute("aria-busy");
  if (element.isConnected) say(waiting ? `${sentence} ${waiting} more to go.` : sentence);
}

function card(picture) {
  const element = template.content.firstElementChild.cloneNode(true);
  const [image, remove] = [element.querySelector("img"), element.querySelector(".remove")];
  element.setAttribute("aria-busy", "true");
  image.src = URL.createObjectURL(picture);
  image.alt = `Your picture ${picture.name}`;
  image.onerror = () => image.classList.add("broken");
  element.querySelector("h2").textContent = "Looking …";
  element.querySelector(".name").textContent = picture.name;
  remove.setAttribute("aria-label", `Remove ${picture.name}`);
  remove.onclick = () => {
    const next = element.nextElementSibling ?? element.previousElementSibling;
    drop(element);
    (next?.querySelector(".remove") ?? files).focus();
  };
  return { element, picture };
}

function show(element, name, { label, probability, top, set, familiar }) {
  const [title, bars, candidates] = ["h2", ".bars", ".set"].map((place) => element.querySelector(place));
  title.textContent = label;
  bars.replaceChildren(...top.map(([each, share]) => bar(each, share)));
  element.querySelector(".strange").hidden = familiar !== false;
  candidates.hidden = set === null;
  candidates.textContent = set && `Candidates: ${candidatesOf(set)}`;
  const strange = familiar === false ? " It is unfamiliar." : "";
  return `${name}: ${label}, ${share(probability)}.${strange}`;
}

/** Offer to show which places of a picture speak for its class. */
function offerWhy(element, picture, found) {
  const place = element.querySelector(".why");
  const button = place.querySelector("button");
  place.hidden = false;
  button.onclick = async () => {
    button.disabled = true;
    button.textContent = "Covering parts of it …";
    try {
      const map = new Image();
      map.src = URL.createObjectURL(await explain(picture, found));
      map.alt = `${picture.name}, bright where it speaks for ${found.label}`;
      await map.decode();
      place.replaceChildren(map);
      say(`Bright places of ${picture.name} speak for ${found.label}: with them covered, it is less probable.`);
    } catch (error) {
      button.disabled = false;
      button.textContent = "Which parts count";
      say(`That could not be found out: ${error.message}.`);
    }
  };
}

function refuse(element, name, reason) {
  element.classList.add("refused");
  element.querySelector("h2").textContent = "Cannot be read";
  const sentence = `Cannot read ${name}: ${reason}.`;
  element.querySelector(".name").textContent = sentence;
  element.querySelector(".bars").remove();
  return sentence;
}

function bar(label, probability) {
  const [item, name, figure, track, filled] = ["li", "span", "span", "span", "span"].map((tag) =>
    document.createElement(tag),
  );
  name.textContent = label;
  figure.textContent = share(probability);
  [figure.className, track.className] = ["share", "track"];
  filled.style.width = `${100 * probability}%`;
  track.append(filled);
  item.append(name, " ", figure, track);
  return item;
}

/** Never 100 % or 0 % by rounding. */
function share(probability) {
  if (probability < 0.0005) return "< 0.1\u00a0%";
  return probability > 0.9995 ? "> 99.9\u00a0%" : `${(100 * probability).toFixed(1)}\u00a0%`;
}

function candidatesOf(set) {
  const more = set.length > LISTED ? ` and ${set.length - LISTED} more` : "";
  return set.slice(0, LISTED).join(", ") + more;
}

function drop(element) {
  for (const image of element.querySelectorAll("img")) URL.revokeObjectURL(image.src);
  element.remove();
  clear.hidden = save.hidden = !list.children.length;
  if (clear.hidden) say("Ready.");
}

function say(sentence) {
  status.textContent = sentence;
}

files.onchange = () => {
  add([...files.files]);
  files.value = ""; // so that the same file can be chosen again
};
clear.onclick = () => {
  [...list.children].forEach(drop);
  files.focus();
};
save.onclick = () => {
  const rows = [...list.children].map((element) => answers.get(element)).filter(Boolean);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([table(rows)], { type: "text/csv" }));
  link.download = "predictions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};
addEventListener("paste", (event) => add([...event.clipboardData.files]));
for (const kind of ["dragenter", "dragover"]) {
  addEventListener(kind, (event) => {
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
  add([...event.dataTransfer.files]);
});
offerCamera(add, say);
document.body.classList.add("started");
ready.then(
  () => waiting || say("Ready."),
  (error) => say(`The classifier cannot be loaded: ${error.message}.`),
);
