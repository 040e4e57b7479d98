/** Caches all files of the app, so that it works offline after the first visit and never mixes two versions. */

const PREFIX = `tellapart ${self.registration.scope} `;
const CACHE = PREFIX + {{ version | tojson }}; // the version depends on the content of all files
const FILES = {{ files | tojson }}; // file name -> SHA-256; the page is "./"
const PAGE = self.registration.scope;
const NAMES = new Map(Object.keys(FILES).map((name) => [new URL(name, PAGE).href, name]));
NAMES.set(new URL("index.html", PAGE).href, "./");

self.addEventListener("install", (event) => event.waitUntil(fillCache()));
self.addEventListener("activate", (event) => event.waitUntil(deleteOldCaches()));
self.addEventListener("fetch", (event) => {
  // Other pages at or below this address are not part of the app; the browser fetches them.
  const name = event.request.method === "GET" ? NAMES.get(event.request.url.split(/[?#]/)[0]) : undefined;
  if (name !== undefined) event.respondWith(respond(name, event.request));
});

/** Cache all files or none: during an upload of a new version the old one stays, and the next visit retries. */
async function fillCache() {
  const responses = await Promise.all(
    Object.entries(FILES).map(async ([name, sha256]) => [name, await fetchVerified(name, sha256)]),
  );
  try {
    const cache = await caches.open(CACHE);
    await Promise.all(responses.map(([name, response]) => cache.put(name, response)));
  } catch (error) {
    await caches.delete(CACHE); // the storage is full
    const pages = await self.clients.matchAll({ includeUncontrolled: true, type: "window" });
    for (const page of pages) page.postMessage("storage_full");
    throw error;
  }
}

async function fetchVerified(name, sha256) {
  const response = await fetch(new Request(name, { cache: "no-cache" })); // revalidates the browser's own cache
  if (!response.ok) throw new Error(`cannot load ${name} (status ${response.status})`);
  const content = await response.arrayBuffer();
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  const actual = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (actual !== sha256) throw new Error(`${name} is of another version`);
  return new Response(content, { headers: { "content-type": response.headers.get("content-type") ?? "" } });
}

async function deleteOldCaches() {
  const old = (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== CACHE);
  await Promise.all(old.map((name) => caches.delete(name)));
}

async function respond(name, request) {
  const cache = await caches.open(CACHE);
  return (await cache.match(name)) ?? fetch(request);
}
