"use strict";
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const drawn = new Set();

  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";

  function draw(place) {
    drawn.add(place);
    // Legends below each other: side by side a phone cuts the second.
    const legend = { layout: { bottom: { direction: "vertical", anchor: "start" } } };
    const config = { background: "transparent", legend };
    const options = { actions: false, ast: true, renderer: "svg", config };
    if (isDark()) {
      options.theme = "dark";
      options.config.axis = { gridColor: "#333b45", domainColor: "#7d8793", tickColor: "#7d8793" };
    }
    return vegaEmbed(place, specs[place.dataset.chart], options).catch((error) => {
      console.error(error);
      place.textContent = "This chart could not be drawn: " + error.message;
    });
  }

  // A closed block has no width to draw in, and a page of many blocks opens at once.
  function drawOpen() {
    for (const place of document.querySelectorAll("[data-chart]")) {
      if (!drawn.has(place) && place.closest("details").open) draw(place);
    }
  }

  function showTheme() {
    document.getElementById("theme").setAttribute("aria-pressed", String(isDark()));
    for (const place of [...drawn]) draw(place);
  }

  function words(text) {
    return text.toLowerCase().split(/\s+/).filter(Boolean);
  }

  function filter(form, rows, output) {
    const wanted = [...form.querySelectorAll("[data-filter]")];
    let left = 0;
    for (const row of rows) {
      const text = row.dataset.words || (row.dataset.words = rowText(row));
      row.hidden = !wanted.every((field) =>
        field.dataset.filter === "words"
          ? words(field.value).every((word) => text.includes(word))
          : !field.value || row.dataset[field.dataset.filter] === field.value
      );
      if (!row.hidden) left += 1;
    }
    output.textContent = left + " of " + rows.length;
  }

  function rowText(row) {
    const told = row.matches("details") ? row.querySelector("summary") : row;
    return (told.textContent + " " + (row.dataset.flags || "")).toLowerCase();
  }

  function connect(form, rows, output) {
    if (!form) return;
    const apply = () => filter(form, rows, output);
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    apply();
  }

  // Figures before what has none; text by its letters.
  function compare(one, other) {
    const a = parseFloat(one), b = parseFloat(other);
    if (!isNaN(a) && !isNaN(b)) return a - b;
    if (isNaN(a) !== isNaN(b)) return isNaN(a) ? 1 : -1;
    return one.localeCompare(other);
  }

  function sortBy(table, column) {
    const headings = [...table.tHead.rows[0].cells];
    const up = headings[column].getAttribute("aria-sort") !== "ascending";
    headings.forEach((heading, i) =>
      heading.setAttribute("aria-sort", i === column ? (up ? "ascending" : "descending") : "none")
    );
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const missing = [a, b].map((row) => ["–", "nan", ""].includes(value(row)));
      if (missing[0] !== missing[1]) return missing[0] ? 1 : -1;
      return (up ? 1 : -1) * compare(value(a), value(b));
    });
    table.tBodies[0].append(...rows);
  }

  const board = document.getElementById("board");
  if (board) {
    [...board.tHead.rows[0].cells].forEach((heading, i) =>
      heading.querySelector("button").addEventListener("click", () => sortBy(board, i))
    );
    connect(document.getElementById("board-filters"), [...board.tBodies[0].rows], document.getElementById("board-count"));
  }
  connect(
    document.getElementById("cell-filters"),
    [...document.querySelectorAll("#cell-list > details")],
    document.getElementById("cell-count")
  );
  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    showTheme();
  });
  system.addEventListener("change", showTheme);
  document.addEventListener("toggle", drawOpen, true);
  drawOpen();
  document.getElementById("theme").setAttribute("aria-pressed", String(isDark()));
})();
