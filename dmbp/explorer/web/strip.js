// The network as a strip of operators: what each site passes and makes, what constants give, where masks lean.

const LANES_OF_STRIP = [
  ["y⁺ passing", (node) => node.carry?.positive, "for"],
  ["y⁻ passing", (node) => node.carry?.negative, "against"],
  ["y~ made", (node) => node.carry?.nuisance, "nuisance"],
  ["constants", (node) => node.constants?.y, "bias"],
];

const WITHOUT_NETWORK = `This explanation was read from a file, which holds its numbers and not its network. A page made
where the network is at hand shows its operators and the channels of each site.`;

function startStrip() {
  const place = document.getElementById("strip");
  if (!data.network) {
    place.append(make("p", { class: "quiet" }, WITHOUT_NETWORK));
    draw.site = () => {};
    return;
  }
  const nodes = data.network.nodes.map((node) => ({ ...node, ...data.network.sites[node.name] }));
  const ranges = Object.fromEntries(
    LANES_OF_STRIP.map(([name, value]) => [name, rangeOf(nodes.map((node) => value(node) ?? 0))]),
  );
  const names = make(
    "div",
    { class: "lane-titles" },
    ...LANES_OF_STRIP.map(([name]) => make("span", {}, name)),
    make("span", {}, "masks lean"),
    make("span", { class: "last" }, "operator"),
  );
  const columns = make(
    "div",
    { class: "columns", role: "group", "aria-label": "Operators of the network" },
    ...nodes.map((node) => columnOf(node, ranges)),
  );
  const longest = Math.max(...nodes.map((node) => node.name.length));
  place.style.setProperty("--label", `${Math.min(10.4, 2.2 + 0.44 * longest)}rem`);
  place.append(names, columns);
  columns.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const all = [...columns.children];
    const next = all[all.indexOf(document.activeElement) + step];
    if (next) {
      next.focus();
      event.preventDefault();
    }
  });
  draw.site = drawSite;
  draw.strip = () => {
    for (const column of columns.children) {
      column.setAttribute("aria-pressed", String(column.dataset.node === state.site));
    }
  };
  offer("network", networkRows, () => `print(dmbp.analysis.carries(result.split, ${data.about.image}).summary())`);
  const best = nodes.filter((node) => node.site).reduce((a, b) => (b.carry.positive > a.carry.positive ? b : a));
  chooseSite(best.name);
  const chosen = columns.querySelector("[aria-pressed=true]");
  place.scrollLeft = chosen.offsetLeft - place.clientWidth / 2;
}

// From the lowest to the highest of some values and zero, with a little air.
function rangeOf(values) {
  const low = values.reduce((a, b) => Math.min(a, b), 0);
  const high = values.reduce((a, b) => Math.max(a, b), 0);
  const air = 0.08 * (high - low || 1);
  return { low: low - air, high: high + air };
}

function columnOf(node, ranges) {
  const lanes = LANES_OF_STRIP.map(([name, value, kind]) => laneOf(value(node), ranges[name], kind));
  const told = [node.name, node.kind, node.shape.join(" × ")];
  if (node.site) {
    const { positive, negative, nuisance } = node.carry;
    const [plus, minus, made] = [positive, negative, nuisance].map((value) => format(value, { signed: true }));
    told.push(`y⁺ ${plus}, y⁻ ${minus}, y~ made ${made}`);
  }
  if (node.constants) {
    told.push(`constants ${format(node.constants.y, { signed: true })}`);
  }
  const column = make(
    "button",
    {
      type: "button",
      class: node.site ? "column masked" : "column",
      title: told.join("\n"),
      "aria-label": told.join(", "),
      "aria-pressed": "false",
      "data-node": node.name,
    },
    ...lanes,
    leanBar(node),
    make("span", { class: "label" }, node.name),
  );
  column.addEventListener("click", () => chooseSite(node.name));
  return column;
}

function laneOf(value, { low, high }, kind) {
  const lane = make("span", { class: "lane" });
  const height = (amount) => (100 * amount) / (high - low);
  lane.style.setProperty("--zero", `${height(high)}%`);
  if (value) {
    const bar = make("span", { class: `bar ${kind}` });
    bar.style.cssText = `top: ${height(high - Math.max(0, value))}%; height: ${height(Math.abs(value))}%`;
    lane.append(bar);
  }
  return lane;
}

// Of all units: those that lean to y⁺ and to y⁻, undecided ones, and those that cannot learn.
function leanBar(node) {
  const bar = make("span", { class: "lane lean" });
  if (node.lean?.units) {
    const live = node.lean.live / node.lean.units;
    for (const [kind, share] of [
      ["for", node.lean.positive],
      ["undecided", node.lean.undecided],
      ["against", node.lean.negative],
    ]) {
      const part = make("span", { class: kind });
      part.style.height = `${100 * live * (share ?? 0)}%`;
      bar.append(part);
    }
  }
  return bar;
}

function chooseSite(name) {
  const site = data.network.sites[name];
  const first = site?.[state.side]?.shown[0] ?? null;
  change({ site: name, chosen: first ? first.channel : "all" });
  draw.strip();
  draw.site();
}

function networkRows() {
  const heads = [
    "operator",
    "kind",
    "shape",
    "positive_passing",
    "negative_passing",
    "first_positive",
    "first_negative",
    "nuisance_made",
    "constants_y",
    "constants_positive",
    "constants_negative",
    "units",
    "live",
    "lean_positive",
    "lean_negative",
    "lean_undecided",
    "mean_mask",
  ];
  const rows = data.network.nodes.map((node) => {
    const { carry, lean } = data.network.sites[node.name] ?? {};
    return [
      node.name,
      node.kind,
      node.shape.join("×"),
      carry?.positive,
      carry?.negative,
      carry?.first_positive,
      carry?.first_negative,
      carry?.nuisance,
      node.constants?.y,
      node.constants?.positive,
      node.constants?.negative,
      lean?.units,
      lean?.live,
      lean?.positive,
      lean?.negative,
      lean?.undecided,
      lean?.mean,
    ].map((cell) => cell ?? null);
  });
  return [heads, ...rows];
}
