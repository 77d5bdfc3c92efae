// Starts the viewer: reads the data of the page and connects its controls.

const REST = 120; // ms that the mouse rests before a site is shown
const QUEUES = {
  doubt: (sites) => (a, b) => sites.most[a] - sites.most[b],
  certain: (sites) => (a, b) => sites.most[b] - sites.most[a],
};

async function readSites(data) {
  const packed = data.sites;
  const num = data.classes.length;
  const p = Float32Array.from(await unpack(packed.p, Uint16Array), (v) => v / packed.steps);
  const sites = { num: packed.num, p };
  sites.most = new Float32Array(packed.num);
  sites.best = new Uint8Array(packed.num);
  const types = { x: Float32Array, y: Float32Array, entropy: Float32Array, flags: Uint8Array };
  Object.assign(types, { surprise: Float32Array, change: Float32Array });
  for (const [name, Type] of Object.entries(types)) {
    if (packed[name]) sites[name] = await unpack(packed[name], Type);
  }
  sites.speciesNames = packed.species[0];
  sites.species = await unpack(packed.species[1], Uint16Array);
  sites.kindNames = packed.kinds[0];
  sites.kind = await unpack(packed.kinds[1], Uint8Array);
  sites.defect = new Float32Array(packed.num);
  for (let i = 0; i < packed.num; i++) {
    const row = p.subarray(i * num, (i + 1) * num);
    row.forEach((v, k) => {
      if (v > sites.most[i]) [sites.most[i], sites.best[i]] = [v, k];
      if (!data.classes[k].perfect) sites.defect[i] += v;
    });
  }
  return sites;
}

async function readColumns(data) {
  if (!data.columns) return null;
  const values = await unpack(data.columns.values, Int16Array);
  return { ...data.columns, values, present: await unpack(data.columns.present, Int8Array) };
}

function draw(state) {
  const { canvas, camera } = state;
  const ratio = window.devicePixelRatio || 1;
  const context = canvas.getContext("2d");
  // at the whole image a finger scrolls the page, zoomed in it moves the image
  canvas.style.touchAction = camera.fitted ? "pan-y" : "none";
  canvas.classList.toggle("movable", !camera.fitted);
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.fillStyle = "#2b2f33";
  context.fillRect(0, 0, camera.viewWidth, camera.viewHeight);
  const layer = state.layers[state.layer];
  paintLayer(layer, state.black, state.white, state.data.scales.both);
  context.imageSmoothingEnabled = camera.scale < 1;
  const zoom = layer.shrink * camera.scale;
  const size = [zoom * layer.canvas.width, zoom * layer.canvas.height];
  context.drawImage(layer.canvas, camera.left, camera.top, ...size);
  if (state.overlay === "class") (state.data.patch ? drawFrames : drawSymbols)(context, state);
  else if (MAPS[state.overlay]) drawMap(context, state, state.overlay);
  drawSelection(context, state, state.hovered, true);
  drawSelection(context, state, state.site, false);
  drawScaleBar(context, state);
}

function nearest(state, [left, top]) {
  const [x, y] = state.camera.toImage(left, top);
  const reach = Math.max(0.75 * state.data.spacing, 14 / state.camera.scale);
  let [found, least] = [-1, reach * reach];
  for (let i = 0; i < state.sites.num; i++) {
    const square = (state.sites.x[i] - x) ** 2 + (state.sites.y[i] - y) ** 2;
    if (square < least && !(state.sites.flags[i] & 1)) [found, least] = [i, square];
  }
  return found;
}

function showLegend(state) {
  const legend = document.getElementById("scale");
  const map = MAPS[state.overlay];
  const layer = state.layers[state.layer];
  legend.replaceChildren();
  const add = (title, low, high, stops) => {
    const bar = element("span", { class: "gradient", "aria-hidden": "true" });
    bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    legend.append(element("p", {}, `${title}: ${low} `, bar, ` ${high}`));
  };
  if (map) {
    const [low, high] = state.ranges[state.overlay];
    const digits = state.overlay === "surprise" ? 1 : 2;
    const ends = [format(low, digits), format(high, digits) + map.unit];
    add(map.title, ...ends, state.data.scales[map.scale]);
  } else if (state.overlay === "class") {
    const text = "Opacity: probability of the class, from faint (0.2) to solid (1).";
    legend.append(element("p", {}, text));
  }
  if (layer.kind === "residual") {
    const unit = "standard deviations of noise, averaged over 0.3 Å";
    const ends = [format(layer.low, 0), `+${format(layer.high, 0)} ${unit}`];
    add("Observed minus expected", ...ends, state.data.scales.both);
  }
  const lossy = layer.quality ? `JPEG quality ${layer.quality}` : "no loss but 8 bits";
  const size = layer.shrink > 1 ? `, means of ${layer.shrink} x ${layer.shrink} px` : "";
  legend.append(element("p", { class: "quiet" }, `Picture: ${lossy}${size}.`));
}

// The sites of a queue, such as "doubt" or "certain:5", in the order of their probability.
function queueOf(state, text) {
  const [order, defect] = text.split(":");
  const all = [...Array(state.sites.num).keys()].filter((i) => !(state.sites.flags[i] & 1));
  const own = defect ? all.filter((i) => state.sites.best[i] === +defect) : all;
  return own.sort(QUEUES[order](state.sites));
}

async function load() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const canvas = document.getElementById("canvas");
  const checked = document.querySelectorAll("input[name=shown]:checked");
  const state = {
    data,
    canvas,
    camera: new Camera(data.width, data.height),
    layers: await Promise.all(data.layers.map(loadLayer)),
    sites: await readSites(data),
    columns: await readColumns(data),
    shown: new Set([...checked].map((n) => +n.value)),
    ranges: {},
    layer: 0,
    overlay: "class",
    least: 0,
    black: 0,
    white: 1,
    site: -1,
    hovered: -1,
  };
  for (const name of Object.keys(MAPS)) {
    if (state.sites[name]) state.ranges[name] = mapRange(name, state.sites);
  }
  return state;
}

// Draws at most once for each frame of the screen.
function drawLater(state) {
  let planned = false;
  return () => {
    if (planned) return;
    planned = true;
    requestAnimationFrame(() => {
      planned = false;
      draw(state);
    });
  };
}

// Controls of what is shown.
function connectLayers(state, redraw) {
  const refresh = (change) => {
    Object.assign(state, change);
    showLegend(state);
    redraw();
  };
  const on = (selector, event, change) =>
    document.querySelectorAll(selector).forEach((input) =>
      input.addEventListener(event, () => refresh(change(input))));
  on("input[name=layer]", "change", (input) => ({ layer: +input.value }));
  on("#overlay", "change", (input) => ({ overlay: input.value }));
  on("#black", "input", (input) => ({ black: +input.value / 100 }));
  on("#white", "input", (input) => ({ white: +input.value / 100 }));
  on("#least", "input", (input) => {
    document.getElementById("least-value").textContent = format(+input.value, 2);
    return { least: +input.value };
  });
  on("input[name=shown]", "change", (input) => {
    state.shown[input.checked ? "add" : "delete"](+input.value);
    return {};
  });
  refresh({});
}

// Controls that choose a site; returns those for the gestures of the canvas.
function connectSites(state, redraw) {
  const { camera, data, sites } = state;
  let queue = queueOf(state, "doubt");
  let resting = 0;
  const choose = (i, move) => {
    if (i < 0) return;
    state.site = i;
    showSite(state, i);
    document.getElementById("chosen").textContent = describeSite(state, i);
    if (move) camera.centre(sites.x[i], sites.y[i], Math.max(camera.scale, 42 / data.spacing));
    redraw();
  };
  const step = (by) => {
    const at = queue.indexOf(state.site);
    if (queue.length) choose(queue[(at + by + queue.length) % queue.length], true);
  };
  const hover = (place, kind) => {
    const i = place && kind !== "touch" ? nearest(state, place) : -1;
    if (i === state.hovered) return;
    state.hovered = i;
    // what the mouse rests on is shown as long as it does
    clearTimeout(resting);
    resting = setTimeout(() => {
      const shown = i < 0 ? state.site : i;
      if (shown >= 0) showSite(state, shown);
    }, REST);
    redraw();
  };
  document.getElementById("next").addEventListener("click", () => step(1));
  document.getElementById("previous").addEventListener("click", () => step(-1));
  document.getElementById("queue").addEventListener("change", (event) => {
    queue = queueOf(state, event.target.value);
    if (queue.length) choose(queue[0], true);
  });
  document.querySelectorAll("button[data-site]").forEach((button) =>
    button.addEventListener("click", () => {
      choose(+button.dataset.site, true);
      document.getElementById("image").scrollIntoView();
    }));
  // one with all of its surroundings is a better start
  const inside = (i) =>
    Math.min(sites.x[i], data.width - sites.x[i], sites.y[i], data.height - sites.y[i]) >
    1.3 * data.spacing;
  if (queue.length) choose(queue.find(inside) ?? queue[0], false);
  return {
    hover,
    tap: (place) => choose(nearest(state, place), false),
    key: (key) => {
      if (key === "n") step(1);
      if (key === "p") step(-1);
      return key === "n" || key === "p";
    },
  };
}

async function start() {
  const state = await load();
  const { camera, canvas } = state;
  const redraw = drawLater(state);
  document.documentElement.classList.add("live");
  listen(canvas, camera, { changed: redraw, ...connectSites(state, redraw) });
  connectLayers(state, redraw);
  const zooms = {
    "zoom-in": () => camera.zoom(1.6),
    "zoom-out": () => camera.zoom(1 / 1.6),
    whole: () => camera.reset(),
  };
  for (const [id, zoom] of Object.entries(zooms)) {
    document.getElementById(id).addEventListener("click", () => {
      zoom();
      redraw();
    });
  }
  const resize = () => {
    const ratio = window.devicePixelRatio || 1;
    const box = canvas.getBoundingClientRect();
    if (!box.width) return;
    canvas.width = Math.round(box.width * ratio);
    canvas.height = Math.round(box.height * ratio);
    camera.resize(box.width, box.height);
    draw(state);
  };
  new ResizeObserver(resize).observe(canvas);
  window.addEventListener("beforeprint", () =>
    document.querySelectorAll("details").forEach((details) => (details.open = true)));
  resize();
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  document.getElementById("broken").hidden = false;
  throw error;
});
