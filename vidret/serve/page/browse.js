// What is seen without a query: facets with counts, a strip of days, kinds, and the map.

import { FILTERS, readFilters, writePlace } from "./address.js";
import { ask, isDropped, latest } from "./api.js";
import { clock, count, find, isModified, make, on, tell } from "./dom.js";

const MOST_DAYS = 62; // from the first to the last of the strip; else months, else years
const MOST_MONTHS = 60;
const TILE = { width: 116, height: 68 }; // of the map, in pixels
const MOST_ZOOM = 64;
const MOST_KINDS = 8;

const askFor = (path) => latest((signal, place, more = {}) => ask(`${path}?${new URLSearchParams({ ...readFilters(place), ...more })}`, { signal }));
const [askFacets, askKinds, askMap] = ["api/facets", "api/kinds", "api/map"].map(askFor);
const HEIGHTS = { 2160: "4K or more", 1080: "1080p or more", 720: "720p or more" };
const SOUND = { on: "With sound", off: "Without" };

export async function showFacets(place, go) {
  try {
    const { days, cameras, heights, sound, orientations, languages, heard, folders } = await askFacets(place, { utc_offset: -60 * new Date().getTimezoneOffset() });
    showStrip(days, place, go);
    const groups = [
      makeFacet("Folder", "folder", folders, place, go, (path) => path.slice(findShared(Object.keys(folders))) || path),
      makeFacet("Camera", "camera", cameras, place, go),
      makeFacet("Resolution", "min_height", heights, place, go, (height) => HEIGHTS[height]),
      makeFacet("Sound", "sound", sound, place, go, (has) => SOUND[has]),
      makeFacet("Shape", "orientation", orientations, place, go),
      makeFacet("Language heard", "language", languages, place, go, nameLanguage),
      makeFacet("Sound heard", "heard", heard, place, go),
    ];
    find("facets").replaceChildren(...groups.filter(Boolean));
  } catch (error) {
    if (isDropped(error)) return;
    find("strip").hidden = true;
    tell("notice", error.message);
  }
  find("facets").classList.remove("awaited");
}

export function nameLanguage(code) {
  try {
    return new Intl.DisplayNames("en", { type: "language" }).of(code);
  } catch {
    return code;
  }
}

/** Return the length of what all folders are in. */
function findShared(folders) {
  const [first, ...others] = folders;
  const ends = [...first.matchAll(/\//g)].map(({ index }) => index + 1);
  return others.length ? (ends.findLast((end) => others.every((other) => other.startsWith(first.slice(0, end)))) ?? 0) : (ends.at(-1) ?? 0);
}

/** Create the values of a filter with their counts; one that all videos have is no choice. */
function makeFacet(title, name, counts, place, go, label = (value) => value) {
  const values = Object.entries(counts).filter(([value, number]) => number || value === place[name]);
  if (!place[name] && values.length < 2 && !["min_height", "language", "heard"].includes(name)) return null;
  if (!values.length) return null;
  const buttons = values.map(([value, number]) => {
    const chosen = place[name] === value;
    const button = make("button", { type: "button", title: value, ariaPressed: chosen }, make("span", {}, label(value)), make("span", { className: "soft" }, number.toLocaleString("en")));
    button.onclick = () => go({ [name]: chosen ? "" : value, k: "" });
    return make("li", {}, button);
  });
  return make("details", { open: values.length <= 8 || Boolean(place[name]) }, make("summary", {}, title), make("ul", { ariaLabel: title }, ...buttons));
}

function showStrip(days, place, go) {
  const all = Object.keys(days);
  const span = (new Date(all.at(-1)) - new Date(all[0])) / 86_400_000;
  const buckets = sumBy(days, span <= MOST_DAYS ? 10 : span <= 30 * MOST_MONTHS ? 7 : 4);
  const names = Object.keys(buckets);
  const highest = Math.max(...Object.values(buckets));
  find("strip").hidden = names.length < 2 && !place.filmed_after && !place.filmed_before;
  find("strip").replaceChildren(
    ...names.map((name, number) => {
      const isNewYear = name.slice(0, 4) !== names[number - 1]?.slice(0, 4);
      const month = new Date(`${name}-15`).toLocaleString("en", { month: "short" });
      const label = isNewYear ? name.slice(0, 4) : name.length === 7 ? month : name.slice(5);
      const [first, last] = [`${name}-01-01`.slice(0, 10), findLastDay(name)];
      const chosen = place.filmed_after === first && place.filmed_before === last;
      const bar = make("span", { className: "bar" });
      bar.style.height = `${Math.max(8, (buckets[name] / highest) * 100)}%`;
      const title = `${name}: ${count(buckets[name], "video")}`;
      const button = make("button", { type: "button", title, ariaLabel: title, ariaPressed: chosen }, make("span", { className: "column" }, bar), make("span", {}, label));
      button.onclick = () => go(chosen ? { filmed_after: "", filmed_before: "", k: "" } : { filmed_after: first, filmed_before: last, k: "" });
      return make("li", {}, button);
    }),
  );
}

function sumBy(days, length) {
  const sums = {};
  for (const [day, number] of Object.entries(days)) sums[day.slice(0, length)] = (sums[day.slice(0, length)] ?? 0) + number;
  return sums;
}

function findLastDay(name) {
  const [year, month] = name.split("-");
  if (name.length === 10) return name;
  return month ? `${name}-${new Date(year, month, 0).getDate()}` : `${year}-12-31`;
}

let isHome = false;

/** Show kinds of scenes, each with a picture that finds more of it. */
export async function showKinds(place, shown) {
  isHome = shown;
  find("home").hidden = !shown;
  if (!shown) return;
  if (!find("home-kinds").children.length) find("home-kinds").replaceChildren(...makeEmptyKinds()); // so that nothing moves later
  try {
    const { kinds } = await askKinds(place);
    if (!isHome) return;
    const links = kinds.map(({ video, time, title, thumbnail, num_videos: number }) => {
      const href = writePlace({ ...place, like: `${video}@${time.toFixed(1)}`, by: "" });
      const picture = make("img", { src: `.${thumbnail}`, alt: "" });
      return make("li", {}, make("a", { href, title: `More like ${title} at ${clock(time)}` }, picture, make("span", { className: "soft" }, count(number, "video"))));
    });
    find("home").hidden = kinds.length < 2;
    find("home-kinds").replaceChildren(...links);
    find("to-unusual").href = writePlace({ ...place, by: place.by === "unusual" ? "" : "unusual" });
    find("to-unusual").textContent = place.by === "unusual" ? "All videos" : "What is unusual here?";
  } catch (error) {
    if (isDropped(error)) return;
    find("home").hidden = true;
    tell("notice", error.message);
  }
}

function makeEmptyKinds() {
  const makeLink = () => make("a", {}, make("img", { alt: "" }), make("span", { className: "soft" }, "\u00a0"));
  return Array.from({ length: MOST_KINDS }, () => make("li", { className: "skeleton", ariaHidden: true }, makeLink()));
}

const map = find("map");
const tiles = new Map();
let moments = [];
let view = { x: 0.5, y: 0.5, zoom: 1 };
let at = null; // the place whose links the tiles are

export async function showMap(place) {
  at = place;
  tell("map-status", "Placing moments");
  try {
    moments = (await askMap(place)).moments;
    tiles.clear();
    view = { x: 0.5, y: 0.5, zoom: 1 };
    const narrowed = FILTERS.some((name) => place[name]) ? " that match the filters" : "";
    tell("map-status", `${count(moments.length, "moment")}${narrowed}; what looks alike is near. Zoom in for more.`);
    drawMap();
  } catch (error) {
    if (!isDropped(error)) tell("map-status", error.message);
  }
}

/** Draw the moment nearest to the middle of each cell of the view. */
function drawMap() {
  const { clientWidth: width, clientHeight: height } = map;
  const cells = new Map();
  for (const moment of moments) {
    const left = ((moment.x - view.x) * 0.94 * view.zoom + 0.5) * width;
    const top = ((moment.y - view.y) * 0.94 * view.zoom + 0.5) * height;
    const [column, row] = [Math.floor(left / TILE.width), Math.floor(top / TILE.height)];
    if (left < 0 || top < 0 || (column + 1) * TILE.width > width || (row + 1) * TILE.height > height) continue;
    const distance = Math.hypot(left - (column + 0.5) * TILE.width, top - (row + 0.5) * TILE.height);
    const known = cells.get(`${row},${column}`);
    if (!known || distance < known.distance) cells.set(`${row},${column}`, { moment, distance, row, column });
  }
  const shown = [...cells.values()].sort((one, other) => one.row - other.row || one.column - other.column);
  const focused = map.contains(document.activeElement) && document.activeElement;
  map.replaceChildren(...shown.map(({ moment, row, column }) => placeTile(moment, row, column)));
  if (focused) (map.contains(focused) ? focused : map).focus(); // a tile that is moved loses it
}

function placeTile({ video, time }, row, column) {
  const name = `${video}@${time}`;
  if (!tiles.has(name)) {
    const picture = make("img", { src: `api/thumbnails/${video}?t=${time.toFixed(1)}&w=160`, alt: "", loading: "lazy", draggable: false });
    tiles.set(name, make("a", { href: writePlace({ ...at, v: video, t: time.toFixed(1) }), title: `Video ${video} at ${clock(time)}`, draggable: false }, picture));
  }
  const tile = tiles.get(name);
  tile.style.transform = `translate(${column * TILE.width}px, ${row * TILE.height}px)`;
  return tile;
}

function zoomBy(factor, left = 0.5, top = 0.5) {
  const zoom = Math.min(MOST_ZOOM, Math.max(1, view.zoom * factor));
  const shift = (1 / view.zoom - 1 / zoom) / 0.94;
  moveTo({ zoom, x: view.x + (left - 0.5) * shift, y: view.y + (top - 0.5) * shift });
}

function moveTo(next) {
  const room = 0.5 - 0.5 / next.zoom;
  const keep = (value) => Math.min(0.5 + room, Math.max(0.5 - room, value));
  view = { zoom: next.zoom, x: keep(next.x), y: keep(next.y) };
  drawMap();
}

export function listenToMap() {
  on("map-in", "click", () => zoomBy(2));
  on("map-out", "click", () => zoomBy(0.5));
  map.addEventListener("wheel", (event) => {
    event.preventDefault();
    const box = map.getBoundingClientRect();
    zoomBy(event.deltaY < 0 ? 1.3 : 1 / 1.3, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  });
  let from = null;
  let dragged = false;
  on("map", "pointerdown", ({ clientX: x, clientY: y }) => ((from = { x, y, view }), (dragged = false)));
  addEventListener("pointermove", ({ clientX, clientY, buttons }) => {
    if (!from || !buttons) return (from = null);
    const [right, down] = [(clientX - from.x) / map.clientWidth, (clientY - from.y) / map.clientHeight];
    dragged ||= Math.hypot(clientX - from.x, clientY - from.y) > 4;
    if (dragged) moveTo({ ...view, x: from.view.x - right / view.zoom, y: from.view.y - down / view.zoom });
  });
  map.addEventListener("click", (event) => dragged && (event.preventDefault(), event.stopPropagation()), true);
  on("map-tab", "keydown", (event) => {
    if (isModified(event)) return;
    const step = 0.2 / view.zoom;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key === "+" || event.key === "=") zoomBy(2);
    else if (event.key === "-") zoomBy(0.5);
    else if (moves[event.key]) moveTo({ ...view, x: view.x + moves[event.key][0], y: view.y + moves[event.key][1] });
    else return;
    event.preventDefault();
  });
  addEventListener("resize", () => find("map-tab").hidden || drawMap());
}
