/** Keeps every part of the app, so that it works offline after the first visit, and never mixes two versions. */

const OWN = `tellapart ${self.registration.scope} `;
const VERSION = OWN + {{ version | tojson }}; // of the content of all parts
const PARTS = {{ parts | tojson }}; // the SHA-256 of each, by its name; the page is "./"
const PAGE = self.registration.scope;
const NAMES = new Map(Object.keys(PARTS).map((name) => [new URL(name, PAGE).href, name]));
NAMES.set(new URL("index.html", PAGE).href, "./");

self.addEventListener("install", (event) => event.waitUntil(keep()));
self.addEventListener("activate", (event) => event.waitUntil(forget()));
self.addEventListener("fetch", (event) => {
  // Whatever else lies at this address or below it is none of ours: the browser fetches it as ever.
  const name = event.request.method === "GET" ? NAMES.get(event.request.url.split(/[?#]/)[0]) : undefined;
  if (name !== undefined) event.respondWith(answer(name, event.request));
});

/** All parts, or none: while a new version is being uploaded, the old one stays, and the next visit tries again. */
async function keep() {
  const parts = await Promise.all(Object.entries(PARTS).map(async ([name, sha256]) => [name, await fetched(name, sha256)]));
  const cache = await caches.open(VERSION);
  try {
    await Promise.all(parts.map(([name, response]) => cache.put(name, response)));
  } catch (error) {
    await caches.delete(VERSION); // there is no room for all of it
    throw error;
  }
}

async function fetched(name, sha256) {
  // "no-cache": the host is asked whether what the browser has already is still the same.
  const response = await fetch(new Request(name, { cache: "no-cache" }));
  if (!response.ok) throw new Error(`${name} cannot be fetched (${response.status})`);
  const content = await response.arrayBuffer();
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== sha256) throw new Error(`${name} is of another version`);
  return new Response(content, { headers: { "content-type": response.headers.get("content-type") ?? "" } });
}

async function forget() {
  const old = (await caches.keys()).filter((name) => name.startsWith(OWN) && name !== VERSION);
  await Promise.all(old.map((name) => caches.delete(name)));
}

async function answer(name, request) {
  const cache = await caches.open(VERSION);
  return (await cache.match(name)) ?? fetch(request);
}
