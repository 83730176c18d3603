"use strict";
// Sorts and filters the tables of the page. Each table stands alone; without this script it is whole and in order.

const collator = new Intl.Collator("en", { numeric: true });

function valueOf(row, index) {
  const cell = row.cells[index];
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  return cell.querySelector("[aria-hidden]") ? null : cell.textContent;
}

// What there is nothing of comes last in both directions.
function compare(a, b, direction) {
  if (a === null || b === null) return (a === null) - (b === null);
  return direction * (typeof a === "number" && typeof b === "number" ? a - b : collator.compare(a, b));
}

function sortable(table, tell) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  const headers = [...table.tHead.rows[0].cells].filter((cell) => cell.dataset.key);

  // Numbers fall first and text rises first; the third press brings the order of execution back.
  function next(header) {
    const cycle = header.classList.contains("number") ? ["descending", "ascending", "none"] : ["ascending", "descending", "none"];
    return cycle[(cycle.indexOf(header.getAttribute("aria-sort")) + 1) % cycle.length];
  }

  function sort(header) {
    const order = next(header);
    for (const other of headers) other.setAttribute("aria-sort", other === header ? order : "none");
    const direction = order === "ascending" ? 1 : -1;
    const keyed = original.map((row) => [valueOf(row, header.cellIndex), row]);
    if (order !== "none") keyed.sort(([a], [b]) => compare(a, b, direction));
    body.append(...keyed.map(([, row]) => row));
    tell({ order: order === "none" ? "" : `, sorted by ${header.textContent.trim()}, ${order}` });
  }

  for (const header of headers) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(header));
    header.append(button);
    header.setAttribute("aria-sort", "none");
  }
}

function filterable(model, table, tell) {
  const form = model.querySelector(".controls");
  const rows = [...table.tBodies[0].rows].map((row) => [row, row.dataset.search.toLowerCase()]);
  const none = table.querySelector(".none");

  function filter() {
    const words = form.elements.filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const verdict = form.elements.verdict?.value ?? "";
    let shown = 0;
    for (const [row, text] of rows) {
      const fits = words.every((word) => text.includes(word)) && (!verdict || row.dataset.verdict === verdict);
      row.hidden = !fits;
      shown += fits;
    }
    none.hidden = shown > 0;
    tell({ shown: `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} shown` });
  }

  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
}

document.documentElement.classList.add("scripted");
for (const table of document.querySelectorAll("nav table")) sortable(table, () => {});
for (const model of document.querySelectorAll(".model")) {
  const status = model.querySelector("output");
  if (!status) continue; // no table of convolutions: before and after, latencies, a model without any
  const table = model.querySelector("table");
  const said = { shown: status.textContent, order: "" };
  const tell = (news) => {
    Object.assign(said, news);
    status.textContent = said.shown + said.order;
  };
  sortable(table, tell);
  filterable(model, table, tell);
}
