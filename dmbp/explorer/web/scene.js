// What is looked at: one state for all panels, and the map that it asks for.

const LINES = { both: "y⁺ + y⁻", positive: "y⁺", negative: "y⁻", nuisance: "y~", y: "y" };
const PARTS = [
  ["both", "Both"],
  ["positive", "For"],
  ["negative", "Against"],
  ["nuisance", "Rest"],
  ["y", "c ⊙ x"],
];
const PART_TOLD = {
  both: "evidence for and against",
  positive: "evidence for, ∇⁺ ⊙ x",
  negative: "evidence against, ∇⁻ ⊙ x",
  nuisance: "the rest, whose signs disagree on the way",
  y: "all of the score, c ⊙ x (Eq. 5)",
};

let data = null; // the page's value, with its arrays
const state = {
  input: 0,
  kind: "paper",
  part: "both",
  channel: "all",
  mix: 65,
  at: 0,
  pixel: null,
  site: null,
  side: "positive",
  chosen: null,
  line: "y",
  sort: "order",
  all: false,
};
const draw = {}; // the panels by name: draw.map() draws one anew

function change(what, ...panels) {
  Object.assign(state, what);
  for (const panel of panels) {
    draw[panel]();
  }
}

function theInput() {
  return data.inputs[state.input];
}

function lastIteration() {
  return data.history.positive.length - 1;
}

// With loss "none" nothing is set aside: the map is that of y.
function mapOf(input, kind, part) {
  const maps = input.maps[kind];
  if (part !== "both") {
    return maps[part].values;
  }
  return data.about.loss === "none" ? maps.y.values : added(maps.positive.values, maps.negative.values);
}

function sumOf(input, kind, part) {
  const maps = input.maps[kind];
  if (part !== "both") {
    return maps[part].sum;
  }
  return data.about.loss === "none" ? maps.y.sum : maps.positive.sum + maps.negative.sum;
}

// Evidence for, against and both share one scale; the rest and y have their own.
const limits = new Map();
function limitFor(input, kind, part) {
  const group = part === "nuisance" || part === "y" ? part : "evidence";
  const key = `${input.name} ${kind} ${group}`;
  if (!limits.has(key)) {
    const parts = group === "evidence" ? ["positive", "negative", "both"] : [part];
    limits.set(key, limitOf(...parts.map((each) => mapOf(input, kind, each))));
  }
  return limits.get(key);
}

// The map kept last before this iteration, if the slider is on its way.
function snapshotAt(input, iteration) {
  const before = input.snapshots.filter((kept) => kept.at <= iteration);
  return iteration < lastIteration() && before.length ? before[before.length - 1] : null;
}

// Maps on the way are on one scale, that of the last: so they are seen to grow.
function snapshotLimit(input) {
  const key = `${input.name} snapshots`;
  if (!limits.has(key)) {
    limits.set(key, limitOf(input.snapshots.at(-1).values));
  }
  return limits.get(key);
}

// What the map panel shows now.
function shownMap() {
  const input = theInput();
  const snapshot = snapshotAt(input, state.at);
  const limit = snapshot ? snapshotLimit(input) : limitFor(input, state.kind, state.part);
  if (snapshot) {
    return { values: snapshot.values, block: snapshot.block, limit, sum: snapshot.sum, snapshot };
  }
  const kept = input.channels?.[state.part];
  if (kept && state.kind === "paper" && state.channel !== "all") {
    const size = total1(input.axes);
    const values = kept.subarray(state.channel * size, (Number(state.channel) + 1) * size);
    return { values, block: 1, limit, sum: total(values), snapshot: null };
  }
  const values = mapOf(input, state.kind, state.part);
  return { values, block: input.block, limit, sum: sumOf(input, state.kind, state.part), snapshot: null };
}

// Python --------------------------------------------------------------------------------------------------------------

function named(python, input) {
  return input.several ? `${python}["${input.name}"]` : python;
}

// The part that a map is of: with loss "none" nothing is set aside, and both together are all of y.
function lineOf(part) {
  return part === "both" && data.about.loss === "none" ? "y" : part;
}

function scorePython(line) {
  const whole =
    line === "both" ? '(result.scores["positive"] + result.scores["negative"])' : `result.scores["${line}"]`;
  return `${whole}[${data.about.image}]`;
}

function scoreOf(line) {
  return line === "both" ? data.scores.positive + data.scores.negative : data.scores[line];
}

// The line that gives a map, as the page shows it: summed over channels.
function pythonOf(input, kind, part) {
  const image = data.about.image;
  if (kind === "complete") {
    const whole = part === "both" ? "result.complete" : `result.shares["${part}"].complete`;
    return `${named(whole, input)}[${image}]`;
  }
  const own = { both: "result.attribution", positive: "result.positive", negative: "result.negative" };
  const whole = own[part] ?? `dmbp.account.elementwise(result.account, "${part}")`;
  return `${named(whole, input)}[${image}]${input.shape.length > 1 ? ".sum(0)" : ""}`;
}

function total1(sizes) {
  return sizes.reduce((product, size) => product * size, 1);
}

// The subscripts of an element of a map, from its number.
function places(index, axes) {
  const found = [];
  let rest = index;
  for (const size of [...axes].reverse()) {
    found.unshift(rest % size);
    rest = Math.floor(rest / size);
  }
  return found;
}

// An element of a map whose blocks hold several: its number among the blocks.
function blockIndex(index, axes, block) {
  const sizes = axes.map((size) => Math.ceil(size / block));
  return places(index, axes).reduce((number, place, axis) => number * sizes[axis] + Math.floor(place / block), 0);
}

// The view of an input: a picture, lines or bars.
function viewOf(input, pick, small = false, at = null) {
  const views = { picture: pictureView, volume: pictureView, signal: linesView, features: barsView };
  return (views[input.kind] ?? noView)(input, pick, small, at);
}

function noView(input) {
  const shape = `${input.shape.length} axes, ${input.shape.join(" × ")}`;
  const told = `This input has ${shape}; a page draws up to four. Python has its maps.`;
  return { element: make("p", { class: "quiet" }, told), draw: () => {}, mixes: false };
}
