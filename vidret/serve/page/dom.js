// Elements and numbers. File names and responses are inserted as text, never as markup.

export const find = (id) => document.getElementById(id);

export const on = (id, names, act, how) => names.split(" ").forEach((name) => find(id).addEventListener(name, act, how));

/** Create an element with properties; children are elements or text. */
export function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function draw(tag, attributes, ...children) {
  const shape = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
  shape.append(...children);
  return shape;
}

export const showIcon = (button, icon) => button.replaceChildren(draw("svg", { class: "icon" }, draw("use", { href: `#icon-${icon}` })));

/** Name a control that changes something, so that it is found again in a new list. */
export function mark(control, name) {
  Object.assign(control.dataset, { name, change: "" });
  return control;
}

/** Show a sentence, or hide the element without one. */
export function tell(id, ...sentence) {
  const element = find(id);
  element.replaceChildren(...sentence);
  element.hidden = !sentence.length;
}

/** Mark an item of a list, or none, as the current one; return whether it was another. */
export function setCurrent(list, item) {
  const before = list.querySelector("[aria-current]");
  if (item === (before ?? undefined)) return false;
  if (before) before.ariaCurrent = null;
  if (item) item.ariaCurrent = "true";
  return true;
}

/** Format seconds as 0:07, 12:40 or 1:02:03, optionally with tenths; the rest is cut off. */
export function clock(seconds, tenths = false) {
  const unit = tenths ? 10 : 1;
  const units = Math.floor(seconds * unit + 1e-6) / unit;
  const [hours, minutes] = [Math.floor(units / 3600), Math.floor(units / 60) % 60];
  const rest = (units % 60).toFixed(tenths).padStart(tenths ? 4 : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

export const writeDay = (instant) => new Date(instant).toLocaleDateString("sv");

/** Parse "90", "1:30" or "1:00:00" as seconds; NaN for other text. */
export function readClock(text) {
  if (!/^\d+(:\d{1,2}){0,2}(\.\d+)?$/.test(text)) return NaN;
  return text.split(":").reduce((seconds, part) => seconds * 60 + Number(part), 0);
}

/** Format a count with its noun: "1 video", "1,200 videos". */
export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

export const isModified = (event) => event.altKey || event.ctrlKey || event.metaKey;

export const isCalm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
