// The URL of the page holds its state: query, filters, open video and time.

export const FIELDS = ["folder", "min_seconds", "max_seconds", "after", "before"];
export const FILTERS = [...FIELDS, "sources"];
const NUMBERS = ["min_seconds", "max_seconds", "k", "v", "t"];
const NAMES = ["tab", "q", "by", ...FILTERS, "k", "v", "t"];

/** Read the state from a URL; missing values are "". An image is not part of the URL. */
export function readPlace(search, picture = "") {
  const given = new URLSearchParams(search);
  const isOdd = (name) => NUMBERS.includes(name) && !/^\d+(\.\d+)?$/.test(given.get(name));
  return { ...Object.fromEntries(NAMES.map((name) => [name, isOdd(name) ? "" : (given.get(name) ?? "").trim()])), picture };
}

/** Return the URL of a state. */
export function writePlace(place) {
  const said = String(new URLSearchParams(NAMES.filter((name) => place[name]).map((name) => [name, place[name]])));
  return said ? `/?${said}` : "/";
}

/** Return whether two states differ in any of these names. */
export const differ = (one, other, names = [...NAMES, "picture"]) => names.some((name) => one[name] !== other[name]);

/** Return the sources that a query is compared with; none stands for all. */
export const readSources = ({ sources }) => sources.match(/picture|speech|screen|subtitles|generated/g) ?? [];

/** Return the filters of videos for the server; days become instants in the user's time zone. */
export function readFilters(place) {
  const filters = {};
  if (place.folder) filters.folder = place.folder;
  if (place.min_seconds) filters.min_seconds = Number(place.min_seconds);
  if (place.max_seconds) filters.max_seconds = Number(place.max_seconds);
  if (place.after) filters.after = toInstant(place.after, "T00:00:00");
  if (place.before) filters.before = toInstant(place.before, "T23:59:59");
  return filters;
}

function toInstant(day, time) {
  const instant = new Date(day + time);
  return isNaN(instant) ? day : instant.toISOString();
}
