// Opening and saving: dialogs, dropped files, and going on from a saved label map.

import { ask, blob, packed } from "./api.js";
import { $, attempt, base, say, state } from "./state.js";

let opened; // called with the description of an image that was opened
const button = (text, work) => {
  const made = Object.assign(document.createElement("button"), { type: "button", textContent: text });
  made.addEventListener("click", work);
  return made;
};
const item = child => {
  const made = document.createElement("li");
  made.append(child);
  return made;
};

/** Let `whenOpened` take each image that is opened. */
export function beginFiles(whenOpened) {
  opened = whenOpened;
  $("file").addEventListener("change", () => take([...$("file").files]));
  $("directory").addEventListener("change", () => take([...$("directory").files], true));
  for (const kind of ["dragover", "drop", "dragleave"]) {
    addEventListener(kind, event => {
      event.preventDefault();
      $("views").classList.toggle("dropping", kind === "dragover");
      if (kind === "drop") attempt(async () => take(...await dropped(event.dataTransfer)));
    });
  }
  $("download").addEventListener("click", () => saving(async () => {
    for (const file of await saveAs({})) await download(file);
    await ask("POST", `${base()}/saved`); // until then the server keeps what is not saved
  }));
  $("save-there").addEventListener("click", () => saving(() => saveAs({ name: $("save-name").value })));
  $("replace").addEventListener("click", () =>
    saving(() => saveAs({ name: $("save-name").value, replace: true })));
  $("format").addEventListener("change", () => {
    $("save-name").value = state.image.stem + $("format").value;
    $("replace").hidden = true;
  });
}

/** All files of what was dropped, and whether it was a folder. */
async function dropped(transfer) {
  const entries = [...transfer.items].map(one => one.webkitGetAsEntry?.()).filter(Boolean);
  const files = [...transfer.files];
  if (!entries.some(one => one.isDirectory)) return [files, files.length > 1];
  const found = [];
  const walk = async entry => {
    if (entry.isFile) return found.push(await new Promise((done, fail) => entry.file(done, fail)));
    const reader = entry.createReader();
    for (;;) { // it hands out a hundred at a time
      const some = await new Promise((done, fail) => reader.readEntries(done, fail));
      if (!some.length) return undefined;
      for (const one of some) await walk(one);
    }
  };
  for (const entry of entries) await walk(entry);
  return [found, true];
}

/** Open, or take as labels, files of the browser's machine. */
async function take(files, isFolder = false) {
  if (!files.length) return;
  const [first] = files, name = isFolder ? first.webkitRelativePath?.split("/")[0] || "folder" : first.name;
  const size = files.reduce((sum, file) => sum + file.size, 0);
  say(`${name}: reading ${(size / 1e6).toFixed(1)} MB`);
  const query = { name, ...choice(), ...(isFolder ? { folder: 1 } : {}) };
  await open({ body: isFolder ? packed(files) : first, query });
  $("file").value = $("directory").value = "";
}

const choice = () => Object.fromEntries(
  ["volume", "series"].filter(id => $(id).value !== "").map(id => [id, $(id).value]));

/** Open a file; or add its labels to the open image, if the dialog says that it is a label map. */
async function open(options) {
  const dialog = $("open-dialog");
  $("open-error").textContent = "";
  try {
    if ($("as-labels").checked && state.image) {
      const answer = await ask("POST", `${base()}/labels`, options);
      dialog.close();
      await opened(answer);
      say(`${answer.added.length} objects came from the label map.`);
    } else {
      const answer = await ask("POST", "images", options);
      dialog.close();
      await opened(answer);
      tellKept(answer);
    }
  } catch (error) {
    if (!dialog.open) showOpen();
    $("open-error").textContent = error.message;
    say(error.message, true);
  }
}

/** Say what the journal of the server has of an image that was opened. */
export function tellKept({ came_back: back, is_open_elsewhere: elsewhere }) {
  if (elsewhere) say("This image is open elsewhere, too. Save your objects: they are kept nowhere else.", true);
  else say(back ? `${back} objects came back that were not saved before.` : "");
}

const openFile = file => attempt(() => open({ json: { file, ...choice() } }));

/** The files that the server offers, on the first page and in the dialog. */
export async function showWelcome() {
  const { named, has_root: hasRoot } = await ask("GET", "files");
  $("named").replaceChildren(
    ...named.map(({ file, name }) => item(button(name, () => openFile(file)))),
    ...(hasRoot ? [item(button("Browse…", () => attempt(showOpen)))] : []));
  return named;
}

export async function showOpen() {
  $("as-labels").checked = false;
  $("labels-row").hidden = !state.image;
  $("open-error").textContent = "";
  $("open-dialog").showModal();
  const { named, has_root: hasRoot } = await ask("GET", "files");
  $("places").replaceChildren(...named.map(({ file, name }) => button(name, () => openFile(file))));
  $("folder").hidden = $("entries").hidden = !hasRoot;
  if (hasRoot) await showFolder("root");
}

async function showFolder(folder) {
  const { parent, entries } = await ask("GET", "folder", { query: { folder } });
  $("folder").textContent = folder;
  const rows = entries.map(({ id, name, kind }) => (kind === "folder"
    ? button(`${name}/`, () => attempt(() => showFolder(id))) : button(name, () => openFile(id))));
  if (parent) {
    rows.unshift(button("../", () => attempt(() => showFolder(parent))),
      button("Open this folder (DICOM)", () => openFile(folder)));
  }
  $("entries").replaceChildren(...rows.map(item));
}

// Saving

export function showSave() {
  const { formats, stem, folder } = state.image;
  $("format").replaceChildren(...formats.map(({ suffix, words }) => new Option(words, suffix)));
  $("save-name").value = stem + $("format").value;
  $("there").hidden = folder === null;
  $("where").textContent = folder;
  $("saved").replaceChildren();
  $("save-error").textContent = "";
  $("replace").hidden = true;
  $("hidden-row").hidden = ![...state.objects.values()].some(one => one.hidden);
  $("only-shown").checked = false;
  $("save-dialog").showModal();
}

async function saving(work) {
  $("save-error").textContent = "";
  $("replace").hidden = true;
  try {
    await work();
  } catch (error) {
    $("save-error").textContent = error.message;
    $("replace").hidden = error.status !== 409;
  }
}

/** Save; `name` is that of a file on the server's machine, none means a download. */
async function saveAs(json) {
  const shown = [...state.objects.values()].filter(one => !$("only-shown").checked || !one.hidden);
  const objects = shown.map(one => one.number);
  const { files } = await ask("POST", `${base()}/save`, { json: { ...json, format: $("format").value, objects } });
  $("saved").replaceChildren(...files.map(({ name, size }) =>
    item(Object.assign(document.createElement("span"), { textContent: `${name}: saved, ${(size / 1e3).toFixed(1)} kB` }))));
  say(`Saved: ${files.map(one => one.name).join(", ")}`);
  return files;
}

async function download({ name, path }) {
  const url = URL.createObjectURL(await blob(path));
  Object.assign(document.createElement("a"), { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}
