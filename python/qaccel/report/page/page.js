"use strict";
// Text of what the page carries packed: base64 of gzip.
const unpacked = (text) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
};

(async () => {
  if (typeof DecompressionStream === "undefined") {
    document.querySelectorAll(".chart").forEach((place) => place.append("This browser is too old to draw charts."));
    return;
  }
  const library = document.createElement("script");
  library.textContent = await unpacked(document.getElementById("library").textContent);
  document.head.append(library); // which runs it

  const charts = JSON.parse(document.getElementById("charts").textContent);
  const item = {docid: "report", roots: charts.roots, root_ids: Object.keys(charts.roots)};
  const ready = Bokeh.embed.embed_items({report: charts.document}, [item]);
  const views = () => Object.keys(charts.roots).map((id) => Bokeh.index.get_by_id(id)).filter((view) => view);

  // Axes and grids read their colours from the page's style when they are painted.
  const repaint = () => views().forEach((view) => view.request_repaint());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

  // On paper: the page in light colours, each chart as it is on the screen, fitted to the sheet.
  addEventListener("beforeprint", () => {
    document.documentElement.classList.add("light");
    for (const view of views()) {
      const place = document.getElementById(charts.roots[view.model.id]);
      if (!place.classList.contains("printed")) {
        place.append(view.export("png", true).canvas);
        place.classList.add("printed");
      }
    }
  });
  addEventListener("afterprint", () => {
    document.documentElement.classList.remove("light");
    repaint();
    for (const place of document.querySelectorAll(".chart.printed")) {
      place.querySelectorAll(":scope > canvas").forEach((canvas) => canvas.remove());
      place.classList.remove("printed");
    }
  });

  const colouring = document.getElementById("colouring");
  if (colouring) colouring.addEventListener("change", () => {
    const chart = Bokeh.documents[0].roots().find((root) => charts.roots[root.id] === "chart-network");
    const boxes = chart.renderers.find((each) => each.name === "boxes");
    boxes.glyph.fill_color = {field: "by_" + colouring.value};
    for (const legend of document.querySelectorAll("[data-by]")) legend.hidden = legend.dataset.by !== colouring.value;
  });

  const order = (cell, head) => head.className === "n" ? parseFloat(cell.textContent.replaceAll(",", ""))
    : cell.dataset.order === undefined ? cell.textContent : Number(cell.dataset.order);
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, {numeric: true});
  for (const table of document.querySelectorAll(".wide table")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending" || (!head.hasAttribute("aria-sort") && head.className === "n");
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => (down ? -1 : 1) * compare(order(a.cells[column], head), order(b.cells[column], head)));
      table.tBodies[0].append(...rows);
    }));
  }
  ready.then(() => document.documentElement.classList.add("drawn"));
})();
