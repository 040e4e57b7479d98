/** Keeps every part of the app, so that it works offline after the first visit, and never mixes two versions. */

const OWN = `tellapart ${self.registration.scope} `;
const VERSION = OWN + {{ version | tojson }}; // of the content of all parts
const PARTS = {{ names | tojson }};

self.addEventListener("install", (event) => event.waitUntil(keep()));
self.addEventListener("activate", (event) => event.waitUntil(forget()));
self.addEventListener("fetch", (event) => {
  if (event.request.method === "GET") event.respondWith(answer(event.request));
});

async function keep() {
  const cache = await caches.open(VERSION);
  // "no-cache": the host is asked whether what the browser has already is still the same.
  await cache.addAll(PARTS.map((part) => new Request(part, { cache: "no-cache" })));
}

async function forget() {
  const old = (await caches.keys()).filter((name) => name.startsWith(OWN) && name !== VERSION);
  await Promise.all(old.map((name) => caches.delete(name)));
}

async function answer(request) {
  const cache = await caches.open(VERSION);
  const wanted = request.mode === "navigate" ? self.registration.scope : request;
  return (await cache.match(wanted, { ignoreSearch: true })) ?? fetch(request);
}
