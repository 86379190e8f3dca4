// Elements and numbers. File names and answers enter as text, never as markup.

/** Find an element of the page by its id. */
export const find = (id) => document.getElementById(id);

/** Make an element with these properties; children are elements or text. */
export function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Make a shape of an SVG. */
export function draw(tag, attributes, ...children) {
  const shape = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
  shape.append(...children);
  return shape;
}

/** Show a sentence, or hide its place when there is none. */
export function tell(element, ...sentence) {
  element.replaceChildren(...sentence);
  element.hidden = !sentence.length;
}

/** Write seconds as 0:07, 12:40 or 1:02:03, with tenths where a moment is told exactly. */
export function clock(seconds, tenths = false) {
  const units = tenths ? Math.round(seconds * 10) / 10 : Math.floor(seconds + 1e-6);
  const [hours, minutes] = [Math.floor(units / 3600), Math.floor(units / 60) % 60];
  const rest = (units % 60).toFixed(tenths).padStart(tenths ? 4 : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/** Read "90", "1:30" or "1:00:00" as seconds; NaN where it is none of them. */
export function readClock(text) {
  if (!/^\d+(:\d{1,2}){0,2}(\.\d+)?$/.test(text)) return NaN;
  return text.split(":").reduce((seconds, part) => seconds * 60 + Number(part), 0);
}

/** Write a count with its noun: "1 video", "1,200 videos". */
export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

/** Say whether an event comes with a key that makes it the browser's own. */
export const isModified = (event) => event.altKey || event.ctrlKey || event.metaKey;

/** Say whether the person asked for less motion. */
export const isCalm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
