// One operator: its numbers, and of a site the channels that carry most, with what each of them sees of the input.

const CHANNELS = "dmbp.explorer.site_channels";

const SIDE_TOLD = {
  positive: { sign: "⁺", word: "for", mask: "σ", whole: "∇⁺ ⊙ x" },
  negative: { sign: "⁻", word: "against", mask: "1 − σ", whole: "∇⁻ ⊙ x" },
};

function drawSite() {
  const place = document.getElementById("site");
  const node = data.network.nodes.find((each) => each.name === state.site);
  if (!node) {
    place.replaceChildren();
    return;
  }
  const head = make(
    "h3",
    {},
    node.name,
    make(
      "span",
      { class: "quiet" },
      ` ${node.kind}, ${node.shape.join(" × ") || "one number"}, reads ${node.inputs.join(" and ")}`,
    ),
  );
  const site = data.network.sites[node.name];
  if (!site) {
    place.replaceChildren(head, operatorText(node));
    return;
  }
  const sides = Object.entries(SIDE_TOLD).map(([side, told]) => [side, `Channels ${told.word}`]);
  const switcher = choices("side", "Side", sides, state.side, (side) => {
    change({ side, chosen: site[side].shown[0]?.channel ?? "all" }, "site");
    document.getElementById(`side-${side}`).focus();
  });
  const left = make(
    "div",
    { class: "channels" },
    siteText(node, site),
    switcher,
    channelTable(site),
    siteSum(site),
    make("div", { class: "take" }, said(csv(channelRows(site[state.side])), "Copy channels")),
  );
  const right = make("div", { class: "seen" });
  place.replaceChildren(head, make("div", { class: "two" }, left, right));
  drawSeen(site, right);
}

function operatorText(node) {
  const line = make("p", {}, "No mask sits here. ");
  if (node.open !== null) {
    line.append(`Its gate is open at ${percent(node.open)} of its units. `);
  }
  if (node.constants) {
    const given = (part) =>
      number(node.constants[part], `result.split.ledger("${part}").by_node()["${node.name}"][${data.about.image}]`, {
        signed: true,
      });
    line.append(
      "Its constants give ",
      given("y"),
      " to y, ",
      given("positive"),
      " to y⁺ and ",
      given("negative"),
      " to y⁻.",
    );
  } else {
    line.append("It has no constants.");
  }
  return line;
}

function siteText(node, site) {
  const { carry, lean } = site;
  const place = Object.keys(data.network.sites).indexOf(node.name);
  const at = `dmbp.analysis.carries(result.split, ${data.about.image}).sites[${place}]`;
  return make(
    "p",
    {},
    "Passing here: ",
    number(carry.positive, `${at}.positive`, { signed: true }),
    " of y⁺ and ",
    number(carry.negative, `${at}.negative`, { signed: true }),
    " of y⁻; nuisance made: ",
    number(carry.nuisance, `${at}.nuisance`, { signed: true }),
    `. Of ${lean.units.toLocaleString("en")} units ${lean.live.toLocaleString("en")} can learn; of these `,
    `${percent(lean.positive)} lean to y⁺, ${percent(lean.negative)} to y⁻.`,
  );
}

function channelTable(site) {
  const { sign, mask, word } = SIDE_TOLD[state.side];
  const side = site[state.side];
  const heads = ["channel", `part of y${sign}`, `value h${sign}`, `mask ${mask}`, `gradient g${sign}`];
  const rows = side.shown.map((channel) => {
    const name = make(
      "button",
      { type: "button", class: "choose", "aria-pressed": String(state.chosen === channel.channel) },
      String(channel.channel),
    );
    name.addEventListener("click", () => chooseChannel(channel.channel));
    const means = (name) => `${passingPython()}.means(${data.about.image})["${name}"][${channel.channel}]`;
    const part = `${passingPython()}.channels(${data.about.image})[${channel.channel}]`;
    const cells = [
      [channel.part, true, part],
      [channel.value, false, means("value")],
      [channel.mask, false, means("mask")],
      [channel.gradient, true, means("gradient")],
    ];
    const row = make(
      "tr",
      { class: state.chosen === channel.channel ? "chosen" : "" },
      make("td", {}, name),
      ...cells.map(([value, signed, python]) => make("td", {}, number(value, python, { signed, figures: 3 }))),
    );
    row.addEventListener("click", (event) => event.target.closest("button") ?? chooseChannel(channel.channel));
    return row;
  });
  const others = side.channels - side.shown.length;
  if (others > 0) {
    const part = side.part - total(side.shown.map((channel) => channel.part));
    const name = make(
      "button",
      { type: "button", class: "choose", "aria-pressed": String(state.chosen === "others") },
      `${others} ${others === 1 ? "other" : "others"}`,
    );
    name.addEventListener("click", () => chooseChannel("others"));
    rows.push(
      make(
        "tr",
        { class: state.chosen === "others" ? "chosen" : "" },
        make("td", {}, name),
        make("td", {}, number(part, "", { signed: true, figures: 3 })),
        make("td", { colspan: 3 }, ""),
      ),
    );
  }
  const positions = total1(data.network.nodes.find((node) => node.name === state.site).shape.slice(1));
  const none = side.shown.length ? "" : `No channel of this site speaks ${word} the score. `;
  const caption = none + captionOf(positions);
  return make(
    "div",
    { class: "table" },
    make(
      "table",
      {},
      make("caption", {}, caption),
      make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
      make("tbody", {}, ...rows),
    ),
  );
}

function passingPython() {
  return `${CHANNELS}.passing(result.split, "${state.side}")["${state.site}"]`;
}

function seenPython(channel) {
  return `${CHANNELS}.seen(result.split, "${state.side}", ${passingPython()}, ${data.about.image}, ${channel})`;
}

function channelRows(side) {
  const rows = side.shown.map((each) => [
    state.site,
    state.side,
    each.channel,
    each.part,
    each.value,
    each.mask,
    each.gradient,
    each.pixels,
  ]);
  const all = [state.site, state.side, "all", side.part, null, null, null, side.all.pixels];
  return [["site", "side", "channel", "part", "value", "mask", "gradient", "from_input"], ...rows, all];
}

function captionOf(positions) {
  if (positions === 1) {
    return "Part = value × mask × gradient.";
  }
  const means = `Values, masks and gradients are means over ${positions.toLocaleString("en")} positions`;
  return `${means}; the part is the sum of their products.`;
}

function chooseChannel(channel) {
  change({ chosen: channel }, "site");
  document.querySelector("#site .choose[aria-pressed=true]")?.focus();
}

// How the maps of the channels sum to the whole map: shown ones, the others of the site, and what goes around it.
function siteSum(site) {
  const side = site[state.side];
  const { sign, whole } = SIDE_TOLD[state.side];
  const shown = total(side.shown.map((channel) => channel.pixels));
  const all = data.shares[state.side].input;
  const python = `result.shares["${state.side}"].input_share[${data.about.image}]`;
  const rows = [
    ["channels", "these channels", shown, ""],
    ["others", `the site's ${side.channels - side.shown.length} others`, side.all.pixels - shown, ""],
    ["around", "around this site", all - side.all.pixels, ""],
    ["whole", `${whole}, the whole map`, all, python],
  ];
  const buttons = { others: "others", around: "around", whole: "whole", channels: "all" };
  const list = rows.map(([key, name, value, line]) => {
    const choose = make(
      "button",
      { type: "button", class: "choose", "aria-pressed": String(state.chosen === buttons[key]) },
      name,
    );
    choose.addEventListener("click", () => chooseChannel(buttons[key]));
    return make(
      "tr",
      { class: key === "whole" ? "whole" : "" },
      make("td", {}, choose),
      make("td", {}, number(value, line, { signed: true })),
    );
  });
  return make(
    "div",
    { class: "table" },
    make(
      "table",
      { class: "sums" },
      make("caption", {}, `What comes from the input in y${sign}: parts sum to the whole. Choose one to see its map.`),
      make("tbody", {}, ...list),
    ),
  );
}

// The map of what is chosen, and what it sums to.
function seenMap(site, input) {
  const side = site[state.side];
  const own = (part) => part.maps[input.name]?.values;
  const everything = own(side.all);
  if (!everything) {
    return null;
  }
  const block = side.all.maps[input.name].block;
  const shown = side.shown.map(own);
  const whole = blocked(input.maps.paper[state.side].values, input, block);
  const channel = side.shown.find((each) => each.channel === state.chosen);
  const maps = {
    all: () => (shown.length ? added(...shown) : new Float64Array(everything.length)),
    others: () => lessened(everything, ...shown),
    around: () => lessened(whole, everything),
    whole: () => whole,
  };
  return { values: channel ? own(channel) : maps[state.chosen](), block, limit: limitOf(...shown, everything) };
}

// A map summed over larger blocks; those of the page's own maps divide no further.
function blocked(values, input, block) {
  if (block === input.block) {
    return values;
  }
  const fine = input.axes.map((size) => Math.ceil(size / input.block));
  const coarse = input.axes.map((size) => Math.ceil(size / block));
  const sums = new Float64Array(total1(coarse));
  values.forEach((value, i) => {
    const at = places(i, fine).reduce(
      (index, place, axis) => index * coarse[axis] + Math.floor((place * input.block) / block),
      0,
    );
    sums[at] += value;
  });
  return sums;
}

function drawSeen(site, place) {
  const input = theInput();
  const map = seenMap(site, input);
  if (!map) {
    place.append(make("p", { class: "quiet" }, data.network.left_out.at(-1)));
    return;
  }
  const view = viewOf(input, (index) => tellSeen(index, map, input, reading), true);
  const reading = make("p", { class: "quiet reading-line" }, "Point at a place to read it.");
  const { word, sign } = SIDE_TOLD[state.side];
  const named = {
    all: "the channels shown, together",
    others: "the other channels",
    around: "what passes no unit of this site",
    whole: "the whole map",
  };
  const channel = site[state.side].shown.find((each) => each.channel === state.chosen);
  const title = make(
    "p",
    {},
    "What ",
    make("b", {}, channel ? `channel ${state.chosen}` : named[state.chosen]),
    ` sees ${word} the score. Sum `,
    number(total(map.values), channel && data.inputs.length === 1 ? `${seenPython(channel.channel)}.sum()` : "", {
      signed: true,
    }),
    ".",
  );
  if (channel) {
    title.append(
      " With ",
      number(channel.part - channel.pixels, "", { signed: true }),
      ` from constants before this site, its part of y${sign}.`,
    );
  }
  place.append(title, view.element, reading);
  view.draw({ ...map, mix: 70 });
}

function tellSeen(index, map, input, line) {
  const value = map.values[blockIndex(index, input.axes, map.block)];
  const where = places(index, input.axes).join(", ");
  line.replaceChildren(
    `At [${where}]: `,
    number(value, "", { signed: true }),
    map.block > 1 ? ` in its block of ${input.axes.map(() => map.block).join(" × ")}.` : "",
  );
}
