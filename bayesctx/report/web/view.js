// The picture: layers, camera, and gestures of mouse, touch and keyboard.

const MOST_ZOOM = 64; // CSS px for a pixel of the image
const STEP_ZOOM = 1.3;

async function unpack(text, Type) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Type(await new Response(stream).arrayBuffer());
}

async function loadLayer(layer) {
  const image = new Image();
  image.src = layer.uri || document.getElementById("still").src; // the first is in the page
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const grey = new Uint8ClampedArray(data.length / 4);
  for (let i = 0; i < grey.length; i++) grey[i] = data[4 * i];
  return { ...layer, canvas, context, grey, table: "" };
}

function parseColour(hex) {
  return [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
}

function colourAt(stops, share) {
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const k = Math.min(Math.floor(at), stops.length - 2);
  const [a, b] = [parseColour(stops[k]), parseColour(stops[k + 1])];
  return a.map((v, i) => Math.round(v + (b[i] - v) * (at - k)));
}

// Writes the colours of a layer to its canvas: grey between two levels, or a scale with two sides.
function paintLayer(layer, black, white, stops) {
  const name = layer.kind === "residual" ? "both" : `${black} ${white}`;
  if (layer.table === name) return;
  const colours = Array.from({ length: 256 }, (_, g) => {
    if (layer.kind === "residual") return colourAt(stops, g / 255);
    const v = (255 * (g / 255 - black)) / Math.max(white - black, 0.01);
    return [v, v, v];
  });
  const pixels = layer.context.createImageData(layer.canvas.width, layer.canvas.height);
  const data = pixels.data.fill(255);
  for (let i = 0; i < layer.grey.length; i++) {
    [data[4 * i], data[4 * i + 1], data[4 * i + 2]] = colours[layer.grey[i]];
  }
  layer.context.putImageData(pixels, 0, 0);
  layer.table = name;
}

// A camera maps pixel (x, y) of the image to (scale (x + 1/2) + left, scale (y + 1/2) + top).
class Camera {
  constructor(width, height) {
    Object.assign(this, { width, height, viewWidth: 1, viewHeight: 1 });
    Object.assign(this, { scale: 1, left: 0, top: 0, fitted: true });
  }

  get fit() {
    return Math.min(this.viewWidth / this.width, this.viewHeight / this.height);
  }

  resize(width, height) {
    const middle = this.toImage(this.viewWidth / 2, this.viewHeight / 2);
    [this.viewWidth, this.viewHeight] = [width, height];
    if (this.fitted) this.reset();
    else this.centre(...middle, this.scale);
  }

  reset() {
    this.scale = this.fit;
    this.left = (this.viewWidth - this.scale * this.width) / 2;
    this.top = (this.viewHeight - this.scale * this.height) / 2;
    this.fitted = true;
  }

  toScreen(x, y) {
    return [this.scale * (x + 0.5) + this.left, this.scale * (y + 0.5) + this.top];
  }

  toImage(left, top) {
    return [(left - this.left) / this.scale - 0.5, (top - this.top) / this.scale - 0.5];
  }

  zoom(factor, left = this.viewWidth / 2, top = this.viewHeight / 2) {
    const [x, y] = this.toImage(left, top);
    this.scale = Math.min(Math.max(this.scale * factor, this.fit), MOST_ZOOM);
    if (this.scale <= this.fit * 1.0001) return this.reset();
    this.fitted = false;
    this.left = left - this.scale * (x + 0.5);
    this.top = top - this.scale * (y + 0.5);
    this.clamp();
  }

  pan(dx, dy) {
    if (this.fitted) return;
    this.left += dx;
    this.top += dy;
    this.clamp();
  }

  centre(x, y, scale = this.scale) {
    this.scale = Math.min(Math.max(scale, this.fit), MOST_ZOOM);
    if (this.scale <= this.fit * 1.0001) return this.reset();
    this.fitted = false;
    this.left = this.viewWidth / 2 - this.scale * (x + 0.5);
    this.top = this.viewHeight / 2 - this.scale * (y + 0.5);
    this.clamp();
  }

  // keeps the image in view: no gap where it is larger than the view
  clamp() {
    const limit = (start, size, view) =>
      size <= view ? (view - size) / 2 : Math.min(0, Math.max(view - size, start));
    this.left = limit(this.left, this.scale * this.width, this.viewWidth);
    this.top = limit(this.top, this.scale * this.height, this.viewHeight);
  }
}

// Connects gestures; `changed` redraws, `hover` and `tap` get a place on the canvas.
function listen(canvas, camera, { changed, hover, tap, key }) {
  const pointers = new Map();
  let moved = 0;
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener(
    "wheel",
    (event) => {
      const factor = Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015));
      if (factor < 1 && camera.fitted) return; // the page scrolls on
      event.preventDefault();
      camera.zoom(factor, ...place(event));
      changed();
    },
    { passive: false },
  );
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
    if (pointers.size === 1) moved = 0;
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = place(event);
    const before = pointers.get(event.pointerId);
    if (!before) return hover(now, event.pointerType);
    const others = [...pointers].filter(([id]) => id !== event.pointerId);
    moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (others.length) {
      const other = others[0][1];
      const length = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]);
      const middle = [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2];
      camera.pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
      camera.zoom(length(now) / Math.max(length(before), 1), ...middle);
      moved += 100; // two fingers are no tap
    } else if (moved > 4) {
      camera.pan(now[0] - before[0], now[1] - before[1]);
    }
    pointers.set(event.pointerId, now);
    changed();
  });
  const release = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (event.type === "pointerup" && moved <= 6 && !pointers.size) tap(place(event));
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => hover(null));
  canvas.addEventListener("dblclick", (event) => {
    camera.zoom(event.shiftKey ? 0.5 : 2, ...place(event));
    changed();
  });
  const steps = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (steps[event.key]) camera.pan(...steps[event.key]);
    else if (event.key === "+" || event.key === "=") camera.zoom(STEP_ZOOM);
    else if (event.key === "-") camera.zoom(1 / STEP_ZOOM);
    else if (event.key === "0") camera.reset();
    else if (!key(event.key)) return;
    event.preventDefault();
    changed();
  });
}
