// Talking to the server: one sentence for whatever goes wrong, and only the latest answer counts.

const NO_ANSWER = "The server does not answer. Is vidret serve still running?";
const NO_TOKEN = "This server asks for a token: open the page by the link that vidret serve printed, with ?token= in it.";
const LONGEST_WAIT = 10; // seconds

/** Ask the server, once more after the time it names when it is busy, and give the JSON it answers.
 *
 * Throws an Error whose message is one sentence for people, or an AbortError (see `isDropped`). */
export async function ask(path, { method = "GET", body, signal } = {}) {
  const request = { method, signal };
  if (body) Object.assign(request, { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  let response = await send(path, request);
  if (response.status === 503) {
    const wait = Math.min(Number(response.headers.get("Retry-After")) || 1, LONGEST_WAIT);
    await new Promise((resolve) => setTimeout(resolve, wait * 1000));
    response = await send(path, request); // throws if dropped
  }
  if (!response.ok) throw new Error(await readProblem(response));
  return response.json();
}

/** Make a caller whose earlier calls are dropped as soon as it is called again. */
export function latest(call) {
  let control = new AbortController();
  return (...values) => {
    control.abort();
    control = new AbortController();
    return call(control.signal, ...values);
  };
}

/** Say whether an error only means that nobody waits for the answer any more. */
export const isDropped = (error) => error.name === "AbortError";

/** Read the sentence of a refusal. */
export async function readProblem(response) {
  if (response.status === 401) return NO_TOKEN;
  const { detail, title } = await response.json().catch(() => ({}));
  return String(detail || title || `The server answered ${response.status}.`);
}

async function send(path, request) {
  try {
    return await fetch(path, request);
  } catch (error) {
    throw isDropped(error) ? error : new Error(NO_ANSWER);
  }
}
