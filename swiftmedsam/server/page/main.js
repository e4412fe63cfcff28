// The page: it puts views, tools, objects and dialogs together.

import { ask, blob, labels } from "./api.js";
import { activate, extend, newObject, stop, undo } from "./edits.js";
import { beginFiles, showOpen, showSave, showWelcome, tellKept } from "./files.js";
import { slicesOf } from "./geometry.js";
import { beginKeys } from "./keys.js";
import { listObjects, showMarks } from "./panel.js";
import { $, attempt, base, state } from "./state.js";
import { listen, meetAt, scroll, tell, use } from "./tools.js";
import { View } from "./view.js";
import { fillWindow, nextWindow, seeWindow, setWindow } from "./window.js";

const fetcher = {
  async picture(plane, index, signal) {
    const { window: seen } = state.image, { window: shown } = state;
    const own = shown && (shown.level !== seen.level || shown.width !== seen.width);
    const query = own ? { window: `${shown.level},${shown.width}` } : undefined;
    const file = await blob(`${base()}/slices/${plane.name}/${index}`, { query, signal });
    return createImageBitmap(file, { colorSpaceConversion: "none" }); // grey values as they are
  },
  labels(plane, index, signal) { // asked for only where an object is
    const isThere = [...state.objects.values()].some(({ box }) => {
      const [first, end] = box ? slicesOf(plane, box) : [0, -1];
      return first <= index && index <= end;
    });
    return isThere ? labels(`${base()}/labels/${plane.name}/${index}`, { signal }) : null;
  },
};

const capital = word => word[0].toUpperCase() + word.slice(1);

function makeView(plane) {
  const frame = $("view").content.firstElementChild.cloneNode(true);
  const canvas = frame.querySelector(".picture"), slider = frame.querySelector("input");
  const view = new View(canvas, plane, fetcher, state.objects);
  Object.assign(view, {
    frame, slider, caption: frame.querySelector("output"), rail: frame.querySelector(".rail canvas"),
  });
  const title = state.image.is_volume || state.image.affine ? capital(plane.name) : "Picture";
  frame.dataset.plane = plane.name;
  frame.querySelector("b").textContent = title;
  canvas.ariaLabel = `${title}: arrow keys move a cursor, Enter begins and ends a box`;
  slider.max = view.slices - 1;
  slider.ariaLabel = `${title} slice`;
  slider.addEventListener("input", () => attempt(() => scroll(view, Number(slider.value))));
  slider.parentElement.hidden = view.slices === 1;
  listen(view);
  new ResizeObserver(() => (view.draw(), showMarks())).observe(canvas);
  return view;
}

/** Show an image that the server has opened, or the same one anew. */
async function show(image) {
  const isSame = state.image?.id === image.id;
  if (state.image && !isSame) ask("DELETE", base()).catch(() => {}); // a page has one image open
  state.image = image;
  state.objects.clear();
  for (const object of image.objects) state.objects.set(object.number, object);
  $("later").checked = image.later_wins;
  document.body.classList.remove("empty");
  if (!isSame) {
    state.views = image.planes.map(makeView);
    $("views").replaceChildren(...state.views.map(view => view.frame));
    $("title").textContent = image.name;
    document.title = `${image.name}: SwiftMedSAM`;
    $("facts").textContent = image.facts;
    $("each").checked = !image.is_volume;
    for (const id of ["extend", "at-once-label"]) $(id).hidden = !image.is_volume;
    use(state.views[0]);
    fillPlanes();
    fillWindow();
    $("save").disabled = false;
    location.hash = image.id;
  }
  $("undo").disabled = !state.objects.size;
  if (state.objects.size) {
    listObjects();
    activate([...state.objects.keys()].at(-1));
  } else {
    await newObject();
  }
  for (const view of state.views) view.show().catch(() => {}), tell(view);
  meetAt(state.view, state.view.cursor);
}

// One plane, or all of them

function fillPlanes() {
  const { views } = state, names = views.map(view => capital(view.plane.name));
  $("planes").hidden = views.length === 1;
  $("planes").replaceChildren(...[...names, "All"].map((name, n) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
    button.addEventListener("click", () => setLayout(n === views.length ? 3 : n));
    return button;
  }));
  setLayout(views.length > 1 ? 3 : 0);
}

/** Show one plane, by its number; from 3 on: all. */
export function setLayout(number) {
  const { views } = state, isAll = number >= views.length;
  views.forEach((view, n) => { view.frame.hidden = !isAll && n !== number; });
  $("views").classList.toggle("three", isAll && views.length === 3);
  [...$("planes").children].forEach((button, n) => {
    button.ariaPressed = String(isAll ? n === views.length : n === number);
  });
  if (!isAll) use(views[number]);
  state.view.canvas.focus({ preventScroll: true });
}

// Tools and switches

export function chooseTool(name) {
  state.tool = name;
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.ariaPressed = String(button.dataset.tool === name);
  }
}

export function setRadius(radius) {
  state.radius = Math.min(60, Math.max(1, radius));
  $("radius").value = state.radius;
  for (const view of state.views) {
    if (view.brush) view.brush.radius = state.radius, view.draw();
  }
}

export function showMasks(on) {
  $("show-masks").checked = on;
  for (const view of state.views) view.showsMasks = on, view.draw();
}

function on(id, kind, work) {
  $(id).addEventListener(kind, event => attempt(() => work(event)));
}

on("open", "click", showOpen);
on("save", "click", showSave);
on("help", "click", () => $("help-dialog").showModal());
on("undo", "click", undo);
on("new", "click", newObject);
on("extend", "click", () => extend());
on("stop", "click", stop);
on("fit", "click", () => state.view?.fit());
on("zoom-in", "click", () => state.view?.zoomBy(1.25));
on("zoom-out", "click", () => state.view?.zoomBy(0.8));
on("radius", "input", () => setRadius(Number($("radius").value)));
on("show-masks", "change", () => showMasks($("show-masks").checked));
on("later", "change", async () => {
  if (!state.image) return;
  await ask("PATCH", base(), { json: { later_wins: $("later").checked } });
  for (const view of state.views) view.show();
});
on("preset", "change", () => {
  const [level, width] = state.image.presets[$("preset").value] ?? [state.window.level, state.window.width];
  setWindow({ level, width });
});
for (const id of ["level", "width"]) {
  on(id, "change", () => setWindow({ level: Number($("level").value), width: Math.max(1, Number($("width").value)) }));
}
on("see", "click", seeWindow);
for (const button of document.querySelectorAll("[data-tool]")) {
  button.addEventListener("click", () => chooseTool(button.dataset.tool));
}
addEventListener("beforeunload", event => {
  if (state.extending) event.preventDefault();
});

setInterval(() => state.image && ask("POST", `${base()}/alive`).catch(() => {}), 30000);
chooseTool("box");
beginFiles(show);
beginKeys();
attempt(async () => {
  const known = location.hash.slice(1);
  const named = await showWelcome();
  const again = known && await ask("GET", `images/${known}`).catch(() => null);
  if (again) await show(again); // the page was loaded again
  else if (named.length === 1) {
    const image = await ask("POST", "images", { json: { file: named[0].file } });
    await show(image);
    tellKept(image);
  }
});
