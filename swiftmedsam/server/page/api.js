// Requests to the server. A refusal is one line of words, as the server wrote it.

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function request(method, path, { body, json, query, signal } = {}) {
  const headers = {};
  if (json !== undefined) {
    headers["Content-Type"] = "application/json";
    body = JSON.stringify(json);
  } else if (body !== undefined) {
    headers["Content-Type"] = "application/octet-stream";
  }
  const address = query ? `${path}?${new URLSearchParams(query)}` : path;
  let answer;
  try {
    answer = await fetch(`/api/${address}`, { method, headers, body, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("The server does not answer. Is it still running?", 0);
  }
  if (answer.ok) return answer;
  const words = await answer.json().catch(() => ({}));
  throw new Refused(words.detail ?? `The server answered ${answer.status}.`, answer.status);
}

export const ask = async (method, path, options) => (await request(method, path, options)).json();
export const blob = async (path, options) => (await request("GET", path, options)).blob();

/** Labels of a slice: Uint16Array, row by row. */
export async function labels(path, options) {
  return new Uint16Array(await (await request("GET", path, options)).arrayBuffer());
}

/** What a change did: {object, box, patch}; the patch has the labels of the slice that was shown. */
export async function change(method, path, options) {
  const answer = await request(method, path, options);
  const meta = JSON.parse(answer.headers.get("X-Change"));
  const content = await answer.arrayBuffer();
  if (meta.patch) meta.patch.labels = new Uint16Array(content);
  return meta;
}

/** The lines of an answer that comes bit by bit, each as a value. */
export async function* lines(method, path, options) {
  const answer = await request(method, path, options);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    for (const part of parts) if (part) yield JSON.parse(part);
  }
}

/**
 * The body that uploads several files: for each, the length of its name (4 bytes), its own length
 * (8 bytes), little endian, its name in UTF-8, and its content.
 */
export function packed(files) {
  const parts = [];
  for (const file of files) {
    const name = new TextEncoder().encode(file.name);
    const head = new DataView(new ArrayBuffer(12));
    head.setUint32(0, name.length, true);
    head.setBigUint64(4, BigInt(file.size), true);
    parts.push(head.buffer, name, file);
  }
  return new Blob(parts);
}
