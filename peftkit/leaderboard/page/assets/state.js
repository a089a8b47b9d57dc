// What the reader has chosen: kept in the address, so that a reload or a link shows the same.

const DEFAULTS = {
  board: "0", q: "", task: "", model: "", method: "", machine: "", tied: "",
  sort: "", down: "", x: "trainable_params", y: SCORE, lx: "1", ly: "", curves: "",
};
const state = { ...DEFAULTS };

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(DEFAULTS)) state[name] = given.get(name) ?? DEFAULTS[name];
  if (!data.boards[Number(state.board)]) state.board = DEFAULTS.board;
}

function writeAddress() {
  const kept = Object.entries(state).filter(([name, value]) => value !== DEFAULTS[name]);
  const text = new URLSearchParams(kept).toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

const board = () => data.boards[Number(state.board)];
data.rows.forEach((row, number) => {
  row.number = number;
  row.words = [row.method, row.settings, row.task, row.model].join(" ").toLowerCase();
});
const boardRows = () => data.rows.filter((row) => row.board === board()?.title);

function filteredRows() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  return boardRows().filter(
    (row) =>
      (!state.task || row.task === state.task) &&
      (!state.model || row.model === state.model) &&
      (!state.method || row.method === state.method) &&
      (!state.tied || row.top) &&
      words.every((word) => row.words.includes(word)),
  );
}

// machines of the board, the one with the most rows first: times are shown of one machine only
function machines() {
  const counts = new Map();
  for (const row of boardRows()) for (const name of Object.keys(row.timed)) counts.set(name, (counts.get(name) ?? 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1]).map(([name]) => name);
}

const machine = () => (machines().includes(state.machine) ? state.machine : (machines()[0] ?? ""));

function timedNames(rows) {
  return new Set(rows.flatMap((row) => Object.values(row.timed).flatMap((costs) => Object.keys(costs))));
}

// the value of a cost, or of the score; a time only of the chosen machine
function valueOf(row, name, on) {
  if (name === SCORE) return row.score;
  return row.costs[name] ?? row.timed[on]?.[name] ?? null;
}

function costNames(rows) {
  const there = new Set(rows.flatMap((row) => Object.keys(row.costs)));
  for (const name of timedNames(rows)) there.add(name);
  const known = Object.keys(COSTS).filter((name) => there.has(name));
  return [...known, ...[...there].filter((name) => !(name in COSTS))];
}
