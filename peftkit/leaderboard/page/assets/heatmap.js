// Method by task: a value in each cell, no significant difference from the best marked by a border, so that colour is not needed.

const LINES = 60;

function drawHeat(rows) {
  const several = new Set(rows.map((row) => row.model)).size > 1;
  const tasks = [...new Set(rows.map((row) => row.task))];
  const lines = new Map();
  for (const row of rows) {
    const name = several ? `${row.label} ${modelName(row)}` : row.label;
    if (!lines.has(name)) lines.set(name, new Map());
    lines.get(name).set(row.task, row);
  }
  const shade = Object.fromEntries(tasks.map((task) => [task, scaleOf(rows.filter((row) => row.task === task))]));
  const order = [...lines].sort(([, a], [, b]) => standing(b, shade, tasks) - standing(a, shade, tasks));
  const shown = order.slice(0, LINES);
  const parts = [`A deeper shade is better within its task.`];
  parts.push(data.tested ? "Bordered: no significant difference from the best of the task." : "Bordered: the best mean of the task; differences were not tested.");
  if (shown.length < order.length) parts.push(`The ${shown.length} best of ${order.length} entries; filter to see others.`);
  byId("heat-note").textContent = parts.join(" ");
  const head = el("tr", {}, el("th", { scope: "col" }, "Method"), tasks.map((task) => el("th", { scope: "col" }, task)));
  const body = shown.map(([name, cells]) =>
    el("tr", {}, el("th", { scope: "row" }, name), tasks.map((task) => el("td", {}, heatCell(cells.get(task), shade[task])))),
  );
  byId("heat-table").replaceChildren(el("thead", {}, head), el("tbody", {}, body));
}

// from 0, the worst of the task, to 1
function scaleOf(rows) {
  const scores = rows.map((row) => row.score).filter(isNumber);
  const [low, high] = [Math.min(...scores), Math.max(...scores)];
  return (score) => (high > low ? (score - low) / (high - low) : 1);
}

// the mean shade, and a line that lacks tasks after those that do not
function standing(cells, shade, tasks) {
  const scored = [...cells.values()].filter((row) => isNumber(row.score));
  if (!scored.length) return -tasks.length;
  return d3.mean(scored, (row) => shade[row.task](row.score)) - (tasks.length - scored.length);
}

function heatCell(row, shade) {
  if (!row) return el("span", { class: "absent" }, "–");
  if (!isNumber(row.score)) return el("span", { class: "absent bad" }, row.without);
  const words = `${row.label} on ${row.task}: ${scoreText(row, row.score)}${row.top ? (data.tested ? ", no significant difference from the best" : ", the best mean") : ""}`;
  const made = el("button", { type: "button", class: row.top ? "top" : null, "data-row": row.number, "aria-label": words, "aria-haspopup": "dialog" }, scoreText(row, row.score));
  made.style.background = `color-mix(in oklab, var(--heat) ${Math.round(46 * shade(row.score))}%, transparent)`;
  return made;
}
