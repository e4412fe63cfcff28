// Changes of objects: each is a request, and what comes back is painted.

import { ask, change, lines } from "./api.js";
import { slicesOf } from "./geometry.js";
import { listObjects, showObject } from "./panel.js";
import { $, base, say, state } from "./state.js";

// Requests go out one after the other, in the order of the user's strokes. What only makes a mask
// more exact waits until nothing else does.
let last = Promise.resolve(), waiting = 0;
const unrefined = new Set();

function inTurn(work) {
  waiting++;
  tellBusy();
  const done = last.then(work).finally(() => { waiting--; });
  last = done.catch(() => {}).then(refineOne).then(tellBusy);
  return done;
}

/** Let everybody see, also who does not look at the screen, whether changes are under way. */
function tellBusy() {
  $("views").ariaBusy = String(Boolean(waiting || unrefined.size || state.extending));
}

async function refineOne() {
  if (waiting || state.extending || !unrefined.size) return;
  const [number] = unrefined;
  unrefined.delete(number);
  if (!state.objects.has(number)) return;
  const meta = await change("POST", `${base()}/objects/${number}/refine`, { json: shown() }).catch(() => null);
  if (meta) apply(meta);
  await refineOne();
}

/** Nothing is under way any more. */
export const settled = async () => {
  for (let seen; seen !== last;) await (seen = last);
};

const shown = (view = state.view) => ({ plane: view.plane.name, index: view.index });

function refuseWhileExtending() {
  if (state.extending) throw Object.assign(new Error("An object is being extended; Esc stops it."), { status: 0 });
}

/** Show what a change did. */
export function apply({ object, removed, box, patch, warnings = [] }) {
  if (object) {
    state.objects.set(object.number, { ...state.objects.get(object.number), ...object });
    showObject(object.number);
  }
  if (removed) {
    state.objects.delete(removed);
    unrefined.delete(removed);
    listObjects();
  }
  if (box) {
    for (const view of state.views) {
      const [first, end] = slicesOf(view.plane, box);
      if (view.index < first || view.index > end) continue;
      if (patch && patch.plane === view.plane.name && patch.index === view.index && !view.isLoading) {
        view.masks.patch(patch, state.objects);
        view.draw();
      } else {
        view.show();
      }
    }
  }
  if (warnings.length) say(warnings.join(" "), true);
  $("undo").disabled = !state.objects.size;
}

// Objects

/** Begin the next object, after the boxes that are under way: they belong to the one before. */
export async function newObject() {
  const made = state.making = inTurn(makeObject).then(object => object.number);
  try {
    await made;
  } finally {
    if (state.making === made) state.making = null;
  }
}

async function makeObject() {
  const object = await ask("POST", `${base()}/objects`, { json: {} });
  state.objects.set(object.number, object);
  listObjects();
  activate(object.number);
  return object;
}

export function activate(number) {
  state.active = number;
  listObjects.mark();
}

/** The number of the active object, or the promise of one that is being begun. */
export const chosen = () => state.making ?? state.active;

/** The object of a box; another one, if each box is an object of its own. */
async function target(number, positive) {
  const active = state.objects.get(number);
  return !active || (positive && $("each").checked && active.box) ? makeObject() : active;
}

export async function describe(number, what) {
  const object = await ask("PATCH", `${base()}/objects/${number}`, { json: what });
  state.objects.set(number, { ...state.objects.get(number), ...object });
  showObject(number);
  if (what.colour) for (const view of state.views) view.masks.paint(state.objects), view.draw();
}

export async function removeObject(number) {
  refuseWhileExtending();
  const numbers = [...state.objects.keys()], at = numbers.indexOf(number);
  apply(await inTurn(() => change("DELETE", `${base()}/objects/${number}`, { query: shown() })));
  const next = numbers[at + 1] ?? numbers[at - 1];
  if (next) activate(next);
  else await newObject();
}

// Boxes and strokes

/** `box` is [x0, y0, x1, y1] in pixels of the slice, half open. */
export function addBox(view, box, positive) {
  refuseWhileExtending();
  const json = { ...shown(view), box, positive }, own = chosen();
  return inTurn(async () => {
    const { number, name } = await target(await own, positive);
    say("");
    const meta = await change("POST", `${base()}/objects/${number}/boxes`, { json });
    apply(meta);
    if (meta.object.refinable) unrefined.add(number);
    const [width, height] = [box[2] - box[0], box[3] - box[1]];
    if (!meta.box) say(`Nothing was found in the box of ${width} x ${height} pixels.`);
    else say(`${name}: box of ${width} x ${height} pixels${state.image.is_volume ? `, slice ${json.index + 1}` : ""}`);
    if (positive && state.image.is_volume && $("at-once").checked) return number;
    return 0;
  }).then(number => number && extend(number));
}

/** `part` is {column, row, columns, rows, touched}, of the slice that `view` shows. */
export function addStroke(view, part, erase, own) {
  refuseWhileExtending();
  const { touched, ...place } = part;
  const query = { ...shown(view), ...place, erase: erase ? 1 : 0 };
  return inTurn(async () => {
    const path = `${base()}/objects/${await own}/strokes`;
    try {
      apply(await change("POST", path, { query, body: touched }));
    } catch (error) {
      view.show(); // what was painted ahead does not count
      throw error;
    }
  });
}

export async function undo() {
  refuseWhileExtending();
  unrefined.clear();
  const meta = await inTurn(() => change("POST", `${base()}/undo`, { json: shown() }));
  apply(meta);
  say(meta.object ? `Undone: the last step of ${meta.object.name}` : "There is nothing to undo.");
}

// The whole object

export async function extend(number = state.active) {
  if (!state.image.is_volume) return say("A picture has one slice: there is nothing to extend into.", true);
  refuseWhileExtending();
  await settled();
  state.extending = true;
  tellBusy();
  unrefined.delete(number);
  const bar = $("progress"), { name } = state.objects.get(number);
  $("working").hidden = false;
  bar.removeAttribute("value");
  say(`${name}: extending`);
  try {
    const plane = state.view.plane.name;
    for await (const line of lines("POST", `${base()}/objects/${number}/extend`, { json: { plane } })) {
      if (line.detail) throw Object.assign(new Error(line.detail), { status: 0 });
      if (line.change) {
        const { box } = line.change.object;
        const [first, end] = box ? slicesOf(state.view.plane, box) : [0, -1];
        say(`${name}: ${end - first + 1} slices`);
        apply(line.change);
        continue;
      }
      bar.max = line.most;
      bar.value = line.done;
      say(`${name}: extending, slice ${line.done} of at most ${line.most}`);
    }
  } finally {
    state.extending = false;
    $("working").hidden = true;
    tellBusy();
  }
}

export const stop = () => ask("POST", `${base()}/stop`, { json: {} });
