// The plots: any two columns against each other with the Pareto front, and losses over steps.

const DOTS = 500; // a page of more takes too long to draw, and nobody can tell them apart
const PICKED = 8; // curves of rows, as there are colours

function figureOf(caption, note, chart) {
  return el("figure", {}, el("figcaption", {}, el("strong", {}, caption), note ? el("small", {}, note) : null), chart);
}

// the width that a plot gets in its grid
function widthFor(box, single) {
  const columns = getComputedStyle(box).gridTemplateColumns.split(" ");
  const found = Number.parseFloat(columns[0]) || box.clientWidth;
  return Math.max(260, Math.min(found, single ? 960 : 640));
}

function drawTrade(rows) {
  const on = machine();
  const { x, y } = state;
  const timed = timedNames(rows);
  const isTimed = timed.has(x) || timed.has(y);
  const usable = rows.filter((row) => isNumber(valueOf(row, x, on)) && isNumber(valueOf(row, y, on)));
  const tasks = Map.groupBy(usable, (row) => row.task);
  const share = Math.max(1, Math.floor(DOTS / tasks.size)); // of a task
  const drawn = d3.sum(tasks.values(), (here) => Math.min(here.length, share));
  const notes = [];
  if (isTimed && machines().length > 1) notes.push(`Only what ran on ${on}: times of different machines do not compare.`);
  if (usable.length < rows.length) notes.push(`${rows.length - usable.length} of ${rows.length} entries lack one of the two values.`);
  if (drawn < usable.length) notes.push(`${drawn} of ${usable.length} entries are drawn, the Pareto-optimal and the best; filter to see others.`);
  notes.push("Filled and connected: Pareto-optimal means. Bars: 95 % intervals over seeds.");
  byId("trade-note").textContent = notes.join(" ");
  const box = byId("trade-plots");
  const single = tasks.size === 1;
  box.classList.toggle("single", single);
  const width = widthFor(box, single);
  box.replaceChildren(...[...tasks].map(([task, here]) => tradePlot(task, here, on, width, single, share)));
  if (!tasks.size) box.replaceChildren(el("p", { class: "muted" }, "No entry has both values."));
}

// what no other row beats in one of the two without losing in the other
function front(points) {
  const better = (name) => (moreIsBetter(name) ? 1 : -1);
  const [bx, by] = [better(state.x), better(state.y)];
  const order = [...points].sort((a, b) => bx * (b.x - a.x) || by * (b.y - a.y));
  const found = [];
  for (const point of order) if (!found.length || by * point.y > by * found.at(-1).y) found.push(point);
  return found.sort((a, b) => a.x - b.x);
}

// a score as it is written: times 100, or the error itself
function shownValue(row, name, value) {
  if (name !== SCORE || !isNumber(value)) return value;
  return row.up ? 100 * value : -value;
}

function axis(name, log, up) {
  const label = name === SCORE ? (up ? "Score" : "Error") : costName(name);
  const format = name === SCORE ? (v) => short(v, 4) : (v) => costText(name, v);
  return { label, type: log ? "log" : "linear", tickFormat: format, nice: !log, grid: true, ticks: log ? 4 : 5 };
}

function tradePlot(task, rows, on, width, single, most) {
  const all = rows.map((row) => {
    const point = { row, x: valueOf(row, state.x, on), y: valueOf(row, state.y, on) };
    for (const [side, name] of [["x", state.x], ["y", state.y]])
      if (name === SCORE) Object.assign(point, { [`${side}1`]: shownValue(row, name, row.low), [`${side}2`]: shownValue(row, name, row.high) });
    return point;
  });
  const best = front(all);
  const isFront = new Set(best);
  const others = all.filter((point) => !isFront.has(point)).sort((a, b) => (b.row.score ?? -Infinity) - (a.row.score ?? -Infinity));
  const points = [...best, ...others].slice(0, most);
  for (const point of points) Object.assign(point, { x: shownValue(point.row, state.x, point.x), y: shownValue(point.row, state.y, point.y) });
  const log = { x: state.lx && points.every((p) => p.x > 0), y: state.ly && points.every((p) => p.y > 0) };
  const bar = { stroke: (p) => colourOf(p.row), strokeOpacity: 0.45, strokeWidth: 1.5 };
  const up = rows.every((row) => row.up);
  const chart = Plot.plot({
    className: "plot", width, height: single ? Math.min(460, width * 0.7) : 270,
    marginLeft: 52, marginRight: 26, marginTop: 22, marginBottom: 36,
    x: { ...axis(state.x, log.x, up), labelAnchor: "right" }, y: axis(state.y, log.y, up),
    color: { type: "identity" }, symbol: { type: "identity" },
    marks: [
      "y1" in (points[0] ?? {}) ? Plot.ruleX(points.filter((p) => isNumber(p.y1)), { x: "x", y1: "y1", y2: "y2", ...bar }) : null,
      "x1" in (points[0] ?? {}) ? Plot.ruleY(points.filter((p) => isNumber(p.x1)), { y: "y", x1: "x1", x2: "x2", ...bar }) : null,
      Plot.line(best, { x: "x", y: "y", curve: moreIsBetter(state.x) ? "step-before" : "step-after", stroke: "currentColor", strokeOpacity: 0.6 }),
      Plot.dot(points, {
        x: "x", y: "y", r: 4.5, stroke: (p) => colourOf(p.row), strokeWidth: 1.75, symbol: (p) => symbolOf(p.row),
        fill: (p) => (isFront.has(p) ? colourOf(p.row) : "var(--paper)"),
      }),
      Plot.tip(points, Plot.pointer({
        x: "x", y: "y", maxRadius: 24, lineWidth: 26,
        title: (p) => `${p.row.label}\n${tipLine(state.y, p.row, on)}\n${tipLine(state.x, p.row, on)}`,
      })),
    ],
  });
  nameDots(chart, points, isFront, width);
  const named = best.map((p) => p.row.label).join(", ");
  chart.setAttribute("role", "img");
  chart.setAttribute("aria-label", `${task}: ${axis(state.y).label} against ${axis(state.x).label} of ${rows.length} entries. Pareto-optimal: ${named}.`);
  chart.addEventListener("click", () => chart.value && openDetails(chart.value.row));
  return figureOf(task, `${best.length} of ${rows.length} Pareto-optimal`, chart);
}

function tipLine(name, row, on) {
  if (name !== SCORE) return `${costName(name)} ${costText(name, valueOf(row, name, on))}`;
  return `Score ${scoreText(row, row.score)}${isNumber(row.low) ? ` (${interval(row)})` : ""}`;
}

// names beside the dots, those of the front first, each where it covers no dot and no other name
function nameDots(chart, points, isFront, width) {
  const [sx, sy] = [chart.scale("x"), chart.scale("y")];
  const dots = points.map((p) => ({ p, x: sx.apply(p.x), y: sy.apply(p.y) }));
  const taken = dots.map(({ x, y }) => [x - 5, y - 5, x + 5, y + 5]);
  const height = Number(chart.getAttribute("height"));
  const order = [...dots].sort((a, b) => isFront.has(b.p) - isFront.has(a.p));
  for (const { p, x, y } of order.slice(0, 60)) {
    const text = p.row.label.length > 26 ? `${p.row.label.slice(0, 25)}…` : p.row.label;
    const long = text.length * 6.1;
    const places = [[x + 8, y + 4, "start"], [x - 8, y + 4, "end"], [x, y - 9, "middle"], [x, y + 17, "middle"], [x + 8, y - 8, "start"], [x - 8, y - 8, "end"], [x + 8, y + 16, "start"]];
    for (const [tx, ty, anchor] of places) {
      const left = anchor === "start" ? tx : anchor === "end" ? tx - long : tx - long / 2;
      const area = [left, ty - 10, left + long, ty + 3];
      const isOut = area[0] < 50 || area[2] > width - 2 || area[1] < 14 || area[3] > height - 32;
      if (isOut || taken.some((t) => t[0] < area[2] && area[0] < t[2] && t[1] < area[3] && area[1] < t[3])) continue;
      taken.push(area);
      d3.select(chart).append("text").attr("class", "halo").attr("x", tx).attr("y", ty).attr("text-anchor", anchor)
        .attr("fill", "currentColor").attr("opacity", isFront.has(p) ? 1 : 0.75).attr("pointer-events", "none").text(text);
      break;
    }
  }
}

function drawLegend(rows) {
  const methods = [...new Map(rows.filter((row) => isNumber(row.score)).map((row) => [row.method, row]))];
  if (methods.length > 24) return el("p", { class: "muted" }, `${methods.length} methods: point at a dot for its name.`);
  return el("ul", { class: "legend" }, methods.sort(([a], [b]) => a.localeCompare(b)).map(([method, row]) => {
    const symbol = d3.create("svg").attr("viewBox", "-7 -7 14 14").attr("aria-hidden", "true");
    const shape = d3[`symbol${symbolOf(row)[0].toUpperCase()}${symbolOf(row).slice(1)}`];
    symbol.append("path").attr("d", d3.symbol(shape, 60)()).attr("fill", colourOf(row));
    return el("li", {}, symbol.node(), method);
  }));
}

// rows picked for their curves; none picked: the best of the first task
function pickedRows() {
  const here = boardRows().filter((row) => row.curves.length);
  const picked = state.curves.split(",").filter(Boolean).map((n) => data.rows[Number(n)]).filter((row) => here.includes(row));
  if (picked.length) return picked;
  const rows = filteredRows().filter((row) => row.curves.length);
  return rows.filter((row) => row.task === rows[0].task).slice(0, 4);
}

function pickCurve(row, on) {
  const now = pickedRows().filter((each) => each !== row);
  if (on) now.push(row);
  state.curves = now.slice(-PICKED).map((each) => each.number).join(",");
}

function drawCurves() {
  const picked = pickedRows();
  const box = byId("curve-plot");
  box.classList.add("single");
  byId("curves-note").textContent = picked.length
    ? `Training loss of ${picked.length === 1 ? "one entry" : `${picked.length} entries`}, one line per seed. Tick entries in the table to choose, ${PICKED} at most.`
    : "No run on this board has left a log.";
  const colour = (row) => `var(--c${picked.indexOf(row) % 8})`;
  const legend = el("ul", { class: "legend" }, picked.map((row) => {
    const line = d3.create("svg").attr("viewBox", "0 0 14 14").attr("aria-hidden", "true");
    line.append("path").attr("d", "M0,8H14").attr("stroke", colour(row)).attr("stroke-width", 3);
    return el("li", {}, line.node(), `${row.label} · ${row.task}`);
  }));
  box.replaceChildren(...(picked.length ? [el("figure", {}, legend, curvePlot(picked, colour, widthFor(box, true)))] : []));
}

function curvePlot(rows, colour, width) {
  const lines = rows.flatMap((row) => row.curves.map(([seed, steps, losses]) => steps.map((step, i) => ({ row, seed, step, loss: losses[i] }))));
  const points = lines.flat();
  const chart = Plot.plot({
    className: "plot", width, height: Math.min(340, width * 0.65), marginLeft: 46, marginRight: width > 600 ? 110 : 14, marginBottom: 36,
    x: { label: "Step", nice: true, ticks: 6 }, y: { label: "Loss", grid: true, nice: true, ticks: 5 }, color: { type: "identity" },
    marks: [
      Plot.line(points, { x: "step", y: "loss", z: (p) => `${p.row.number} ${p.seed}`, stroke: (p) => colour(p.row), strokeWidth: 1.5, strokeOpacity: 0.85 }),
      Plot.tip(points, Plot.pointer({ x: "step", y: "loss", title: (p) => `${p.row.label} on ${p.row.task}\nseed ${p.seed}, step ${p.step}: loss ${short(p.loss)}`, lineWidth: 26 })),
    ],
  });
  chart.setAttribute("role", "img");
  chart.setAttribute("aria-label", `Training loss over steps of ${rows.map((row) => `${row.label} on ${row.task}`).join(", ")}.`);
  if (width > 600) nameLines(chart, rows, lines, colour);
  return chart;
}

// a row's name at the end of its first line, moved down where another stands there
function nameLines(chart, rows, lines, colour) {
  const [sx, sy] = [chart.scale("x"), chart.scale("y")];
  const ends = rows.map((row) => ({ row, at: lines.find((line) => line[0].row === row).at(-1) }));
  let last = -Infinity;
  for (const { row, at } of ends.sort((a, b) => b.at.loss - a.at.loss)) {
    last = Math.max(sy.apply(at.loss) + 4, last + 13);
    const text = row.method.length > 15 ? `${row.method.slice(0, 14)}…` : row.method;
    d3.select(chart).append("text").attr("class", "halo").attr("x", sx.apply(at.step) + 8).attr("y", last).attr("fill", colour(row)).text(text);
  }
}
