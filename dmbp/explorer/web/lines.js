// A signal (channels, time): a line for each channel, on a ground coloured by the map.

const LANES = 16; // channels drawn, at most
const LANE = 56; // dots of height
const DOTS = 2048; // across, at most

function linesView(input, pick, small, at = null) {
  const [count, length] = input.shape;
  const lanes = Math.min(count, LANES);
  const picture = drawn("svg", {
    class: "lines",
    tabindex: 0,
    role: "img",
    preserveAspectRatio: "none",
    viewBox: `0 0 ${length} ${lanes * LANE}`,
    "aria-label": "Signal on a ground coloured by the map. Arrow keys move the place that is read.",
  });
  picture.style.height = `${small ? Math.max(90, lanes * 20) : Math.max(140, lanes * LANE)}px`;
  const names = make("div", { class: "lane-names" });
  for (let channel = 0; channel < lanes; channel += 1) {
    names.append(make("span", {}, input.names?.[channel] ?? `channel ${channel}`));
  }
  const element = make(
    "div",
    { class: small ? "stage signal small" : "stage signal" },
    make("div", { class: "lanes" }, names, picture),
  );
  if (count > lanes) {
    element.append(
      make("p", { class: "quiet" }, `The first ${lanes} of ${count} channels are drawn; the ground sums over all.`),
    );
  }
  const view = { input, element, picture, length, lanes, at, mixes: true };
  view.pick = (index) => {
    view.at = Math.min(length - 1, Math.max(0, index));
    pick(view.at);
    mark(view);
  };
  view.draw = (scene) => {
    view.scene = scene;
    picture.replaceChildren(ground(view), ...strokes(view));
    mark(view);
  };
  followLine(view);
  return view;
}

// The map as one row of coloured dots, stretched over the time.
function ground(view) {
  const { values, block, limit, mix } = view.scene;
  const row = strongestOf(values, DOTS);
  return drawn("image", {
    href: mapImage(row, row.length, 1, limit).toDataURL(),
    width: values.length * block,
    height: view.lanes * LANE,
    preserveAspectRatio: "none",
    style: `opacity: ${presence(mix).map}; image-rendering: pixelated`,
  });
}

// At most so many values: of neighbours that share a dot, the strongest.
function strongestOf(values, most) {
  const share = Math.ceil(values.length / most);
  return Float64Array.from({ length: Math.ceil(values.length / share) }, (_, dot) => {
    const group = Array.from(values.slice(dot * share, (dot + 1) * share));
    return group.reduce((best, value) => (Math.abs(value) > Math.abs(best) ? value : best), 0);
  });
}

// Each channel from its own lowest to its own highest value.
function strokes(view) {
  if (!view.input.x) {
    return [];
  }
  return Array.from({ length: view.lanes }, (_, channel) => {
    const values = view.input.x.subarray(channel * view.length, (channel + 1) * view.length);
    const low = values.reduce((a, b) => Math.min(a, b), Infinity);
    const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
    const points = bends(values).map(
      ([value, i]) => `${i + 0.5},${(channel + 0.9 - (0.8 * (value - low)) / (high - low || 1)) * LANE}`,
    );
    return drawn("polyline", {
      points: points.join(" "),
      class: "stroke",
      style: `opacity: ${0.25 + 0.75 * presence(view.scene.mix).picture}`,
    });
  });
}

// The points of a line; of many neighbours the lowest and the highest.
function bends(values) {
  const points = Array.from(values, (value, i) => [value, i]);
  const share = Math.ceil(values.length / DOTS);
  if (share < 3) {
    return points;
  }
  return Array.from({ length: Math.ceil(values.length / share) }, (_, dot) => {
    const group = points.slice(dot * share, (dot + 1) * share).sort((a, b) => a[0] - b[0]);
    return [group[0], group.at(-1)].sort((a, b) => a[1] - b[1]);
  }).flat();
}

function mark(view) {
  view.picture.querySelector(".cursor")?.remove();
  if (view.at !== null) {
    const x = view.at + 0.5;
    view.picture.append(drawn("line", { x1: x, x2: x, y1: 0, y2: view.lanes * LANE, class: "cursor" }));
  }
}

function followLine(view) {
  const place = (event) => {
    const box = view.picture.getBoundingClientRect();
    return Math.floor(((event.clientX - box.left) / box.width) * view.length);
  };
  view.picture.addEventListener("pointerdown", (event) => view.pick(place(event)));
  view.picture.addEventListener("pointermove", (event) => view.pick(place(event)));
  view.picture.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      view.pick((view.at ?? -1) + (event.key === "ArrowRight" ? 1 : -1) * (event.shiftKey ? 8 : 1));
      event.preventDefault();
    }
  });
}
