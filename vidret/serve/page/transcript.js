// The transcript beside the player.

import { clock, find, make, on, setCurrent } from "./dom.js";
import { labelOf, markMatches } from "./words.js";

const EARLY = 0.1; // seconds before its start that a line is current, since times are rounded

const list = find("lines");
const filter = find("lines-filter");
let lines = []; // texts by time, as the children of the list

/** Show the words of a video, by time; without any the transcript is hidden. */
export function showTranscript(texts) {
  lines = texts;
  list.replaceChildren(...texts.map(makeLine));
  filter.value = "";
  find("transcript").hidden = !texts.length;
}

function makeLine({ start, source, speaker, text }) {
  const about = make("span", { className: "label" }, `${clock(start)} ${speaker || labelOf(source)}`);
  return make("li", {}, make("button", { type: "button", tabIndex: -1 }, about, make("span", {}, text)));
}

export function emphasiseLines() {
  lines.forEach((text, at) => text.matches && list.children[at].firstChild.lastChild.replaceChildren(...markMatches(text)));
}

/** Mark the line of a time, and scroll to it unless the user is busy with the list. */
export function followLine(time) {
  const line = list.children[lines.findLastIndex(({ start }) => start <= time + EARLY)];
  if (!setCurrent(list, line) || list.matches(":hover, :focus-within") || filter.value) return;
  list.scrollTop = line ? line.offsetTop - (list.clientHeight - line.offsetHeight) / 2 : 0;
}

/** Listen to the lines and their filter; `onSeek(seconds)` is called with the start of a chosen line. */
export function listenToTranscript(onSeek) {
  list.addEventListener("click", ({ target }) => {
    const line = lines[[...list.children].indexOf(target.closest("li"))];
    if (line) onSeek(line.start);
  });
  filter.addEventListener("input", () => {
    const wanted = filter.value.trim().toLowerCase();
    [...list.children].forEach((item, at) => (item.hidden = !lines[at].text.toLowerCase().includes(wanted)));
  });
  on("transcript", "keydown", (event) => {
    const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const stops = [filter, ...list.querySelectorAll("li:not([hidden]) button")];
    stops[stops.indexOf(event.target) + step]?.focus();
  });
}
