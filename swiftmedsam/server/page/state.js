// What the page shows: the open image, its objects, the chosen tool. One value for all modules.

export const state = {
  image: null, // as the server describes it
  objects: new Map(), // by number
  active: 0, // the object that boxes and strokes go to
  views: [], // of the planes of the image
  view: null, // the one that was used last
  cross: [0, 0, 0], // voxel (k, j, i) where the planes meet
  tool: "box",
  radius: 6, // of the brush, in pixels (the shorter side of one)
  window: null, // {level, width} as shown
  extending: false,
  making: null, // a promise while an object is begun
};

export const $ = id => document.getElementById(id);
export const base = () => `images/${state.image.id}`;

/** A line for the user; an error stays until the next line. */
export function say(text, isError = false) {
  const line = $("message");
  line.textContent = text;
  line.classList.toggle("error", isError);
}

/** Run what a key or a button asks for; whatever goes wrong becomes a line. */
export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name === "AbortError") return undefined;
    if (error.name !== "Refused" && !(error.status >= 0)) console.error(error);
    say(error.message, true);
    return undefined;
  }
}
