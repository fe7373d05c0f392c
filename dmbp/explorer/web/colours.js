// Colours of maps and themes: red raises the score, blue lowers it, the ground shows where there is nothing.

const THEMES = ["system", "light", "dark"];

function isDark() {
  const asked = document.documentElement.dataset.theme;
  return asked ? asked === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function channels(hex) {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}

// A map as an image: the colour of the sign, as opaque as the value is large; transparent at zero.
function mapImage(values, width, height, limit, opacity = 1) {
  const image = new ImageData(width, height);
  const [red, blue] = [channels(colour("for")), channels(colour("against"))];
  for (let i = 0; i < width * height; i += 1) {
    const share = Math.min(1, Math.abs(values[i]) / limit);
    const [r, g, b] = values[i] > 0 ? red : blue;
    image.data.set([r, g, b, Math.round(255 * opacity * share ** 0.8)], 4 * i);
  }
  return canvasOf(image);
}

function canvasOf(image) {
  const canvas = make("canvas", { width: image.width, height: image.height });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

function watchTheme(redraw) {
  const button = document.getElementById("theme");
  button.addEventListener("click", () => {
    const now = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "system") + 1) % THEMES.length];
    if (now === "system") {
      delete document.documentElement.dataset.theme;
    } else {
      document.documentElement.dataset.theme = now;
    }
    button.textContent = `Theme: ${now}`;
    redraw();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
}
