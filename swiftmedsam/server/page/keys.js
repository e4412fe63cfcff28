// Every key, and the list of them that the help shows.

import { activate, chosen, extend, newObject, stop, undo } from "./edits.js";
import { showOpen, showSave } from "./files.js";
import { chooseTool, setLayout, setRadius, showMasks } from "./main.js";
import { askToRemove } from "./panel.js";
import { $, attempt, state } from "./state.js";
import { letGo, moveCursor, press, scroll } from "./tools.js";
import { nextWindow } from "./window.js";

const step = count => view => scroll(view, view.index + count);
const move = (dx, dy) => (view, event) => {
  const by = event.shiftKey ? 10 : 1;
  if (event.ctrlKey || event.metaKey) view.pan(-40 * dx, -40 * dy);
  else moveCursor(view, dx * by, dy * by);
};
const neighbour = by => () => {
  const numbers = [...state.objects.keys()], at = numbers.indexOf(state.active);
  activate(numbers[(at + by + numbers.length) % numbers.length]);
};
const toggle = id => () => $(id).click();

// keys, words, what they do with the view that was used last
const KEYS = [
  [["b"], "box around the object", () => chooseTool("box")],
  [["m"], "box around what does not belong", () => chooseTool("minus")],
  [["p"], "brush", () => chooseTool("brush")],
  [["e"], "eraser", () => chooseTool("eraser")],
  [["h"], "move the picture", () => chooseTool("hand")],
  [["[", "]"], "smaller, larger brush", (view, { key }) => setRadius(state.radius + (key === "]" ? 1 : -1))],
  [["ArrowLeft", "ArrowRight"], "move the cursor (Shift: by 10; Ctrl: the picture)",
    (view, event) => move(event.key === "ArrowLeft" ? -1 : 1, 0)(view, event)],
  [["ArrowUp", "ArrowDown"], "the same",
    (view, event) => move(0, event.key === "ArrowUp" ? -1 : 1)(view, event)],
  [["Enter", " "], "begin, and end, a box or stroke at the cursor", press],
  [["PageUp", "PageDown"], "next, previous slice", (view, { key }) => step(key === "PageUp" ? 1 : -1)(view)],
  [["Home", "End"], "first, last slice", (view, { key }) => scroll(view, key === "Home" ? 0 : view.slices - 1)],
  [["1", "2", "3", "4"], "one plane; all three", (view, { key }) => setLayout(key - 1)],
  [["+", "=", "-"], "larger, smaller", (view, { key }) => view.zoomBy(key === "-" ? 0.8 : 1.25)],
  [["0"], "fit", view => view.fit()],
  [["w"], "next window", nextWindow],
  [["n"], "next object", newObject],
  [["j", "k"], "object below, above", (view, { key }) => neighbour(key === "j" ? 1 : -1)()],
  [["F2"], "name the object", async () => $(`object-${await chosen()}`)?.querySelector("[type=text]").select()],
  [["Delete"], "remove the object", () => askToRemove()],
  [["x"], "extend through the slices", () => extend()],
  [["Escape"], "stop extending; give up a box", () => (letGo() || (state.extending && stop()))],
  [["u"], "undo (or Ctrl Z)", undo],
  [["v"], "show or hide the masks", () => showMasks(!$("show-masks").checked)],
  [["t"], "each box a new object, or not", toggle("each")],
  [["r"], "later objects overwrite, or not", toggle("later")],
];
const ANYTIME = [
  [["o"], "open", showOpen],
  [["s"], "save", () => state.image && showSave()],
  [["?"], "this help", () => $("help-dialog").showModal()],
];
const GESTURES = [
  ["wheel", "slices; with Ctrl, and of a picture: zoom"],
  ["middle drag", "move the picture"],
  ["right drag", "window: level and width"],
  ["Alt drag", "box around what does not belong"],
  ["click", "choose the object; the planes meet there"],
  ["two fingers", "move and zoom"],
];
const NAMES = {
  " ": "Space", ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Escape: "Esc",
  PageUp: "Page ↑", PageDown: "Page ↓", "=": "", "-": "−",
};

const isTyping = target => target.matches("input[type=text], input[type=number], select, textarea");

export function beginKeys() {
  const rows = [...KEYS, ...ANYTIME].map(([keys, words]) =>
    [keys.map(key => NAMES[key] ?? key.toUpperCase()).filter(Boolean).join(" "), words]);
  $("keys").replaceChildren(...[...rows, ...GESTURES].map(([keys, words]) => {
    const row = document.createElement("div"), name = document.createElement("b");
    name.textContent = keys;
    row.append(name, words);
    return row;
  }));
  addEventListener("keydown", event => {
    if (document.querySelector("dialog[open]")) return;
    // a field of a dialog that has just been closed keeps the focus until the next frame
    const target = event.target.closest("dialog") ? document.body : event.target;
    if (isTyping(target)) return;
    const isUndo = (event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z";
    const isArrow = event.key.startsWith("Arrow");
    if ((event.ctrlKey || event.metaKey || (event.altKey && event.key !== "Enter")) && !isUndo && !isArrow) return;
    // what has the focus keeps its own keys
    const onControl = target.matches("button, input, label");
    if (onControl && (event.key === "Enter" || event.key === " ")) return;
    const onSlider = target.matches("input[type=range]");
    if (onSlider && (isArrow || /^(Page|Home|End)/.test(event.key))) return;
    const key = isUndo ? "u" : event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const known = ([keys]) => keys.includes(key);
    const row = ANYTIME.find(known) ?? (state.image ? KEYS.find(known) : undefined);
    if (!row) return;
    event.preventDefault();
    attempt(() => row[2](state.view, event));
  });
}
