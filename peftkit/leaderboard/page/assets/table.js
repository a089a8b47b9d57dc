// The table of entries, sorted and filtered, drawn in chunks.

const CHUNK = 100;
const SHOWN_COSTS = [
  "trainable_params", "adapter_bytes", "train_seconds", "train_peak_bytes", "tokens_per_second", "seconds_to_quality",
  "latency_ms", "merged_latency_ms", "pscp",
];
const MAX_LETTER_COLUMNS = 8; // with more letters, they are shown as text
let drawn = 0;
let sorted = [];

function columns() {
  const entries = boardEntries();
  const on = machine();
  const several = new Set(entries.filter((entry) => !entry.baseline).map((entry) => entry.model)).size > 1;
  const costs = SHOWN_COSTS.filter((name) => costNames(entries).includes(name));
  return [
    { id: "method", label: "Method", value: (entry) => `${entry.method} ${entry.settings}`, cell: methodCell },
    { id: "task", label: "Task", value: (entry) => entry.task, cell: taskCell },
    several && { id: "model", label: "Model", value: modelName, cell: (entry) => el("td", {}, modelName(entry)) },
    { id: SCORE, label: "Score", number: true, value: (entry) => entry.score, cell: scoreCell, down: true },
    entries.some((entry) => entry.versus) && {
      id: "versus", label: "vs. majority", value: (entry) => entry.versus || null, cell: (entry) => el("td", {}, entry.versus),
    },
    { id: "letters", label: "Group", value: (entry) => entry.letters || null, cell: lettersCell },
    entries.some((entry) => entry.reference) && {
      id: "delta", label: "Δ vs. full", number: true, down: true, value: (entry) => (entry.reference ? 0 : entry.delta),
      cell: (entry) => number(entry.reference ? "ref" : differenceText(entry, entry.delta)),
    },
    {
      id: "seeds", label: "Seeds", number: true, down: true, value: (entry) => entry.seeds.length,
      cell: (entry) => number(entry.baseline ? "" : entry.seeds.length === entry.planned ? entry.planned : `${entry.seeds.length} of ${entry.planned}`),
    },
    entries.some((entry) => entry.folds) && { id: "folds", label: "Folds", number: true, value: (entry) => entry.folds || null, cell: (entry) => number(entry.folds) },
    entries.some((entry) => entry.trials > 1) && { id: "trials", label: "Trials", number: true, value: (entry) => entry.trials, cell: (entry) => number(entry.baseline ? "" : entry.trials) },
    ...costs.map((name) => ({
      id: name, label: costName(name), number: true, down: moreIsBetter(name),
      value: (entry) => valueOf(entry, name, on), cell: (entry) => number(costText(name, valueOf(entry, name, on))),
    })),
  ].filter(Boolean);
}

const number = (text) => el("td", { class: "num" }, String(text));

function methodCell(entry) {
  const open = el("button", { class: "name", type: "button", "aria-haspopup": "dialog", "data-entry": entry.number }, breakable(entry.method));
  const pick = entry.curves.length
    ? el("input", {
        class: "pick", type: "checkbox", checked: pickedEntries().includes(entry), "data-pick": entry.number,
        "aria-label": `Learning curve of ${entry.label} on ${entry.task}`, title: "Draw its learning curve",
      })
    : null;
  const notes = [entry.baseline && "baseline", entry.settings, isFlagged(entry) && FLAG].filter(Boolean);
  const name = el("span", {}, open, notes.map((text) => el("small", { class: text === FLAG ? "flag" : null }, breakable(text))));
  return el("th", { scope: "row" }, el("span", { class: "method" }, name, pick));
}

// with what the score is, where it is the mean of several metrics
function taskCell(entry) {
  return el("td", {}, entry.task, entry.of.startsWith("mean of ") ? el("small", { class: "of" }, entry.of) : null);
}

// each letter has its own column, so that a group shows as a vertical stripe
function lettersCell(entry) {
  const letters = lettersOf(entry);
  const own = new Set(entry.letters);
  if (letters.length > MAX_LETTER_COLUMNS) return el("td", {}, entry.letters || "–");
  const spans = letters.map((letter) => el("span", { class: own.has(letter) ? "on" : null }, own.has(letter) ? letter : "\u00a0"));
  return el("td", { class: "letter-cell" }, el("span", { class: "hidden" }, [...own].join(" ")), el("span", { class: "letters", "aria-hidden": "true" }, spans));
}

const rangeCache = new Map();
function taskRange(entry) {
  const key = JSON.stringify([entry.board, entry.task]);
  if (!rangeCache.has(key)) {
    const entries = data.entries.filter((each) => each.board === entry.board && each.task === entry.task);
    const ends = entries.flatMap((each) => [each.low, each.high, each.score]).filter(isNumber);
    const letters = [...new Set(entries.flatMap((each) => [...each.letters]))].sort();
    rangeCache.set(key, { letters, low: Math.min(...ends), high: Math.max(...ends) });
  }
  return rangeCache.get(key);
}
const lettersOf = (entry) => taskRange(entry).letters;

function scoreCell(entry) {
  if (!isNumber(entry.score)) return number(entry.problems.length ? entry.without : "–");
  const title = isNumber(entry.low) ? `95 % interval: ${interval(entry)}` : entry.baseline ? "computed from the labels" : "no interval: one seed, no predictions";
  return el("td", { class: "num", title }, scoreText(entry, entry.score) + spreadText(entry), range(entry));
}

function interval(entry) {
  const ends = entry.up ? [entry.low, entry.high] : [entry.high, entry.low];
  return ends.map((end) => scoreText(entry, end)).join(" to ");
}

function range(entry) {
  const { low, high } = taskRange(entry);
  const at = (value) => `${(100 * (value - low)) / (high - low || 1)}%`;
  const bar = el("i");
  if (isNumber(entry.low)) {
    bar.style.left = at(entry.low);
    bar.style.width = `${(100 * (entry.high - entry.low)) / (high - low || 1)}%`;
  }
  const mark = el("b");
  mark.style.left = `calc(${at(entry.score)} - 1px)`;
  return el("span", { class: "range", "aria-hidden": "true" }, isNumber(entry.low) ? bar : null, mark);
}

function drawHead() {
  const heads = columns().map((column) => {
    const sort = state.sort === column.id ? (state.down ? "descending" : "ascending") : "none";
    const button = el("button", { type: "button", "data-sort": column.id }, column.label);
    return el("th", { scope: "col", class: column.number ? "num" : null, "aria-sort": sort }, button);
  });
  byId("entries").tHead.replaceChildren(el("tr", {}, heads));
}

function chooseSort(id) {
  const column = columns().find((each) => each.id === id);
  const first = column.down ? "1" : "";
  if (state.sort !== id) Object.assign(state, { sort: id, down: first });
  else if (state.down === first) state.down = first ? "" : "1";
  else Object.assign(state, { sort: "", down: "" }); // a third click restores the order of the board
}

function compare(a, b) {
  return typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
}

function sortEntries(entries) {
  const column = columns().find((each) => each.id === state.sort);
  if (!column) return entries;
  const keyed = entries.map((entry) => [column.value(entry), entry]);
  const present = keyed.filter(([value]) => value !== null && value !== undefined);
  const absent = keyed.filter(([value]) => value === null || value === undefined); // last in either order
  present.sort(([a], [b]) => (state.down ? compare(b, a) : compare(a, b)));
  return [...present, ...absent].map(([, entry]) => entry);
}

function drawTable(entries) {
  sorted = sortEntries(entries);
  drawn = 0;
  drawHead();
  byId("entries").tBodies[0].replaceChildren();
  byId("table-box").scrollTop = 0;
  drawMore();
}

function drawMore(count = CHUNK) {
  const shown = columns();
  const next = sorted.slice(drawn, drawn + count).map((entry, place) => {
    const before = sorted[drawn + place - 1];
    const isNew = before && before.task !== entry.task && (!state.sort || state.sort === "task");
    const kinds = [entry.top && "top", entry.baseline && "baseline", isNew && "new-task", !isNumber(entry.score) && "none"].filter(Boolean);
    return el("tr", { class: kinds.join(" ") || null, "data-entry": entry.number }, shown.map((column) => column.cell(entry)));
  });
  byId("entries").tBodies[0].append(...next);
  drawn += next.length;
  const left = sorted.length - drawn;
  byId("more").hidden = left === 0;
  byId("more").textContent = `Show ${Math.min(left, 5 * CHUNK)} more (${left} left)`;
}
