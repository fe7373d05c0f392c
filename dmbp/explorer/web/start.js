// The page begins: numbers are read, then each panel is drawn.

const PYTHON = `import dmbp, dmbp.analysis, dmbp.explorer.site_channels
result = dmbp.load("….npz")   # or dmbp.explain(network, x, target)`;

const ON_NUMBERS = `Choose any number to see it in full, and the line of Python that gives it. Under each panel all
of its numbers are a table away. In these lines result is the explanation:`;

const ON_KEYS = `On a picture the arrow keys move the place that is read (with Shift by eight), + and − zoom, 0 shows
all; Ctrl and the wheel zoom too, two fingers pinch. On the strip the arrow keys move from operator to operator.
Escape closes a number.`;

const ON_SUMS = `Maps and parts are exact in single precision (float32): what they sum to is what the library says, to
rounding. Values of single channels that are only read have five digits.`;

function drawAbout() {
  const { about } = data;
  const left = [...data.inputs.flatMap((input) => input.left_out), ...(data.network?.left_out ?? [])];
  const options = Object.entries(about.options).map(([name, value]) => `${name} = ${value}`);
  const listed = left.length ? make("ul", {}, ...left.map((line) => make("li", {}, line))) : "Nothing.";
  const items = [
    ["Numbers", ON_NUMBERS, make("pre", {}, make("code", {}, PYTHON))],
    ["Keys", ON_KEYS],
    ["Made with", `dmbp ${about.version}: ${options.join(", ")}.`],
    ["Left out", listed],
    ["Sums", ON_SUMS],
  ];
  const list = items.flatMap(([term, ...told]) => [make("dt", {}, term), make("dd", {}, ...told)]);
  document.getElementById("about-text").append(make("dl", {}, ...list));
}

function redraw() {
  for (const panel of ["map", "curves", "film", "site"]) {
    draw[panel]();
  }
}

async function start() {
  data = await readPage();
  watchNumbers();
  startTrust();
  startCurves();
  startMap();
  startStrip();
  startLedger();
  drawAbout();
  for (const panel of ["map", "reading", "curves", "film", "ledger"]) {
    draw[panel]();
  }
  watchTheme(redraw);
  document.body.dataset.ready = "yes";
}

function failed(error) {
  const told = `This page could not be drawn: ${error.message}.`;
  document.querySelector("main").prepend(make("p", { class: "panel wide failed" }, told));
  throw error;
}

// After the first paint, which shows the words.
requestAnimationFrame(() => setTimeout(() => start().catch(failed)));
