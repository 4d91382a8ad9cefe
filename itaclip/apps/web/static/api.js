// The HTTP API as the page uses it.

const TOKEN = "itaclip-token";

export class ApiError extends Error {
  constructor(status, message, retryAfter = 0) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export function keepToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

/** The model, the limits and the defaults; status 401 if the token is missing or wrong. */
export async function info() {
  return (await ask("v1/info")).json();
}

/**
 * Segment one image.
 * @param {File} file the image
 * @param {Object<string, string>} fields the other fields of the request
 * @param {AbortSignal} signal ends the work on the server, too
 * @param {function({state, step, share, ahead})} report called with every line of progress
 * @returns the answer of output "view"
 */
export async function segment(file, fields, signal, report) {
  const body = new FormData();
  body.append("image", file);
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  body.append("output", "view");
  const response = await ask("v1/segment", { method: "POST", body, signal, headers: { Accept: "application/x-ndjson" } });
  for await (const state of lines(response)) {
    if (state.state === "done") return state.answer;
    if (state.state === "failed") throw new ApiError(state.status, state.detail);
    report(state);
  }
  throw new ApiError(0, "The server closed the connection; try again.");
}

async function ask(path, options = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server cannot be reached; is it still running?");
  }
  if (response.ok) return response;
  const { detail } = await response.json().catch(() => ({}));
  throw new ApiError(response.status, detail ?? `The server answered with status ${response.status}.`,
    Number(response.headers.get("Retry-After")) || 0);
}

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const parts = [];
  for (;;) {
    const { value, done } = await reader.read().catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, "The connection to the server broke; try again.");
    });
    if (done) return;
    const pieces = value.split("\n");
    for (const piece of pieces.slice(0, -1)) {
      parts.push(piece);
      yield JSON.parse(parts.join(""));
      parts.length = 0;
    }
    parts.push(pieces.at(-1));
  }
}

/** An array of the answer: {width, height, values}. */
export async function unpack({ width, height, bytes, data }) {
  const stream = new Blob([decodeBase64(data)]).stream().pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  return { width, height, values: bytes === 2 ? new Uint16Array(buffer) : new Uint8Array(buffer) };
}

export function decodeBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}
