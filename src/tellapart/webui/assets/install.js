/** Starts the page from files that the service worker has verified, and offers to install it where the browser supports it. */

const { serviceWorker } = navigator; // requires a secure address
const [button, notice, status] = ["install", "offline", "status"].map((id) => document.getElementById(id));
const RELOADED = "reloaded";

addEventListener("beforeinstallprompt", (event) => {
  event.preventDefault();
  button.hidden = false;
  button.onclick = () => {
    button.hidden = true;
    event.prompt();
  };
});
document.body.classList.add("started");
if (!serviceWorker) {
  start();
} else if (serviceWorker.controller) {
  history.replaceState(null, "");
  notice.hidden = false;
  serviceWorker.register("service-worker.js").catch(() => {});
  start();
} else {
  serviceWorker.register("service-worker.js").then(reloadWhenActive, (error) => {
    if (error instanceof TypeError) showFailure("missing_file", "a file of this page is missing; reload the page");
    else start(); // a browser without storage (a private window)
  });
}

/** Reload the page once the service worker has verified all files: what the browser loaded can be of two versions. */
async function reloadWhenActive(registration) {
  const worker = registration?.active ?? registration?.waiting ?? registration?.installing;
  if (!worker || (worker.state === "activated" && history.state === RELOADED)) return start(); // the browser bypasses it
  let full = false;
  serviceWorker.onmessage = () => {
    full = true;
    start(); // without storage the page works online
  };
  while (!["activated", "redundant"].includes(worker.state)) {
    await new Promise((resolve) => worker.addEventListener("statechange", resolve, { once: true }));
  }
  if (worker.state === "activated") {
    history.replaceState(RELOADED, "");
    location.reload();
  } else if (!full) {
    showFailure("mixed_versions", "its files did not arrive whole, perhaps because a new version is being uploaded; reload the page in a few minutes");
  }
}

function start() {
  import("./page.js").catch(() => showFailure("missing_file", "a file of this page is missing; reload the page"));
}

function showFailure(code, message) {
  status.textContent = `Cannot load the classifier: ${message}.`;
  Object.assign(status.dataset, { state: "failed", code });
}
