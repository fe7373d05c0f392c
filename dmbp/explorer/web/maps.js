// The map panel: its controls, its view, and what is read at a place.

let mapView = null;

function startMap() {
  change({ kind: bestKind(), pixel: strongestPlace() });
  buildMap();
  draw.map = drawMap;
  draw.reading = drawReading;
  offer("map", mapRows, () => pythonOf(theInput(), state.kind, state.part));
}

// The map that the verdict trusts most.
function bestKind() {
  const complete = theInput().maps.complete.y && data.verdict.trusted.join() === "complete";
  return complete ? "complete" : "paper";
}

// Where the map is strongest: something to read from the start.
function strongestPlace() {
  const input = theInput();
  const values = mapOf(input, state.kind, "both");
  const best = values.reduce((best, value, i) => (Math.abs(value) > Math.abs(values[best]) ? i : best), 0);
  const sizes = input.axes.map((size) => Math.ceil(size / input.block));
  return places(best, sizes).reduce((index, place, axis) => index * input.axes[axis] + place * input.block, 0);
}

function buildMap() {
  const input = theInput();
  mapView = viewOf(input, (index) => change({ pixel: index }, "reading"), false, state.pixel);
  document.getElementById("map-view").replaceChildren(mapView.element);
  const controls = document.getElementById("map-controls");
  controls.replaceChildren();
  if (data.inputs.length > 1) {
    const names = data.inputs.map((each, i) => [String(i), each.name]);
    controls.append(
      picker("choose-input", "Input", names, String(state.input), (chosen) => {
        change({ input: Number(chosen), channel: "all", kind: "paper" });
        change({ pixel: strongestPlace(), kind: bestKind() });
        buildMap();
        change({}, "map", "reading", "site", "film");
      }),
    );
  }
  const kinds = [
    ["paper", "Paper's map"],
    ["complete", "Complete map"],
  ];
  if (input.maps.complete.y) {
    controls.append(
      choices("kind", "Map", kinds, state.kind, (kind) => {
        change({ kind, channel: "all" });
        buildMap();
        change({}, "map", "reading");
      }),
    );
  }
  controls.append(
    choices("part", "Part", PARTS, state.part, (part) => {
      change({ part, channel: "all" });
      buildMap();
      change({}, "map", "reading");
      document.getElementById(`part-${part}`).focus();
    }),
  );
  if (input.channels?.[state.part] && state.kind === "paper") {
    const names = Array.from({ length: input.shape[0] }, (_, c) => [String(c), channelName(input, c)]);
    const options = [["all", "all, summed"], ...names];
    controls.append(
      picker("choose-channel", "Channel", options, state.channel, (channel) => change({ channel }, "map")),
    );
  }
  if (mapView.mixes) {
    controls.append(slider("mix", "Picture – map", { value: state.mix }, (mix) => change({ mix }, "map")));
  }
}

function channelName(input, channel) {
  const colours = ["red", "green", "blue"];
  return (
    input.names?.[channel] ??
    (input.kind === "picture" && input.shape[0] === 3 ? colours[channel] : `channel ${channel}`)
  );
}

function drawMap() {
  const input = theInput();
  const shown = shownMap();
  mapView.draw({ ...shown, mix: state.mix });
  const told = document.getElementById("map-sum");
  const figures = (value, python) => number(value, python, { signed: true });
  if (shown.snapshot) {
    const python = `${named(`result.snapshots[${shown.snapshot.at}]`, input)}[${data.about.image}]`;
    told.replaceChildren(
      `On its way, after ${shown.snapshot.at} updates: the paper's map of both sums to `,
      figures(shown.sum, `${python}.sum()`),
      ". The slider's end brings all maps back.",
      scaleOf(shown, input),
    );
    return;
  }
  const line = lineOf(state.part);
  const of = state.channel === "all" ? "" : ` in ${channelName(input, Number(state.channel))}`;
  const python = state.channel === "all" ? `${pythonOf(input, state.kind, state.part)}.sum()` : "";
  told.replaceChildren(
    `Here: ${PART_TOLD[line]}${of}. Sum `,
    figures(shown.sum, python),
    ` of ${LINES[line]} = `,
    figures(scoreOf(line), scorePython(line)),
    ".",
    scaleOf(shown, input),
  );
}

// The scale of colours: what full colour stands for.
function scaleOf(shown, input) {
  if (input.kind === "features" || input.kind === "other") {
    return "";
  }
  const end = format(shown.limit, { figures: 2 });
  const unit =
    shown.block > 1
      ? `block of ${input.axes.map(() => shown.block).join(" × ")}`
      : ({ signal: "step", volume: "voxel" }[input.kind] ?? "pixel");
  return make("span", { class: "scale" }, `−${end}`, make("span", { class: "ramp" }), `+${end} per ${unit}`);
}

// What is read at a place: its values by channel, and what it gives to each part.
function drawReading() {
  const input = theInput();
  const reading = document.getElementById("map-reading");
  if (input.kind === "other") {
    reading.replaceChildren();
    return;
  }
  const rows = Object.keys(LINES).map((part) => {
    const cells = ["paper", "complete"]
      .filter((kind) => input.maps[kind].y)
      .map((kind) => {
        const value = valueAt(input, kind, part, blockIndex(state.pixel, input.axes, input.block));
        return make(
          "td",
          {},
          number(value, input.block === 1 ? elementPython(pythonOf(input, kind, part), input) : "", { signed: true }),
        );
      });
    const by = input.channels ? channelValues(input, part) : [];
    return make("tr", {}, make("th", { scope: "row" }, LINES[part]), ...cells, ...by);
  });
  const kinds = ["paper's", "complete"].slice(0, input.maps.complete.y ? 2 : 1);
  const channelNames = input.channels
    ? Array.from({ length: Math.min(4, input.shape[0]) }, (_, c) => channelName(input, c))
    : [];
  const head = make(
    "tr",
    {},
    make("th", {}, ""),
    ...[...kinds, ...channelNames].map((name) => make("th", { scope: "col" }, name)),
  );
  reading.replaceChildren(
    make("p", {}, make("b", {}, placeName(input)), ...givenValues(input)),
    make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)),
  );
}

function valueAt(input, kind, part, place) {
  const maps = input.maps[kind];
  const line = lineOf(part);
  return line === "both" ? maps.positive.values[place] + maps.negative.values[place] : maps[line].values[place];
}

// The paper's map by channel, where it is kept: of evidence for, against, and both.
function channelValues(input, part) {
  const kept = part === "both" ? [input.channels.positive, input.channels.negative] : [input.channels[part]];
  const size = total1(input.axes);
  return Array.from({ length: Math.min(4, input.shape[0]) }, (_, channel) => {
    const values = kept.map((each) => each?.[channel * size + state.pixel]);
    return make("td", {}, values.includes(undefined) ? "" : format(total(values), { signed: true, figures: 3 }));
  });
}

function givenValues(input) {
  if (!input.x) {
    return [];
  }
  const size = total1(input.axes);
  const count = input.shape.length > 1 ? Math.min(8, input.shape[0]) : 1;
  const rest = input.shape.length > 1 && input.shape[0] > count ? ", …" : "";
  const values = Array.from({ length: count }, (_, channel) =>
    format(input.x[channel * size + state.pixel], { figures: 3 }),
  );
  return [` x = ${values.join(", ")}${rest}`];
}

function placeName(input) {
  const found = places(state.pixel, input.axes);
  if (input.kind === "features") {
    return nameOf(input, blockIndex(state.pixel, input.axes, input.block), input.block);
  }
  const words = { signal: ["step"], picture: ["row", "column"], volume: ["slice", "row", "column"] }[input.kind];
  return words
    .map((word, axis) => {
      const first = Math.floor(found[axis] / input.block) * input.block;
      const last = Math.min(input.axes[axis], first + input.block) - 1;
      return `${word} ${first}${last > first ? `–${last}` : ""}`;
    })
    .join(", ");
}

function elementPython(python, input) {
  return `${python}[${places(state.pixel, input.axes).join(", ")}]`;
}

function mapRows() {
  const input = theInput();
  const { values, block } = shownMap();
  const axes = input.axes.map((size) => Math.ceil(size / block));
  const heads = {
    signal: ["step"],
    picture: ["row", "column"],
    volume: ["slice", "row", "column"],
    features: ["feature"],
  }[input.kind] ?? ["element"];
  const rows = Array.from(values, (value, i) => [...(heads.length === axes.length ? places(i, axes) : [i]), value]);
  return [[...heads, "share"], ...rows];
}
