/** Calls the server's interface; see docs/design/app.md. */

/** Carries what the server, or the connection to it, said instead of a result. */
export class Refusal extends Error {
  constructor(message, kind) {
    super(message);
    this.kind = kind;
  }
}

const SILENT = "The server does not answer. Is `fullgrad app` still running?";

async function ask(path, init) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...init });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(SILENT, "connection");
  }
  if (response.ok) return response;
  let told;
  try {
    told = await response.json();
  } catch {
    throw new Refusal(`The server answered ${response.status} ${response.statusText}.`, "internal");
  }
  throw new Refusal(told.error || `The server answered ${response.status}.`, told.kind);
}

/** Ask for the models, the methods and the limits. */
export async function about() {
  return (await ask("/api/about")).json();
}

/** Fetch a file of the page. */
export async function fetched(path) {
  return (await ask(path)).blob();
}

/**
 * Write the query of a request.
 * @param {{model: number, target: ?number, rather_than: ?number, method: string, options: object}}
 *     request
 */
function query(request, name, more) {
  const words = new URLSearchParams({
    model: request.model,
    method: request.method,
    options: JSON.stringify(request.options),
    name,
    ...more,
  });
  if (request.target !== null) words.set("target", request.target);
  if (request.rather_than !== null) words.set("rather_than", request.rather_than);
  return words;
}

function posted(photograph, signal) {
  return {
    method: "POST",
    body: photograph.blob,
    headers: { "Content-Type": "application/octet-stream" },
    signal,
  };
}

const limited = (limit) => (limit ? { limit } : {});

/** Read the lines of a body while they arrive. */
async function* lines(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    const parts = (rest + (value ?? "")).split("\n");
    rest = parts.pop();
    yield* parts.filter((line) => line.trim());
    if (done) break;
  }
  if (rest.trim()) yield rest;
}

/**
 * Explain a photograph.
 * @param {"all"|"map"} parts
 * @param {?number} limit the least end of a signed map's scale
 * @param {{signal: AbortSignal, progress: function(object)}} how
 * @returns {Promise<object>} the result
 */
export async function explain(photograph, request, parts, limit, { signal, progress }) {
  const words = query(request, photograph.name, { parts, ...limited(limit) });
  const response = await ask(`/api/explain?${words}`, posted(photograph, signal));
  let result = null;
  try {
    for await (const line of lines(response.body)) {
      const told = JSON.parse(line);
      if (told.error) throw new Refusal(told.error, told.kind);
      if (told.progress) progress(told.progress);
      result = told.result ?? result;
    }
  } catch (error) {
    if (error instanceof Refusal || error.name === "AbortError") throw error;
    throw new Refusal(`${SILENT} (${error.message})`, "connection");
  }
  if (result) return result;
  throw new Refusal("The server's answer ended before the result. Try again.", "connection");
}

/**
 * Download a file of what was explained.
 * @param {"picture"|"array"|"report"} kind
 * @returns {Promise<{blob: Blob, name: string}>}
 */
export async function download(kind, photograph, request, { opacity, limit }, signal) {
  const words = query(request, photograph.name, { opacity, ...limited(limit) });
  const response = await ask(`/api/download/${kind}?${words}`, posted(photograph, signal));
  const told = response.headers.get("Content-Disposition") ?? "";
  const encoded = /filename\*=UTF-8''([^;]+)/i.exec(told);
  const quoted = /filename="([^"]+)"/i.exec(told);
  const ending = { picture: "png", array: "npy", report: "html" }[kind];
  const name = encoded ? decodeURIComponent(encoded[1]) : quoted?.[1] ?? `fullgrad.${ending}`;
  return { blob: await response.blob(), name };
}
