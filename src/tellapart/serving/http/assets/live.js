/** The live view: what the server did in the last minute, asked anew every two seconds while the page is seen. */

import { ask } from "./ask.js";

const AGAIN = 2000; // milliseconds
const place = (id) => document.getElementById(id);

async function look() {
  if (!document.hidden) {
    try {
      show(await (await ask("v1/live")).json());
    } catch (error) {
      say(`No news: ${error.message}.`);
    }
  }
  setTimeout(look, AGAIN);
}

function show(found) {
  say(found.ready ? "Ready." : "Not ready: no process that computes has answered yet.");
  place("models").textContent = found.models.join(" · ");
  place("rate").textContent = found.requests_per_second.toFixed(1);
  for (const id of ["p50", "p99"]) {
    const time = found.milliseconds[id];
    place(id).textContent = time === null ? "–" : `${time.toFixed(time < 10 ? 1 : 0)}\u00a0ms`;
  }
  place("refused").textContent = found.refused;
  place("unfamiliar").textContent = share(found.unfamiliar, found.answers);
  place("classes").replaceChildren(...Object.entries(found.classes).map(([name, count]) => bar(name, count, found.answers)));
  place("drift").replaceChildren(...alarms(found));
}

function alarms({ drift = {}, collection_fault: fault }) {
  const told = Object.entries(drift).flatMap(([model, shifts]) =>
    Object.entries(shifts)
      .filter(([, shift]) => shift.alarm)
      .map(([what, shift]) => shiftOf(model, what, shift)),
  );
  if (fault) told.push(`Pictures cannot be kept now: ${fault}.`);
  return told.map((sentence) => Object.assign(document.createElement("p"), { className: "alarm", textContent: sentence }));
}

function shiftOf(model, what, { index, pictures }) {
  const seen = what === "classes" ? "other classes are seen" : "pictures look otherwise";
  return `${model}: ${seen} than when it was validated (index ${index.toFixed(2)} over ${pictures} pictures of a day).`;
}

function bar(label, count, all) {
  const [item, name, figure, track, filled] = ["li", "span", "span", "span", "span"].map((tag) =>
    document.createElement(tag),
  );
  name.textContent = label;
  figure.textContent = share(count, all);
  [figure.className, track.className] = ["share", "track"];
  filled.style.width = `${(100 * count) / all}%`;
  track.append(filled);
  item.append(name, " ", figure, track);
  return item;
}

function share(count, all) {
  return all ? `${((100 * count) / all).toFixed(1)}\u00a0%` : "–";
}

function say(sentence) {
  if (place("state").textContent !== sentence) place("state").textContent = sentence;
}

look();
