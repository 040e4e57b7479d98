/** Registers the service worker for offline use, and offers to install the page where the browser supports it. */

const button = document.getElementById("install");
const notice = document.getElementById("offline");

addEventListener("beforeinstallprompt", (event) => {
  event.preventDefault();
  button.hidden = false;
  button.onclick = () => {
    button.hidden = true;
    event.prompt();
  };
});

// Requires a secure address. A browser without storage (a private window) rejects it, and the page works online.
navigator.serviceWorker?.register("service-worker.js").then(
  async () => {
    await navigator.serviceWorker.ready;
    notice.hidden = false;
  },
  () => {},
);
