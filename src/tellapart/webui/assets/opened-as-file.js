// Says at once what is wrong if the page is opened as a file: browsers then load none of its modules.
if (location.protocol === "file:") {
  document.addEventListener("DOMContentLoaded", () => {
    const status = document.getElementById("status");
    status.textContent =
      "This page has to be at a web address. In its folder, run `python -m http.server --bind 127.0.0.1` and open " +
      "http://127.0.0.1:8000; or export one file that works from the disk, with --to web-file.";
    status.dataset.state = "failed";
    document.body.classList.add("started");
  });
}
