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

// Tabs: one is in the order of focus, arrows go to the others.
for (const list of document.querySelectorAll("[role=tablist]")) {
  const tabs = [...list.querySelectorAll("[role=tab]")];
  const select = (chosen) => {
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
    }
  };
  tabs.forEach((tab, position) => {
    tab.addEventListener("click", () => select(tab));
    tab.addEventListener("keydown", (event) => {
      const last = tabs.length - 1;
      const next = {
        ArrowRight: position === last ? 0 : position + 1,
        ArrowLeft: position === 0 ? last : position - 1,
        Home: 0,
        End: last,
      }[event.key];
      if (next === undefined) return;
      event.preventDefault();
      select(tabs[next]);
      tabs[next].focus();
    });
  });
  list.hidden = false;
  select(tabs[0]);
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

// What the filters let through; whatever belongs to no entry, or to the mean predictor, stays.
const filters = document.querySelector(".filters");
const origins = new Map(
  [...document.querySelectorAll("#board tbody tr")].map((row) => [row.dataset.entry, row.dataset.origin])
);
function passes(entry, regime, words = entry) {
  if (!filters || !entry) return true;
  const chosen = new FormData(filters);
  const wanted = chosen.get("regime");
  const origin = chosen.get("origin");
  if (origin && regime !== "mean" && origins.get(entry) !== origin) return false;
  const sought = document.getElementById("find").value.trim().toLowerCase();
  return (!wanted || regime === wanted || regime === "mean") && words.toLowerCase().includes(sought);
}

function draw() {
  if (!window.Plotly) return;
  for (const [plot, figure] of figures) {
    if (plot.closest("[hidden]")) continue;
    const data = figure.data.map((trace) => (
      trace.meta ? { ...trace, visible: passes(trace.meta.entry, trace.meta.regime) } : trace
    ));
    Plotly.react(plot, data, themed(figure.layout), { responsive: true, displaylogo: false, displayModeBar: false });
  }
}

function filter() {
  for (const item of document.querySelectorAll("[data-entry]")) {
    item.hidden = !passes(item.dataset.entry, item.dataset.regime, item.dataset.find);
  }
  const split = new FormData(filters).get("split");
  for (const cell of document.querySelectorAll("table.sortable [data-split]")) {
    cell.hidden = Boolean(split) && cell.dataset.split !== split;
  }
  const rows = [...document.querySelectorAll("#board tbody tr")];
  const shown = rows.filter((row) => !row.hidden).length;
  document.getElementById("shown").textContent = `${shown} of ${rows.length} entries`;
  draw();
}
if (filters) {
  filters.hidden = false;
  filters.addEventListener("input", filter);
  filters.addEventListener("submit", (event) => event.preventDefault());
  filter();
}

// One of several groups of figures at a time.
for (const select of document.querySelectorAll(".choose select")) {
  const choose = () => {
    for (const group of document.querySelectorAll(".choice")) {
      if (group.dataset.of === select.id) group.hidden = group.dataset.option !== select.value;
    }
  };
  select.closest("[hidden]").hidden = false;
  select.addEventListener("change", () => {
    choose();
    draw();
  });
  choose();
}

// A link to how an entry is reproduced opens it.
function open() {
  const target = location.hash ? document.getElementById(location.hash.slice(1)) : null;
  if (target instanceof HTMLDetailsElement) target.open = true;
}
addEventListener("hashchange", open);
open();

// plotly.js comes packed, which makes the page half as large.
async function unpack(element) {
  const bytes = Uint8Array.from(atob(element.textContent.trim()), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}
unpack(document.getElementById("plotly")).then(draw).then(
  () => { document.documentElement.dataset.drawn = "yes"; },
  () => {
    for (const plot of figures.keys()) {
      plot.textContent = "This browser is too old to draw the figure; the tables hold its numbers.";
      plot.style.height = "auto";
    }
  },
);
for (const query of ["(prefers-color-scheme: dark)", "print"]) {
  matchMedia(query).addEventListener("change", draw);
}
