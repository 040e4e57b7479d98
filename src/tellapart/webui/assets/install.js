/** Lets the page work offline, and be installed where the browser offers that. */

const button = document.getElementById("install");
const installed = document.getElementById("offline");

addEventListener("beforeinstallprompt", (event) => {
  event.preventDefault();
  button.hidden = false;
  button.onclick = () => {
    button.hidden = true;
    event.prompt();
  };
});

// Only at a secure address; a browser that keeps nothing (a private window) refuses, and the page works all the same.
navigator.serviceWorker?.register("service-worker.js").then(
  async () => {
    await navigator.serviceWorker.ready;
    installed.hidden = false;
  },
  () => {},
);
