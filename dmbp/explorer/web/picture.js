// A picture with a map over it: opacity, zoom, a place to read; by mouse, touch and keyboard. Volumes slice by slice.

const ZOOMS = 24; // how far in

function pictureView(input, pick, small, at = null) {
  const [height, width] = input.axes.slice(-2);
  const depth = input.axes.length > 2 ? input.axes[0] : 1;
  const canvas = make("canvas", {
    tabindex: 0,
    role: "img",
    class: "picture",
    "aria-label": "Picture with its map. Arrow keys move the place that is read, plus and minus zoom, 0 shows all.",
  });
  const view = {
    input,
    canvas,
    width,
    height,
    depth,
    slice: Math.floor(depth / 2),
    zoom: 1,
    x: width / 2,
    y: height / 2,
    at: null,
    scene: null,
  };
  view.pick = (index) => {
    view.at = index;
    pick(index);
    paint(view);
  };
  if (at !== null) {
    view.at = at;
    view.slice = Math.floor(at / (width * height));
  }
  view.element = make("div", { class: small ? "stage small" : "stage" }, canvas, tools(view));
  view.element.style.setProperty("--shape", `${width} / ${height}`);
  view.element.style.setProperty("--wide", width / height);
  view.draw = (scene) => {
    view.scene = scene;
    view.map = null;
    paint(view);
  };
  view.mixes = true;
  load(view);
  follow(view);
  new ResizeObserver(() => paint(view)).observe(canvas);
  return view;
}

function tools(view) {
  const button = (text, label, act) => {
    const made = make("button", { type: "button", class: "tool", "aria-label": label, title: label }, text);
    made.addEventListener("click", act);
    return made;
  };
  const row = make(
    "div",
    { class: "tools" },
    button("−", "Zoom out", () => zoomBy(view, 1 / 1.5)),
    button("+", "Zoom in", () => zoomBy(view, 1.5)),
    button("All", "Show the whole picture", () => zoomBy(view, 0)),
  );
  if (view.depth > 1) {
    const options = { max: view.depth - 1, value: view.slice };
    row.append(
      slider(`slice-${Math.random().toString(36).slice(2)}`, "Slice", options, (slice) => {
        view.slice = slice;
        load(view);
        view.map = null;
        paint(view);
      }),
    );
  }
  return row;
}

// The ground: the picture in its colours, or the mean over the channels of x; and the same in grey.
function load(view) {
  if (view.input.picture) {
    const image = new Image();
    image.addEventListener("load", () => {
      view.ground = image;
      view.grey = greyed(image);
      paint(view);
    });
    image.src = view.input.picture;
  } else if (view.input.x) {
    view.ground = meanOfChannels(view);
    view.grey = view.ground;
  }
}

function greyed(image) {
  const canvas = make("canvas", { width: image.naturalWidth, height: image.naturalHeight });
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    const [r, g, b] = pixels.data.subarray(i, i + 3);
    pixels.data.fill(0.299 * r + 0.587 * g + 0.114 * b, i, i + 3);
  }
  return canvasOf(pixels);
}

function meanOfChannels(view) {
  const size = view.width * view.height;
  const whole = size * view.depth;
  const means = new Float64Array(size);
  for (let i = 0; i < view.input.x.length; i += 1) {
    const place = (i % whole) - view.slice * size;
    if (place >= 0 && place < size) {
      means[place] += view.input.x[i];
    }
  }
  const low = means.reduce((a, b) => Math.min(a, b), Infinity);
  const high = means.reduce((a, b) => Math.max(a, b), -Infinity);
  const image = new ImageData(view.width, view.height);
  means.forEach((mean, i) => {
    const grey = (255 * (mean - low)) / (high - low || 1);
    image.data.set([grey, grey, grey, 255], 4 * i);
  });
  return canvasOf(image);
}

// The map of the slice as an image of its blocks.
function mapOfSlice(view) {
  const { values, block, limit } = view.scene;
  const width = Math.ceil(view.width / block);
  const height = Math.ceil(view.height / block);
  const start = Math.floor(view.slice / block) * width * height;
  return mapImage(values.slice(start, start + width * height), width, height, limit);
}

// How much is seen of the picture, of its colours, and of the map: from the picture alone to the map alone.
function presence(mix) {
  const share = mix / 100;
  return { map: Math.min(1, 2 * share), picture: Math.min(1, 1.8 * (1 - share)), colour: Math.max(0, 1 - 2 * share) };
}

function paint(view) {
  const { canvas, scene } = view;
  if (!scene || !canvas.clientWidth) {
    return;
  }
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(canvas.clientWidth * ratio);
  canvas.height = Math.round(canvas.clientHeight * ratio);
  const context = canvas.getContext("2d");
  const shown = presence(scene.mix);
  context.fillStyle = colour("ground");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.setTransform(...transform(view));
  context.imageSmoothingEnabled = false;
  if (view.ground) {
    context.globalAlpha = shown.picture;
    context.drawImage(view.grey, 0, 0, view.width, view.height);
    context.globalAlpha = shown.picture * shown.colour;
    context.drawImage(view.ground, 0, 0, view.width, view.height);
  }
  view.map ??= mapOfSlice(view);
  context.globalAlpha = shown.map;
  context.drawImage(view.map, 0, 0, view.map.width * scene.block, view.map.height * scene.block);
  context.globalAlpha = 1;
  paintPlace(view, context);
}

function paintPlace(view, context) {
  if (view.at === null || Math.floor(view.at / (view.width * view.height)) !== view.slice) {
    return;
  }
  const { block } = view.scene;
  const [row, column] = places(view.at, view.input.axes)
    .slice(-2)
    .map((place) => Math.floor(place / block) * block);
  const line = (1.5 * (window.devicePixelRatio || 1)) / context.getTransform().a;
  context.lineWidth = 2 * line;
  context.strokeStyle = colour("ground");
  context.strokeRect(column - line, row - line, block + 2 * line, block + 2 * line);
  context.lineWidth = line;
  context.strokeStyle = colour("ink");
  context.strokeRect(column - line, row - line, block + 2 * line, block + 2 * line);
}

// From pixels of the picture to dots of the canvas.
function transform(view) {
  const { canvas } = view;
  const scale = (canvas.width / view.width) * view.zoom;
  return [scale, 0, 0, scale, canvas.width / 2 - view.x * scale, canvas.height / 2 - view.y * scale];
}

// Zoom by a factor about a place of the picture; 0 shows all.
function zoomBy(view, factor, about = null) {
  const place = about ?? (view.at === null ? [view.x, view.y] : places(view.at, view.input.axes).slice(-2).reverse());
  const zoom = Math.min(ZOOMS, Math.max(1, view.zoom * factor));
  const kept = view.zoom / zoom;
  moveTo(view, place[0] + (view.x - place[0]) * kept, place[1] + (view.y - place[1]) * kept, zoom);
}

function moveTo(view, x, y, zoom = view.zoom) {
  const half = [view.width, view.height].map((size) => size / 2 / zoom);
  view.zoom = zoom;
  view.canvas.style.touchAction = zoom > 1 ? "none" : "pan-y"; // one finger scrolls the page, or moves what is enlarged
  view.x = Math.min(view.width - half[0], Math.max(half[0], x));
  view.y = Math.min(view.height - half[1], Math.max(half[1], y));
  paint(view);
}

// Where on the picture an event is, in pixels.
function placeOf(view, event) {
  const box = view.canvas.getBoundingClientRect();
  const ratio = view.canvas.width / box.width;
  const [scale, , , , left, top] = transform(view);
  return [((event.clientX - box.left) * ratio - left) / scale, ((event.clientY - box.top) * ratio - top) / scale];
}

function pickAt(view, [x, y]) {
  const column = Math.min(view.width - 1, Math.max(0, Math.floor(x)));
  const row = Math.min(view.height - 1, Math.max(0, Math.floor(y)));
  view.pick((view.slice * view.height + row) * view.width + column);
}

function follow(view) {
  const { canvas } = view;
  const held = new Map(); // pointers that are down
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, event);
    pickAt(view, placeOf(view, event));
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = held.get(event.pointerId);
    if (held.size === 2) {
      pinch(view, held, event);
    } else if (before && view.zoom > 1) {
      const [from, to] = [placeOf(view, before), placeOf(view, event)];
      moveTo(view, view.x + from[0] - to[0], view.y + from[1] - to[1]);
    } else {
      pickAt(view, placeOf(view, event));
    }
    if (before) {
      held.set(event.pointerId, event);
    }
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(kind, (event) => held.delete(event.pointerId));
  }
  canvas.addEventListener("dblclick", (event) => zoomBy(view, 2, placeOf(view, event)));
  canvas.addEventListener(
    "wheel",
    (event) => {
      if (event.ctrlKey || event.metaKey) {
        // else the page scrolls
        event.preventDefault();
        zoomBy(view, event.deltaY < 0 ? 1.2 : 1 / 1.2, placeOf(view, event));
      }
    },
    { passive: false },
  );
  canvas.addEventListener("keydown", (event) => keyed(view, event));
}

function pinch(view, held, event) {
  const [other] = [...held.values()].filter((each) => each.pointerId !== event.pointerId);
  const before = held.get(event.pointerId);
  const apart = (a, b) => Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY) || 1;
  zoomBy(view, apart(event, other) / apart(before, other), placeOf(view, other));
}

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function keyed(view, event) {
  const zooms = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, 0: 0 };
  if (event.key in STEPS) {
    const stride = view.scene.block * (event.shiftKey ? 8 : 1);
    const [row, column] = view.at === null ? [view.y, view.x] : places(view.at, view.input.axes).slice(-2);
    pickAt(view, [column + stride * STEPS[event.key][0], row + stride * STEPS[event.key][1]]);
  } else if (event.key in zooms) {
    zoomBy(view, zooms[event.key]);
  } else {
    return;
  }
  event.preventDefault();
}
