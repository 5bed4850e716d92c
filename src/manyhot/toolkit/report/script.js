"use strict";
// Tables are whole without this; it adds sorting and searching.
const numberOf = (text) => (/^[-+−]?[\d,.]+( %)?$/.test(text) ? Number(text.replace(/[,%+ ]/g, "").replace("−", "-")) : NaN);
const compare = new Intl.Collator(undefined, { numeric: true }).compare;

for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      // Numbers are first asked for from the largest, names from the first.
      const numeric = head.classList.contains("n");
      const before = head.getAttribute("aria-sort");
      const down = before === "none" ? numeric : before === "ascending";
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const keyed = [...body.rows].map((row) => {
        const text = row.cells[column].textContent.trim();
        return [row, numeric ? numberOf(text) : text];
      });
      keyed.sort(([, a], [, b]) => {
        if (!numeric) return down ? compare(b, a) : compare(a, b);
        // What has no number stays at the end.
        if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
        return down ? b - a : a - b;
      });
      body.append(...keyed.map(([row]) => row));
    });
  });
}

for (const field of document.querySelectorAll("input[data-table]")) {
  const rows = [...document.getElementById(field.dataset.table).tBodies[0].rows];
  const names = rows.map((row) => (row.cells[0].querySelector("bdi") ?? row.cells[0]).textContent.normalize("NFKC").toLowerCase());
  const said = field.parentElement.querySelector("output");
  field.parentElement.hidden = false;
  const search = () => {
    const wanted = field.value.trim().normalize("NFKC").toLowerCase();
    let found = 0;
    rows.forEach((row, i) => {
      row.hidden = !names[i].includes(wanted);
      found += !row.hidden;
    });
    said.textContent = wanted ? `${found} of ${rows.length}` : "";
  };
  field.addEventListener("input", search);
  search();
}

// Of a long table the first rows are shown, and all on request; without scripts all are there.
for (const table of document.querySelectorAll("table.long")) {
  const rows = table.tBodies[0].rows.length;
  if (rows <= 40) continue;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "more";
  button.textContent = `Show all ${rows.toLocaleString("en")}`;
  table.classList.add("short");
  const showAll = () => {
    table.classList.remove("short");
    button.remove();
  };
  button.addEventListener("click", showAll);
  document.querySelector(`input[data-table="${table.id}"]`)?.addEventListener("input", showAll, { once: true });
  table.parentElement.after(button);
}
