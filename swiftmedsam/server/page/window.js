// The range of values that is shown from black to white.

import { ask } from "./api.js";
import { $, base, say, state } from "./state.js";

let due = 0;

/** Show another window in all views; pictures that are late do not pile up. */
export function setWindow(window) {
  fill(window);
  clearTimeout(due);
  due = setTimeout(() => {
    for (const view of state.views) view.forget(), view.show().catch(() => {});
  }, 15);
}

function fill({ level, width }) {
  state.window = { level, width };
  $("level").value = level;
  $("width").value = width;
  const { window: seen } = state.image;
  const isSeen = level === seen.level && width === seen.width;
  $("see").hidden = isSeen || !state.image.is_ct;
  const preset = Object.entries(state.image.presets).find(([, one]) => one[0] === level && one[1] === width);
  $("preset").value = preset?.[0] ?? "";
}

export function fillWindow() {
  const { presets, window: seen, is_ct: isCt } = state.image;
  $("window").hidden = !seen;
  if (!seen) return;
  $("unit").textContent = isCt ? "HU" : "of 255";
  $("preset").replaceChildren(new Option("own", ""), ...Object.keys(presets).map(name => new Option(name, name)));
  $("preset").parentElement.hidden = !Object.keys(presets).length;
  fill(seen);
}

/** The next named window. */
export function nextWindow() {
  const presets = Object.entries(state.image.presets);
  if (!presets.length) return setWindow(state.image.window);
  const at = presets.findIndex(([name]) => name === $("preset").value);
  const [name, [level, width]] = presets[(at + 1) % presets.length];
  setWindow({ level, width });
  say(`Window: ${name}, level ${level}, width ${width} HU`);
}

/** Let the network see what is shown. */
export async function seeWindow() {
  const { level, width } = state.window;
  say("The network gets the shown window");
  const { window: seen } = await ask("PATCH", base(), { json: { window: [level, width] } });
  state.image.window = seen;
  fill(state.window);
  say(`The network sees level ${level}, width ${width} HU. Earlier masks stay as they are.`);
}
