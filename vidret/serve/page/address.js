// The URL of the page holds its state: query, filters, open video and time.

import { SOURCES } from "./words.js";

export const FIELDS = ["folder", "name", "min_seconds", "max_seconds", "filmed_after", "filmed_before", "camera", "sort_by"];
const FACETS = ["min_height", "sound", "orientation", "language", "heard"];
export const FILTERS = [...FIELDS, ...FACETS, "sources"];
const NUMBERS = ["min_seconds", "max_seconds", "min_height", "k", "v", "t"];
export const JUDGED = ["like", "unlike"];
const NAMES = ["tab", "q", "by", ...FILTERS, ...JUDGED, "k", "v", "t"];
const TIMES = /^\d+@\d+(\.\d+)?(,\d+@\d+(\.\d+)?)*$/;

/** Read the state from a URL; missing values are "". An image is not part of the URL. */
export function readPlace(search, picture = "") {
  const given = new URLSearchParams(search);
  const isOdd = (name) => (NUMBERS.includes(name) && !/^\d+(\.\d+)?$/.test(given.get(name))) || (JUDGED.includes(name) && !TIMES.test(given.get(name)));
  if (!["map", "people", "index"].includes(given.get("tab"))) given.delete("tab");
  return { ...Object.fromEntries(NAMES.map((name) => [name, isOdd(name) ? "" : (given.get(name) ?? "").trim()])), picture };
}

export function writePlace(place) {
  const said = String(new URLSearchParams(NAMES.filter((name) => place[name]).map((name) => [name, place[name]])));
  return said ? `?${said}` : "./";
}

export const differ = (one, other, names = [...NAMES, "picture"]) => names.some((name) => one[name] !== other[name]);

/** Return the sources that a query is compared with; none stands for all. */
export const readSources = ({ sources }) => sources.split(",").filter((source) => Object.hasOwn(SOURCES, source));

/** Return the filters of videos for the server; days become instants in the user's time zone. */
export function readFilters(place) {
  const times = { filmed_after: "T00:00:00", filmed_before: "T24:00:00" };
  const read = (name, said) => (times[name] ? toInstant(said, times[name]) : NUMBERS.includes(name) ? Number(said) : said);
  return Object.fromEntries([...FIELDS, ...FACETS].filter((name) => place[name] && name !== "sort_by").map((name) => [name, read(name, place[name])]));
}

function toInstant(day, time) {
  const instant = new Date(day + time);
  return isNaN(instant) ? day : instant.toISOString();
}
