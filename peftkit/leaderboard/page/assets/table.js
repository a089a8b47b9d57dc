// The table of rows: sorted and filtered as chosen, drawn a chunk at a time.

const CHUNK = 100;
const SHOWN_COSTS = [
  "trainable_params", "adapter_bytes", "train_seconds", "train_peak_bytes", "tokens_per_second", "seconds_to_quality",
  "latency_ms", "merged_latency_ms", "pscp",
];
const SLOTS = 8; // of more letters than these no stripes are drawn
let drawn = 0;
let sorted = [];

function columns() {
  const rows = boardRows();
  const on = machine();
  const several = new Set(rows.map((row) => row.model)).size > 1;
  const costs = costNames(rows).filter((name) => SHOWN_COSTS.includes(name));
  return [
    { id: "method", label: "Method", value: (row) => `${row.method} ${row.settings}`, cell: methodCell },
    { id: "task", label: "Task", value: (row) => row.task, cell: (row) => el("td", {}, row.task) },
    several && { id: "model", label: "Model", value: modelName, cell: (row) => el("td", {}, modelName(row)) },
    { id: SCORE, label: "Score", number: true, value: (row) => row.score, cell: scoreCell, down: true },
    data.tested && { id: "letters", label: "Group", value: (row) => row.letters || null, cell: lettersCell },
    rows.some((row) => row.reference) && {
      id: "delta", label: "Δ vs. full", number: true, down: true, value: (row) => (row.reference ? 0 : row.delta),
      cell: (row) => number(row.reference ? "ref" : differenceText(row, row.delta)),
    },
    {
      id: "seeds", label: "Seeds", number: true, down: true, value: (row) => row.seeds.length,
      cell: (row) => number(row.seeds.length === row.planned ? row.planned : `${row.seeds.length} of ${row.planned}`),
    },
    rows.some((row) => row.trials > 1) && { id: "trials", label: "Learning-rate trials", number: true, value: (row) => row.trials, cell: (row) => number(row.trials) },
    ...costs.map((name) => ({
      id: name, label: costName(name), number: true, down: moreIsBetter(name),
      value: (row) => valueOf(row, name, on), cell: (row) => number(costText(name, valueOf(row, name, on))),
    })),
  ].filter(Boolean);
}

const number = (text) => el("td", { class: "num" }, String(text));

function methodCell(row) {
  const open = el("button", { class: "name", type: "button", "aria-haspopup": "dialog", "data-row": row.number }, row.method);
  const pick = row.curves.length
    ? el("input", {
        class: "pick", type: "checkbox", checked: pickedRows().includes(row), "data-pick": row.number,
        "aria-label": `Learning curve of ${row.label} on ${row.task}`, title: "Draw its learning curve",
      })
    : null;
  const words = el("span", {}, open, row.settings ? el("small", {}, row.settings) : null);
  return el("th", { scope: "row" }, el("span", { class: "method" }, words, pick));
}

// letters stand in a place each, so that a group shows as a stripe down the column
function lettersCell(row) {
  const places = lettersOf(row);
  const own = new Set(row.letters);
  if (places.length > SLOTS) return el("td", {}, row.letters || "–");
  const spans = places.map((letter) => el("span", { class: own.has(letter) ? "on" : null }, own.has(letter) ? letter : "\u00a0"));
  return el("td", { class: "letter-cell" }, el("span", { class: "hidden" }, [...own].join(" ")), el("span", { class: "letters", "aria-hidden": "true" }, spans));
}

const cellCache = new Map();
function cellOf(row) {
  const key = JSON.stringify([row.board, row.task]);
  if (!cellCache.has(key)) {
    const rows = data.rows.filter((each) => each.board === row.board && each.task === row.task);
    const ends = rows.flatMap((each) => [each.low, each.high, each.score]).filter(isNumber);
    const letters = [...new Set(rows.flatMap((each) => [...each.letters]))].sort();
    cellCache.set(key, { letters, low: Math.min(...ends), high: Math.max(...ends) });
  }
  return cellCache.get(key);
}
const lettersOf = (row) => cellOf(row).letters;

function scoreCell(row) {
  if (!isNumber(row.score)) return number(row.problems.length ? row.without : "–");
  const title = isNumber(row.low) ? `95 % interval over ${row.seeds.length} seeds: ${interval(row)}` : "one seed: no interval";
  return el("td", { class: "num", title }, scoreText(row, row.score) + spreadText(row), range(row));
}

function interval(row) {
  const ends = row.up ? [row.low, row.high] : [row.high, row.low];
  return ends.map((end) => scoreText(row, end)).join(" to ");
}

function range(row) {
  const { low, high } = cellOf(row);
  const at = (value) => `${(100 * (value - low)) / (high - low || 1)}%`;
  const bar = el("i");
  if (isNumber(row.low)) {
    bar.style.left = at(row.low);
    bar.style.width = `${(100 * (row.high - row.low)) / (high - low || 1)}%`;
  }
  const mark = el("b");
  mark.style.left = `calc(${at(row.score)} - 1px)`;
  return el("span", { class: "range", "aria-hidden": "true" }, isNumber(row.low) ? bar : null, mark);
}

function drawHead() {
  const heads = columns().map((column) => {
    const sort = state.sort === column.id ? (state.down ? "descending" : "ascending") : "none";
    const button = el("button", { type: "button", "data-sort": column.id }, column.label);
    return el("th", { scope: "col", class: column.number ? "num" : null, "aria-sort": sort }, button);
  });
  byId("rows").tHead.replaceChildren(el("tr", {}, heads));
}

function chooseSort(id) {
  const column = columns().find((each) => each.id === id);
  const first = column.down ? "1" : "";
  if (state.sort !== id) Object.assign(state, { sort: id, down: first });
  else if (state.down === first) state.down = first ? "" : "1";
  else Object.assign(state, { sort: "", down: "" }); // a third click: back to the board's own order
}

function compare(a, b) {
  return typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
}

function sortRows(rows) {
  const column = columns().find((each) => each.id === state.sort);
  if (!column) return rows;
  const keyed = rows.map((row) => [column.value(row), row]);
  const there = keyed.filter(([value]) => value !== null && value !== undefined);
  const absent = keyed.filter(([value]) => value === null || value === undefined); // last, whichever way
  there.sort(([a], [b]) => (state.down ? compare(b, a) : compare(a, b)));
  return [...there, ...absent].map(([, row]) => row);
}

function drawTable(rows) {
  sorted = sortRows(rows);
  drawn = 0;
  drawHead();
  byId("rows").tBodies[0].replaceChildren();
  byId("table-box").scrollTop = 0;
  drawMore();
}

function drawMore(count = CHUNK) {
  const shown = columns();
  const next = sorted.slice(drawn, drawn + count).map((row, place) => {
    const before = sorted[drawn + place - 1];
    const isNew = before && before.task !== row.task && (!state.sort || state.sort === "task");
    const kinds = [row.top && data.tested && "top", isNew && "new-task", !isNumber(row.score) && "none"].filter(Boolean);
    return el("tr", { class: kinds.join(" ") || null, "data-row": row.number }, shown.map((column) => column.cell(row)));
  });
  byId("rows").tBodies[0].append(...next);
  drawn += next.length;
  const left = sorted.length - drawn;
  byId("more").hidden = left === 0;
  byId("more").textContent = `Show ${Math.min(left, 5 * CHUNK)} more (${left} left)`;
}
