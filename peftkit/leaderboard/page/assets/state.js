// The state of the controls, stored in the URL hash so that a reload or a link restores it.

const DEFAULTS = {
  board: "0", q: "", task: "", model: "", method: "", machine: "", tied: "",
  sort: "", down: "", x: "trainable_params", y: SCORE, lx: "1", ly: "", curves: "",
};
const state = { ...DEFAULTS };

function readHash() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(DEFAULTS)) state[name] = given.get(name) ?? DEFAULTS[name];
  if (!data.boards[Number(state.board)]) state.board = DEFAULTS.board;
}

function writeHash() {
  const kept = Object.entries(state).filter(([name, value]) => value !== DEFAULTS[name]);
  const text = new URLSearchParams(kept).toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

const board = () => data.boards[Number(state.board)];
data.entries.forEach((entry, number) => {
  entry.number = number;
  entry.searchText = [entry.method, entry.settings, entry.task, entry.model].join(" ").toLowerCase();
});
const boardEntries = () => data.entries.filter((entry) => entry.board === board()?.title);

function filteredEntries() {
  const terms = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  return boardEntries().filter(
    (entry) =>
      (!state.task || entry.task === state.task) &&
      (!state.model || entry.baseline || entry.model === state.model) &&
      (!state.method || entry.method === state.method) &&
      (!state.tied || entry.top) &&
      terms.every((term) => entry.searchText.includes(term)),
  );
}

// machines of the board, the one with the most entries first; times are shown for one machine at a time
function machines() {
  const counts = new Map();
  for (const entry of boardEntries()) for (const name of Object.keys(entry.timed)) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]).map(([name]) => name);
}

const machine = () => (machines().includes(state.machine) ? state.machine : (machines()[0] ?? ""));

function timedNames(entries) {
  return new Set(entries.flatMap((entry) => Object.values(entry.timed).flatMap((costs) => Object.keys(costs))));
}

// a cost or the score; times are those of the selected machine
function valueOf(entry, name, on) {
  if (name === SCORE) return entry.score;
  return entry.costs[name] ?? entry.timed[on]?.[name] ?? null;
}

function costNames(entries) {
  const names = new Set(entries.flatMap((entry) => Object.keys(entry.costs)));
  for (const name of timedNames(entries)) names.add(name);
  return Object.keys(data.costs).filter((name) => names.has(name));
}
