// An answer to the query, whose citations play the moments that it is from.

import { writePlace } from "./address.js";
import { ask, isDropped, latest } from "./api.js";
import { clock, make, tell } from "./dom.js";

const put = latest((signal, question) => question && ask("api/ask", { method: "POST", body: { question }, signal, read }));
const show = (...text) => tell("answer", ...text);

/** Drop the answer, also one that is still to come. */
export function dropAnswer() {
  put();
  show();
}

/** Ask the query, and show the answer as it arrives. */
export async function showAnswerTo(place) {
  if (!place.q) return;
  show("Looking …");
  let found;
  try {
    for await (const { moments, text = "Answering …", notes = [], detail } of await put(place.q)) {
      if (detail) throw new Error(detail);
      found = moments ?? found; // a second round sends those of both
      show(...linkCitations(text, found, place), ...notes.map((note) => make("span", { className: "soft" }, `\nNote: ${note}.`)));
    }
  } catch (error) {
    if (!isDropped(error)) show(error.message);
  }
}

const linkCitations = (text, moments, place) =>
  text.split(/(\[\d+\])/).map((piece) => {
    const { video: v, start: t, title } = moments.find(({ number }) => piece === `[${number}]`) ?? {};
    return v ? make("a", { href: writePlace({ ...place, v, t }), title: `${title} ${clock(t)}` }, piece) : piece;
  });

async function* read({ body }) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = "", next; !(next = await reader.read()).done; ) {
    const events = (text + next.value).split("\n\n");
    text = events.pop();
    for (const event of events) if (event[0] === "e") yield JSON.parse(event.slice(event.indexOf("{")));
  }
}
