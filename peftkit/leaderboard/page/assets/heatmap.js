// Method by task: a value in each cell; a border, not only color, marks those without a significant difference from the best.

const MAX_HEATMAP_LINES = 60;

function drawHeat(entries) {
  const tasks = [...new Set(entries.map((entry) => entry.task))];
  const lines = new Map();
  for (const entry of entries) {
    const name = entry.label;
    if (!lines.has(name)) lines.set(name, new Map());
    lines.get(name).set(entry.task, entry);
  }
  const scales = Object.fromEntries(tasks.map((task) => [task, scaleOf(entries.filter((entry) => entry.task === task))]));
  const order = [...lines].sort(([, a], [, b]) => isOfBaseline(a) - isOfBaseline(b) || meanScale(b, scales, tasks) - meanScale(a, scales, tasks));
  const shown = order.slice(0, MAX_HEATMAP_LINES);
  const parts = ["Deeper shades are significantly better within a task; entries of one shade do not differ significantly, directly or through others."];
  parts.push("Bordered: no significant difference from the best of the task.");
  if (entries.some(isFlagged)) parts.push(`†: ${FLAG}.`);
  if (shown.length < order.length) parts.push(`The ${shown.length} best of ${order.length} entries; filter to see others.`);
  byId("heat-note").textContent = parts.join(" ");
  const head = el("tr", {}, el("th", { scope: "col" }, "Method"), tasks.map((task) => el("th", { scope: "col" }, breakable(task), scoreOf(entries, task))));
  const body = shown.map(([name, cells]) =>
    el("tr", {}, el("th", { scope: "row" }, breakable(name)), tasks.map((task) => el("td", {}, heatCell(cells.get(task))))),
  );
  byId("heat-table").replaceChildren(el("thead", {}, head), el("tbody", {}, body));
}

// a function from a score to 0 (the worst score of the task) ... 1 (the best)
function scaleOf(entries) {
  const scores = entries.map((entry) => entry.score).filter(isNumber);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  return (score) => (high > low ? (score - low) / (high - low) : 1);
}

const isOfBaseline = (cells) => [...cells.values()].every((entry) => entry.baseline);

// below a task, what its score is where it is the mean of several metrics
function scoreOf(entries, task) {
  const of = entries.find((entry) => entry.task === task && !entry.baseline)?.of ?? "";
  return of.startsWith("mean of ") ? el("small", { class: "of" }, of) : null;
}

// the mean of a line's scaled scores; lines with missing tasks come last
function meanScale(cells, scales, tasks) {
  const scored = [...cells.values()].filter((entry) => isNumber(entry.score));
  if (!scored.length) return -tasks.length;
  return d3.mean(scored, (entry) => scales[entry.task](entry.score)) - (tasks.length - scored.length);
}

function heatCell(entry) {
  if (!entry) return el("span", { class: "absent" }, "–");
  if (!isNumber(entry.score)) return el("span", { class: "absent bad" }, entry.without);
  const text = `${entry.label} on ${entry.task}: ${scoreText(entry, entry.score)}${entry.top ? ", no significant difference from the best" : ""}${isFlagged(entry) ? `, ${FLAG}` : ""}`;
  const made = el("button", { type: "button", class: entry.top ? "top" : null, "data-entry": entry.number, "aria-label": text, "aria-haspopup": "dialog" }, scoreText(entry, entry.score), isFlagged(entry) ? " †" : null);
  made.style.background = `color-mix(in oklab, var(--heat) ${Math.round(46 * entry.shade)}%, transparent)`;
  return made;
}
