// One view: a slice of a plane on a canvas, with its masks, and where things are on the screen.

import { Masks } from "./masks.js";
import { SIDES } from "./geometry.js";

const KEPT = 48; // pictures of slices that a view keeps, so that scrolling back shows them at once
const MOST_ZOOM = 64, LEAST_ZOOM = 0.5; // in sizes that fit

export class View {
  /** `fetcher` gets {picture(plane, index, signal), labels(plane, index, signal)}. */
  constructor(canvas, plane, fetcher, objects) {
    Object.assign(this, { canvas, plane, fetcher, objects });
    [this.slices, this.rows, this.columns] = plane.size;
    this.context = canvas.getContext("2d", { alpha: false });
    this.masks = new Masks(this.columns, this.rows);
    // pixels keep their true proportions: the shorter side of a pixel is 1
    const [, high, wide] = plane.mm ?? [1, 1, 1], short = Math.min(high, wide);
    this.aspect = [wide / short, high / short];
    this.index = this.slices >> 1;
    this.zoom = 1;
    this.centre = { x: this.columns / 2, y: this.rows / 2 };
    this.cursor = { x: this.columns >> 1, y: this.rows >> 1 };
    this.pictures = new Map();
    this.lines = null; // rows and columns where the other planes are
    this.draft = null; // a box that is being drawn: {x0, y0, x1, y1}, half open
    this.brush = null; // {x, y, radius}
    this.showsMasks = true;
    this.wanted = new AbortController();
  }

  // What is shown

  /** Show slice `index`; resolves when its picture and its masks are on the screen. */
  async show(index = this.index) {
    this.index = Math.min(this.slices - 1, Math.max(0, index));
    this.wanted.abort();
    const { signal } = this.wanted = new AbortController();
    // Until then the screen has another slice, and labels that were asked for before may be old.
    this.isLoading = true;
    delete this.canvas.dataset.slice;
    try {
      const [picture, labels] = await Promise.all([
        this.picture(this.index, signal), this.fetcher.labels(this.plane, this.index, signal),
      ]);
      if (signal.aborted) return;
      this.shown = picture;
      this.masks.replace(labels, this.objects);
      this.isLoading = false;
      this.draw();
      this.canvas.dataset.slice = this.index; // what is on the screen, for whoever looks from outside
      for (const beside of [this.index + 1, this.index - 1]) {
        if (beside >= 0 && beside < this.slices) await this.picture(beside, signal);
      }
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
  }

  async picture(index, signal) {
    let found = this.pictures.get(index);
    if (!found) {
      found = await this.fetcher.picture(this.plane, index, signal);
      if (signal.aborted) return found;
      if (this.pictures.size >= KEPT) this.pictures.delete(this.pictures.keys().next().value);
    }
    this.pictures.delete(index); // the last one used is the last one to go
    this.pictures.set(index, found);
    return found;
  }

  /** Forget the pictures, since the window has changed. */
  forget() {
    this.pictures.clear();
  }

  // Where things are

  /** Size of the canvas in CSS pixels, and of a pixel of the slice on it. */
  scale() {
    const { clientWidth: width, clientHeight: height } = this.canvas, [wide, high] = this.aspect;
    const fit = Math.min(width / (this.columns * wide), height / (this.rows * high));
    return { width, height, x: fit * this.zoom * wide, y: fit * this.zoom * high };
  }

  /** Place on the slice, in pixels and parts of them, of a place on the canvas. */
  toSlice(x, y) {
    const scale = this.scale();
    return {
      x: (x - scale.width / 2) / scale.x + this.centre.x,
      y: (y - scale.height / 2) / scale.y + this.centre.y,
    };
  }

  toCanvas(x, y) {
    const scale = this.scale();
    return {
      x: (x - this.centre.x) * scale.x + scale.width / 2,
      y: (y - this.centre.y) * scale.y + scale.height / 2,
    };
  }

  /** The whole pixel of a place, inside the slice. */
  pixel({ x, y }) {
    return {
      x: Math.min(this.columns - 1, Math.max(0, Math.floor(x))),
      y: Math.min(this.rows - 1, Math.max(0, Math.floor(y))),
    };
  }

  pan(dx, dy) {
    const scale = this.scale();
    const clip = (value, most) => Math.min(most, Math.max(0, value));
    this.centre.x = clip(this.centre.x - dx / scale.x, this.columns);
    this.centre.y = clip(this.centre.y - dy / scale.y, this.rows);
    this.draw();
  }

  /** Zoom by `factor`; what is at (x, y) of the canvas stays there. */
  zoomBy(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    const before = this.toSlice(x, y);
    this.zoom = Math.min(MOST_ZOOM, Math.max(LEAST_ZOOM, this.zoom * factor));
    const after = this.toSlice(x, y);
    this.centre.x += before.x - after.x;
    this.centre.y += before.y - after.y;
    this.pan(0, 0);
  }

  fit() {
    this.zoom = 1;
    this.centre = { x: this.columns / 2, y: this.rows / 2 };
    this.draw();
  }

  /** Move the slice so that a pixel is on the screen. */
  reveal({ x, y }) {
    const at = this.toCanvas(x + 0.5, y + 0.5), { width, height } = this.scale();
    const over = (place, size) => Math.max(0, place - size + 8) + Math.min(0, place - 8);
    this.pan(-over(at.x, width), -over(at.y, height));
  }

  // Drawing

  draw() {
    this.due ??= requestAnimationFrame(() => {
      this.due = undefined;
      this.drawNow();
    });
  }

  drawNow() {
    const { canvas, context } = this, scale = this.scale(), dots = devicePixelRatio;
    const [width, height] = [Math.round(scale.width * dots), Math.round(scale.height * dots)];
    if (!width || !height) return;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    context.setTransform(dots, 0, 0, dots, 0, 0);
    context.fillStyle = "#000";
    context.fillRect(0, 0, scale.width, scale.height);
    const corner = this.toCanvas(0, 0);
    const place = [corner.x, corner.y, this.columns * scale.x, this.rows * scale.y];
    if (this.shown) {
      context.imageSmoothingEnabled = Math.min(scale.x, scale.y) < 3; // then pixels are to be seen
      context.imageSmoothingQuality = "high";
      context.drawImage(this.shown, ...place);
      context.imageSmoothingEnabled = false;
      if (this.showsMasks) context.drawImage(this.masks.canvas, ...place);
    }
    if (this.lines) this.drawLines(scale);
    if (this.draft) this.drawBox(this.draft);
    if (this.brush) this.drawBrush(scale);
    if (this.hasCursor) this.drawCursor(scale);
    if (this.plane.mm) this.drawSides(scale);
  }

  drawLines(scale) {
    const { context } = this, { x, y } = this.toCanvas(this.lines.x + 0.5, this.lines.y + 0.5);
    context.strokeStyle = "rgb(120 200 255 / 45%)";
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(x, 0), context.lineTo(x, scale.height);
    context.moveTo(0, y), context.lineTo(scale.width, y);
    context.stroke();
  }

  /** Dark below bright, so that a line is seen on every picture. */
  twice(dashes, trace) {
    const { context } = this;
    for (const [colour, width, dash] of [["#000", 3, []], [this.draft?.negative ? "#ff9d7a" : "#ffe84d", 1.5, dashes]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.setLineDash(dash);
      context.beginPath();
      trace(context);
      context.stroke();
    }
    context.setLineDash([]);
  }

  drawBox({ x0, y0, x1, y1, negative }) {
    const from = this.toCanvas(x0, y0), to = this.toCanvas(x1, y1);
    this.twice(negative ? [6, 4] : [], context =>
      context.rect(from.x, from.y, to.x - from.x, to.y - from.y));
  }

  drawBrush(scale) {
    const { x, y } = this.toCanvas(this.brush.x, this.brush.y);
    const radius = Math.max(2, this.brush.radius * scale.x / this.aspect[0]);
    this.twice([], context => context.arc(x, y, radius, 0, 7));
  }

  drawCursor(scale) {
    const { x, y } = this.toCanvas(this.cursor.x + 0.5, this.cursor.y + 0.5);
    const arm = Math.max(12, scale.x);
    this.twice([], context => {
      context.moveTo(x - arm, y), context.lineTo(x - 3, y), context.moveTo(x + 3, y), context.lineTo(x + arm, y);
      context.moveTo(x, y - arm), context.lineTo(x, y - 3), context.moveTo(x, y + 3), context.lineTo(x, y + arm);
    });
  }

  drawSides({ width, height }) {
    const { context } = this, [left, right, above, below] = SIDES[this.plane.name];
    context.font = "600 13px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineWidth = 3;
    context.strokeStyle = "#000";
    context.fillStyle = "#fff";
    for (const [letter, x, y] of [[left, 12, height / 2], [right, width - 12, height / 2],
      [above, width / 2, 14], [below, width / 2, height - 14]]) {
      context.strokeText(letter, x, y);
      context.fillText(letter, x, y);
    }
  }
}
