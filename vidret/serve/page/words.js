// Words of videos: the names of their sources, and lines in which what matches is marked.

import { make } from "./dom.js";

/** The sources of matches, as a filter and as a label. */
export const SOURCES = {
  picture: ["Pictures", "seen"],
  speech: ["Speech", "said"],
  screen: ["On screen", "on screen"],
  subtitles: ["Subtitles", "subtitle"],
};
const WEAKEST = 0.15; // share of the score with which a line explains a result
const LEAD = 40; // characters before the first match

/** Return the label of a source. */
export const label = (source) => SOURCES[source][1];

/** Return the words that explain a result, or undefined. */
export const findWords = (evidence) => evidence.find(({ text, share }) => text && share >= WEAKEST);

/** Return the nodes of a text with its matches marked; `brief` starts shortly before the first one. */
export function markMatches({ text, matches }, brief = false) {
  const letters = [...text]; // matches count characters, and strings count UTF-16 units
  const cut = (start, end) => letters.slice(start, end).join("");
  const first = matches[0]?.[0] ?? 0;
  let at = brief && first > LEAD ? letters.indexOf(" ", first - LEAD) + 1 : 0;
  if (at > first) at = first;
  const nodes = [at ? "… " : ""];
  for (const [start, end] of matches) {
    nodes.push(cut(at, start), make("mark", {}, cut(start, end)));
    at = end;
  }
  return [...nodes, cut(at)];
}
