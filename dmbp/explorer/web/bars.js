// A row of features: a bar for each, the largest first.

const BARS = 24; // shown at first
const MORE = 200; // at a time

function barsView(input, pick, small) {
  const element = make("div", { class: small ? "stage bars small" : "stage bars" });
  const view = { input, element, small, shown: small ? 10 : BARS, mixes: false };
  view.draw = (scene) => {
    view.scene = scene;
    element.replaceChildren(...bars(view, pick));
  };
  return view;
}

function nameOf(input, place, block = 1) {
  if (block > 1) {
    return `${place * block}–${Math.min(total1(input.axes), (place + 1) * block) - 1}`;
  }
  return input.names?.[place] ?? `x[${place}]`;
}

function bars(view, pick) {
  const { values, block } = view.scene;
  const order = Array.from(values.keys()).sort((a, b) => Math.abs(values[b]) - Math.abs(values[a]));
  const limit = Math.abs(values[order[0]]) || 1;
  const shown = order.slice(0, view.shown);
  const rows = shown.map((place) => {
    const size = (50 * Math.abs(values[place])) / limit;
    const bar = make("span", { class: `amount ${values[place] > 0 ? "for" : "against"}` });
    bar.style.cssText = `width: ${size}%; left: ${values[place] > 0 ? 50 : 50 - size}%`;
    const row = make(
      "button",
      { type: "button", class: "feature" },
      make("span", { class: "name" }, nameOf(view.input, place, block)),
      make("span", { class: "given" }, view.input.x && block === 1 ? format(view.input.x[place], { figures: 3 }) : ""),
      make("span", { class: "track" }, bar),
      make("span", { class: "share" }, format(values[place], { signed: true, figures: 3 })),
    );
    row.addEventListener("click", () => pick(place * block));
    row.addEventListener("pointerenter", () => pick(place * block));
    return row;
  });
  const heads = make(
    "div",
    { class: "feature head" },
    make("span", { class: "name" }, "feature"),
    make("span", { class: "given" }, "x"),
    make("span", { class: "track" }, "against | for"),
    make("span", { class: "share" }, "share"),
  );
  if (order.length > shown.length) {
    const more = make(
      "button",
      { type: "button", class: "say" },
      `Show ${Math.min(MORE, order.length - shown.length)} more of ${order.length}`,
    );
    more.addEventListener("click", () => {
      view.shown += MORE;
      view.draw(view.scene);
    });
    return [heads, ...rows, more];
  }
  return [heads, ...rows];
}
