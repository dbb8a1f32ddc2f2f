/* Sorts and filters the tables of op uses, copies commands, and opens for the printer what belongs on paper; the page
   is whole without it. */
const opened = [];
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details.printed:not([open])")) opened.push(part), (part.open = true);
});
addEventListener("afterprint", () => {
  for (const part of opened.splice(0)) part.open = false;
});
for (const block of document.querySelectorAll("pre.commands")) {
  const frame = document.createElement("div"), button = document.createElement("button");
  frame.className = "copying";
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.setAttribute("aria-live", "polite");
  block.before(frame);
  frame.append(block, button);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(block.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(block);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}
for (const table of document.querySelectorAll("table.ops")) {
  const body = table.tBodies[0], rows = [...body.rows];
  if (rows.length < 2) continue;
  const box = document.createElement("input");
  box.type = "search";
  box.placeholder = "Filter by op, dtype, module, line or verdict";
  box.setAttribute("aria-label", "Filter: " + table.caption.textContent);
  const told = document.createElement("output");
  const line = document.createElement("p");
  line.className = "filter";
  line.append(box, told);
  if (rows.length > 7) table.parentElement.before(line);  // a short table needs no filter
  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    told.textContent = words.length ? shown + " of " + rows.length + " rows" : "";
  });
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const name = head.textContent, button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const numeric = head.classList.contains("number");
      const key = (row) => {
        const text = row.cells[column].textContent.trim();
        return numeric ? parseFloat(text.replace(/,/g, "")) || 0 : text.toLowerCase();
      };
      rows.sort((a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0) * (up ? 1 : -1));
      body.append(...rows);
    });
  });
}
