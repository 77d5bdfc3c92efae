// One site: its probabilities, and its pixels beside the expected image of each hypothesis.

const REACH = 4.2; // Å on each side of a site
const CORE = 1.3; // Å around it, over which the misfit is taken
const WINDOW = 0.25; // Å, standard deviation of the window of the smoothed pixels
const MOST_TILES = 10;
const LEAST_SHARE = 0.01; // of a class of another kind of site, where the assignment is open

const format = (value, digits = 3) => 
  Number.isFinite(value) ? value.toFixed(digits).replace("-", "−") : "–";

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function symbolOf(kind) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "-0.75 -0.75 1.5 1.5");
  svg.setAttribute("class", "symbol");
  svg.setAttribute("aria-hidden", "true");
  const shape = document.createElementNS("http://www.w3.org/2000/svg", "polygon");
  const size = kind.perfect ? 0.45 : 1;
  shape.setAttribute("points", kind.corners.map((p) => p.map((v) => v * size)).join(" "));
  shape.setAttribute("class", kind.perfect ? "dot" : "outline");
  shape.setAttribute(kind.perfect ? "fill" : "stroke", kind.colour);
  svg.append(shape);
  return svg;
}

function describeSite(state, i) {
  const { sites, data } = state;
  const kind = data.classes[sites.best[i]];
  const name = data.labels ? data.labels[i] : `Site ${i}`;
  return `${name}: ${kind.title} (${kind.name}), probability ${format(sites.most[i])}`;
}

function factsOf(state, i) {
  const { sites, data } = state;
  const facts = [];
  if (data.sampling) {
    const nm = [sites.x[i], sites.y[i]].map((v) => ((v * data.sampling) / 10).toFixed(2));
    const px = [sites.x[i], sites.y[i]].map((v) => format(v, 1));
    facts.push(["Position x, y", `${nm.join(", ")} nm (${px.join(", ")} px)`]);
  }
  if (sites.kindNames[sites.kind[i]]) facts.push(["Kind of site", sites.kindNames[sites.kind[i]]]);
  const species = sites.speciesNames[sites.species[i]];
  facts.push(["Column", species === "-" ? "none" : species]);
  facts.push(["Entropy of the class", `${format(sites.entropy[i], 2)} bit`]);
  if (sites.change) facts.push(["Reduced by the context", `${format(sites.change[i], 2)} bit`]);
  if (sites.surprise) {
    const limit = data.sites.limit === null ? "" : ` (limit ${format(data.sites.limit, 1)})`;
    facts.push(["Surprise", `${format(sites.surprise[i], 1)} nat${limit}`]);
  }
  const flags = data.flags.filter((_, k) => sites.flags[i] & (1 << k));
  facts.push(["Flags", flags.join(", ") || "none"]);
  return facts;
}

function probabilityRows(state, i) {
  const { data, sites } = state;
  const num = data.classes.length;
  const shares = sites.p.subarray(i * num, (i + 1) * num);
  const order = data.classes.map((_, k) => k).sort((a, b) => shares[b] - shares[a]);
  const kept = order.filter((k, rank) => rank < 2 || shares[k] >= 0.001);
  const rest = order.filter((k) => !kept.includes(k));
  const rows = kept.map((k) => {
    const share = shares[k];
    const bar = element("span", { class: "bar" });
    bar.style.width = `${100 * share}%`;
    const track = element("td", { class: "track", "aria-hidden": "true" }, bar);
    const kind = data.classes[k];
    const name = element("th", { scope: "row" }, symbolOf(kind), ` ${kind.name}`);
    name.title = kind.title;
    return element("tr", {}, name, track, element("td", { class: "number" }, format(share)));
  });
  const sum = rest.reduce((total, k) => total + shares[k], 0);
  const name = element("th", { scope: "row" }, `${rest.length} others`);
  const total = element("td", { class: "number" }, format(sum));
  return [...rows, element("tr", { class: "rest" }, name, element("td"), total)];
}

// Intensity of a layer at a pixel of the image; not a number outside of it.
function intensity(layer, x, y, data) {
  if (x < 0 || y < 0 || x >= data.width || y >= data.height) return NaN;
  const [u, v] = [Math.floor(x / layer.shrink), Math.floor(y / layer.shrink)];
  return layer.low + (layer.grey[v * layer.canvas.width + u] / 255) * (layer.high - layer.low);
}

// Image of a column alone at (dx, dy) px from it, between the points where it is stored.
function columnAt(columns, detector, hypothesis, dx, dy) {
  const { side, step, scale, values, hypotheses } = columns;
  const [u, v] = [dx / step + (side - 1) / 2, dy / step + (side - 1) / 2];
  const [k, j] = [Math.floor(u), Math.floor(v)];
  if (k < 0 || j < 0 || k > side - 2 || j > side - 2) return 0;
  const start = (detector * hypotheses.length + hypothesis) * side * side;
  const at = (a, b) => values[start + b * side + a];
  const upper = at(k, j) * (k + 1 - u) + at(k + 1, j) * (u - k);
  const lower = at(k, j + 1) * (k + 1 - u) + at(k + 1, j + 1) * (u - k);
  return scale * (upper * (j + 1 - v) + lower * (v - j));
}

// Pixels with their neighbours, by a Gaussian window; where there are none they are left out.
function smooth(pixels, size, sampling) {
  const width = Math.max(WINDOW / sampling, 0.5);
  const reach = Math.ceil(2.5 * width);
  const weight = (k) => Math.exp(-(((k - reach) / width) ** 2) / 2);
  const weights = Array.from({ length: 2 * reach + 1 }, (_, k) => weight(k));
  const along = (values, step, position) =>
    values.map((_, k) => {
      let [sum, total] = [0, 0];
      for (let j = -reach; j <= reach; j++) {
        const at = position(k) + j;
        const value = at < 0 || at >= size ? NaN : values[k + j * step];
        if (!Number.isFinite(value)) continue;
        sum += weights[j + reach] * value;
        total += weights[j + reach];
      }
      return total ? sum / total : NaN;
    });
  const rows = along(pixels, 1, (k) => k % size);
  const both = along(rows, size, (k) => Math.floor(k / size));
  return both.map((value, k) => (Number.isFinite(pixels[k]) ? value : NaN));
}

// Hypotheses that are shown for a site, the most probable class first.
function fittingHypotheses(state, i) {
  const { data, sites, columns } = state;
  const own = sites.kindNames[sites.kind[i]];
  return columns.hypotheses
    .map((h, index) => ({ ...h, index, share: sites.p[i * data.classes.length + h.defect] }))
    .filter((h) => h.site === own || h.share >= LEAST_SHARE)
    .sort((a, b) => b.share - a.share || a.index - b.index)
    .slice(0, MOST_TILES);
}

// Pixels around a site: observed, smoothed, and expected under each hypothesis.
function compareSite(state, i, detector) {
  const { data, sites, columns } = state;
  const layer = (kind) => state.layers.find((l) => l.kind === kind && l.detector === detector);
  const [observed, expected] = [layer("observed"), layer("expected")];
  const half = Math.max(Math.round(REACH / data.sampling), 4);
  const size = 2 * half + 1;
  const [x0, y0] = [Math.round(sites.x[i]) - half, Math.round(sites.y[i]) - half];
  const grid = (value) =>
    Float64Array.from({ length: size * size }, (_, k) =>
      value(x0 + (k % size), y0 + Math.floor(k / size)));
  const seen = grid((x, y) => intensity(observed, x, y, data));
  const found = [
    { label: "observed", pixels: seen },
    { label: "smoothed", pixels: smooth(seen, size, data.sampling) },
  ];
  if (!expected || !columns || columns.present[i] < 0) return { size, found };
  const [constant, slope, least] = columns.variance[detector];
  const core = CORE / data.sampling;
  const fitting = fittingHypotheses(state, i);
  for (const h of fitting) {
    let [sum, count] = [0, 0];
    const pixels = grid((x, y) => {
      const [dx, dy] = [x - sites.x[i], y - sites.y[i]];
      const mean = intensity(expected, x, y, data);
      const value =
        mean +
        columnAt(columns, detector, h.index, dx, dy) -
        columnAt(columns, detector, columns.present[i], dx, dy);
      const variance = Math.max(constant + slope * mean, least);
      const rest = (intensity(observed, x, y, data) - value) ** 2 / variance;
      if (Math.hypot(dx, dy) <= core && Number.isFinite(rest)) {
        sum += rest;
        count += 1;
      }
      return value;
    });
    // the probability of a class is that of all of its columns together
    const shared = fitting.filter((f) => f.defect === h.defect).length > 1 ? " (class)" : "";
    found.push({
      label: data.classes[h.defect].name,
      formula: h.formula === "-" ? "empty" : h.formula,
      share: h.share,
      shared,
      misfit: count ? Math.sqrt(sum / count) : NaN,
      pixels,
    });
  }
  return { size, found };
}

function drawTile(size, pixels, low, high) {
  const what = { width: size, height: size, class: "tile", "aria-hidden": "true" };
  const canvas = element("canvas", what);
  const context = canvas.getContext("2d");
  const image = context.createImageData(size, size);
  pixels.forEach((value, k) => {
    const level = Number.isFinite(value) ? (255 * (value - low)) / (high - low || 1) : 90;
    image.data.set([level, level, level, 255], 4 * k);
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

function tilesOf(state, i) {
  if (state.data.kind === "patches") return [];
  return state.data.detectors.map((name, detector) => {
    const { size, found } = compareSite(state, i, detector);
    // noise does not set the grey scale where there is something without it
    const steady = found.length > 2 ? found.slice(1) : found;
    const values = steady.flatMap((t) => [...t.pixels]).filter(Number.isFinite);
    const low = values.reduce((a, b) => Math.min(a, b), Infinity);
    const high = values.reduce((a, b) => Math.max(a, b), -Infinity);
    const tiles = found.map((t) => {
      const caption = element("figcaption", {}, element("b", {}, t.label));
      if (t.formula) {
        const share = `p ${format(t.share)}${t.shared}`;
        const misfit = `misfit ${format(t.misfit, 2)}`;
        caption.append(` ${t.formula}`, element("br"), share, element("br"), misfit);
      }
      const css = t.formula ? "expected" : "observed";
      return element("figure", { class: css }, drawTile(size, t.pixels, low, high), caption);
    });
    const row = element("div", { class: "tiles" }, ...tiles);
    return name ? element("div", {}, element("h4", {}, name), row) : row;
  });
}

function showSite(state, i) {
  const { data, sites } = state;
  const panel = document.getElementById("site");
  const kind = data.classes[sites.best[i]];
  const name = data.labels ? data.labels[i] : `Site ${i}`;
  const facts = factsOf(state, i).map(([k, v]) =>
    element("div", {}, element("dt", {}, k), element("dd", {}, v)));
  panel.querySelector("h3").replaceChildren(symbolOf(kind), ` ${name}: ${kind.title}`);
  panel.querySelector("dl").replaceChildren(...facts);
  panel.querySelector("tbody").replaceChildren(...probabilityRows(state, i));
  panel.querySelector(".pixels").replaceChildren(...tilesOf(state, i));
  panel.dataset.site = i;
}
