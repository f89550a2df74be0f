
"use strict";
// Heads that sort, a choice of emotion that filters, figures that can be saved; without it the page shows everything.

function make(tag, text, properties = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(text);
  return element;
}

function button(text, act, properties = {}) {
  const element = make("button", text, { type: "button", ...properties });
  element.addEventListener("click", act);
  return element;
}

const NUMBER = /^[+\-−]?(\d[\d,]*)?(\.\d+)?(?=$|[\s%±/])/;

function textOf(cell) {
  const own = [...cell.childNodes].filter((node) => node.nodeName !== "SMALL").map((node) => node.textContent);
  const text = (cell.dataset.value ?? own.join("")).trim();
  return text === "–" ? "" : text;
}

function numberOf(text) {
  const found = text.match(NUMBER);
  return found && found[0] ? Number(found[0].replace("−", "-").replaceAll(",", "")) : null;
}

function sorted(rows, column, isDown) {
  const texts = new Map(rows.map((row) => [row, textOf(row.cells[column])]));
  const known = rows.filter((row) => texts.get(row));
  const numbers = new Map(known.map((row) => [row, numberOf(texts.get(row))]));
  const isNumeric = known.every((row) => numbers.get(row) !== null);
  const compare = (one, other) =>
    isNumeric
      ? numbers.get(one) - numbers.get(other)
      : texts.get(one).localeCompare(texts.get(other), undefined, { numeric: true });
  known.sort((one, other) => (isDown ? -1 : 1) * compare(one, other));
  return [...known, ...rows.filter((row) => !texts.get(row))]; // what is unknown comes last, either way
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  if (rows.length < 2) return;
  const next = { null: "ascending", ascending: "descending", descending: null };
  heads.forEach((head, column) => {
    const act = () => {
      const order = next[head.getAttribute("aria-sort")];
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      if (order) head.setAttribute("aria-sort", order);
      body.append(...(order ? sorted(rows, column, order === "descending") : rows));
    };
    const own = button("", act, { className: "sort" });
    own.append(...head.childNodes);
    head.append(own);
  });
}

function makeFilterable(section) {
  const items = [...section.querySelectorAll("[data-emotions]")].map((item) => [item, JSON.parse(item.dataset.emotions)]);
  const names = [...new Set(items.flatMap(([, own]) => own))].sort((one, other) => one.localeCompare(other));
  if (names.length < 2) return;
  const counted = items.filter(([item]) => item.matches("li, th"));
  const select = make("select", "", { autocomplete: "off" });
  select.append(...["all", ...names].map((name) => make("option", name)));
  const count = make("output", "");
  const show = () => {
    const chosen = names[select.selectedIndex - 1];
    items.forEach(([item, own]) => (item.hidden = chosen !== undefined && !own.includes(chosen)));
    const shown = counted.filter(([item]) => !item.hidden).length;
    count.textContent = `${shown} of ${counted.length} ${section.dataset.filter}`;
  };
  select.addEventListener("change", show);
  const label = make("label", "Emotion ");
  label.append(select);
  const box = make("p", label, { className: "tools" });
  box.append(" ", count);
  section.querySelector(":scope > p, :scope > summary").after(box);
  show();
}

function download(content, name) {
  const address = URL.createObjectURL(content);
  make("a", "", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}

/** The figure as a file of its own: on white ground, its size in points. */
function svgOf(figure) {
  const copy = figure.cloneNode(true);
  const { width, height } = figure.viewBox.baseVal;
  copy.setAttribute("width", `${width}pt`);
  copy.setAttribute("height", `${height}pt`);
  copy.style.color = "#1d2025";
  const ground = document.createElementNS(copy.namespaceURI, "rect");
  ground.setAttribute("width", "100%");
  ground.setAttribute("height", "100%");
  ground.setAttribute("fill", "#ffffff");
  copy.querySelector("g").before(ground);
  return new XMLSerializer().serializeToString(copy);
}

function savePng(figure, name) {
  const { width, height } = figure.viewBox.baseVal;
  const canvas = make("canvas", "", { width: 3 * width, height: 3 * height }); // 216 dots an inch
  const image = new Image();
  image.addEventListener("load", () => {
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((content) => download(content, name), "image/png");
  });
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svgOf(figure))}`;
}

function makeSavable(figure) {
  const label = figure.getAttribute("aria-label");
  const name = label.replace(/[^\p{L}\p{N}+_-]+/gu, "-").slice(0, 80);
  const saveSvg = () => download(new Blob([svgOf(figure)], { type: "image/svg+xml" }), `${name}.svg`);
  const box = make("p", button("Save SVG", saveSvg, { ariaLabel: `Save SVG: ${label}` }), { className: "tools" });
  box.append(" ", button("Save PNG", () => savePng(figure, `${name}.png`), { ariaLabel: `Save PNG: ${label}` }));
  figure.after(box);
}

document.querySelectorAll("table").forEach(makeSortable);
document.querySelectorAll("[data-filter]").forEach(makeFilterable);
document.querySelectorAll("svg.figure").forEach(makeSavable);
