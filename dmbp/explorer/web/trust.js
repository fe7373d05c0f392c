// The head of the page, the verdict, and what of each part the maps show.

const SHARES = [
  ["input", "pixels", "from the input: on both maps"],
  ["placed", "placed", "constants with a place: on the complete map"],
  ["rest", "rest", "constants without a place: on no map"],
];

function startTrust() {
  const { about } = data;
  const learned = about.loss === "none" ? "Nothing was learned" : `${about.updates} updates, loss “${about.loss}”`;
  const stopped = about.interrupted ? ", interrupted" : "";
  const others = about.images > 1 ? `; image ${about.image} of ${about.images}, counted from 0` : "";
  document.getElementById("made").textContent =
    `${learned}${stopped}, in ${format(about.seconds, { figures: 2 })} s${others}.`;
  drawSplit();
  drawShares();
  drawVerdict();
  document.getElementById("certificate").textContent = data.checks.certificate;
  if (about.loss !== "all") {
    const told = {
      "+-": "Here the loss was y⁻ − y⁺.",
      "+": "Here the loss was −y⁺.",
      none: "Here nothing was learned: all masks are 1, and the map is c ⊙ x.",
    };
    document
      .getElementById("loss-told")
      .prepend(`${told[about.loss] ?? "Here the loss was one of the user's own."} Shown is Eq. (10). `);
  }
  offer("trust", trustRows, () => `print(result.verdict(${about.image}))\nprint(result.summary(${about.image}))`);
}

// A waterfall: from zero by y⁺ up, by y⁻ down, and by y~ to the score.
function drawSplit() {
  const { y, positive, negative, nuisance } = data.scores;
  const steps = [
    [0, positive, "for"],
    [positive, positive + negative, "against"],
    [positive + negative, y, "nuisance"],
  ];
  const ends = [0, y, ...steps.flatMap(([from, to]) => [from, to])];
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const across = (value) => (100 * (value - low)) / (high - low || 1);
  const rows = steps.map(([from, to, kind]) => {
    const bar = make("span", { class: `piece ${kind}` });
    bar.style.cssText = `left: ${across(Math.min(from, to))}%; width: ${Math.abs(across(to) - across(from))}%`;
    return make("div", {}, bar);
  });
  const track = make("div", { class: "fall-bar" }, ...rows);
  for (const [value, kind] of [
    [0, "origin"],
    [y, "score"],
  ]) {
    const line = make("span", { class: kind });
    line.style.left = `${across(value)}%`;
    track.append(line);
  }
  const named = (name, value, kind) =>
    make(
      "span",
      { class: kind },
      `${name} `,
      number(
        value,
        scorePython(Object.keys(LINES).find((key) => LINES[key] === name)),
        { signed: true },
      ),
    );
  const sum = make(
    "p",
    { class: "terms" },
    named("y", y, "score"),
    " = ",
    named("y⁺", positive, "for"),
    " + ",
    named("y⁻", negative, "against"),
    " + ",
    named("y~", nuisance, "nuisance"),
  );
  document.getElementById("split").replaceChildren(sum, track);
}

// A sentence begins with a capital, unless with a symbol such as y⁺.
function capital(text) {
  return /^[a-z]{2}/.test(text) ? text[0].toUpperCase() + text.slice(1) : text;
}

const LEVELS = { good: "✓", doubtful: "?", "do not trust": "✗", "not judged": "–" };

function levelMark(level) {
  return make("span", { class: `level ${level.replaceAll(" ", "-")}`, title: level }, LEVELS[level] ?? "·");
}

// In a line under the score, and in its panel part by part: words first, each with its own level where it has one.
function drawVerdict() {
  const { verdict } = data;
  document
    .getElementById("word")
    .replaceChildren(levelMark(verdict.level), make("b", {}, `${capital(verdict.level)}: `), verdict.words, ".");
  const parts = ["paper", "complete", "growth", "settled", "rounding", "standing", "tried"]
    .map((name) => verdict[name])
    .filter(Boolean);
  const seen = new Set();
  const told = parts.filter((part) => part.words && !seen.has(part.words) && seen.add(part.words));
  document
    .getElementById("verdict")
    .replaceChildren(
      ...told.map((part) => make("li", {}, levelMark(part.level ?? ""), make("span", {}, `${capital(part.words)}.`))),
    );
}

// Of each part, what the maps show of it; sizes are shares of the sum of absolute values.
function drawShares() {
  const names = { ...LINES, unmasked: "u" };
  const rows = ["positive", "negative", "nuisance", "y", "unmasked"].map((line) => {
    const shares = data.shares[line];
    const whole = SHARES.reduce((sum, [name]) => sum + Math.abs(shares[name]), 0) || 1;
    const bar = make("span", { class: "stack" });
    for (const [name, kind] of SHARES) {
      const part = make("span", { class: kind });
      part.style.width = `${(100 * Math.abs(shares[name])) / whole}%`;
      bar.append(part);
    }
    const cells = SHARES.map(([name, kind]) =>
      make("td", { class: kind }, number(shares[name], sharePython(line, name), { signed: true, figures: 3 })),
    );
    return make(
      "tr",
      {},
      make("th", { scope: "row", title: line === "unmasked" ? onUnmasked() : null }, names[line]),
      make("td", { class: "stacked" }, bar),
      ...cells,
    );
  });
  const head = make(
    "tr",
    {},
    make("th", {}, ""),
    make("th", { class: "stacked" }, "where it comes from"),
    make("th", { scope: "col" }, "input"),
    make("th", { scope: "col" }, "placed"),
    make("th", { scope: "col" }, "no place"),
  );
  const key = make(
    "p",
    { class: "key" },
    ...SHARES.map(([, kind, text]) => make("span", {}, make("i", { class: kind }), text)),
  );
  document
    .getElementById("shares")
    .replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)), key);
}

function onUnmasked() {
  return `what no mask touches; it is counted ${data.about.counting === "both" ? "in y⁺ and in y⁻" : "in y~"}`;
}

function sharePython(line, name) {
  const shares = `result.shares["${line}"]`;
  const image = data.about.image;
  return {
    input: `${shares}.input_share[${image}]`,
    rest: `sum(share[${image}] for share in ${shares}.rest.values())`,
    placed: `${shares}.bias_share[${image}] - sum(share[${image}] for share in ${shares}.rest.values())`,
  }[name];
}

function trustRows() {
  const lines = ["y", "positive", "negative", "nuisance", "unmasked"];
  return [
    ["part", "score", "from_input", "placed_constants", "unplaced_constants"],
    ...lines.map((line) => [line, data.scores[line], ...SHARES.map(([name]) => data.shares[line][name])]),
  ];
}
