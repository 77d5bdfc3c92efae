// What is drawn over the picture: symbols of classes, values of sites, scale bar.

const LEAST_OPACITY = 0.15;
const BUCKETS = 5;
const HALO = "rgba(0, 0, 0, 0.6)";
const DOT = 0.32; // size of a dot among outlines
const [LEAST_OUTLINE, LEAST_DOT] = [9, 3]; // CSS px

function sitesInView(state, margin) {
  const { camera, sites } = state;
  const [left, top] = camera.toImage(-margin, -margin);
  const [right, bottom] = camera.toImage(camera.viewWidth + margin, camera.viewHeight + margin);
  const found = [];
  for (let i = 0; i < sites.num; i++) {
    const [x, y] = [sites.x[i], sites.y[i]];
    const isInside = x >= left && x <= right && y >= top && y <= bottom;
    if (isInside && isShown(state, i)) found.push(i);
  }
  return found;
}

function isShown(state, i) {
  const { sites } = state;
  return !(sites.flags[i] & 1) && state.shown.has(sites.best[i]) && sites.most[i] >= state.least;
}

function addSymbol(path, kind, x, y, size) {
  kind.corners.forEach(([u, v], k) => path[k ? "lineTo" : "moveTo"](x + u * size, y + v * size));
  path.closePath();
}

function drawSymbols(context, state) {
  const size = Math.max(0.7 * state.data.spacing * state.camera.scale, LEAST_OUTLINE);
  const dot = Math.max(0.7 * DOT * state.data.spacing * state.camera.scale, LEAST_DOT);
  const groups = new Map();
  for (const i of sitesInView(state, size)) {
    const bucket = Math.min(BUCKETS - 1, Math.floor(state.sites.most[i] * BUCKETS));
    const name = state.sites.best[i] * BUCKETS + bucket;
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(i);
  }
  const perfect = (name) => state.data.classes[Math.floor(name / BUCKETS)].perfect;
  const order = [...groups.keys()].sort((a, b) => perfect(b) - perfect(a) || a - b);
  for (const name of order) {
    const kind = state.data.classes[Math.floor(name / BUCKETS)];
    const path = new Path2D();
    const reach = kind.perfect ? dot : size;
    for (const i of groups.get(name)) {
      const [x, y] = state.camera.toScreen(state.sites.x[i], state.sites.y[i]);
      addSymbol(path, kind, x, y, reach);
    }
    context.globalAlpha = Math.max(((name % BUCKETS) + 1) / BUCKETS, LEAST_OPACITY);
    if (kind.perfect) {
      context.fillStyle = kind.colour;
      context.fill(path);
    } else {
      context.lineJoin = "round";
      for (const [width, colour] of [[3.6, HALO], [1.9, kind.colour]]) {
        [context.lineWidth, context.strokeStyle] = [width, colour];
        context.stroke(path);
      }
    }
  }
  context.globalAlpha = 1;
}

// Patches have a frame in the colour of the class, its symbol and its name.
function drawFrames(context, state) {
  const { camera, sites, data } = state;
  const [width, height] = data.patch.map((n) => n * camera.scale);
  context.textBaseline = "top";
  context.font = "600 12px system-ui, sans-serif";
  for (const i of sitesInView(state, width)) {
    const kind = data.classes[sites.best[i]];
    const [x, y] = camera.toScreen(sites.x[i], sites.y[i]);
    const [left, top] = [x - width / 2, y - height / 2];
    context.globalAlpha = Math.max(sites.most[i], LEAST_OPACITY);
    [context.lineWidth, context.strokeStyle] = [3, kind.colour];
    context.strokeRect(left, top, width, height);
    context.globalAlpha = 1;
    const label = `${kind.name} ${sites.most[i].toFixed(2)}`;
    if (width < 60) continue;
    context.fillStyle = "rgba(0, 0, 0, 0.75)";
    context.fillRect(left, top, context.measureText(label).width + 26, 19);
    const path = new Path2D();
    addSymbol(path, kind, left + 11, top + 9.5, 11);
    [context.lineWidth, context.strokeStyle] = kind.perfect ? [1, "#fff"] : [1.6, kind.colour];
    context.fillStyle = kind.colour;
    if (kind.perfect) context.fill(path);
    context.stroke(path);
    context.fillStyle = "#fff";
    context.fillText(label, left + 22, top + 4);
  }
}

const MAPS = {
  defect: { title: "probability of a defect", scale: "plain", unit: "" },
  entropy: { title: "entropy of the class", scale: "plain", unit: " bit" },
  surprise: { title: "surprise", scale: "plain", unit: " nat" },
  change: { title: "reduction of the entropy by the context", scale: "both", unit: " bit" },
};

function mapRange(name, sites) {
  if (name === "defect") return [0, 1];
  const values = sites[name].filter((_, i) => !(sites.flags[i] & 1));
  const [low, high] = values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [0, 0]);
  const reach = Math.max(-low, high, 0.1);
  if (name === "change") return [-reach, reach];
  return name === "surprise" ? [low, Math.max(high, low + 0.1)] : [0, reach];
}

function drawMap(context, state, name) {
  const [low, high] = state.ranges[name];
  const stops = state.data.scales[MAPS[name].scale];
  const radius = Math.max(0.5 * state.data.spacing * state.camera.scale, 2.5);
  for (const i of sitesInView(state, radius)) {
    const value = state.sites[name][i];
    const [x, y] = state.camera.toScreen(state.sites.x[i], state.sites.y[i]);
    const share = (value - low) / (high - low);
    const weight = name === "change" ? Math.abs(2 * share - 1) : share;
    context.globalAlpha = 0.1 + 0.8 * Math.min(Math.max(weight, 0), 1); // the image shows through
    context.fillStyle = `rgb(${colourAt(stops, share)})`;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fill();
  }
  context.globalAlpha = 1;
}

function drawSelection(context, state, i, dashed) {
  if (i < 0) return;
  const [x, y] = state.camera.toScreen(state.sites.x[i], state.sites.y[i]);
  const radius = Math.max(0.62 * state.data.spacing * state.camera.scale, 11);
  context.setLineDash(dashed ? [4, 3] : []);
  for (const [width, colour] of [[5, "#000"], [2.2, "#fff"]]) {
    [context.lineWidth, context.strokeStyle] = [width, colour];
    context.beginPath();
    if (state.data.patch) {
      const [w, h] = state.data.patch.map((n) => (n + 3) * state.camera.scale);
      context.rect(x - w / 2, y - h / 2, w, h);
    } else {
      context.arc(x, y, radius, 0, 2 * Math.PI);
    }
    context.stroke();
  }
  context.setLineDash([]);
}

function drawScaleBar(context, state) {
  const { sampling } = state.data;
  if (!sampling) return;
  const longest = (state.camera.viewWidth / state.camera.scale) * sampling * 0.25;
  const power = 10 ** Math.floor(Math.log10(longest));
  const length = power * [5, 2, 1].find((n) => n * power <= longest);
  const label = length >= 10 ? `${length / 10} nm` : `${+length.toFixed(3)} Å`;
  const width = (length / sampling) * state.camera.scale;
  const top = state.camera.viewHeight - 18;
  context.font = "600 13px system-ui, sans-serif";
  const box = Math.max(width, context.measureText(label).width) + 16;
  context.fillStyle = "rgba(0, 0, 0, 0.6)";
  context.fillRect(8, top - 22, box, 32);
  context.fillStyle = "#fff";
  context.fillRect(16, top, width, 4);
  context.textBaseline = "bottom";
  context.fillText(label, 16, top - 2);
}
