"use strict";
// Texts of users and of runs are set as text, never as markup.
const byId = (id) => document.getElementById(id);
let runs = [];
let limits = {};

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function chosen() {
  return runs.find((run) => run.name === byId("run").value) || runs[0];
}

function showFields() {
  const run = chosen();
  const size = run.labels ? `, ${run.labels.length} labels` : "";
  const threshold = run.threshold === null ? "" : `; below a confidence of ${Number(run.threshold.toPrecision(4))} a person decides`;
  byId("about").textContent = `${run.task}: ${run.kind.replaceAll("_", " ")}${size}, ${run.method} on ${run.model}${threshold}`;
  const old = new Map([...byId("fields").querySelectorAll("textarea")].map((area) => [area.name, area.value]));
  byId("fields").replaceChildren(...run.columns.flatMap((column, number) => {
    const label = element("label", column);
    const area = element("textarea");
    label.htmlFor = area.id = `field-${number}`;
    area.name = column;
    area.value = old.get(column) || "";
    area.maxLength = limits.max_characters;
    area.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("form").requestSubmit();
    });
    return [label, area];
  }));
  const hint = element("p", "Ctrl+Enter predicts.", "hint keys");
  byId("fields").append(hint);
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

function bars(probabilities) {
  const list = element("ul", undefined, "bars");
  for (const [label, share] of Object.entries(probabilities).sort((a, b) => b[1] - a[1])) {
    const item = element("li");
    const meter = element("meter");
    meter.value = share;
    meter.setAttribute("aria-label", `${label}: ${percent(share)}`);
    item.append(element("span", label, "name"), meter, element("span", percent(share), "share"));
    list.append(item);
  }
  return list;
}

function asText(prediction) {
  if (Array.isArray(prediction)) return prediction.length ? prediction.join(", ") : "none of the labels";
  return typeof prediction === "number" ? String(Number(prediction.toPrecision(4))) : prediction;
}

function tags(words, prediction) {
  const list = element("ul", undefined, "tags");
  words.forEach((word, number) => {
    const item = element("li", word);
    item.append(element("span", prediction[number] ?? "cut off"));
    list.append(item);
  });
  return list;
}

function showAnswer(run, example, answer) {
  const parts = [];
  const isLeft = answer.prediction === null && answer.suggestion !== undefined && answer.suggestion !== null;
  if (isLeft) {
    parts.push(element("h2", "A person should decide"));
    parts.push(element("p", `Not sure enough: the suggestion is ${asText(answer.suggestion)}, with a confidence of ${percent(answer.confidence)}.`, "warning"));
  } else if (answer.prediction === null) {
    parts.push(element("h2", "There is no text to predict for"));
  } else if (run.kind === "token_classification") {
    parts.push(element("h2", "Tags"), tags(example[run.columns[0]], answer.prediction));
  } else if (run.labels || run.kind === "regression") {
    parts.push(element("h2", asText(answer.prediction)));
    if (typeof answer.confidence === "number") parts.push(element("p", `Confidence ${percent(answer.confidence)}${run.calibrated ? "" : ", not calibrated"}`, "hint"));
  } else {
    parts.push(element("h2", "Text"), element("p", asText(answer.prediction), "text"));
  }
  if (answer.probabilities) parts.push(bars(answer.probabilities));
  if (answer.truncated) parts.push(element("p", `The text was cut at ${run.max_length} tokens.`, "warning"));
  byId("answer").replaceChildren(...parts);
}

function showError(message) {
  const shown = element("p", message, "warning");
  shown.setAttribute("role", "alert");
  byId("answer").replaceChildren(shown);
}

async function send(event) {
  event.preventDefault();
  if (byId("answer").getAttribute("aria-busy") === "true") return;  // a disabled button would lose the focus
  const run = chosen();
  const example = {};
  for (const area of byId("fields").querySelectorAll("textarea")) {
    example[area.name] = run.kind === "token_classification" ? area.value.split(/\s+/).filter(Boolean) : area.value;
  }
  byId("answer").hidden = false;
  byId("answer").setAttribute("aria-busy", "true");
  try {
    const body = JSON.stringify({ run: run.name, examples: [example] });
    const response = await fetch("predict", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    const found = await response.json();
    if (response.ok) showAnswer(run, example, found.predictions[0]);
    else showError(found.error);
  } catch {
    showError("The server does not answer; is it still running?");
  } finally {
    byId("answer").setAttribute("aria-busy", "false");
  }
}

async function start() {
  try {
    ({ runs, limits } = await (await fetch("runs")).json());
  } catch {
    byId("answer").hidden = false;
    showError("The server does not answer; is it still running?");
    return;
  }
  byId("run").replaceChildren(...runs.map((run) => element("option", run.name)));
  byId("choice").hidden = runs.length < 2;
  byId("run").addEventListener("change", () => { showFields(); byId("answer").hidden = true; });
  byId("form").addEventListener("submit", send);
  showFields();
}

start();
