"use strict";
// Sort and filter tables, show the text of a matrix cell, mark the current section.
// The page is complete without it.

const collator = new Intl.Collator(undefined, { numeric: true });

// Parse a number as the page writes it: thousands separated, a minus sign, "< 0.001"; else NaN.
const asNumber = (text) => parseFloat(text.replace(/[,\s<]/g, "").replace("\u2212", "-"));

function sortRows(table, column, descending) {
  const body = table.tBodies[0];
  const numeric = table.tHead.rows[0].cells[column].classList.contains("n");
  const keyed = Array.from(body.rows, (row) => {
    const text = row.cells[column].textContent;
    return [row, numeric ? asNumber(text) : text];
  });
  const absent = (key) => (numeric ? Number.isNaN(key) : key === "\u2013");
  keyed.sort(([, a], [, b]) => {
    if (absent(a) || absent(b)) return absent(a) - absent(b); // missing values are last in both orders
    const order = numeric ? a - b : collator.compare(a, b);
    return descending ? -order : order;
  });
  body.append(...keyed.map(([row]) => row));
}

for (const table of document.querySelectorAll("table.data")) {
  const heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const first = head.classList.contains("n") ? "descending" : "ascending";
      const other = first === "descending" ? "ascending" : "descending";
      const next = head.getAttribute("aria-sort") === first ? other : first;
      for (const each of heads) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", next);
      sortRows(table, column, next === "descending");
    });
  });
}

for (const box of document.querySelectorAll(".datatable")) {
  const input = box.querySelector("input.filter");
  const rows = Array.from(box.querySelector("table.data").tBodies[0].rows);
  const matches = box.querySelector(".matches");
  input.addEventListener("input", () => {
    const words = input.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = Array.from(row.cells, (cell) => cell.textContent).join(" ").toLocaleLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    matches.textContent = words.length ? `${shown} of ${rows.length} rows` : "";
  });
}

let hint = "Point at a cell or use the arrow keys to read it.";
for (const table of document.querySelectorAll("table.matrix")) {
  const readout = table.closest(".plot").querySelector(".readout");
  const cells = Array.from(table.querySelectorAll("td"));
  if (!cells.length || !readout) continue;
  const width = table.tHead.rows[0].cells.length - 1;
  const resting = hint;
  readout.textContent = resting;
  hint = ""; // shown once
  cells.forEach((cell, index) => {
    cell.tabIndex = index === 0 ? 0 : -1; // one Tab stop; arrow keys move inside
    cell.addEventListener("mouseenter", () => (readout.textContent = cell.dataset.tooltip));
    cell.addEventListener("mouseleave", () => (readout.textContent = resting));
    cell.addEventListener("focus", () => (readout.textContent = cell.dataset.tooltip));
    cell.addEventListener("keydown", (event) => {
      const column = index % width;
      const moves = { ArrowLeft: column > 0 ? -1 : 0, ArrowRight: column < width - 1 ? 1 : 0, ArrowUp: -width, ArrowDown: width };
      const next = cells[index + moves[event.key]];
      if (!(event.key in moves)) return;
      event.preventDefault();
      if (!next || next === cell) return;
      cell.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  });
}

// Printing shows the short data tables too.
addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll("details")) {
    each.dataset.was = each.open;
    each.open = each.querySelectorAll("tbody tr").length <= 40;
  }
});
addEventListener("afterprint", () => {
  for (const each of document.querySelectorAll("details")) each.open = each.dataset.was === "true";
});

if ("IntersectionObserver" in window) {
  const links = new Map();
  for (const link of document.querySelectorAll(".contents a")) links.set(link.hash.slice(1), link);
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-10% 0px -80% 0px" });
  for (const section of document.querySelectorAll("main section[id]")) watcher.observe(section);
}
