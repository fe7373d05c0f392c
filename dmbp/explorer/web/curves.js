// y⁺, y⁻ and y~ by iteration, a slider that moves along them, and the maps kept on the way.

const CURVES = [
  ["positive", "for"],
  ["negative", "against"],
  ["nuisance", "nuisance"],
];
const CHART = { left: 46, right: 64, top: 14, bottom: 30 };

function startCurves() {
  state.at = lastIteration();
  draw.curves = drawCurves;
  draw.film = drawFilm;
  const controls = document.getElementById("curves-control");
  const last = lastIteration();
  if (last > 0) {
    const play = make("button", { type: "button", id: "play", class: "tool" }, "▶ Play");
    play.addEventListener("click", () => (play.timer ? stopPlaying() : startPlaying()));
    controls.append(
      play,
      slider("iteration", "Updates", { max: last, value: last }, (at) => {
        stopPlaying();
        goTo(at);
      }),
    );
  }
  followCurves();
  new ResizeObserver(() => drawCurves()).observe(document.getElementById("curves"));
  offer(
    "learning",
    () => {
      const heads = ["updates", ...CURVES.map(([part]) => part)];
      return [
        heads,
        ...Array.from(data.history.positive, (_, at) => [at, ...CURVES.map(([part]) => data.history[part][at])]),
      ];
    },
    () => `{part: values[:, ${data.about.image}] for part, values in result.history.items()}`,
  );
}

function goTo(at) {
  const input = document.getElementById("iteration");
  const before = snapshotAt(theInput(), state.at);
  state.at = Math.min(lastIteration(), Math.max(0, Math.round(at)));
  if (input) {
    input.value = state.at;
  }
  drawCurves();
  drawFilm();
  if (snapshotAt(theInput(), state.at) !== before) {
    draw.map();
  }
}

function startPlaying() {
  const play = document.getElementById("play");
  const start = state.at >= lastIteration() ? 0 : state.at;
  const began = performance.now() - (8000 * start) / lastIteration();
  play.textContent = "❚❚ Pause";
  play.timer = setInterval(() => {
    const at = ((performance.now() - began) / 8000) * lastIteration();
    goTo(at);
    if (at >= lastIteration()) {
      stopPlaying();
    }
  }, 40);
}

function stopPlaying() {
  const play = document.getElementById("play");
  clearInterval(play.timer);
  play.timer = null;
  play.textContent = "▶ Play";
}

// Ticks at round numbers, some five of them.
function ticks(low, high, wanted = 5) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step / 1e6; at += step) {
    found.push(Math.abs(at) < step / 1e6 ? 0 : at);
  }
  return found;
}

function tickText(value) {
  return Number(value.toPrecision(6))
    .toLocaleString("en", { maximumSignificantDigits: 6 })
    .replaceAll(",", " ")
    .replace("-", "−");
}

function scales() {
  const width = document.getElementById("curves").clientWidth || 600;
  const height = width < 480 ? 280 : 420;
  const values = [0, data.scores.y, ...CURVES.flatMap(([part]) => Array.from(data.history[part]))];
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  const pad = 0.06 * (high - low || 1);
  const inner = [width - CHART.left - CHART.right, height - CHART.top - CHART.bottom];
  return {
    width,
    height,
    low: low - pad,
    high: high + pad,
    x: (at) => CHART.left + (inner[0] * at) / (lastIteration() || 1),
    y: (value) => CHART.top + inner[1] * (1 - (value - low + pad) / (high - low + 2 * pad)),
    at: (x) => ((x - CHART.left) / inner[0]) * lastIteration(),
  };
}

function drawCurves() {
  const scale = scales();
  const chart = drawn("svg", {
    width: scale.width,
    height: scale.height,
    role: "img",
    "aria-label": "y⁺, y⁻ and y~ by iteration",
  });
  for (const value of ticks(scale.low, scale.high)) {
    chart.append(
      drawn("line", {
        x1: CHART.left,
        x2: scale.width - CHART.right,
        y1: scale.y(value),
        y2: scale.y(value),
        class: value ? "grid" : "zero",
      }),
      drawn("text", { x: CHART.left - 8, y: scale.y(value) + 4, class: "tick end" }, tickText(value)),
    );
  }
  for (const at of ticks(0, lastIteration(), scale.width < 480 ? 3 : 5).filter(Number.isInteger)) {
    chart.append(drawn("text", { x: scale.x(at), y: scale.height - 8, class: "tick middle" }, String(at)));
  }
  const y = scale.y(data.scores.y);
  chart.append(drawn("line", { x1: CHART.left, x2: scale.width - CHART.right, y1: y, y2: y, class: "score" }));
  for (const [part, name] of CURVES) {
    const points = Array.from(
      data.history[part],
      (value, at) => `${scale.x(at).toFixed(1)},${scale.y(value).toFixed(1)}`,
    );
    chart.append(drawn("polyline", { points: points.join(" "), class: `curve ${name}` }));
  }
  const now = drawn(
    "g",
    { class: "now" },
    drawn("line", { x1: scale.x(state.at), x2: scale.x(state.at), y1: CHART.top, y2: scale.height - CHART.bottom }),
  );
  for (const [part, name] of CURVES) {
    now.append(
      drawn("circle", { cx: scale.x(state.at), cy: scale.y(data.history[part][state.at]), r: 5, class: name }),
    );
  }
  chart.append(now, ...endLabels(scale));
  document.getElementById("curves").replaceChildren(chart);
  drawNow();
}

// Names at the right end, moved apart where they would meet.
function endLabels(scale) {
  const last = lastIteration();
  const labels = [
    ...CURVES.map(([part, name]) => [LINES[part], name, scale.y(data.history[part][last])]),
    ["y", "score", scale.y(data.scores.y)],
  ];
  labels.sort((a, b) => a[2] - b[2]);
  labels.forEach((label, i) => {
    label[2] = i ? Math.max(label[2], labels[i - 1][2] + 17) : label[2];
  });
  return labels.map(([text, name, y]) =>
    drawn("text", { x: scale.width - CHART.right + 10, y: y + 5, class: `name ${name}` }, text),
  );
}

function drawNow() {
  const line = document.getElementById("curves-now");
  const parts = CURVES.flatMap(([part, name]) => [
    make("span", { class: name }, `${LINES[part]} = `),
    number(data.history[part][state.at], `result.history["${part}"][${state.at}, ${data.about.image}]`, {
      signed: true,
    }),
    ", ",
  ]);
  const sum = CURVES.reduce((whole, [part]) => whole + data.history[part][state.at], 0);
  line.replaceChildren(
    `After ${state.at} ${state.at === 1 ? "update" : "updates"}: `,
    ...parts,
    "their sum: ",
    number(sum, `result.scores["y"][${data.about.image}]`, { signed: true }),
  );
}

function followCurves() {
  const chart = document.getElementById("curves");
  const move = (event) => {
    stopPlaying();
    goTo(scales().at(event.clientX - chart.getBoundingClientRect().left));
  };
  if (lastIteration() > 0) {
    chart.addEventListener("pointerdown", (event) => {
      chart.setPointerCapture(event.pointerId);
      move(event);
    });
    chart.addEventListener("pointermove", (event) => event.buttons && move(event));
  }
}

// The kept maps as a row of small pictures: choosing one goes there.
function drawFilm() {
  const input = theInput();
  const film = document.getElementById("film");
  if (!["picture", "volume", "signal"].includes(input.kind) || !input.snapshots.length) {
    film.replaceChildren();
    return;
  }
  film.classList.toggle("flat", input.kind === "signal");
  const limit = snapshotLimit(input);
  const shown = snapshotAt(input, state.at);
  film.replaceChildren(
    ...input.snapshots.map((kept) => {
      const row = input.kind === "signal" ? strongestOf(kept.values, DOTS) : null;
      const [height, width] = row ? [1, row.length] : input.axes.slice(-2).map((size) => Math.ceil(size / kept.block));
      const start =
        input.kind === "volume" ? Math.floor(Math.ceil(input.axes[0] / kept.block) / 2) * width * height : 0;
      const canvas = mapImage(row ?? kept.values.slice(start, start + width * height), width, height, limit);
      const here = kept === shown || (shown === null && kept.at === lastIteration() && state.at === kept.at);
      const frame = make(
        "button",
        { type: "button", class: "frame", "aria-pressed": String(here), title: `The map after ${kept.at} updates` },
        canvas,
        make("span", {}, String(kept.at)),
      );
      frame.addEventListener("click", () => goTo(kept.at));
      return frame;
    }),
  );
}
