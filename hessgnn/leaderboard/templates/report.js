"use strict";

// Sorting: a button in every heading; missing numbers stay last in either direction.
function sortBy(table, position, descending) {
  const keyed = [...table.tBodies[0].rows].map((row) => {
    const text = row.cells[position].dataset.value;
    const value = text === "" || Number.isNaN(Number(text)) ? text : Number(text);
    return { row, value };
  });
  keyed.sort((a, b) => {
    if (a.value === "" || b.value === "") return (a.value === "") - (b.value === "");
    const order = typeof a.value === "number" && typeof b.value === "number"
      ? a.value - b.value
      : String(a.value).localeCompare(String(b.value));
    return descending ? -order : order;
  });
  table.tBodies[0].append(...keyed.map(({ row }) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[table.tHead.rows.length - 1].cells];
  headings.forEach((heading, position) => {
    heading.querySelector("button").addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortBy(table, position, descending);
    });
  });
}

// The switch of splits hides the columns of the others.
const board = document.getElementById("board");
for (const fieldset of document.querySelectorAll(".switch")) {
  fieldset.hidden = false;
  fieldset.addEventListener("change", (event) => {
    for (const cell of board.querySelectorAll("[data-split]")) {
      cell.hidden = event.target.value !== "" && cell.dataset.split !== event.target.value;
    }
  });
}

// Figures take the colours of text and grid from the page, light or dark.
function themed(layout) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const axis = { gridcolor: colour("--grid"), linecolor: colour("--rule"), zerolinecolor: colour("--rule") };
  return {
    ...layout,
    font: { color: colour("--ink"), family: getComputedStyle(document.body).fontFamily, size: 12 },
    xaxis: { ...layout.xaxis, ...axis },
    yaxis: { ...layout.yaxis, ...axis },
    hoverlabel: {
      ...layout.hoverlabel,
      bgcolor: colour("--raised"),
      bordercolor: colour("--rule"),
      font: { color: colour("--ink") },
    },
  };
}

const figures = new Map();
for (const plot of document.querySelectorAll(".plot")) {
  figures.set(plot, JSON.parse(plot.textContent));
  plot.replaceChildren();
}

function draw() {
  for (const [plot, figure] of figures) {
    if (plot.closest("[hidden]")) continue;
    Plotly.react(plot, figure.data, themed(figure.layout), { responsive: true, displaylogo: false, displayModeBar: false });
  }
}

// Parity plots of one architecture at a time.
const choice = document.getElementById("architecture");
function choose() {
  for (const group of document.querySelectorAll(".parity")) group.hidden = group.dataset.architecture !== choice.value;
  draw();
}
if (choice) {
  choice.closest("[hidden]").hidden = false;
  choice.addEventListener("change", choose);
  choose();
} else {
  draw();
}
for (const query of ["(prefers-color-scheme: dark)", "print"]) {
  matchMedia(query).addEventListener("change", draw);
}
