// The panel of an entry: scores of each seed, costs, audit, trials, and the commands that reproduce it.

function openDetails(entry) {
  const panel = byId("details");
  panel.replaceChildren(
    el("header", {}, el("h2", { id: "details-title" }, breakable(entry.method)), el("button", { type: "button", id: "close" }, "Close")),
    el("p", {}, [entry.task, entry.model, entry.settings].filter(Boolean).join(" · ")),
    el("p", { class: board()?.offline ? "substitute" : "muted" }, entry.board),
    el("p", {}, headline(entry)),
    ...entry.problems.map((text) => el("p", { class: "problem" }, text)),
    ...seedsPart(entry), ...commandPart(entry), ...comparisonPart(entry), ...costPart(entry), ...auditPart(entry), ...searchPart(entry),
    ...plainPart("Merged", entry.merge), ...plainPart("Forgetting", entry.forgetting), ...curvePart(entry),
  );
  byId("close").addEventListener("click", () => panel.close());
  panel.showModal();
  panel.scrollTop = 0;
  if (entry.curves.length) byId("details-curve").append(curvePlot([entry], colorOf, Math.max(260, byId("details-curve").clientWidth)));
}

function headline(entry) {
  if (!isNumber(entry.score)) return "No seed has a valid score.";
  const of = entry.of.startsWith("mean of ") ? ` (${entry.of})` : "";
  if (entry.baseline) return `${scoreText(entry, entry.score, 2)}${of}, computed from the labels. ${board()?.baselines ?? ""}`;
  const parts = [`${scoreText(entry, entry.score, 2)}${of} over ${entry.seeds.length} ${entry.seeds.length === 1 ? "seed" : "seeds"}`];
  if (isNumber(entry.low)) parts.push(`95 % interval ${interval(entry)}`);
  if (entry.versus) parts.push(`${entry.versus}${entry.versus === "not tested" ? " against" : " than"} majority`);
  if (entry.letters) parts.push(`group ${entry.letters}${entry.top ? ", no significant difference from the best" : ""}`);
  if (entry.reference) parts.push("the reference");
  else if (isNumber(entry.delta)) parts.push(`${differenceText(entry, entry.delta)} vs. full fine-tuning`);
  return `${parts.join("; ")}.`;
}

function tableOf(heads, lines) {
  const body = lines.map(([first, ...rest]) => el("tr", {}, el("th", { scope: "row" }, first), rest.map((cell) => (cell instanceof Node ? cell : el("td", { class: "num" }, String(cell))))));
  const head = el("tr", {}, heads.map((text, place) => el("th", { scope: "col", class: place ? "num" : null }, text)));
  return el("div", { class: "scroll", role: "region", "aria-label": heads.join(", "), tabindex: 0 }, el("table", {}, el("thead", {}, head), el("tbody", {}, body)));
}

const part = (title, ...content) => [el("h3", {}, title), ...content];

function seedsPart(entry) {
  if (entry.baseline) return [];
  const metrics = entry.metrics.map(([name]) => name);
  const shown = (run, name) => (isNumber(run.scores[name]) ? (entry.up ? (100 * run.scores[name]).toFixed(2) : short(run.scores[name], 5)) : "–");
  const several = new Set(entry.runs.map((run) => run.device)).size > 1;
  const lines = entry.runs.map((run) => {
    const cells = run.problem ? [el("td", { class: "wrap problem", colspan: metrics.length || 1 }, run.problem)] : metrics.map((name) => shown(run, name));
    return [String(run.seed), ...cells, ...(several ? [el("td", {}, run.device)] : [])];
  });
  if (metrics.length && entry.runs.length > 1)
    lines.push(["mean", ...entry.metrics.map(([, mean]) => (entry.up ? (100 * mean).toFixed(2) : short(mean, 5))), ...(several ? [""] : [])]);
  return part("Scores of each seed", tableOf(["Seed", ...(metrics.length ? metrics.map((name) => name.replaceAll("_", " ")) : ["Problem"]), ...(several ? ["Machine"] : [])], lines));
}

function commandPart(entry) {
  const known = entry.runs.filter((run) => run.command);
  if (!known.length) return [];
  const [first, ...rest] = known.map((run) => commandLine(run.command, `Command for seed ${run.seed}`));
  const more = rest.length ? el("details", {}, el("summary", {}, `Other ${rest.length === 1 ? "seed" : `${rest.length} seeds`}`), rest) : null;
  return part("Reproduce", first, more ?? "");
}

function commandLine(text, name) {
  const button = el("button", { type: "button", "aria-label": `Copy: ${name}` }, "Copy");
  const code = el("code", {}, text);
  button.addEventListener("click", async () => {
    button.textContent = (await copied(text)) ? "Copied" : "Select and copy";
    if (button.textContent !== "Copied") getSelection().selectAllChildren(code);
  });
  return el("div", { class: "command" }, code, button);
}

// a page from disk may have no clipboard API; execCommand needs a selection
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = el("textarea", {}, text);
    byId("details").append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

function comparisonPart(entry) {
  const mine = data.comparisons.filter(([first, second]) => first === entry.number || second === entry.number);
  if (!mine.length) return [];
  const lines = mine.map(([first, second, difference, low, high, p, holm, differs, test]) => {
    const isFirst = first === entry.number;
    const sign = isFirst ? 1 : -1;
    const bounds = isNumber(low) && isNumber(high) ? [sign * low, sign * high].sort((a, b) => a - b) : null;
    return { other: data.entries[isFirst ? second : first], difference: isNumber(difference) ? sign * difference : null, bounds, p, holm, differs, test };
  });
  lines.sort((a, b) => (a.difference ?? 0) - (b.difference ?? 0));
  const cells = lines.map((line) => [
    line.other.label, differenceText(entry, line.difference),
    line.bounds ? (entry.up ? line.bounds : [...line.bounds].reverse()).map((bound) => differenceText(entry, bound)).join(" to ") : "–",
    probability(line.p), probability(line.holm), line.differs ? "significant" : "not significant",
  ]);
  const tests = [...new Set(lines.map((line) => line.test))].join(", ");
  return part("Compared with the other entries", el("p", { class: "muted" }, `This entry minus the other; ${tests}. Holm's correction is over all pairs of methods of the board, and separately over the tests against baselines.`), tableOf(["Other", "Difference", "95 % interval", "p", "p, Holm", "Result"], cells));
}

const list = (pairs) => el("dl", {}, pairs.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));

function costPart(entry) {
  const lines = Object.entries(entry.costs).map(([name, value]) => [costName(name), costText(name, value)]);
  const { trainable_params: trained, total_params: total } = entry.costs;
  if (isNumber(trained) && total) lines.splice(1, 0, ["Share of parameters", `${short((100 * trained) / total, 2)} %`]);
  for (const [device, costs] of Object.entries(entry.timed)) {
    lines.push(["Machine", device]);
    for (const [name, value] of Object.entries(costs)) lines.push([costName(name), costText(name, value)]);
  }
  return lines.length ? part("Costs", list(lines)) : [];
}

function auditPart(entry) {
  const counts = (values) => Object.entries(values).map(([name, value]) => `${name} ${isNumber(value) ? value : JSON.stringify(value)}`).join(", ");
  const lines = Object.keys(entry.examples).length ? [["Examples", counts(entry.examples)]] : [];
  for (const name of ["truncated", "dropped"]) {
    const value = entry.audit?.[name];
    if (value) lines.push([`Examples ${name}`, typeof value === "object" ? counts(value) : String(value)]);
  }
  for (const [split, labels] of Object.entries(entry.audit?.label_counts ?? {})) lines.push([`Labels, ${split}`, labels && typeof labels === "object" ? counts(labels) : String(labels)]);
  for (const [name, source] of Object.entries(entry.sources ?? {})) lines.push([`Source of ${name}`, Object.entries(source).map(([key, value]) => `${key} ${value}`).join(", ")]);
  if (entry.gates) lines.push(["Gates", counts(entry.gates)]);
  if (entry.versions && Object.keys(entry.versions).length) lines.push(["Versions", counts(entry.versions).replaceAll('"', "")]);
  return lines.length ? part("Audit", list(lines)) : [];
}

function searchPart(entry) {
  const trials = entry.search?.trials;
  if (!Array.isArray(trials)) return [];
  const keys = [...new Set(trials.flatMap((trial) => Object.keys(trial.config ?? {})))];
  const hasSeen = trials.some((trial) => isNumber(trial.examples_seen));
  const isChosen = (trial) => trial.learning_rate === entry.search.chosen && keys.every((key) => trial.config?.[key] === entry.search.chosen_config?.[key]);
  const lines = trials.map((trial) => [
    isNumber(trial.learning_rate) ? String(trial.learning_rate) : "–", ...keys.map((key) => String(trial.config?.[key] ?? "–")),
    ...(hasSeen ? [isNumber(trial.examples_seen) ? trial.examples_seen.toLocaleString("en") : "–"] : []),
    isNumber(trial.score) ? scoreText(entry, trial.score) : "–",
    el("td", { class: "wrap" }, `${trial.status ?? ""}${isChosen(trial) ? " · chosen" : ""}`),
  ]);
  const { rows: count, rounds } = entry.search;
  const seen = Array.isArray(rounds) && rounds.length ? `: ${rounds.map((round) => `${round.trials} with ${round.examples_seen.toLocaleString("en")}`).join(", ")} examples seen each` : "";
  const examples = isNumber(count) ? `, on ${count} held-out training examples` : "";
  const time = isNumber(entry.search.seconds) ? `, in ${duration(entry.search.seconds)}` : "";
  const lacking = entry.search.lacking?.length ? ` In place of ${entry.search.lacking.join(", ")}, which the method does not have, more learning rates were tried.` : "";
  return part("Trials", el("p", { class: "muted" }, `${trials.length} trials${examples}${time}${seen}.${lacking}`), tableOf(["Learning rate", ...keys, ...(hasSeen ? ["Examples seen"] : []), "Score", "Outcome"], lines));
}

function plainPart(title, values) {
  const lines = flatten(values ?? {});
  return lines.length ? part(title, list(lines)) : [];
}

function flatten(values, before = "") {
  return Object.entries(values).flatMap(([name, value]) =>
    value !== null && typeof value === "object" && !Array.isArray(value)
      ? flatten(value, `${before}${name.replaceAll("_", " ")} · `)
      : [[before + name.replaceAll("_", " "), isNumber(value) ? short(value, 4) : Array.isArray(value) ? JSON.stringify(value) : String(value)]],
  );
}

const curvePart = (entry) => (entry.curves.length ? part("Training loss", el("div", { id: "details-curve" })) : []);
