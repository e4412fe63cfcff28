// The list of objects, and what stands beside it.

import { activate, describe, removeObject } from "./edits.js";
import { slicesOf } from "./geometry.js";
import { $, attempt, state } from "./state.js";

const hex = colour => "#" + colour.map(part => part.toString(16).padStart(2, "0")).join("");
const parts = text => [1, 3, 5].map(start => parseInt(text.slice(start, start + 2), 16));

/** "12.3 ml", "45 mm²", or pixels where there are no millimetres. */
function amount({ voxels }) {
  const { voxel_mm3: mm3, pixel_mm2: mm2, is_volume: isVolume } = state.image;
  if (!voxels) return "empty";
  if (isVolume && mm3) return `${(voxels * mm3 / 1000).toPrecision(3)} ml`;
  if (!isVolume && mm2) return `${(voxels * mm2).toPrecision(3)} mm²`;
  return `${voxels} ${isVolume ? "voxels" : "pixels"}`;
}

function rowOf(object) {
  const row = $("object").content.firstElementChild.cloneNode(true);
  row.id = `object-${object.number}`;
  const [colour, name, eye, remove] = row.querySelectorAll("input, button");
  colour.addEventListener("change", () =>
    attempt(() => describe(object.number, { colour: parts(colour.value) })));
  name.addEventListener("change", () => attempt(() => describe(object.number, { name: name.value })));
  name.addEventListener("keydown", event => {
    if (event.key === "Enter" || event.key === "Escape") name.blur();
  });
  eye.addEventListener("change", () => {
    state.objects.get(object.number).hidden = !eye.checked;
    for (const view of state.views) view.masks.paint(state.objects), view.draw();
  });
  remove.addEventListener("click", () => attempt(() => askToRemove(object.number)));
  row.addEventListener("pointerdown", () => activate(object.number));
  name.addEventListener("focus", () => activate(object.number));
  fill(row, object);
  return row;
}

function fill(row, object) {
  const [colour, name, eye, remove] = row.querySelectorAll("input, button");
  colour.value = hex(object.colour);
  if (document.activeElement !== name) name.value = object.name;
  colour.ariaLabel = `Colour of ${object.name}`;
  name.ariaLabel = `Name of object ${object.number}`;
  eye.ariaLabel = `Show ${object.name}`;
  eye.checked = !object.hidden;
  remove.ariaLabel = `Remove ${object.name}`;
  row.querySelector("output").textContent = amount(object);
}

export function showObject(number) {
  const object = state.objects.get(number), row = $(`object-${number}`);
  if (row) fill(row, object);
  if (number === state.active) showMarks();
}

/** Build the list anew; `listObjects.mark` only shows which object is the active one. */
export function listObjects() {
  $("objects").replaceChildren(...[...state.objects.values()].map(rowOf));
  listObjects.mark();
}
listObjects.mark = () => {
  for (const row of $("objects").children) {
    const isActive = row.id === `object-${state.active}`;
    row.ariaCurrent = String(isActive);
    if (isActive) row.scrollIntoView({ block: "nearest" });
  }
  showMarks();
};

/** Ticks at the sliders: slices that the active object is in, and those that the user has marked. */
export function showMarks() {
  const object = state.objects.get(state.active);
  for (const view of state.views) {
    const { rail, slices, plane } = view;
    if (!rail) continue;
    const context = rail.getContext("2d"), width = rail.width = rail.clientWidth;
    context.clearRect(0, 0, width, rail.height);
    if (!object?.box) continue;
    const at = index => 8 + (slices > 1 ? index / (slices - 1) : 0) * (width - 16);
    const [first, end] = slicesOf(plane, object.box);
    context.fillStyle = hex(object.colour);
    context.fillRect(at(first) - 1, 3, at(end) - at(first) + 2, 3);
    for (const index of object.marks[plane.name] ?? []) context.fillRect(at(index) - 1.5, 0, 3, 8);
  }
}

/** An object with voxels is removed only after a question: that cannot be undone. */
export async function askToRemove(number = state.active) {
  const object = state.objects.get(number);
  if (!object) return;
  if (object.box) {
    const dialog = $("remove-dialog");
    $("remove-name").textContent = object.name;
    dialog.returnValue = "";
    dialog.showModal();
    await new Promise(resolve => dialog.addEventListener("close", resolve, { once: true }));
    if (dialog.returnValue !== "remove") return;
  }
  await removeObject(number);
}
