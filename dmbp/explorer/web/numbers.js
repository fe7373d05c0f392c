// Numbers as people read them, each with its full value and the line of Python that gives it.

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function drawn(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) {
    element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// So many figures, or all before the point; the minus is one.
function format(value, { figures = 4, signed = false } = {}) {
  if (value === null || Number.isNaN(value)) {
    return "–";
  }
  if (value === 0) {
    return "0";
  }
  const size = Math.abs(value);
  let text;
  if (size >= 10 ** figures - 0.5) {
    text = Math.round(size).toLocaleString("en").replaceAll(",", " ");
  } else if (size < 1e-4) {
    text = size.toExponential(figures - 1).replace(/e-(\d+)/, (_, power) => ` · 10${raised(-power)}`);
  } else {
    text = size.toPrecision(figures);
  }
  return `${value < 0 ? "−" : signed ? "+" : ""}${text}`;
}

function raised(power) {
  return [...String(power)].map((digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit] ?? "⁻").join("");
}

function percent(share) {
  return share === null || Number.isNaN(share)
    ? "–"
    : `${(100 * share).toFixed(share > 0.995 || share < 0.1 ? 1 : 0)} %`;
}

// A number on the page: choosing it shows its full value and its Python.
function number(value, python = "", options = {}) {
  const element = make("button", { type: "button", class: "number" }, format(value, options));
  element.dataset.value = value === null ? "" : String(value);
  element.dataset.python = python;
  return element;
}

function said(value, name) {
  return make("button", { type: "button", class: "say", "data-copy": value }, name);
}

function showCard(of) {
  const card = document.getElementById("card");
  const { value, python } = of.dataset;
  card.replaceChildren(
    make("div", {}, make("code", {}, value || "not a finite number"), said(value, "Copy number")),
    ...(python ? [make("div", {}, make("code", {}, python), said(python, "Copy Python"))] : []),
  );
  card.hidden = false;
  const box = of.getBoundingClientRect();
  const left = Math.min(box.left, document.documentElement.clientWidth - card.offsetWidth - 12);
  card.style.left = `${Math.max(8, left) + window.scrollX}px`;
  card.style.top = `${box.bottom + 6 + window.scrollY}px`;
  card.of = of;
}

function hideCard() {
  const card = document.getElementById("card");
  if (!card.hidden) {
    card.hidden = true;
    card.of?.focus({ preventScroll: true });
  }
}

async function copyText(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { class: "away" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  window.lastCopied = text;
  tell(`${what} copied`);
}

function tell(text) {
  const toast = document.getElementById("toast");
  toast.textContent = text;
  toast.classList.add("shown");
  clearTimeout(toast.timer);
  toast.timer = setTimeout(() => toast.classList.remove("shown"), 1600);
}

// A field with a comma, a quote or a line's end is quoted.
function csv(rows) {
  const field = (value) => (/[",\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  return rows.map((row) => row.map((value) => field(value === null ? "" : String(value))).join(",")).join("\n") + "\n";
}

// The two buttons under each panel: what they copy is asked for when they are pressed.
function offer(panel, rows, python) {
  const place = document.querySelector(`.take[data-panel="${panel}"]`);
  const table = make("button", { type: "button", class: "say" }, "Copy CSV");
  const line = make("button", { type: "button", class: "say" }, "Copy Python");
  table.addEventListener("click", () => copyText(csv(rows()), "CSV"));
  line.addEventListener("click", () => copyText(python(), "Python"));
  place.replaceChildren(table, line);
}

function watchNumbers() {
  document.addEventListener("click", (event) => {
    const copied = event.target.closest("[data-copy]");
    const chosen = event.target.closest(".number");
    if (copied) {
      copyText(copied.dataset.copy, copied.textContent.replace("Copy ", ""));
      hideCard();
    } else if (chosen) {
      showCard(chosen);
    } else if (!event.target.closest("#card")) {
      document.getElementById("card").hidden = true;
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      hideCard();
    }
  });
}

// Controls ------------------------------------------------------------------------------------------------------------

// A row of choices of which one is on: radio buttons that look like a segmented switch.
function choices(name, label, options, chosen, change) {
  const group = make("fieldset", { class: "choices", id: `choose-${name}` }, make("legend", {}, label));
  for (const [value, text] of options) {
    const input = make("input", { type: "radio", name, value, id: `${name}-${value}`, checked: value === chosen });
    input.addEventListener("change", () => change(value));
    group.append(input, make("label", { for: `${name}-${value}` }, text));
  }
  return group;
}

function slider(id, label, { min = 0, max = 100, step = 1, value }, change) {
  const input = make("input", { type: "range", id, min, max, step, value });
  input.addEventListener("input", () => change(Number(input.value)));
  return make("label", { class: "slider", for: id }, make("span", {}, label), input);
}

function picker(id, label, options, chosen, change) {
  const list = make(
    "select",
    { id },
    ...options.map(([value, text]) => make("option", { value, selected: value === chosen }, text)),
  );
  list.addEventListener("change", () => change(list.value));
  return make("label", { class: "picker", for: id }, make("span", {}, label), list);
}
