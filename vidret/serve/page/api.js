// Requests to the server: one sentence per error, and only the latest response counts.

const NO_ANSWER = "The server does not respond. Is vidret serve still running?";
const NO_TOKEN = "This server requires a token: open the link with ?token= that vidret serve printed.";
const LONGEST_WAIT = 10; // seconds

/** Return what is read of a response; a busy server is asked once more, after its Retry-After.
 *
 * Throws an Error with a sentence for the user, or an AbortError (see `isDropped`). */
export async function ask(path, { method = "GET", body, signal, read = (response) => response.json() } = {}) {
  const request = { method, signal };
  if (body) Object.assign(request, { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  let response = await send(path, request);
  if (response.status === 503) {
    const wait = Math.min(Number(response.headers.get("Retry-After")) || 1, LONGEST_WAIT);
    await new Promise((resolve) => setTimeout(resolve, wait * 1000));
    response = await send(path, request);
  }
  if (!response.ok) throw new Error(await readProblem(response));
  return read(response);
}

/** Wrap a function so that each call aborts the previous one. */
export function latest(call) {
  let control = new AbortController();
  return (...values) => {
    control.abort();
    control = new AbortController();
    return call(control.signal, ...values);
  };
}

export const isDropped = (error) => error.name === "AbortError";

export async function readProblem(response) {
  if (response.status === 401) return NO_TOKEN;
  const { detail, title } = await response.json().catch(() => ({}));
  return String(detail || title || `The server responded with ${response.status}.`);
}

export async function send(path, request) {
  try {
    return await fetch(path, request);
  } catch (error) {
    throw isDropped(error) ? error : new Error(NO_ANSWER);
  }
}
