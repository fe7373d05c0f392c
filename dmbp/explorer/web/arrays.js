// The page's numbers: a JSON value, and arrays that are deflated planes of bytes in base64 (dmbp/explorer/packing.py).

function bytesOf(text) {
  const characters = atob(text.trim());
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < characters.length; i += 1) {
    bytes[i] = characters.charCodeAt(i);
  }
  return bytes;
}

async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The k-th bytes of all numbers stand together, lowest first; planes that were left out are zero.
async function numbersOf(bytes, reference) {
  const planes = await inflated(bytes.subarray(reference.at, reference.at + reference.bytes));
  const count = planes.length / reference.planes;
  const mixed = new Uint8Array(4 * count);
  for (let plane = 0; plane < reference.planes; plane += 1) {
    const place = 4 - reference.planes + plane;
    for (let i = 0; i < count; i += 1) {
      mixed[4 * i + place] = planes[plane * count + i];
    }
  }
  const view = new DataView(mixed.buffer);
  return Float32Array.from({ length: count }, (_, i) => view.getFloat32(4 * i, true));
}

// All references below a value, with what holds each and under which name.
function referencesIn(value, found = []) {
  for (const [name, part] of Object.entries(value)) {
    if (part && typeof part === "object") {
      if ("planes" in part && "at" in part) {
        found.push([value, name, part]);
      } else {
        referencesIn(part, found);
      }
    }
  }
  return found;
}

async function readPage() {
  const value = JSON.parse(document.getElementById("data").textContent);
  if (typeof DecompressionStream === "undefined") {
    throw new Error("this browser cannot inflate data (DecompressionStream); one of 2023 or later can");
  }
  const holder = document.getElementById("arrays");
  const bytes = bytesOf(holder.textContent);
  holder.remove();
  const references = referencesIn(value);
  await Promise.all(
    references.map(async ([owner, name, reference]) => {
      owner[name] = await numbersOf(bytes, reference);
    }),
  );
  return value;
}

function total(values) {
  let sum = 0;
  for (const value of values) {
    sum += value;
  }
  return sum;
}

// Element by element, in float64.
function added(...arrays) {
  return Float64Array.from(arrays[0], (_, i) => total(arrays.map((array) => array[i])));
}

function lessened(whole, ...parts) {
  return Float64Array.from(whole, (value, i) => value - total(parts.map((part) => part[i])));
}

// The scale of a map: a high percentile of its absolute values that are not zero, as in the library's figures.
function limitOf(...arrays) {
  const sizes = arrays
    .flatMap((array) => Array.from(array))
    .map(Math.abs)
    .filter((size) => size > 0);
  sizes.sort((a, b) => a - b);
  return sizes.length ? sizes[Math.min(sizes.length - 1, Math.floor(0.995 * sizes.length))] : 1;
}
