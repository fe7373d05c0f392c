// The ledger as a table that sorts, with a waterfall through its rows.

const FEW = 30; // rows at first
const SORTS = {
  order: () => 0,
  size: (a, b) => Math.abs(b[state.line]) - Math.abs(a[state.line]),
  share: (a, b) => b[state.line] - a[state.line],
  term: (a, b) => a.term.localeCompare(b.term, "en", { numeric: true }),
  kind: (a, b) => a.kind.localeCompare(b.kind),
};

function startLedger() {
  draw.ledger = drawLedger;
  const lines = [
    ["y", "y"],
    ["positive", "y⁺"],
    ["negative", "y⁻"],
    ["nuisance", "y~"],
  ];
  const sorts = [
    ["order", "Order of the network"],
    ["size", "Largest first"],
    ["share", "From for to against"],
    ["term", "Name"],
    ["kind", "Kind"],
  ];
  document.getElementById("ledger-controls").append(
    choices("line", "Sum to", lines, state.line, (line) => change({ line }, "ledger")),
    picker("sort", "Sort", sorts, state.sort, (sort) => change({ sort }, "ledger")),
  );
  offer(
    "ledger",
    () => {
      const parts = ["y", "positive", "negative", "nuisance", "unmasked"];
      return [
        ["term", "kind", "node", "has_place", ...parts],
        ...data.ledger.map((row) => [row.term, row.kind, row.node, row.placed, ...parts.map((part) => row[part])]),
      ];
    },
    () => `print(result.split.ledger("${state.line}").summary(${data.about.image}))`,
  );
}

function sortedLedger() {
  return [...data.ledger].sort(SORTS[state.sort]);
}

function drawLedger() {
  const rows = sortedLedger();
  const shown = state.all ? rows : rows.slice(0, FEW);
  const steps = [];
  let sum = 0;
  for (const row of rows) {
    steps.push([sum, sum + row[state.line]]);
    sum += row[state.line];
  }
  const ends = steps.flat();
  const low = ends.reduce((a, b) => Math.min(a, b), 0);
  const high = ends.reduce((a, b) => Math.max(a, b), 0);
  const across = (value) => (100 * (value - low)) / (high - low || 1);
  const lines = shown.map((row, i) => ledgerRow(row, steps[i], across));
  if (shown.length < rows.length) {
    lines.push(make("tr", {}, make("td", { colspan: 4 }, moreButton(rows.length))));
  }
  const all = make(
    "tr",
    { class: "whole" },
    make("th", { scope: "row" }, `total: ${LINES[state.line]}`),
    make("td", {}, ""),
    make(
      "td",
      {},
      number(data.scores[state.line], `result.scores["${state.line}"][${data.about.image}]`, { signed: true }),
    ),
    make("td", { class: "fall" }, stepBar([0, sum], across, "total")),
  );
  const head = make(
    "tr",
    {},
    ...["term", "kind"].map((name) => sortHead(name)),
    sortHead("size", `share of ${LINES[state.line]}`),
    make("th", { class: "fall" }, "from zero to the sum"),
  );
  document
    .getElementById("ledger-table")
    .replaceChildren(
      make("table", { class: "ledger" }, make("thead", {}, head), make("tbody", {}, ...lines), make("tfoot", {}, all)),
    );
}

function sortHead(sort, text = sort) {
  const button = make("button", { type: "button", class: "sorter", title: `Sort by ${text}` }, text);
  button.addEventListener("click", () => {
    document.getElementById("sort").value = sort;
    change({ sort }, "ledger");
  });
  return make("th", { scope: "col", "aria-sort": state.sort === sort ? "other" : "none" }, button);
}

function moreButton(count) {
  const button = make("button", { type: "button", class: "say", id: "all-terms" }, `Show all ${count} terms`);
  button.addEventListener("click", () => change({ all: true }, "ledger"));
  return button;
}

function ledgerRow(row, step, across) {
  const name = make("th", { scope: "row", title: row.term }, row.term);
  if (!row.placed) {
    name.append(make("span", { class: "quiet", title: "On no map: it has no place in the input" }, " ∘"));
  }
  return make(
    "tr",
    {},
    name,
    make("td", {}, row.kind),
    make("td", {}, number(row[state.line], rowPython(row), { signed: true })),
    make("td", { class: "fall" }, stepBar(step, across, row.kind === "input" ? "pixels" : "bias")),
  );
}

// The line that gives a row's share: of an input, or of the constant with that label.
function rowPython(row) {
  const { image } = data.about;
  if (row.kind === "input") {
    const maps = `dmbp.account.elementwise(result.account, "${state.line}")`;
    return `${named(maps, { several: data.inputs.length > 1, name: row.of })}[${image}].sum()`;
  }
  const shares = `result.shares["${state.line}"]`;
  return `${shares}.terms[${shares}.labels.index("${row.term}"), ${image}]`;
}

function stepBar([from, to], across, kind) {
  const bar = make("span", { class: `step ${kind}` });
  const width = Math.max(0.25, Math.abs(across(to) - across(from)));
  bar.style.cssText = `left: ${across(Math.min(from, to))}%; width: ${width}%`;
  const zero = make("span", { class: "axis" });
  zero.style.left = `${across(0)}%`;
  return make("span", { class: "track" }, zero, bar);
}
