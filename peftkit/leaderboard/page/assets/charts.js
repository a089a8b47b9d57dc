// The plots: any two columns against each other with the Pareto front, and losses over steps.

const MAX_DOTS = 500; // more overlap and are slow to draw
const MAX_CURVES = 8; // as many as there are colors

function figureOf(caption, note, chart) {
  return el("figure", {}, el("figcaption", {}, el("strong", {}, breakable(caption)), note ? el("small", {}, note) : null), chart);
}

// the width of a plot in its grid, in pixels
function widthFor(box, single) {
  const columns = getComputedStyle(box).gridTemplateColumns.split(" ");
  const found = Number.parseFloat(columns[0]) || box.clientWidth;
  return Math.max(260, Math.min(found, single ? 960 : 640));
}

function drawTradeOff(entries, baselines) {
  const on = machine();
  const { x, y } = state;
  const timed = timedNames(entries);
  const isTimed = timed.has(x) || timed.has(y);
  const usable = entries.filter((entry) => isNumber(valueOf(entry, x, on)) && isNumber(valueOf(entry, y, on)));
  const tasks = Map.groupBy(usable, (entry) => entry.task);
  const perTask = Math.max(1, Math.floor(MAX_DOTS / tasks.size));
  const drawn = d3.sum(tasks.values(), (here) => Math.min(here.length, perTask));
  const notes = [];
  if (isTimed && machines().length > 1) notes.push(`Only runs on ${on}: times of different machines are not comparable.`);
  if (usable.length < entries.length) notes.push(`${entries.length - usable.length} of ${entries.length} entries lack one of the two values and are not drawn.`);
  if (drawn < usable.length) notes.push(`${drawn} of ${usable.length} entries are drawn, the Pareto-optimal and the best; filter to see others.`);
  notes.push("Filled and connected: Pareto-optimal means. Bars: 95 % intervals.");
  if (y === SCORE && baselines.length) notes.push("Dashed: baselines, of which the highest of each kind.");
  byId("trade-note").textContent = notes.join(" ");
  const box = byId("trade-plots");
  const single = tasks.size === 1;
  box.classList.toggle("single", single);
  const width = widthFor(box, single);
  box.replaceChildren(...[...tasks].map(([task, here]) => tradeOffPlot(task, here, on, width, single, perTask, baselines.filter((entry) => entry.task === task))));
  if (!tasks.size) box.replaceChildren(el("p", { class: "muted" }, "No entry has both values."));
}

// the Pareto-optimal points
function paretoFront(points) {
  const better = (name) => (moreIsBetter(name) ? 1 : -1);
  const [bx, by] = [better(state.x), better(state.y)];
  const order = [...points].sort((a, b) => bx * (b.x - a.x) || by * (b.y - a.y));
  const found = [];
  for (const point of order) if (!found.length || by * point.y > by * found.at(-1).y) found.push(point);
  return found.sort((a, b) => a.x - b.x);
}

// a score times 100, or the error itself
function shownValue(entry, name, value) {
  if (name !== SCORE || !isNumber(value)) return value;
  return entry.up ? 100 * value : -value;
}

function axis(name, log, up) {
  const label = name === SCORE ? (up ? "Score" : "Error") : costName(name);
  const format = name === SCORE ? (v) => short(v, 4) : (v) => costText(name, v);
  return { label, type: log ? "log" : "linear", tickFormat: format, nice: !log, grid: true, ticks: log ? 4 : 5 };
}

function tradeOffPlot(task, entries, on, width, single, most, baselines) {
  const all = entries.map((entry) => {
    const point = { entry, x: valueOf(entry, state.x, on), y: valueOf(entry, state.y, on) };
    for (const [side, name] of [["x", state.x], ["y", state.y]])
      if (name === SCORE) Object.assign(point, { [`${side}1`]: shownValue(entry, name, entry.low), [`${side}2`]: shownValue(entry, name, entry.high) });
    return point;
  });
  const best = paretoFront(all);
  const isFront = new Set(best);
  const others = all.filter((point) => !isFront.has(point)).sort((a, b) => (b.entry.score ?? -Infinity) - (a.entry.score ?? -Infinity));
  const points = [...best, ...others].slice(0, most);
  for (const point of points) Object.assign(point, { x: shownValue(point.entry, state.x, point.x), y: shownValue(point.entry, state.y, point.y) });
  const log = { x: state.lx && points.every((p) => p.x > 0), y: state.ly && points.every((p) => p.y > 0) };
  const bar = { stroke: (p) => colorOf(p.entry), strokeOpacity: 0.45, strokeWidth: 1.5 };
  const up = entries.every((entry) => entry.up);
  const chart = Plot.plot({
    className: "plot", width, height: single ? Math.min(460, width * 0.7) : 270,
    marginLeft: 52, marginRight: 26, marginTop: 22, marginBottom: 36,
    x: { ...axis(state.x, log.x, up), labelAnchor: "right" }, y: axis(state.y, log.y, up),
    color: { type: "identity" }, symbol: { type: "identity" },
    marks: [
      ...(state.y === SCORE ? baselineMarks(baselines, points) : []),
      "y1" in (points[0] ?? {}) ? Plot.ruleX(points.filter((p) => isNumber(p.y1)), { x: "x", y1: "y1", y2: "y2", ...bar }) : null,
      "x1" in (points[0] ?? {}) ? Plot.ruleY(points.filter((p) => isNumber(p.x1)), { y: "y", x1: "x1", x2: "x2", ...bar }) : null,
      Plot.line(best, { x: "x", y: "y", curve: moreIsBetter(state.x) ? "step-before" : "step-after", stroke: "currentColor", strokeOpacity: 0.6 }),
      Plot.dot(points, {
        x: "x", y: "y", r: 4.5, stroke: (p) => colorOf(p.entry), strokeWidth: 1.75, symbol: (p) => symbolOf(p.entry),
        fill: (p) => (isFront.has(p) ? colorOf(p.entry) : "var(--background)"),
      }),
      Plot.tip(points, Plot.pointer({
        x: "x", y: "y", maxRadius: 24, lineWidth: 26,
        title: (p) => `${p.entry.label}\n${tipLine(state.y, p.entry, on)}\n${tipLine(state.x, p.entry, on)}`,
      })),
    ],
  });
  labelDots(chart, points, isFront, width);
  const named = best.map((p) => p.entry.label).join(", ");
  chart.setAttribute("role", "img");
  chart.setAttribute("aria-label", `${task}: ${axis(state.y, log.y, up).label} against ${axis(state.x, log.x, up).label} of ${entries.length} entries. Pareto-optimal: ${named}.`);
  chart.addEventListener("click", () => chart.value && openDetails(chart.value.entry));
  const of = entries[0].of.startsWith("mean of ") ? `${entries[0].of}; ` : "";
  return figureOf(task, `${of}${best.length} of ${entries.length} Pareto-optimal`, chart);
}

// a line with its name for the best baseline of each kind
function baselineMarks(baselines, points) {
  const best = [...d3.rollup(baselines, (each) => each.reduce((a, b) => (b.score > a.score ? b : a)), (entry) => entry.method).values()];
  const lines = best.map((entry) => ({ name: entry.method, y: shownValue(entry, SCORE, entry.score) })).sort((a, b) => b.y - a.y);
  const ends = [...lines, ...points].flatMap((each) => [each.y, each.y1, each.y2]).filter(isNumber);
  const gap = 0.08 * (Math.max(...ends) - Math.min(...ends)); // names of nearer lines are joined
  const named = [];
  for (const line of lines) {
    const near = named.find((each) => Math.abs(each.y - line.y) < gap);
    if (near) near.name += `, ${line.name}`;
    else named.push({ ...line });
  }
  return [
    Plot.ruleY(lines, { y: "y", stroke: "currentColor", strokeOpacity: 0.55, strokeDasharray: "4 3" }),
    Plot.text(named, { y: "y", frameAnchor: "right", textAnchor: "end", dy: -6, text: "name", fillOpacity: 0.75, className: "halo" }),
  ];
}

function tipLine(name, entry, on) {
  if (name !== SCORE) return `${costName(name)} ${costText(name, valueOf(entry, name, on))}`;
  return `Score ${scoreText(entry, entry.score)}${isNumber(entry.low) ? ` (${interval(entry)})` : ""}`;
}

// labels next to the dots, those of the front first, each at a position without dots and other labels
function labelDots(chart, points, isFront, width) {
  const [sx, sy] = [chart.scale("x"), chart.scale("y")];
  const dots = points.map((p) => ({ p, x: sx.apply(p.x), y: sy.apply(p.y) }));
  const occupied = dots.map(({ x, y }) => [x - 5, y - 5, x + 5, y + 5]);
  const height = Number(chart.getAttribute("height"));
  const order = [...dots].sort((a, b) => isFront.has(b.p) - isFront.has(a.p));
  for (const { p, x, y } of order.slice(0, 60)) {
    const text = p.entry.label; // where it does not fit, the tip has it
    const long = text.length * 6.1;
    const positions = [[x + 8, y + 4, "start"], [x - 8, y + 4, "end"], [x, y - 9, "middle"], [x, y + 17, "middle"], [x + 8, y - 8, "start"], [x - 8, y - 8, "end"], [x + 8, y + 16, "start"]];
    for (const [tx, ty, anchor] of positions) {
      const left = anchor === "start" ? tx : anchor === "end" ? tx - long : tx - long / 2;
      const area = [left, ty - 10, left + long, ty + 3];
      const isOut = area[0] < 50 || area[2] > width - 2 || area[1] < 14 || area[3] > height - 32;
      if (isOut || occupied.some((t) => t[0] < area[2] && area[0] < t[2] && t[1] < area[3] && area[1] < t[3])) continue;
      occupied.push(area);
      d3.select(chart).append("text").attr("class", "halo").attr("x", tx).attr("y", ty).attr("text-anchor", anchor)
        .attr("fill", "currentColor").attr("opacity", isFront.has(p) ? 1 : 0.75).attr("pointer-events", "none").text(text);
      break;
    }
  }
}

function drawLegend(entries) {
  const methods = [...new Map(entries.filter((entry) => isNumber(entry.score) && !entry.baseline).map((entry) => [entry.method, entry]))];
  if (methods.length > 24) return el("p", { class: "muted" }, `${methods.length} methods: point at a dot to see its name.`);
  return el("ul", { class: "legend" }, methods.sort(([a], [b]) => a.localeCompare(b)).map(([method, entry]) => {
    const symbol = d3.create("svg").attr("viewBox", "-7 -7 14 14").attr("aria-hidden", "true");
    const shape = d3[`symbol${symbolOf(entry)[0].toUpperCase()}${symbolOf(entry).slice(1)}`];
    symbol.append("path").attr("d", d3.symbol(shape, 60)()).attr("fill", colorOf(entry));
    return el("li", {}, symbol.node(), breakable(method));
  }));
}

// entries picked for their curves; by default the best of the first task
function pickedEntries() {
  const here = boardEntries().filter((entry) => entry.curves.length);
  const picked = state.curves.split(",").filter(Boolean).map((n) => data.entries[Number(n)]).filter((entry) => here.includes(entry));
  if (picked.length) return picked;
  const entries = filteredEntries().filter((entry) => entry.curves.length);
  return entries.filter((entry) => entry.task === entries[0].task).slice(0, 4);
}

function pickCurve(entry, on) {
  const now = pickedEntries().filter((each) => each !== entry);
  if (on) now.push(entry);
  state.curves = now.slice(-MAX_CURVES).map((each) => each.number).join(",");
}

function drawCurves() {
  const picked = pickedEntries();
  const box = byId("curve-plot");
  box.classList.add("single");
  byId("curves-note").textContent = picked.length
    ? `Training loss of ${picked.length === 1 ? "one entry" : `${picked.length} entries`}, one line per seed. Tick entries in the table to choose, ${MAX_CURVES} at most.`
    : "No run on this board has a log.";
  const color = (entry) => `var(--c${picked.indexOf(entry) % 8})`;
  const legend = el("ul", { class: "legend" }, picked.map((entry) => {
    const line = d3.create("svg").attr("viewBox", "0 0 14 14").attr("aria-hidden", "true");
    line.append("path").attr("d", "M0,8H14").attr("stroke", color(entry)).attr("stroke-width", 3);
    return el("li", {}, line.node(), breakable(`${entry.label} · ${entry.task}`));
  }));
  box.replaceChildren(...(picked.length ? [el("figure", {}, legend, curvePlot(picked, color, widthFor(box, true)))] : []));
}

function curvePlot(entries, color, width) {
  const lines = entries.flatMap((entry) => entry.curves.map(([seed, steps, losses]) => steps.map((step, i) => ({ entry, seed, step, loss: losses[i] }))));
  const points = lines.flat();
  const chart = Plot.plot({
    className: "plot", width, height: Math.min(340, width * 0.65), marginLeft: 46, marginRight: width > 600 ? 110 : 14, marginBottom: 36,
    x: { label: "Step", nice: true, ticks: 6 }, y: { label: "Loss", grid: true, nice: true, ticks: 5 }, color: { type: "identity" },
    marks: [
      Plot.line(points, { x: "step", y: "loss", z: (p) => `${p.entry.number} ${p.seed}`, stroke: (p) => color(p.entry), strokeWidth: 1.5, strokeOpacity: 0.85 }),
      Plot.tip(points, Plot.pointer({ x: "step", y: "loss", title: (p) => `${p.entry.label} on ${p.entry.task}\nseed ${p.seed}, step ${p.step}: loss ${short(p.loss)}`, lineWidth: 26 })),
    ],
  });
  chart.setAttribute("role", "img");
  chart.setAttribute("aria-label", `Training loss over steps of ${entries.map((entry) => `${entry.label} on ${entry.task}`).join(", ")}.`);
  if (width > 600) labelLines(chart, entries, lines, color);
  return chart;
}

// an entry's name at the end of its first line, moved down where it would overlap another
function labelLines(chart, entries, lines, color) {
  const [sx, sy] = [chart.scale("x"), chart.scale("y")];
  const lineEnds = entries.map((entry) => ({ entry, at: lines.find((line) => line[0].entry === entry).at(-1) }));
  let last = -Infinity;
  for (const { entry, at } of lineEnds.sort((a, b) => b.at.loss - a.at.loss)) {
    last = Math.max(sy.apply(at.loss) + 4, last + 13);
    const text = entry.method.length > 17 ? "" : entry.method; // the legend has longer ones
    d3.select(chart).append("text").attr("class", "halo").attr("x", sx.apply(at.step) + 8).attr("y", last).attr("fill", color(entry)).text(text);
  }
}
