// Draws the page, and updates it after each change of a control.

const SECTIONS = ["verdict", "table", "trade", "heat", "curves", "language", "domains", "judged", "failed"];
let pending = 0;

function drawAll() {
  drawBoard();
  fillSelects();
  drawEntries();
}

function drawEntries() {
  const entries = filteredEntries();
  drawTable(entries);
  const all = boardEntries().length;
  byId("count").textContent = entries.length === all ? `${all} entries` : `${entries.length} of ${all} entries`;
  cancelAnimationFrame(pending); // no plots while the user is typing
  pending = requestAnimationFrame(() => {
    drawTradeOff(entries.filter((entry) => !entry.baseline), entries.filter((entry) => entry.baseline));
    byId("trade-plots").before(legendBox(entries));
    drawHeat(entries);
    drawCurves();
  });
  writeHash();
}

function legendBox(entries) {
  byId("trade-legend")?.remove();
  return el("div", { id: "trade-legend" }, drawLegend(entries));
}

function drawBoard() {
  const here = board();
  byId("board-line").hidden = data.boards.length < 2;
  const warning = byId("substitute");
  warning.hidden = !here?.offline;
  warning.textContent = here?.offline ? `${here.title}. These entries are not comparable with the real model or data, and are in tables of their own.` : "";
  const lines = here?.headlines ?? [];
  const overall = lines.filter(([task]) => !task).map(([, text]) => text).join(" ");
  byId("overall").hidden = !overall;
  byId("overall").textContent = overall;
  byId("headlines").replaceChildren(...lines.filter(([task]) => task).flatMap(([task, text]) => [el("dt", {}, breakable(task)), el("dd", {}, breakable(text))]));
  if (!data.entries.length) byId("headlines").replaceChildren(el("dt", {}, "No entries yet"), el("dd", {}, "train first: python -m peftkit recipe=lora_glue"));
  drawNotes(here);
  drawLines("language", here?.language ?? [], data.language_note);
  drawLines("domains", here?.domains ?? [], data.domains_note);
  drawJudged(here?.judged ?? []);
}

function drawLines(id, lines, note) {
  byId(id).hidden = !lines.length;
  if (!lines.length) return;
  byId(`${id}-note`).textContent = note;
  byId(`${id}-table`).replaceChildren(linesOf(lines));
}

function drawJudged(judges) {
  byId("judged").hidden = !judges.length;
  byId("judged-note").textContent = data.judged_note;
  byId("judged-tables").replaceChildren(...judges.flatMap(([heading, lines]) => [el("p", {}, heading), linesOf(lines)]));
}

function linesOf(lines) {
  const heads = Object.keys(lines[0]).filter((name) => lines.some((line) => line[name]));
  const order = ["method", ...heads.filter((name) => name !== "method")];
  return tableOf(order.map((name) => name[0].toUpperCase() + name.slice(1)), lines.map((line) => order.map((name) => line[name])));
}

function drawNotes(here) {
  const notes = [
    "A score is the plain mean of the task's metrics, times 100; ± is the standard deviation over seeds, the bar below it the 95 % interval, over new seeds and new examples.",
    "Entries that share a letter do not differ significantly; the shaded ones have no significant difference from the best of their task.",
    here?.baselines ? `${here.baselines} vs. majority: whether an entry is significantly better than the baseline that always gives the same answer.` : null,
    here?.models.length === 1 ? `Model: ${here.models[0]}.` : null,
    machine() ? `Times, memory and tokens per second are of ${machine()}.` : null,
    "Time to 95 % of full: seconds of training until the chosen trial scored 95 % of full fine-tuning's score, on held-out training examples.",
    "PSCP (PEFT Soft Cost Penalties, Belanec et al. 2025): score / (1 + trained / all parameters) / (1 + latency / full's) / (1 + peak memory / full's), with constants of this board.",
    ...data.notes,
  ].filter(Boolean);
  const records = here?.records ?? [];
  const box = byId("reading");
  box.querySelector("ul").replaceChildren(...notes.map((text) => el("li", {}, text)));
  box.querySelector(".records")?.remove();
  if (records.length) {
    const lines = records.map(([first, second, win, tie, loss]) => [el("span", {}, breakable(`${first} against ${second}`)), win, tie, loss]);
    box.append(el("div", { class: "records" }, el("p", {}, "Over tasks:"), tableOf(["Pair", "Won", "Tied", "Lost"], lines)));
  }
}

function fillSelects() {
  const entries = boardEntries();
  options("task", [["", "all"], ...unique(entries.map((entry) => entry.task))]);
  options("model", [["", "all"], ...unique(entries.filter((entry) => !entry.baseline).map((entry) => entry.model))]);
  options("method", [["", "all"], ...unique(entries.map((entry) => entry.method)).sort()]);
  options("machine", machines().map((name) => [name, name]), machine());
  for (const id of ["task", "model", "machine"]) byId(id).closest("label").hidden = byId(id).options.length < (id === "machine" ? 2 : 3);
  const axes = [[SCORE, "Score"], ...costNames(entries).map((name) => [name, costName(name)])];
  options("x", axes);
  options("y", axes);
  byId("q").value = state.q;
  for (const id of ["tied", "lx", "ly"]) byId(id).checked = Boolean(state[id]);
}

const unique = (values) => [...new Set(values)].map((value) => [value, value]);

function options(id, pairs, chosen = state[id]) {
  byId(id).replaceChildren(...pairs.map(([value, text]) => el("option", { value, selected: value === chosen }, text)));
  if (!pairs.some(([value]) => value === chosen)) state[id] = byId(id).value;
}

function fillBoards() {
  const line = (here, place) => el("option", { value: place, selected: String(place) === state.board }, here.title);
  const groups = [["Real data", false], ["Offline substitutes, not the real data or model", true]].map(([name, offline]) => {
    const lines = data.boards.map((here, place) => (here.offline === offline ? line(here, place) : null)).filter(Boolean);
    return lines.length ? el("optgroup", { label: name }, lines) : null;
  });
  byId("board").replaceChildren(...groups.filter(Boolean));
}

function drawFailed() {
  const runs = data.failed;
  byId("failed").hidden = !runs.length;
  const shown = runs.slice(0, 300);
  const unfinished = runs.filter((run) => run.unfinished).length;
  byId("failed-note").textContent = `${runs.length} of ${data.runs} runs${unfinished ? `, ${unfinished} of them unfinished` : ""}${shown.length < runs.length ? `; the first ${shown.length} are listed` : ""}.`;
  const heads = ["Method", "Task", "Reason", "Seed", "Model", "Folder"];
  const lines = shown.map((run) =>
    el("tr", {},
      el("th", { scope: "row" }, run.method || "unknown"), el("td", {}, run.task), el("td", { class: "reason" }, run.problem),
      el("td", {}, run.seed === null ? "" : String(run.seed)), el("td", {}, run.model.split("/").pop()),
      el("td", { class: "folder" }, run.folder),
    ),
  );
  byId("failed-table").replaceChildren(el("thead", {}, el("tr", {}, heads.map((text) => el("th", { scope: "col" }, text)))), el("tbody", {}, lines));
}

function listen() {
  for (const id of ["task", "model", "method", "machine", "x", "y"])
    byId(id).addEventListener("change", (event) => { state[id] = event.target.value; drawEntries(); });
  for (const id of ["tied", "lx", "ly"])
    byId(id).addEventListener("change", (event) => { state[id] = event.target.checked ? "1" : ""; drawEntries(); });
  byId("q").addEventListener("input", (event) => { state.q = event.target.value; drawEntries(); });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("clear").addEventListener("click", () => {
    for (const id of ["q", "task", "model", "method", "tied"]) state[id] = "";
    fillSelects();
    drawEntries();
  });
  byId("board").addEventListener("change", (event) => {
    Object.assign(state, { ...DEFAULTS, board: event.target.value, x: state.x, y: state.y, lx: state.lx, ly: state.ly });
    drawAll();
  });
  byId("entries").tHead.addEventListener("click", (event) => {
    const id = event.target.closest("[data-sort]")?.dataset.sort;
    if (!id) return;
    chooseSort(id);
    drawTable(filteredEntries());
    writeHash();
    byId("entries").tHead.querySelector(`[data-sort="${CSS.escape(id)}"]`).focus();
  });
  byId("entries").tBodies[0].addEventListener("click", (event) => {
    if (event.target.matches("[data-pick]") || getSelection().toString()) return;
    const line = event.target.closest("tr");
    if (line) openDetails(data.entries[Number(line.dataset.entry)]);
  });
  byId("entries").tBodies[0].addEventListener("change", (event) => {
    if (!event.target.matches("[data-pick]")) return;
    pickCurve(data.entries[Number(event.target.dataset.pick)], event.target.checked);
    for (const box of document.querySelectorAll("[data-pick]")) box.checked = pickedEntries().includes(data.entries[Number(box.dataset.pick)]);
    drawCurves();
    writeHash();
  });
  byId("heat-table").addEventListener("click", (event) => {
    const cell = event.target.closest("[data-entry]");
    if (cell) openDetails(data.entries[Number(cell.dataset.entry)]);
  });
  byId("more").addEventListener("click", () => drawMore(5 * CHUNK));
  byId("details").addEventListener("click", (event) => event.target === byId("details") && event.offsetX < 0 && byId("details").close());
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return; // the toolbars of a phone change only the height
    width = innerWidth;
    drawEntries();
  });
}

const THEMES = ["auto", "light", "dark"];

function chooseTheme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  byId("theme").textContent = `Theme: ${name}`;
  try {
    localStorage.setItem("peftkit-theme", name);
  } catch {
    // a page from disk may have no storage; the choice is then lost
  }
}

function startTheme() {
  let name = "auto";
  try {
    name = localStorage.getItem("peftkit-theme") ?? "auto";
  } catch {
    // as above
  }
  chooseTheme(THEMES.includes(name) ? name : "auto");
  byId("theme").addEventListener("click", () => {
    const now = document.documentElement.dataset.theme ?? "auto";
    chooseTheme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
  });
}

// under job=leaderboard watch=true, reloads the page when the server has a newer version
async function watch() {
  let first = null;
  while (location.protocol === "http:") {
    const answer = await fetch("version", { cache: "no-store" }).catch(() => null);
    if (answer && !answer.ok) return;
    const version = answer ? await answer.text() : first;
    first ??= version;
    if (version !== first && !byId("details").open) location.reload();
    await new Promise((resolve) => setTimeout(resolve, 2000));
  }
}

readHash();
startTheme();
byId("made").textContent = `${data.entries.length} entries of ${data.runs} runs, written ${data.written.replace("T", " ").replace("+00:00", " UTC")}`;
byId("command").textContent = data.command;
document.querySelector("nav").replaceChildren(
  ...SECTIONS.filter((id) => (id !== "failed" || data.failed.length) && (!["language", "domains", "judged"].includes(id) || data.boards.some((each) => each[id].length))).map((id) => el("a", { href: `#${id}`, "data-to": id }, byId(id).querySelector("h2").textContent)),
);
document.querySelector("nav").addEventListener("click", (event) => {
  const id = event.target.dataset.to;
  if (!id) return;
  event.preventDefault(); // the URL hash has the state of the controls
  byId(id).setAttribute("tabindex", "-1");
  byId(id).focus({ preventScroll: true });
  byId(id).scrollIntoView();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("table").focus();
});
fillBoards();
listen();
drawFailed();
drawAll();
watch();
