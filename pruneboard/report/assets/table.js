// Tables: sorting by any column and filtering of rows. Without this script, tables are complete but static.

/** Return the sort key of a cell: its number or its text; null is last in both directions. */
function sortKey(row, column) {
  const cell = row.cells[column];
  if (column > 0 && cell.dataset.v !== undefined) return Number(cell.dataset.v);
  const text = (cell.querySelector("summary") || cell).textContent.trim();
  return text === "-" || text === "" ? null : text;
}

function compareKeys(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortBy(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const down = heads[column].getAttribute("aria-sort") === "ascending";
  heads.forEach((head, index) => head.setAttribute("aria-sort", index !== column ? "none" : down ? "descending" : "ascending"));
  const keyed = [...table.tBodies[0].rows].map((row, index) => ({ row, index, key: sortKey(row, column) }));
  keyed.sort((a, b) => {
    const order = compareKeys(a.key, b.key);
    return (down && a.key !== null && b.key !== null ? -order : order) || a.index - b.index;
  });
  table.tBodies[0].append(...keyed.map((item) => item.row));
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    button.addEventListener("click", () => sortBy(table, column));
    head.append(button);
    head.setAttribute("aria-sort", "none");
  });
}

function addOptions(select, values) {
  for (const value of values) select.append(new Option(value, value));
}

function makeFilterable(article) {
  const rows = [...article.querySelectorAll("table.rows tbody tr")];
  const control = (name) => article.querySelector(`[data-filter="${name}"]`);
  const distinct = (name) => [...new Set(rows.map((row) => row.dataset[name]))];
  const texts = new Map();
  for (const name of ["method", "sparsity", "label"]) addOptions(control(name), distinct(name));
  const apply = () => {
    const words = control("text").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      if (words.length && !texts.has(row)) texts.set(row, row.textContent.toLowerCase());
      const fits = ["method", "sparsity", "label"].every((name) => !control(name).value || control(name).value === row.dataset[name]);
      row.hidden = !(fits && words.every((word) => texts.get(row).includes(word)));
      shown += !row.hidden;
    }
    control("count").textContent = shown === rows.length ? `${rows.length} rows` : `${shown} of ${rows.length} rows`;
  };
  for (const name of ["method", "sparsity", "label"]) control(name).addEventListener("change", apply);
  control("text").addEventListener("input", apply);
  apply();
}
