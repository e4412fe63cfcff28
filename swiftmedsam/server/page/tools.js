// Tools on a view: what a drag of the pointer does, and the same by keys.

import { activate, addBox, addStroke, chosen } from "./edits.js";
import { mmOf, mmWords, placeOf, stroke, voxelOf } from "./geometry.js";
import { $, attempt, say, state } from "./state.js";
import { setWindow } from "./window.js";

const NOBODY = 65535; // the label of no object yet
const CLICK = 3; // CSS pixels; a shorter drag is a click

/** A box from the pixel where the drag began to where it is, both inside. */
function boxTool(view, start, negative) {
  const from = view.pixel(start);
  const draft = place => {
    const to = view.pixel(place);
    view.draft = {
      x0: Math.min(from.x, to.x), y0: Math.min(from.y, to.y),
      x1: Math.max(from.x, to.x) + 1, y1: Math.max(from.y, to.y) + 1, negative,
    };
    view.draw();
  };
  return {
    draws: true,
    begin: () => draft(start),
    move: draft,
    cancel() {
      view.draft = null;
      view.draw();
    },
    end() {
      const { x0, y0, x1, y1 } = view.draft;
      this.cancel();
      attempt(() => addBox(view, [x0, y0, x1, y1], !negative));
    },
  };
}

/** Brush or eraser: what is touched is shown at once, and sent when the stroke ends. */
function strokeTool(view, start, erase) {
  const touched = new Set(), own = chosen();
  const number = state.making ? NOBODY : state.active; // shown when the server has answered
  let at = start;
  const touch = to => {
    let [left, top, right, bottom] = [Infinity, Infinity, -1, -1];
    for (const [x, y] of stroke(at, to, state.radius, view.aspect)) {
      if (x < 0 || y < 0 || x >= view.columns || y >= view.rows) continue;
      const key = y * view.columns + x;
      if (touched.has(key)) continue;
      touched.add(key);
      const label = view.masks.at(x, y);
      if (erase ? label !== number : label && !$("later").checked) continue;
      view.masks.set(x, y, erase ? 0 : number);
      [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x), Math.max(bottom, y)];
    }
    at = to;
    if (right >= 0) view.masks.paint(state.objects, left, top, right - left + 1, bottom - top + 1);
    view.draw();
  };
  return {
    draws: true,
    begin: () => touch(start),
    move: touch,
    cancel: () => view.show(),
    end() {
      const columns = [...touched].map(key => key % view.columns);
      const rows = [...touched].map(key => Math.floor(key / view.columns));
      if (!rows.length) return;
      const [left, top] = [least(columns), least(rows)];
      const part = { column: left, row: top, columns: most(columns) - left + 1, rows: most(rows) - top + 1 };
      part.touched = new Uint8Array(part.columns * part.rows);
      rows.forEach((row, n) => { part.touched[(row - top) * part.columns + columns[n] - left] = 1; });
      attempt(() => addStroke(view, part, erase, own));
    },
  };
}
const least = numbers => numbers.reduce((a, b) => Math.min(a, b));
const most = numbers => numbers.reduce((a, b) => Math.max(a, b));

const panTool = view => ({ begin() {}, move: (place, dx, dy) => view.pan(dx, dy), cancel() {}, end() {} });

const windowTool = () => ({
  begin() {}, cancel() {}, end() {},
  move(place, dx, dy) {
    const { level, width } = state.window, step = Math.max(1, width / 200);
    setWindow({ level: Math.round(level - dy * step), width: Math.max(1, Math.round(width + dx * step)) });
  },
});

/** A tool that has begun; null: it would draw in a slice that is not on the screen yet. */
function begun(view, tool) {
  if (tool.draws && view.isLoading) {
    say("This slice is not on the screen yet: nothing was drawn.", true);
    return null;
  }
  view.isDrawing = Boolean(tool.draws);
  tool.begin();
  return tool;
}

/** End a tool by what it `calls` this: "end" or "cancel". */
function finish(view, tool, calls) {
  view.isDrawing = false;
  tool[calls]();
}

export function toolAt(view, place, { button = 0, altKey = false } = {}) {
  if (button === 1 || state.tool === "hand") return panTool(view);
  if (button === 2) return state.window ? windowTool() : panTool(view);
  if (state.tool === "brush" || state.tool === "eraser") return strokeTool(view, place, state.tool === "eraser");
  return boxTool(view, place, altKey || state.tool === "minus");
}

/** Let all planes meet at a pixel of a view. */
export function meetAt(view, { x, y }) {
  state.cross = voxelOf(view.plane, view.index, x, y);
  for (const other of state.views) {
    const [index, row, column] = placeOf(other.plane, state.cross);
    other.lines = state.views.length > 1 ? { x: column, y: row } : null;
    if (other !== view && other.index !== index) attempt(() => scroll(other, index));
    other.draw();
  }
}

/** Show another slice; the lines in the other planes follow. */
export async function scroll(view, index) {
  if (view.isDrawing) { // it would end in another slice than it began in
    tell(view);
    return say("Finish the box or stroke first; Esc gives up what was begun by keys.", true);
  }
  const clipped = Math.min(view.slices - 1, Math.max(0, index));
  const { x, y } = view.lines ?? view.cursor;
  state.cross = voxelOf(view.plane, clipped, x, y);
  const shown = view.show(clipped);
  for (const other of state.views) {
    const [, row, column] = placeOf(other.plane, state.cross);
    if (state.views.length > 1) other.lines = { x: column, y: row };
    other.draw();
  }
  tell(view);
  await shown;
}

/** The slice in words: "Axial 13 of 40, S 45.0 mm". */
export function tell(view) {
  const { plane, index, slices } = view;
  const { affine } = state.image;
  let words = slices > 1 ? `${index + 1} of ${slices}` : "";
  if (affine && slices > 1) {
    const mm = mmOf(affine, voxelOf(plane, index, view.columns / 2, view.rows / 2));
    const world = { axial: 2, coronal: 1, sagittal: 0 }[plane.name];
    words += ", " + mmWords(mm).split("  ")[world].replace(" mm", "") + " mm";
  }
  view.caption.textContent = words;
  if (Number(view.slider.value) !== index) view.slider.value = index;
  view.slider.ariaValueText = words;
}

/** Voxel, millimetres and object below the pointer. */
export function readOut(view, place) {
  const { x, y } = view.pixel(place), voxel = voxelOf(view.plane, view.index, x, y);
  const [k, j, i] = voxel, { affine, is_volume: isVolume } = state.image;
  const object = state.objects.get(view.masks.at(x, y));
  $("readout").textContent = [
    isVolume ? `i ${i}  j ${j}  k ${k}` : `x ${i}  y ${j}`,
    affine ? mmWords(mmOf(affine, voxel)) : "", object ? object.name : "",
  ].filter(Boolean).join("   ");
}

export function use(view) {
  state.view = view;
  for (const other of state.views) other.frame.classList.toggle("used", other === view);
}

/** Let the pointer work on a view. */
export function listen(view) {
  const { canvas } = view, pointers = new Map();
  let tool = null, start = null, pinch = null;
  const at = event => {
    const { left, top } = canvas.getBoundingClientRect();
    return { x: event.clientX - left, y: event.clientY - top };
  };
  const hover = (event, place) => {
    const brushes = (state.tool === "brush" || state.tool === "eraser") && event.pointerType !== "touch";
    view.brush = brushes ? { ...place, radius: state.radius } : null;
    if (brushes || view.hadBrush) view.draw();
    view.hadBrush = brushes;
    readOut(view, place);
  };
  const middle = () => {
    const [one, two] = [...pointers.values()];
    return { x: (one.x + two.x) / 2, y: (one.y + two.y) / 2, apart: Math.hypot(one.x - two.x, one.y - two.y) };
  };

  canvas.addEventListener("pointerdown", event => {
    event.preventDefault();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    use(view);
    view.hasCursor = false;
    const here = at(event);
    pointers.set(event.pointerId, here);
    if (pointers.size === 2) { // two fingers move and zoom, whatever the first one had begun
      if (tool) finish(view, tool, "cancel");
      tool = null;
      pinch = middle();
      return;
    }
    if (pointers.size > 2) return;
    start = here;
    tool = begun(view, toolAt(view, view.toSlice(here.x, here.y), event));
  });
  canvas.addEventListener("pointermove", event => {
    const here = at(event), before = pointers.get(event.pointerId);
    if (before) pointers.set(event.pointerId, here);
    if (pinch && pointers.size === 2) {
      const now = middle();
      view.pan(now.x - pinch.x, now.y - pinch.y);
      view.zoomBy(now.apart / Math.max(1, pinch.apart), now.x, now.y);
      pinch = now;
    } else if (tool && before) {
      // a quick stroke has more places than events
      const all = event.getCoalescedEvents?.() ?? [];
      let from = before;
      for (const each of all.length ? all : [event]) {
        const to = at(each);
        tool.move(view.toSlice(to.x, to.y), to.x - from.x, to.y - from.y);
        from = to;
      }
    }
    hover(event, view.toSlice(here.x, here.y));
  });
  const release = event => {
    const here = pointers.get(event.pointerId);
    pointers.delete(event.pointerId);
    if (pointers.size < 2) pinch = null;
    if (!tool || !here) return;
    const done = tool;
    tool = null;
    const isClick = Math.hypot(here.x - start.x, here.y - start.y) < CLICK;
    if (event.type === "pointercancel") return finish(view, done, "cancel");
    if (isClick && view.draft) { // no box: a click chooses the object and the place
      finish(view, done, "cancel");
      const pixel = view.pixel(view.toSlice(here.x, here.y)), label = view.masks.at(pixel.x, pixel.y);
      if (label && state.objects.has(label)) activate(label);
      return meetAt(view, pixel);
    }
    finish(view, done, "end");
  };
  canvas.addEventListener("pointerup", release);
  canvas.addEventListener("pointercancel", release);
  canvas.addEventListener("pointerleave", () => {
    view.brush = null;
    $("readout").textContent = "";
    view.draw();
  });
  canvas.addEventListener("contextmenu", event => event.preventDefault());
  let turned = 0;
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    use(view);
    const here = at(event);
    if (event.ctrlKey || event.metaKey || view.slices === 1) {
      return view.zoomBy(Math.exp(-event.deltaY / 400), here.x, here.y);
    }
    const delta = event.deltaMode ? event.deltaY * 40 : event.deltaY;
    turned = Math.abs(delta) < 80 ? turned + delta : 80 * Math.sign(delta); // touchpads turn in small steps
    if (Math.abs(turned) < 80) return undefined;
    attempt(() => scroll(view, view.index - Math.sign(turned)));
    turned = 0;
    return undefined;
  }, { passive: false });
  canvas.addEventListener("focus", () => use(view));
}

// The same by keys: a cursor, and Enter where the pointer would be pressed and released.

let held = null, heldIn = null; // and its view

export function moveCursor(view, dx, dy) {
  view.hasCursor = true;
  view.cursor = view.pixel({ x: view.cursor.x + dx, y: view.cursor.y + dy });
  view.reveal(view.cursor);
  const place = { x: view.cursor.x + 0.5, y: view.cursor.y + 0.5 };
  held?.move(place, 0, 0);
  readOut(view, place);
  view.draw();
}

export function press(view, event) {
  view.hasCursor = true;
  if (held) {
    const done = held;
    held = null;
    finish(heldIn, done, "end");
  } else if (state.tool !== "hand") {
    const place = { x: view.cursor.x + 0.5, y: view.cursor.y + 0.5 };
    held = begun(view, toolAt(view, place, { altKey: event.altKey }));
    heldIn = view;
  }
  view.draw();
}

export function letGo() {
  const was = held;
  held = null;
  if (was) finish(heldIn, was, "cancel");
  return Boolean(was);
}
