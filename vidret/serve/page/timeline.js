// The timeline of a video: its score curve, the words that match, moments, and the playhead.

import { clock, draw, find, make } from "./dom.js";
import { labelOf } from "./words.js";

const WIDTH = 1000;
const HEIGHT = 100;
const ROOM = 8; // above and below the curve
const MOST_POINTS = 800;
const SMALLEST_RANGE = 0.02;
const ROOM_FOR_WORDS = 0.4; // of the range of the frames, above them, for words that say more
const MOST_LETTERS = 60; // of the words at the pointer

const timeline = find("timeline");
const reading = find("reading");

/** Draw the score curve of a video; without one the timeline is empty. */
export function drawTimeline(curve, duration) {
  const typical = curve?.typical ?? null;
  const events = curve?.moments.find(({ events }) => events.length)?.events ?? [];
  find("typical").hidden = typical === null || events.length > 0;
  find("marks").replaceChildren(...(curve?.moments ?? []).map((moment) => makeMark(moment, duration)));
  find("events").replaceChildren(...events.map((event, at) => makeEvent(event, at + 1, duration)));
  find("matches").replaceChildren();
  if (!curve) return find("curve").replaceChildren();

  const points = thin(curve);
  const known = [typical ?? points[0][1], ...points.map(([, score]) => score)];
  const [low, highest] = findRange(Math.min(...known), Math.max(...known));
  const high = curve.texts.some(({ score }) => score > highest) ? highest + ROOM_FOR_WORDS * (highest - low) : highest;
  const x = (time) => Number(((time / duration) * WIDTH).toFixed(1));
  const y = (score) => Number((HEIGHT - ROOM - ((score - low) / (high - low)) * (HEIGHT - 2 * ROOM)).toFixed(1));
  const line = [[curve.start, points[0][1]], ...points, [curve.end, points.at(-1)[1]]].map(([time, score]) => `${x(time)},${y(score)}`).join("L");
  find("curve").replaceChildren(
    draw("path", { class: "area", d: `M${x(curve.start)},${HEIGHT}L${line}L${x(curve.end)},${HEIGHT}Z` }),
    ...curve.moments.map(({ start, end }) => draw("rect", { class: "moment", x: x(start), width: x(end) - x(start), height: HEIGHT })),
    ...(typical === null ? [] : [draw("path", { class: "typical-line", d: `M0,${y(typical)}H${WIDTH}` })]),
    draw("path", { class: "score-line", d: `M${line}` }),
  );
  const inside = (score) => Math.min(Math.max(score, low), high);
  find("matches").append(...curve.texts.map((text) => makeMatch(text, y(inside(text.score)), duration)));
  find("typical").style.top = `${y(typical)}%`;
  find("typical").classList.toggle("below", y(typical) < HEIGHT / 4);
}

/** Draw when words are said or shown, and on top those that match. */
export function drawTexts(texts, duration) {
  const x = (time) => (time / duration) * WIDTH;
  const line = ({ start, end }) => `M${x(start)},5H${Math.max(x(end) - 1, x(start) + 2)}`;
  const drawAll = (name, chosen) => find(name).setAttribute("d", duration ? chosen.map(line).join("") : "");
  drawAll("texts", texts);
  drawAll("texts-found", texts.filter(({ matches }) => matches));
}

/** Widen a range of scores so that a flat curve looks flat. */
function findRange(low, high) {
  const [middle, half] = [(low + high) / 2, Math.max(high - low, SMALLEST_RANGE) / 2];
  return [middle - half, middle + half];
}

export function moveHead(time, duration) {
  find("head").style.left = share(time, duration);
  timeline.ariaValueMax = Math.round(duration);
  timeline.ariaValueNow = Math.round(time);
  timeline.ariaValueText = `${clock(time)} of ${clock(duration)}`;
}

/** Listen to clicks and drags; `look()` returns the curve and the duration. */
export function listenToTimeline(look, onSeek) {
  const timeAt = (event) => {
    const box = timeline.getBoundingClientRect();
    return Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)) * look().duration;
  };
  timeline.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    if (event.target.dataset.start) return onSeek(Number(event.target.dataset.start));
    timeline.setPointerCapture(event.pointerId);
    onSeek(timeAt(event));
  });
  timeline.addEventListener("pointermove", (event) => {
    tellReading(timeAt(event), look());
    if (timeline.hasPointerCapture(event.pointerId)) onSeek(timeAt(event));
  });
  timeline.addEventListener("pointerleave", () => (reading.hidden = true));
}

const share = (time, duration) => `${duration ? (time / duration) * 100 : 0}%`;

function makeMark({ start, end }, duration) {
  return lay(make("div", { className: "mark", title: `${clock(start, true)} to ${clock(end, true)}` }), start, end, duration);
}

function makeEvent({ text, start, end }, number, duration) {
  const title = `${number}. ${text}, ${clock(start, true)} to ${clock(end, true)}`;
  return lay(make("div", { className: "event", title }, String(number)), start, end, duration);
}

/** Create the column of words that match, as high as a frame that says as much. */
function makeMatch({ source, start, end, score }, top, duration) {
  const column = lay(make("div", { className: `match ${source}` }, labelOf(source)), start, end, duration);
  column.style.top = `${top}%`;
  column.dataset.score = score;
  return column;
}

function lay(bar, start, end, duration) {
  bar.style.left = share(start, duration);
  bar.style.width = share(end - start, duration);
  bar.dataset.start = start;
  return bar;
}

/** Show time and score at the pointer, and the words that match then. */
function tellReading(time, { curve, duration }) {
  const nearer = (best, other, at) => (Math.abs(other - time) < Math.abs(curve.times[best] - time) ? at : best);
  const score = curve ? `  ${curve.scores[curve.times.reduce(nearer, 0)].toFixed(3)}` : "";
  reading.textContent = [clock(time, true) + score, ...(curve ? listWords(curve, time) : [])].join("\n");
  reading.style.left = share(time, duration);
  reading.classList.toggle("left", time > duration / 2);
  reading.hidden = false;
}

function listWords({ texts }, time) {
  const brief = (text) => (text.length > MOST_LETTERS ? `${[...text].slice(0, MOST_LETTERS).join("")} …` : text);
  return texts.filter(({ start, end }) => start <= time && time <= end).map(({ source, text }) => `${labelOf(source)}: ${brief(text)}`);
}

/** Return the highest score of each interval of a long video. */
function thin({ times, scores }) {
  const step = Math.ceil(times.length / MOST_POINTS);
  const points = times.map((time, at) => [time, scores[at]]);
  const highest = (from) => points.slice(from, from + step).reduce((best, point) => (point[1] > best[1] ? point : best));
  return Array.from({ length: Math.ceil(times.length / step) }, (_, part) => highest(part * step));
}
