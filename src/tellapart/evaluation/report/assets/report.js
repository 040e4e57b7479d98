for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th"), row = heading.parentElement, body = heading.closest("table").tBodies[0];
    const column = [...row.children].indexOf(heading);
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of row.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const cell = (line) => line.children[column];
    const compare = (a, b) =>
      cell(a).dataset.value === undefined
        ? cell(a).textContent.localeCompare(cell(b).textContent, undefined, { numeric: true })
        : Number(cell(a).dataset.value) - Number(cell(b).dataset.value);
    body.append(...[...body.rows].sort((a, b) => (ascending ? compare(a, b) : compare(b, a))));
  });
}
