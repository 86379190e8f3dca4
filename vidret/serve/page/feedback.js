// Results that were judged: they are part of the URL, and each can be undone.

import { clock, find, make, showIcon } from "./dom.js";

const SIDES = { like: "More", unlike: "Less" };
const ICONS = { like: "plus", unlike: "minus" };
const MOST_SEEN = 200;
const titles = new Map();
let seen = new Set(); // results of the query that were in view
let told = { of: "" }; // what the server is told of these
const results = new WeakMap();
const inView = new IntersectionObserver(
  (entries) => entries.forEach(({ isIntersecting, target }) => isIntersecting && seen.add(results.get(target))),
  { threshold: 0.5 },
);

const name = ({ video, time }) => `${video}@${Number(time).toFixed(1)}`;
const read = (place, side) => place[side].split(",").filter(Boolean);
const label = (side, { video, time }) => `${SIDES[side]} like ${titles.get(video) ?? `video ${video}`} at ${clock(time)}`;

/**
 * Return the judged results of a state, as the server takes them; those seen are not what is looked for.
 * What is seen later counts from the next judgement on, so that the order of the first results stays.
 */
export function readJudged(place) {
  const split = (names) => names.map((each) => each.split("@").map(Number));
  const of = place.like || place.unlike ? `${place.like} ${place.unlike}` : "";
  if (told.of !== of) told = { of, seen: split([...seen].slice(-MOST_SEEN)) };
  if (!of) return {};
  const judged = { like: split(read(place, "like")), unlike: split(read(place, "unlike")) };
  return { ...judged, ...(told.seen.length && { seen: told.seen }) };
}

/** Return the change of a state by which a result is judged, or is no longer. */
export function judge(place, side, result) {
  const given = name(result);
  const change = Object.fromEntries(Object.keys(SIDES).map((each) => [each, read(place, each).filter((other) => other !== given)]));
  if (!read(place, side).includes(given)) change[side].push(given);
  return { ...Object.fromEntries(Object.entries(change).map(([each, names]) => [each, names.join()])), by: place.by === "moment" ? "" : place.by };
}

/** Return the change that undoes the last judgement, if there is one. */
export function undo(place) {
  const side = read(place, "unlike").length ? "unlike" : "like";
  return { [side]: read(place, side).slice(0, -1).join() };
}

export function dropJudged(hits, place) {
  const judged = Object.keys(SIDES).flatMap((side) => readJudged(place)[side] ?? []);
  return hits.filter(({ video, start, end }) => !judged.some(([other, time]) => other === video && time >= start - 0.1 && time <= end + 0.1));
}

/** Note the results that come into view; those of another query no longer count. */
export function noteSeen(hits, isSame) {
  if (!isSame) seen = new Set();
  inView.disconnect();
  const cards = document.querySelectorAll("#results > .card");
  for (const [index, hit] of hits.slice(0, cards.length).entries()) {
    results.set(cards[index], name(hit));
    inView.observe(cards[index]);
  }
}

export function makeJudging(result, onJudge, ...others) {
  titles.set(result.video, result.title);
  const buttons = Object.keys(SIDES).map((side) => {
    const button = make("button", { title: label(side, result), onclick: () => onJudge(side, result) });
    button.dataset.icon = ICONS[side];
    showIcon(button, ICONS[side]);
    return button;
  });
  return make("div", { className: "judging" }, ...buttons, ...others);
}

export function showJudged(place, onJudge, onClear) {
  const chips = Object.keys(SIDES).flatMap((side) =>
    read(place, side).map((each) => {
      const [video, time] = each.split("@").map(Number);
      const sign = make("span", { className: side, ariaHidden: true }, side === "like" ? "+" : "−");
      const picture = make("img", { src: `api/thumbnails/${video}?t=${time}`, alt: "" });
      return make("button", { title: `Undo: ${label(side, { video, time })}`, onclick: () => onJudge(side, { video, time }) }, picture, sign);
    }),
  );
  find("judged").hidden = !chips.length;
  const clear = make("button", { onclick: onClear }, "Clear");
  find("judged").replaceChildren(...(chips.length ? [make("span", { className: "soft" }, "Judged "), ...chips, clear] : []));
}
