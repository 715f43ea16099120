"use strict";
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const drawn = new Set();

  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";

  function draw(container) {
    drawn.add(container);
    // Stack the legends: side by side the second one does not fit on a phone.
    const legend = { layout: { bottom: { direction: "vertical", anchor: "start" } } };
    const config = { background: "transparent", legend };
    const options = { actions: false, ast: true, renderer: "svg", config };
    if (isDark()) {
      options.theme = "dark";
      options.config.axis = { gridColor: "#333b45", domainColor: "#7d8793", tickColor: "#7d8793" };
    }
    return vegaEmbed(container, specs[container.dataset.chart], options).catch((error) => {
      console.error(error);
      container.textContent = "This chart could not be drawn: " + error.message;
    });
  }

  // Draw open blocks only: a closed block has no width, and a page with many blocks opens faster.
  function drawOpen() {
    for (const container of document.querySelectorAll("[data-chart]")) {
      if (!drawn.has(container) && container.closest("details").open) draw(container);
    }
  }

  function showTheme() {
    document.getElementById("theme").setAttribute("aria-pressed", String(isDark()));
    for (const container of [...drawn]) draw(container);
  }

  function words(text) {
    return text.toLowerCase().split(/\s+/).filter(Boolean);
  }

  function filter(form, rows, output) {
    const wanted = [...form.querySelectorAll("[data-filter]")];
    let shown = 0;
    for (const row of rows) {
      const text = row.dataset.words || (row.dataset.words = rowText(row));
      row.hidden = !wanted.every((field) =>
        field.dataset.filter === "words"
          ? words(field.value).every((word) => text.includes(word))
          : !field.value || row.dataset[field.dataset.filter] === field.value
      );
      if (!row.hidden) shown += 1;
    }
    output.textContent = shown + " of " + rows.length;
  }

  function rowText(row) {
    const source = row.matches("details") ? row.querySelector("summary") : row;
    return (source.textContent + " " + (row.dataset.flags || "")).toLowerCase();
  }

  function connect(form, rows, output) {
    if (!form) return;
    const apply = () => filter(form, rows, output);
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    apply();
  }

  // Numbers come before text; text is sorted alphabetically.
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
