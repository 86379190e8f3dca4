// Words of videos, with what matches in them marked.

import { make } from "./dom.js";

// What a button that searches a source says, and the label of what was found in it.
export const SOURCES = {
  picture: ["Pictures", "seen"],
  speech: ["Speech", "said"],
  screen: ["On screen", "on screen"],
  subtitles: ["Subtitles", "subtitle"],
  generated: ["Described", "described"],
  sound: ["Sounds", "heard"],
};
const WEAKEST = 0.15; // share of the score with which a line explains a result
const LEAD = 40; // characters before the first match

export const labelOf = (source) => SOURCES[source][1];

/** Name where a result was found, the best channel first; empty in an index without words. */
export const nameChannels = (evidence) => [...new Set(evidence.filter(({ share }) => share >= WEAKEST).map(({ source }) => labelOf(source)))].join(", ");

export const findWords = (evidence) => evidence.find(({ text, share }) => text && share >= WEAKEST);

/** Return the nodes of a text with its matches marked; `brief` starts shortly before the first one. */
export function markMatches({ text, matches }, brief) {
  const letters = [...text]; // matches count characters, and strings count UTF-16 units
  const cut = (start, end) => letters.slice(start, end).join("");
  const first = matches[0]?.[0] ?? 0;
  let at = brief ? letters.lastIndexOf(" ", Math.max(0, first - LEAD)) + 1 : 0;
  const nodes = [at ? "… " : ""];
  for (const [start, end] of matches) {
    nodes.push(cut(at, start), make("mark", {}, cut(start, end)));
    at = end;
  }
  return [...nodes, cut(at)];
}
