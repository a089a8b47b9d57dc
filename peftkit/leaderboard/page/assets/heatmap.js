// Method by task: a value in each cell; a border, not only color, marks those without a significant difference from the best.

const MAX_HEATMAP_LINES = 60;

function drawHeat(entries) {
  const several = new Set(entries.map((entry) => entry.model)).size > 1;
  const tasks = [...new Set(entries.map((entry) => entry.task))];
  const lines = new Map();
  for (const entry of entries) {
    const name = several ? `${entry.label} ${modelName(entry)}` : entry.label;
    if (!lines.has(name)) lines.set(name, new Map());
    lines.get(name).set(entry.task, entry);
  }
  const shadeOf = Object.fromEntries(tasks.map((task) => [task, scaleOf(entries.filter((entry) => entry.task === task))]));
  const order = [...lines].sort(([, a], [, b]) => meanShade(b, shadeOf, tasks) - meanShade(a, shadeOf, tasks));
  const shown = order.slice(0, MAX_HEATMAP_LINES);
  const parts = [`Deeper shades are better within a task.`];
  parts.push("Bordered: no significant difference from the best of the task.");
  if (shown.length < order.length) parts.push(`The ${shown.length} best of ${order.length} entries; filter to see others.`);
  byId("heat-note").textContent = parts.join(" ");
  const head = el("tr", {}, el("th", { scope: "col" }, "Method"), tasks.map((task) => el("th", { scope: "col" }, task)));
  const body = shown.map(([name, cells]) =>
    el("tr", {}, el("th", { scope: "row" }, name), tasks.map((task) => el("td", {}, heatCell(cells.get(task), shadeOf[task])))),
  );
  byId("heat-table").replaceChildren(el("thead", {}, head), el("tbody", {}, body));
}

// a function from a score to 0 (the worst score of the task) ... 1 (the best)
function scaleOf(entries) {
  const scores = entries.map((entry) => entry.score).filter(isNumber);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  return (score) => (high > low ? (score - low) / (high - low) : 1);
}

// the mean shade of a line; lines with missing tasks come last
function meanShade(cells, shadeOf, tasks) {
  const scored = [...cells.values()].filter((entry) => isNumber(entry.score));
  if (!scored.length) return -tasks.length;
  return d3.mean(scored, (entry) => shadeOf[entry.task](entry.score)) - (tasks.length - scored.length);
}

function heatCell(entry, shadeOf) {
  if (!entry) return el("span", { class: "absent" }, "–");
  if (!isNumber(entry.score)) return el("span", { class: "absent bad" }, entry.without);
  const text = `${entry.label} on ${entry.task}: ${scoreText(entry, entry.score)}${entry.top ? ", no significant difference from the best" : ""}`;
  const made = el("button", { type: "button", class: entry.top ? "top" : null, "data-entry": entry.number, "aria-label": text, "aria-haspopup": "dialog" }, scoreText(entry, entry.score));
  made.style.background = `color-mix(in oklab, var(--heat) ${Math.round(46 * shadeOf(entry.score))}%, transparent)`;
  return made;
}
