// Results as a grid of cards: links that play their segment while hovered or focused.

import { writePlace } from "./address.js";
import { ask } from "./api.js";
import { clock, find, isCalm, isModified, make, tell } from "./dom.js";
import { makeJudging } from "./feedback.js";
import { makeAdding } from "./lists.js";
import { isPerson } from "./people.js";
import { findWords, labelOf, markMatches, nameChannels } from "./words.js";

const PREVIEW_DELAY = 150; // ms on a card before it plays
const PREVIEW_LENGTH = 10; // seconds, without a segment
const EAGER = 8; // cards that a window usually shows without scrolling

const grid = find("results");
let onJudge = () => {};
const listCards = () => [...grid.querySelectorAll(".card > a:first-child")];

/** Show the hits of a query; return how many are folded: unlikely ones, unless all are. */
export function showHits(hits, place) {
  const open = hits.filter(({ likelihood }) => likelihood !== "unlikely");
  const shown = place.k || place.like || place.unlike || place.by === "diverse" || place.sort_by || !open.length ? hits : open;
  grid.replaceChildren(...shown.map((hit) => makeHit(hit, place)));
  hurry();
  return hits.length - shown.length;
}

/** Load the pictures of the first cards at once, without waiting for the layout. */
function hurry() {
  for (const picture of [...grid.querySelectorAll(".card img")].slice(0, EAGER)) picture.loading = "eager";
}

export function showVideos(videos, place) {
  grid.replaceChildren(...videos.map((video) => makeVideo(video, place)));
  hurry();
}

/** Add further videos, laid out only near the window; return how many there are. */
export function addVideos(videos, place) {
  if (videos.length) grid.append(make("li", { className: "page" }, make("ul", { className: "grid", role: "list" }, ...videos.map((video) => makeVideo(video, place)))));
  return grid.querySelectorAll(".card").length;
}

/** Show empty cards, so that nothing moves when results arrive. */
export function showSkeletons() {
  const lines = () => ["shot", "title", "line"].map((className) => make("span", { className }));
  grid.replaceChildren(...Array.from({ length: 12 }, () => make("li", { className: "card skeleton", ariaHidden: true }, ...lines())));
}

export const focusCard = (number) => listCards()[number]?.focus();

/** Move the focus by arrow keys; the box is above the first row. + and - judge a result, a lists it. */
export function listenToGrid(judge) {
  onJudge = judge;
  grid.onkeydown = (event) => {
    const cards = listCards();
    const at = cards.indexOf(document.activeElement);
    if (at < 0 || isModified(event)) return;
    const button = cards[at].parentElement.querySelector(`[data-icon=${{ "+": "plus", "=": "plus", "-": "minus", a: "list" }[event.key]}]`);
    if (button) return button.click();
    const below = cards.findIndex((card) => card.getBoundingClientRect().top > cards[0].getBoundingClientRect().top + 1);
    const columns = below < 0 ? cards.length : below;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - columns, ArrowDown: at + columns }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (event.key === "ArrowUp" && to < 0) find("query").focus();
    else focusCard(event.key === "ArrowDown" ? Math.min(to, cards.length - 1) : to);
  };
}

function makeHit(hit, place) {
  const { start, end, time = start, duration = end - start, copies = [], near_copies: nearCopies = [], why = {}, score, probability, likelihood } = hit; // a moment only has a span
  const parts = { ...(likelihood && { probability }), score, ...why };
  const levels = Object.entries(parts).map(([level, value]) => `${level} ${value.toFixed(3)}`);
  const meter = likelihood ? make("meter", { value: probability, ariaHidden: true }) : "score";
  const rating = make("span", { title: levels.join(", ") }, meter, ` ${likelihood ?? score.toFixed(3)}`);
  const when = hit.time === undefined ? `${clock(start, true)} – ${clock(end, true)}` : `at ${clock(time)}`;
  const linkTo = (seconds) => writePlace({ ...place, v: hit.video, t: seconds.toFixed(1) });
  const found = nameChannels(hit.evidence);
  const about = [make("span", {}, found && `${found} `, when), rating];
  const card = makeCard({ ...hit, duration, href: linkTo(time), about });
  card.append(makeJudging({ ...hit, time }, onJudge, makeAdding(hit)));
  if (copies.length + nearCopies.length) card.append(makeCopies(copies, nearCopies, place));
  const concept = findConcept(place.q);
  const seen = hit.evidence.filter(({ person }) => person);
  if (concept && !isPerson(concept) && !seen.some(({ person }) => person === concept)) card.append(makeMarks(concept, hit));
  const who = seen.map((each) => `@${each.person} ${labelOf(each.source)} ${clock(each.start)} to ${clock(each.end)}`);
  if (who.length) card.append(make("p", { className: "soft" }, who.join(", ")));
  const say = (label, time, title, ...text) => card.append(make("a", { className: "said", href: linkTo(time), title }, make("span", { className: "label" }, `${label} ${clock(time)}`), " ", ...text));
  hit.events.forEach(({ text, start }, at) => say(`${at + 1}.`, start, text, text));
  const words = findWords(hit.evidence);
  if (words) say(labelOf(words.source), words.start, words.text, ...markMatches(words, true));
  return card;
}

/** List what shows the same footage, behind a click. */
function makeCopies(copies, nearCopies, place) {
  const links = nearCopies.map(({ video, path, time }) => make("li", {}, make("a", { href: writePlace({ ...place, v: video, t: time.toFixed(1) }) }, path)));
  const same = copies.map((path) => make("li", {}, `${path} (same content)`));
  const number = copies.length + nearCopies.length;
  return make("details", { className: "copies soft" }, make("summary", {}, `${number} cop${number > 1 ? "ies" : "y"}`), make("ul", { className: "path" }, ...links, ...same));
}

const findConcept = (q) => q.replace(/"[^"]*"/g, " ").match(/(?<![^\s(])@(\p{L}[\p{L}\p{M}\p{N}_-]*)/u)?.[1];

function makeMarks(name, { video, start, end }) {
  const marks = { yes: make("button", {}, "Right"), no: make("button", {}, "Wrong") };
  const teach = async (side) => {
    try {
      const body = { name, [side]: [{ video, start, end }], add: true };
      const { yes, no } = await ask("api/concepts", { method: "POST", body });
      for (const name in marks) marks[name].ariaPressed = name === side;
      find("status").textContent = `@${name} has learned from ${yes.length} right and ${no.length} wrong.`;
    } catch (error) {
      tell("notice", error.message);
    }
  };
  for (const side in marks) marks[side].onclick = () => teach(side);
  return make("div", { className: "soft chips" }, `@${name}? `, marks.yes, " ", marks.no);
}

function makeVideo(video, place) {
  const { id, duration, missing, salvaged, complete } = video;
  const state = missing ? "file is missing" : salvaged ? "damaged, partly read" : complete ? "" : "partly indexed";
  const card = makeCard({
    ...video,
    href: writePlace({ ...place, v: id }),
    thumbnail: `/api/thumbnails/${id}?t=${(duration / 3).toFixed(1)}`,
    stream: `/api/videos/${id}/stream`,
    start: 0,
    end: Math.min(duration, PREVIEW_LENGTH),
    about: [state || (video.width ? `${video.width} × ${video.height}` : "")],
  });
  if (!missing) card.append(makeJudging({ ...video, video: id, time: duration / 3 }, onJudge, makeAdding({ video: id, start: 0, end: duration })));
  return card;
}

function makeCard({ href, title, path, duration, thumbnail, stream, start, end, about, weak = false }) {
  const picture = make("img", { loading: "lazy", decoding: "async", alt: "", src: `.${thumbnail}` });
  const shot = make("span", { className: "shot" }, picture, make("span", { className: "badge" }, clock(duration)));
  const link = make("a", { href, title: path }, shot, make("span", { className: "title" }, title), make("span", { className: "line soft" }, ...about));
  playWhileLookedAt(link, shot, () => makeFilm(stream, start, end));
  return make("li", { className: weak ? "card weak" : "card" }, link);
}

function playWhileLookedAt(link, shot, makePreview) {
  let timer = 0;
  let film = null;
  const begin = () => {
    clearTimeout(timer);
    if (isCalm() || film) return;
    timer = setTimeout(() => link.isConnected && shot.append((film = makePreview())), PREVIEW_DELAY);
  };
  const stop = () => {
    if (link.matches(":hover, :focus-visible")) return;
    clearTimeout(timer);
    film?.removeAttribute("src");
    film?.load();
    film?.remove();
    film = null;
  };
  link.onpointerenter = ({ pointerType }) => pointerType === "mouse" && begin();
  link.onpointerleave = link.onblur = stop;
  link.onfocus = () => link.matches(":focus-visible") && begin();
}

function makeFilm(stream, start, end) {
  const film = make("video", { src: `.${stream}`, muted: true, playsInline: true, tabIndex: -1, ariaHidden: true });
  let zero = 0;
  const restart = () => {
    if (!film.isConnected) return;
    film.currentTime = zero + start;
    film.play().catch(() => {});
  };
  film.onloadeddata = () => {
    zero = film.currentTime;
    restart();
  };
  film.onplaying = () => film.classList.add("seen");
  film.ontimeupdate = () => film.currentTime >= zero + end && restart();
  film.onended = restart;
  return film;
}
