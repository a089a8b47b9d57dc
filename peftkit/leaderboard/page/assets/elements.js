"use strict";
// Formatting of values, and elements. Text of a run is inserted only as text nodes.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const short = (value, digits = 3) => String(Number(value.toPrecision(digits)));

function amount(value, unit = "") {
  if (!isNumber(value)) return "–";
  for (const [size, prefix] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(value) >= size) return `${short(value / size)} ${prefix}${unit}`;
  return `${short(value)} ${unit}`.trim();
}

function duration(seconds) {
  if (!isNumber(seconds)) return "–";
  if (seconds < 1) return `${short(seconds * 1000)} ms`;
  if (seconds < 120) return `${short(seconds)} s`;
  return seconds < 7200 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

// scores are shown times 100; errors, which are negative in the data, in the unit of the labels
function scoreText(entry, value, digits = 1) {
  if (!isNumber(value)) return "–";
  return entry.up ? (100 * value).toFixed(digits).replace(/^-(0\.0*)$/, "$1") : short(Math.abs(value), 4);
}

function spreadText(entry) {
  if (!isNumber(entry.spread)) return "";
  return ` ± ${entry.up ? (100 * entry.spread).toFixed(1) : short(entry.spread, 2)}`;
}

function differenceText(entry, value) {
  if (!isNumber(value)) return "–";
  const shown = entry.up ? (100 * value).toFixed(1) : short(-value, 3); // higher errors are worse
  return Number(shown) > 0 ? `+${shown}` : shown.replace("-", "−");
}

const probability = (p) => (!isNumber(p) ? "–" : p < 0.001 ? "< 0.001" : p.toFixed(3));
const modelName = (entry) => entry.modelName;
const FLAG = "not better than majority";
const isFlagged = (entry) => entry.versus === "not better";

// a name that may break after an underscore or a slash, not in the middle of a word
function breakable(text) {
  return text.split(/(?<=[_/])/).flatMap((piece, place) => (place ? [el("wbr"), piece] : [piece]));
}

// formats of costs by their unit
const UNITS = { s: duration, ms: (v) => `${short(v)} ms`, "%": (v) => `${(100 * v).toFixed(1)} %`, B: (v) => amount(v, "B") };
const SCORE = "score";

function costName(name) {
  return data.costs[name]?.[0] ?? name.replaceAll("_", " ");
}

function costText(name, value) {
  return isNumber(value) ? (UNITS[data.costs[name]?.[1]] ?? ((v) => amount(v)))(value) : "–";
}

function moreIsBetter(name) {
  return name === SCORE || data.costs[name]?.[2] === true;
}

const METHODS = [...new Set(data.entries.filter((entry) => !entry.baseline).map((entry) => entry.method))].sort();
const SYMBOLS = ["circle", "diamond", "triangle", "square", "cross", "star"];
const colorOf = (entry) => `var(--c${METHODS.indexOf(entry.method) % 8})`;
const symbolOf = (entry) => SYMBOLS[Math.floor(METHODS.indexOf(entry.method) / 8) % SYMBOLS.length];
