/** The page of a store of maps: samples, means, clusters, and one sample; the address says which. */

import { byId, el, show } from "./dom.js";
import { number, probability, share, shortened, signed } from "./numbers.js";

let about = null;
let latest = 0;
let list = "#view=samples"; // the view from which a sample was opened

async function ask(path, words = []) {
  const query = new URLSearchParams(words).toString();
  let response;
  try {
    response = await fetch(`/api/store/${path}${query ? `?${query}` : ""}`, { cache: "no-store" });
  } catch {
    throw new Error("The server does not answer. Is `fullgrad app` still running?");
  }
  const told = await response.json();
  if (!response.ok) throw new Error(told.error);
  return told;
}

const state = () => new URLSearchParams(location.hash.slice(1));
const go = (words) => { location.hash = words.toString(); };

/** Write a state as an address. */
function link(words) {
  return `#${new URLSearchParams(words)}`;
}

/** Read the conditions from the address, as pairs of a query. */
function conditions() {
  return state().getAll("where").map((text) => ["where", text]);
}

function className(target) {
  if (target === null) return "no class";
  return about.classes?.[target] ?? `class ${target}`;
}

function picture(row, kind, side, alt) {
  const query = new URLSearchParams({ kind, side });
  return el("img", { src: `/api/store/picture/${row}?${query}`, alt, width: side, height: side,
    loading: "lazy" });
}

/** Draw a text's tokens, each in the color of its number, which stands below it. */
function tokens(found) {
  const boxes = found.tokens.map((token) => {
    const box = el("span", { class: "token" }, token.text, el("small", { text: token.score }));
    box.style.background = token.color;
    box.style.color = token.ink;
    return box;
  });
  const before = found.before ? [`${found.before} tokens before … `] : [];
  const after = found.after ? [` … ${found.after} tokens after`] : [];
  return el("span", { class: "tokens" }, ...before, ...boxes, ...after);
}

function card(row) {
  const words = [el("strong", { text: shortened(row.id, 40) })];
  if (row.error === null) {
    const sure = row.probability === null ? "" : ` ${probability(row.probability)}`;
    words.push(el("br"), `${className(row.target)}${sure}`);
    if (row.label !== null && row.label !== row.prediction) {
      words.push(el("br"), el("span", { class: "wrong", text: `is ${className(row.label)}` }));
    }
    if (row.logit !== null) words.push(el("br"), `logit ${number(row.logit)}`);
  } else {
    words.push(el("br"), el("span", { class: "wrong", text: shortened(row.error, 80) }));
  }
  if (about.kind === "text") {
    const drawn = row.text ? [el("br"), tokens(row.text)] : [];
    return el("li", {}, el("a", { href: link({ row: row.row }) }, ...words, ...drawn));
  }
  const seen = row.error === null ? picture(row.row, "both", 112, "")
    : el("span", { class: "missing", text: "no map" });
  return el("li", {}, el("a", { href: link({ row: row.row }) }, seen, ...words));
}

async function samples() {
  const words = state();
  const page = words.get("page") ?? "0";
  const found = await ask("rows", [...conditions(), ["sort", words.get("sort") ?? ""], ["page", page]]);
  const turn = (text, to, on) => {
    if (!on) return el("span", { class: "hint", text });
    const other = state();
    other.set("page", to);
    return el("a", { href: `#${other}`, text });
  };
  const pages = el("nav", { class: "pages", "aria-label": "Pages" },
    turn("Previous", found.page - 1, found.page > 0),
    `Page ${found.page + 1} of ${Math.max(1, found.pages)}`,
    turn("Next", found.page + 1, found.page + 1 < found.pages));
  const list = el("ul", { class: about.kind === "text" ? "samples texts" : "samples" },
    ...found.rows.map(card));
  return [`${found.total.toLocaleString("en")} of ${about.rows.toLocaleString("en")} samples.`,
    el("h2", { text: "Samples" }), found.total ? list : el("p", { text: "No sample fulfils this." }),
    pages];
}

async function means() {
  const found = await ask("means", conditions());
  const cards = found.groups.map((group) => {
    const where = [["where", group.target === null ? "target =" : `target = ${group.target}`]];
    if (group.outcome === "right") where.push(["where", "prediction = label"]);
    if (group.outcome === "wrong") where.push(["where", "prediction != label"]);
    return el("li", {}, el("a", { href: link(where) },
      el("img", { src: group.picture, alt: "", class: "mean" }),
      el("strong", { text: group.name }), el("br"), group.outcome, el("br"), `${group.count} maps`));
  });
  return [`Mean maps of ${found.groups.length} groups.`,
    el("h2", { text: "Mean maps by class and outcome" }),
    el("p", { class: "hint", text: `Of at most ${found.most} samples of a group; every map counts ` +
      "alike, and each picture has its own scale. A spot at one place in all samples of a class is " +
      "no object: objects move. Click for the samples." }),
    el("ul", { class: "samples" }, ...cards)];
}

async function clusters() {
  const found = await ask("clusters");
  const parts = [el("h2", { text: "Classes whose maps form clusters" }),
    el("p", { class: "hint", text: "Maps of a class that are alike form a cluster (spectral " +
      "relevance analysis, Lapuschkin et al. 2019). A class that is recognized in several ways, by " +
      "the object and by a watermark, has several. The most distinct come first. Every class " +
      "has some gap, so look at the pictures before you believe in clusters. Left the mean map, then " +
      "the samples nearest to it." })];
  for (const one of found.classes) {
    parts.push(el("h3", { text: `${one.name}: gap ${one.gap.toFixed(2)}` }));
    if (one.left_out) {
      parts.push(el("p", { class: "hint", text: `${one.left_out} maps were not looked at.` }));
    }
    one.clusters.forEach((cluster, place) => {
      const right = cluster.right === null ? "" : `, ${probability(cluster.right)} predicted right`;
      parts.push(el("p", { text: `Cluster ${place + 1}: ${cluster.count} maps${right}` }),
        el("ul", { class: "strip" },
          el("li", {}, el("img", { src: cluster.picture, class: "mean", alt: "mean map" })),
          ...cluster.rows.map((row) => el("li", {}, el("a", { href: link({ row }) },
            picture(row, "both", 112, `row ${row}`))))));
    });
  }
  if (!found.classes.length) parts.push(el("p", { text: "No class has more than one cluster." }));
  return [`${found.classes.length} of ${found.looked_at} classes have clusters.`, ...parts];
}

/** Draw the shares of the logit as bars from zero. */
function sharesTable(found) {
  const { shares, columns } = found;
  const most = Math.max(...shares.map((part) => Math.abs(part.sum)), 1e-30);
  const rows = shares.map((part) => {
    const own = el("span", { class: part.sum < 0 ? "lowers" : "raises" });
    const size = 50 * Math.abs(part.sum) / most;
    own.style.left = `${part.sum < 0 ? 50 - size : 50}%`;
    own.style.width = `${size}%`;
    const zero = el("span", { class: "zero" });
    zero.style.left = "50%";
    return el("tr", {}, el("th", { scope: "row", text: part.name }),
      el("td", { class: "drawn" }, el("span", { class: "bar", "aria-hidden": "true" }, own, zero)),
      el("td", { class: "n", text: signed(part.sum) }),
      el("td", { class: "n part", text: columns.logit ? share(part.sum / columns.logit) : "" }));
  });
  return el("table", { class: "waterfall" },
    el("caption", { class: "unseen", text: "Parts of the logit" }),
    el("thead", {}, el("tr", {}, ...["part", "", "sum", "share"].map((text, i) =>
      el(text ? "th" : "td", { scope: text ? "col" : null, class: i > 1 ? "n" : null, text })))),
    el("tbody", {}, ...rows));
}

async function sample(row) {
  const found = await ask(`sample/${row}`);
  const { columns } = found;
  const kinds = about.images && about.kind === "line" ? [["both", "the sample, and its map"]]
    : about.images ? [["image", "what the model saw"], ["both", "the map over it"],
    ["map", "the map alone"]] : [["map", "the map"]];
  const meaning = about.signed ? "red raises the output, blue lowers it" : "bright is much";
  const facts = Object.entries(columns).filter(([, value]) => value !== null).map(([name, value]) => {
    const isClass = ["label", "target", "prediction"].includes(name);
    const text = isClass ? `${className(value)} (${value})`
      : typeof value === "number" && !Number.isInteger(value) ? number(value) : String(value);
    return el("div", {}, el("dt", { text: name }), el("dd", { text }));
  });
  const near = [["Previous", found.before], ["Next", found.after]].map(([text, to]) =>
    (to === null ? "" : el("a", { href: link({ row: to }), text })));
  const parts = [el("h2", { text: columns.id }),
    el("p", { class: "pages" }, el("a", { href: list, text: "Back" }), ...near)];
  if (found.text) {
    parts.push(tokens(found.text));
  } else if (columns.error === null && about.kind !== "text") {
    parts.push(el("div", { class: "large" }, ...kinds.map(([kind, text]) => el("figure", {},
      picture(row, kind, 448, `${columns.id}: ${text}`),
      el("figcaption", { text: kind === "image" ? text : `${text}: ${meaning}` })))));
  }
  if (columns.error === null && about.reading) {
    parts.push(el("p", { class: "hint", text: about.reading }));
  }
  const table = found.shares.length
    ? [el("h3", { text: "Where the logit comes from" }), sharesTable(found)] : [];
  parts.push(el("div", { class: "sample" },
    el("div", {}, el("h3", { text: "What is known of it" }), el("dl", { class: "facts" }, ...facts)),
    el("div", {}, ...table)));
  return [`Row ${row} of ${about.rows.toLocaleString("en")}.`, ...parts];
}

/** Set the form's fields as the address says. */
function fillForm() {
  const words = state();
  const wheres = words.getAll("where");
  const rest = [];
  byId("target").value = byId("outcome").value = "";
  for (const text of wheres) {
    const own = /^target = (\d+)$/.exec(text);
    if (own && about.classes?.[own[1]] !== undefined) byId("target").value = own[1];
    else if (["prediction = label", "prediction != label"].includes(text)) byId("outcome").value = text;
    else rest.push(text);
  }
  byId("where").value = rest.join("; ");
  const sort = words.get("sort") ?? "";
  byId("sort").value = sort.replace(/^-/, "");
  byId("direction").value = sort.startsWith("-") ? "-" : "";
}

function submitted(event) {
  event.preventDefault();
  const words = new URLSearchParams();
  const view = state().get("view");
  if (view === "means") words.set("view", view);
  if (byId("target").value) words.append("where", `target = ${byId("target").value}`);
  if (byId("outcome").value) words.append("where", byId("outcome").value);
  for (const text of byId("where").value.split(";")) {
    if (text.trim()) words.append("where", text.trim());
  }
  if (byId("sort").value) words.set("sort", byId("direction").value + byId("sort").value);
  if (words.toString() === location.hash.slice(1)) render();
  else go(words);
}

async function render() {
  const own = ++latest;
  const words = state();
  const row = words.get("row");
  if (row === null) list = location.hash || "#view=samples";
  const view = row === null ? words.get("view") ?? "samples" : "row";
  for (const name of ["samples", "means", "clusters"]) {
    const tab = byId(`view-${name}`);
    if (name === view) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  show(view === "samples" || view === "means", byId("filter"));
  fillForm();
  const content = byId("content");
  content.setAttribute("aria-busy", "true");
  show(false, byId("error"));
  show(true, content);
  byId("status").textContent = view === "means" || view === "clusters" ? "Reading maps…" : "";
  try {
    const draw = { samples, means, clusters, row: () => sample(row) }[view];
    if (!draw) throw new Error(`There is no view ${view}.`);
    const [status, ...parts] = await draw();
    if (own !== latest) return;
    byId("status").textContent = status;
    content.replaceChildren(...parts);
    if (view === "row") scrollTo(0, 0);
  } catch (error) {
    if (own !== latest) return;
    byId("status").textContent = "";
    byId("error-text").textContent = error.message;
    show(true, byId("error"));
    show(false, content);
  }
  content.setAttribute("aria-busy", "false");
}

async function begin() {
  try {
    about = await ask("about");
  } catch (error) {
    byId("error-text").textContent = error.message;
    show(true, byId("error"));
    return;
  }
  byId("about").textContent = `${about.rows.toLocaleString("en")} maps of ${about.data}: ` +
    `${about.method} on ${about.model}.` + (about.errors ? ` ${about.errors} without a map.` : "") +
    (about.done < about.units ? ` ${about.done} of ${about.units} units are there.` : "");
  byId("foot").textContent = `fullgrad ${about.version}`;
  byId("notes").append(...about.notes.map((text) => el("li", { text })));
  show(about.notes.length > 0, byId("notes"));
  byId("target").append(...(about.classes ?? []).map((text, value) => el("option", { value, text })));
  show(about.labels, byId("outcome-field"));
  show(about.kind !== "text", byId("view-means"), byId("view-clusters"));
  byId("sort").append(el("option", { value: "", text: "place in the data" }),
    ...about.columns.map((text) => el("option", { value: text, text })));
  byId("columns").textContent = `Columns: ${about.columns.join(", ")}.`;
  byId("filter").addEventListener("submit", submitted);
  byId("clear").addEventListener("click", () => go(new URLSearchParams({ view: "samples" })));
  document.querySelector("[data-skip]").addEventListener("click", (event) => {
    event.preventDefault();
    byId("content").focus();
  });
  addEventListener("hashchange", render);
  render();
}

begin();
