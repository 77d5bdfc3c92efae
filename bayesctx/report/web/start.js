// Starts the viewer: reads the data of the page and connects its controls.

const QUEUES = {
  doubt: (sites) => (a, b) => sites.most[a] - sites.most[b],
  certain: (sites) => (a, b) => sites.most[b] - sites.most[a],
};

async function readSites(data) {
  const packed = data.sites;
  const num = data.classes.length;
  const p = Float32Array.from(await unpack(packed.p, Uint16Array), (v) => v / packed.steps);
  const sites = { num: packed.num, p, most: new Float32Array(packed.num), best: new Uint8Array(packed.num) };
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
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.fillStyle = "#2b2f33";
  context.fillRect(0, 0, camera.viewWidth, camera.viewHeight);
  const layer = state.layers[state.layer];
  paintLayer(layer, state.black, state.white, state.data.scales.both);
  context.imageSmoothingEnabled = camera.scale < 1;
  const [width, height] = [layer.canvas.width, layer.canvas.height].map((n) => n * layer.shrink * camera.scale);
  context.drawImage(layer.canvas, camera.left, camera.top, width, height);
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
    add(map.title, format(low, digits), format(high, digits) + map.unit, state.data.scales[map.scale]);
  } else if (state.overlay === "class") {
    legend.append(element("p", {}, "Opacity: probability of the class, from faint (0.2) to solid (1)."));
  }
  if (layer.kind === "residual") {
    const unit = "standard deviations of noise, averaged over 0.3 Å";
    add("Observed minus expected", format(layer.low, 0), `+${format(layer.high, 0)} ${unit}`, state.data.scales.both);
  }
  const lossy = layer.quality ? `JPEG quality ${layer.quality}` : "no loss but 8 bits";
  const size = layer.shrink > 1 ? `, means of ${layer.shrink} x ${layer.shrink} px` : "";
  legend.append(element("p", { class: "quiet" }, `Picture: ${lossy}${size}.`));
}

function connect(state, refresh) {
  const one = (id, event, act) => document.getElementById(id)?.addEventListener(event, act);
  document.querySelectorAll("input[name=layer]").forEach((input) =>
    input.addEventListener("change", () => refresh({ layer: +input.value })));
  one("overlay", "change", (e) => refresh({ overlay: e.target.value }));
  document.querySelectorAll("input[name=shown]").forEach((input) =>
    input.addEventListener("change", () => {
      state.shown[input.checked ? "add" : "delete"](+input.value);
      refresh({});
    }));
  one("least", "input", (e) => {
    document.getElementById("least-value").textContent = format(+e.target.value, 2);
    refresh({ least: +e.target.value });
  });
  one("black", "input", (e) => refresh({ black: +e.target.value / 100 }));
  one("white", "input", (e) => refresh({ white: +e.target.value / 100 }));
}

function queueOf(state, text) {
  const [order, defect] = text.split(":");
  const all = [...Array(state.sites.num).keys()].filter((i) => !(state.sites.flags[i] & 1));
  const own = defect ? all.filter((i) => state.sites.best[i] === +defect) : all;
  return own.sort(QUEUES[order](state.sites));
}

async function start() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const canvas = document.getElementById("canvas");
  const state = { data, canvas, camera: new Camera(data.width, data.height), layer: 0, overlay: "class" };
  state.layers = await Promise.all(data.layers.map(loadLayer));
  [state.sites, state.columns] = [await readSites(data), await readColumns(data)];
  state.shown = new Set([...document.querySelectorAll("input[name=shown]:checked")].map((n) => +n.value));
  Object.assign(state, { least: 0, black: 0, white: 1, site: -1, hovered: -1, ranges: {} });
  for (const name of Object.keys(MAPS)) if (state.sites[name]) state.ranges[name] = mapRange(name, state.sites);
  let planned = false;
  const redraw = () => {
    if (planned) return;
    planned = true;
    requestAnimationFrame(() => {
      planned = false;
      draw(state);
    });
  };
  const refresh = (change) => {
    Object.assign(state, change);
    showLegend(state);
    redraw();
  };
  const choose = (i, move) => {
    if (i < 0) return;
    state.site = i;
    showSite(state, i);
    const { camera, sites } = state;
    if (move) camera.centre(sites.x[i], sites.y[i], Math.max(camera.scale, 42 / data.spacing));
    document.getElementById("chosen").textContent = describeSite(state, i);
    touched();
  };
  let queue = queueOf(state, "doubt");
  let resting = 0;
  const step = (by) => {
    if (!queue.length) return;
    const at = queue.indexOf(state.site);
    choose(queue[(at + by + queue.length) % queue.length], true);
  };
  const touched = listen(canvas, state.camera, {
    changed: redraw,
    hover: (place, kind) => {
      const i = place && kind !== "touch" ? nearest(state, place) : -1;
      if (i !== state.hovered) {
        state.hovered = i;
        // what the mouse rests on is shown as long as it does
        clearTimeout(resting);
        resting = setTimeout(() => {
          const shown = i < 0 ? state.site : i;
          if (shown >= 0) showSite(state, shown);
        }, 120);
        redraw();
      }
    },
    tap: (place) => choose(nearest(state, place), false),
    key: (key) => {
      if (key !== "n" && key !== "p") return false;
      step(key === "n" ? 1 : -1);
      return true;
    },
  });
  connect(state, refresh);
  const act = { "zoom-in": () => state.camera.zoom(1.6), "zoom-out": () => state.camera.zoom(1 / 1.6), whole: () => state.camera.reset() };
  for (const [id, run] of Object.entries(act)) {
    document.getElementById(id).addEventListener("click", () => {
      run();
      touched();
    });
  }
  document.getElementById("next").addEventListener("click", () => step(1));
  document.getElementById("previous").addEventListener("click", () => step(-1));
  document.getElementById("queue").addEventListener("change", (e) => {
    queue = queueOf(state, e.target.value);
    if (queue.length) choose(queue[0], true);
  });
  document.querySelectorAll("button[data-site]").forEach((button) =>
    button.addEventListener("click", () => {
      choose(+button.dataset.site, true);
      document.getElementById("image").scrollIntoView();
    }));
  const resize = () => {
    const ratio = window.devicePixelRatio || 1;
    const box = canvas.getBoundingClientRect();
    if (!box.width) return;
    [canvas.width, canvas.height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    state.camera.resize(box.width, box.height);
    draw(state);
  };
  new ResizeObserver(resize).observe(canvas);
  window.addEventListener("beforeprint", () =>
    document.querySelectorAll("details").forEach((d) => (d.open = true)));
  document.documentElement.classList.add("live");
  resize();
  showLegend(state);
  // one with all of its surroundings is a better start
  const margin = 1.3 * data.spacing;
  const inside = (i) =>
    Math.min(state.sites.x[i], data.width - state.sites.x[i], state.sites.y[i], data.height - state.sites.y[i]) > margin;
  if (queue.length) choose(queue.find(inside) ?? queue[0], false);
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  document.getElementById("broken").hidden = false;
  throw error;
});
