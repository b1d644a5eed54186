"use strict";
const REPORT = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);

/** Make an element; children that are strings become text, never markup. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}
const fill = (id, ...children) => $(id).replaceChildren(...children.flat(Infinity).filter((c) => c !== null && c !== ""));
const number = (value, digits = 3) => value === null || value === undefined ? "–" : Number(value).toFixed(digits);
const figure = (value) => {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const digits = Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toFixed(Math.min(digits, 5));
};
const signed = (value, digits = 3) => {
  if (value === null || value === undefined) return "–";
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? text : `${value < 0 ? "−" : "+"}${text}`;
};
const signedFigure = (value) => value === null || value === undefined ? "–" : value === 0 ? "0" : `${value < 0 ? "−" : "+"}${figure(Math.abs(value))}`;
const share = (value) => `${value < 0 ? "−" : value > 0 ? "+" : ""}${Math.abs(100 * value).toFixed(0)} %`;
const narrow = () => window.innerWidth <= 600;

/** A table of rows of cells (strings or nodes); `mark(row)` gives attributes of its tr. */
function table(heads, rows, mark = () => ({})) {
  return el("table", {},
    el("thead", {}, el("tr", {}, heads.map((head) => el("th", {}, head)))),
    el("tbody", {}, rows.map((row, index) => el("tr", mark(index), row.map((cell) => el("td", {}, cell))))));
}
const tile = (value, label, kind = "") => el("div", { class: "tile" }, el("b", { class: kind }, value), el("small", {}, label));

const COLOURS = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["page", "card", "ink", "soft", "line", "track", "accent", "good", "bad", "warn", "dense", "stock", "cloud", "measured", "bar"])
    COLOURS[name] = style.getPropertyValue(`--${name}`).trim();
}
const axis = (title, more = {}) => ({
  title: { text: title, font: { size: 13, color: COLOURS.soft }, standoff: 8 }, gridcolor: COLOURS.line, zerolinecolor: COLOURS.line,
  linecolor: COLOURS.line, tickfont: { size: 12, color: COLOURS.soft }, automargin: true, fixedrange: true, ...more,
});
function plot(id, traces, layout) {
  return Plotly.react(id, traces, {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "closest", dragmode: false, height: 300,
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: COLOURS.ink },
    margin: { l: 48, r: 12, t: 12, b: 44 }, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 12 }, bgcolor: "rgba(0,0,0,0)" },
    hoverlabel: { bgcolor: COLOURS.card, bordercolor: COLOURS.line, font: { color: COLOURS.ink, size: 13 }, align: "left" }, ...layout,
  }, { displayModeBar: false, responsive: true });
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  $("theme").textContent = theme === "dark" ? "Light" : "Dark";
  readColours();
}

/** Unpack plotly.js, then draw everything, and again whenever the theme or the width class changes. */
async function start(draw) {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  setTheme(dark.matches ? "dark" : "light");
  const packed = Uint8Array.from(atob($("plotly").textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  document.head.append(el("script", {}, await new Response(stream).text()));
  draw();
  const again = (theme) => { setTheme(theme); draw(); };
  $("theme").addEventListener("click", () => again(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  dark.addEventListener("change", () => again(dark.matches ? "dark" : "light"));
  let wasNarrow = narrow();
  window.addEventListener("resize", () => { if (narrow() !== wasNarrow) { wasNarrow = narrow(); draw(); } });
  document.documentElement.dataset.drawn = "yes";
}
