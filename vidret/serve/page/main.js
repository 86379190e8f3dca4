// The page: it shows a state (see address.js), and user actions lead to another.

import { differ, FILTERS, JUDGED, readFilters, readPlace, readSources, writePlace } from "./address.js";
import { dropAnswer, showAnswerTo } from "./answer.js";
import { ask, isDropped, latest } from "./api.js";
import { endTyping, listenToForm, showForm } from "./asking.js";
import { listenToMap, showFacets, showKinds, showMap } from "./browse.js";
import { count, find, isModified, make, on, showIcon, tell } from "./dom.js";
import { dropJudged, judge, noteSeen, readJudged, showJudged, undo } from "./feedback.js";
import { findIndex, listenToIndexTab, showIndexTab } from "./indexing.js";
import { listenToLists } from "./lists.js";
import { listenToPeople } from "./people.js";
import { keepPicture, listenForPictures, recall } from "./picture.js";
import { addVideos, focusCard, listenToGrid, showHits, showSkeletons, showVideos } from "./results.js";
import { closeViewer, listenToViewer, openViewer, seek } from "./viewer.js";

const TABS = { map: "Map", people: "People", index: "Index" };
const PAGE = 24; // results at first, and more at a time
const MOST = 200;
const STEP = 96; // videos of the list that are added at a time: whole rows
const QUERY = ["q", "picture", ...FILTERS];
const ASKED = ["by", ...QUERY, ...JUDGED];
const QUOTES = /["“„]/;
const SAID_BY = /\bby (?=@)/i;
const LOST_PICTURE = "The image is gone, since images are not part of the URL: choose it again.";

let place = readPlace("");
let folded = 0;
let answered = readPlace(""); // the state that the results are of
let following = ""; // cursor of the next page of the list of videos

function go(change, { replace = false, opened = false } = {}) {
  const next = { ...place, ...change };
  if (!next.q.startsWith(place.q) || next.picture !== place.picture) Object.assign(next, { like: "", unlike: "" });
  if (!differ(next, place)) return;
  const entry = { picture: next.picture, opened: opened || (replace && history.state?.opened) };
  history[replace ? "replaceState" : "pushState"](entry, "", writePlace(next));
  show(next);
}

/** Show a state: only what changed is updated; everything at first. */
function show(next, { travelled = false, first = false } = {}) {
  const before = place;
  const changes = (names) => first || differ(next, before, names);
  place = next;
  const onIndex = place.tab === "index";
  document.title = place.tab ? `${TABS[place.tab]} - vidret` : place.q ? `${place.q} - vidret` : "vidret";
  showForm(place);
  showJudged(place, onJudge, () => go({ like: "", unlike: "" }));
  showTabs();
  find("keep").hidden = !place.q || Boolean(place.picture);
  if (changes(["tab"])) showIndexTab(onIndex);
  if (!place.tab && changes(["tab", "k", ...ASKED])) search({ more: !changes(["tab", ...ASKED]) });
  if (!place.tab && changes(["tab", ...FILTERS])) showFacets(place, go);
  if (!place.tab && changes(["tab", ...ASKED])) showKinds(place, !place.q && !place.picture && !place.like);
  if (place.tab === "map" && changes(["tab", ...FILTERS])) showMap(place);
  if (differ(place, before, ["v"]) || (place.v && changes(["q", "picture", "sources"]))) showVideo(travelled);
  else if (travelled && place.v) seek(Number(place.t));
}

function showTabs() {
  for (const tab of ["", ...Object.keys(TABS)]) {
    const name = tab || "search";
    find(`${name}-tab`).hidden = tab !== place.tab;
    find(`to-${name}`).href = writePlace({ ...place, tab, v: "", t: "" });
    find(`to-${name}`).ariaCurrent = tab === place.tab ? "page" : null;
  }
}

function showVideo(travelled) {
  if (!place.v) return closeViewer();
  openViewer(place.v, {
    time: Number(place.t),
    query: { q: place.q, image: recall(place.picture), sources: readSources(place) },
    title: document.querySelector("#results .card:focus-within .title")?.textContent ?? "",
    playing: !travelled,
  });
}

const numberAsked = ({ k }) => Math.min(MOST, Math.round(Number(k)) || PAGE);

const listed = (page, asked = place) => `api/videos?${new URLSearchParams({ ...page, ...readFilters(asked) })}`;

const askHits = latest((signal, asked) => {
  const k = numberAsked(asked);
  const filters = readFilters(asked);
  const sources = readSources(asked);
  const image = recall(asked.picture);
  const judged = readJudged(asked);
  if (!asked.q && !image && !asked.like && asked.by === "unusual") return ask(`api/unusual?${new URLSearchParams({ k, ...filters })}`, { signal });
  if (!asked.q && !image && !asked.like) return ask(listed({ limit: k }, asked), { signal });
  const words = asked.q && { query: asked.q, ...(sources.length && { sources }) };
  const body = { ...(image ? { image } : words), k, ...filters };
  if (asked.by === "moment" && (words || image)) return ask("api/locate", { method: "POST", body, signal });
  if (asked.by === "diverse") body.display = asked.by;
  if (asked.sort_by) body.sort_by = asked.sort_by;
  return ask("api/search", { method: "POST", body: { ...body, ...judged }, signal });
});

async function search({ more }) {
  const grid = find("results");
  const number = grid.children.length;
  const isWithin = grid.contains(document.activeElement);
  tell("notice");
  tell("understood");
  following = ""; // what is listed does not go on below the answer
  askPage();
  if (!more) dropAnswer();
  find("status").textContent = "Searching";
  if (!number) showSkeletons();
  grid.ariaBusy = true;
  try {
    showAnswer(await askHits(place));
    if (more) focusCard(number);
    else if (isWithin) focusCard(0);
  } catch (error) {
    if (isDropped(error)) return;
    grid.replaceChildren();
    find("status").textContent = "";
    find("more").hidden = true;
    tell("notice", error.message);
  }
  grid.ariaBusy = null;
}

const askPage = latest((signal, cursor) => cursor && ask(listed({ limit: STEP, cursor }), { signal }));

/** Add the next page of the list of videos, when its end comes near. */
async function addPage() {
  if (!following) return;
  const cursor = following;
  following = "";
  try {
    const { videos, next, total } = await askPage(cursor);
    const number = addVideos(videos, place);
    following = next ?? "";
    showLibrary(number, total);
    nearEnd.unobserve(find("more"));
    nearEnd.observe(find("more")); // tells again if its end is still near
  } catch (error) {
    if (isDropped(error)) return;
    following = cursor;
    tell("notice", error.message);
  }
}

const nearEnd = new IntersectionObserver((entries) => entries.some(({ isIntersecting }) => isIntersecting) && addPage(), { rootMargin: "1500px" });

function showLibrary(number, total) {
  find("status").textContent = following ? `The first ${number.toLocaleString("en")} of ${count(total, "video")}.` : `${count(number, "video")}.`;
  find("more").hidden = !following;
}

function showAnswer({ moments, hits = moments, weak, took_ms: took, interpretation, notes = [], videos, next, total = MOST }) {
  const told = [interpretation?.text, ...notes].filter(Boolean);
  tell("understood", ...told.map((sentence) => `${sentence[0].toUpperCase()}${sentence.slice(1)}. `));
  const found = hits ?? videos;
  if (hits && !moments) hits = dropJudged(hits, place);
  const number = count(found.length, moments ? "moment" : "video");
  folded = hits ? showHits(hits, place) : showVideos(videos, place);
  noteSeen(hits && !moments ? hits : [], !differ(place, answered, QUERY));
  answered = place;
  const note = place.picture ? " An image cannot be shared by URL." : "";
  following = next ?? "";
  if (!hits) showLibrary(found.length, total);
  else find("more").hidden = !folded && (found.length < numberAsked(place) || found.length >= MOST);
  if (!found.length || hits) find("status").textContent = found.length ? `${number} in ${Math.round(took)} ms.${note}` : "";
  find("more").textContent = folded ? `${folded} less likely` : "Show more";
  if (!found.length) tellNothing();
  else if (weak) tell("notice", `Nothing ${place.like || place.unlike ? "else " : ""}matches well. The nearest are:`);
  if (weak && place.q) tellNamed(place);
  if (found.length && QUOTES.test(place.q)) tellWordless(place);
}

async function tellWordless(asked) {
  const index = await findIndex();
  if (index?.words.length === 0 && asked === place) tell("notice", "This index has pictures only: nothing that is said or shown was read, so quotes change nothing.");
}

const linkTo = (text, change) => make("a", { href: writePlace({ ...place, ...change }) }, text);

/** Offer the videos with the words of the query in their names. */
async function tellNamed(asked) {
  const { total } = await ask(listed({ limit: 1 }, { ...asked, name: asked.q }));
  if (total && asked === place) find("notice").prepend(linkTo(`Show ${count(total, "video")} by name`, { q: "", name: asked.q }), ". ");
}

async function tellNothing() {
  const index = await findIndex();
  if (!index || find("results").children.length) return;
  const { allow_index: allowed, info: { path, videos } } = index;
  const command = make("code", {}, `vidret index ~/Videos --index ${path}`);
  const used = FILTERS.filter((name) => place[name] && name !== "sources");
  const without = linkTo("Search without quotes", { q: place.q.replace(/["“”„]/g, "") });
  if (!videos) tell("understood");
  if (!videos) tell("notice", "There are no videos in this index yet. Add some ", ...(allowed ? ["at ", linkTo("Index", { tab: "index" })] : ["with ", command]), ".");
  else if (QUOTES.test(place.q) && SAID_BY.test(place.q))
    tell("notice", "This person does not say these words. ", linkTo("Search for both", { q: place.q.replace(SAID_BY, "") }));
  else if (QUOTES.test(place.q)) tell("notice", "Nobody says or shows this phrase word for word. ", without);
  else if (used.length) tell("notice", "No video matches these filters. ", linkTo("Clear them", Object.fromEntries(used.map((name) => [name, ""]))));
  else if (place.sources) tell("notice", "Nothing matches in the sources that you chose. ", linkTo("Search all", { sources: "" }));
  else tell("notice", "No video matches. Try fewer words, or more general ones.");
}

const onJudge = (side, result) => go({ ...judge(place, side, result), k: "" });

function onLink(event) {
  const link = event.target.closest("a");
  if (link?.origin !== location.origin || link.pathname !== location.pathname) return;
  if (event.button || event.shiftKey || isModified(event)) return;
  event.preventDefault();
  if (event.detail > 1) return; // the first click closed what was above
  const next = readPlace(link.search);
  if (!next.q && link.className !== "name") next.picture = place.picture;
  go(next, { opened: Boolean(next.v) });
}

function onKey(event) {
  if (isModified(event)) return;
  const query = find("query");
  if (event.key === "?" && !event.target.closest("input, textarea")) return showHelp();
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "/" && !event.target.closest("input, textarea")) query.select();
  else if (event.key === "ArrowDown" && event.target === query) focusCard(0);
  else if (event.key === "u" && !event.target.closest("input, textarea")) go(undo(place));
  else return;
  event.preventDefault();
}

function showHelp() {
  find("help").showModal();
  find("help-title").focus();
}

const searchLike = (picture) => go({ tab: "", q: "", picture, k: "", v: "", t: "" });

function begin() {
  for (const button of document.querySelectorAll("[data-icon]")) showIcon(button, button.dataset.icon);
  listenToForm(go);
  on("put", "click", () => {
    if (!find("ask").reportValidity()) return;
    find("ask").requestSubmit();
    showAnswerTo(place);
  });
  listenToGrid(onJudge);
  listenToLists(() => place);
  listenToMap();
  on("to-help", "click", showHelp);
  on("help-close", "click", () => find("help").close());
  listenToViewer(
    (time) => go({ t: time.toFixed(1) }, { replace: true }),
    () => {
      closeViewer(); // at once: a second click goes back no further
      if (history.state?.opened) history.back();
      else go({ v: "", t: "" });
    },
    (frame) => searchLike(keepPicture(frame)),
  );
  listenToIndexTab(() => place.tab || search({ more: false }));
  listenToPeople();
  listenForPictures(searchLike, (sentence) => tell("notice", sentence));
  on("more", "click", () => (following ? addPage() : go({ k: String(folded ? PAGE : Math.min(MOST, numberAsked(place) + PAGE)) }, { replace: true })));
  nearEnd.observe(find("more"));
  addEventListener("click", onLink);
  addEventListener("keydown", onKey);
  addEventListener("popstate", () => showEntry());
  showEntry({ first: true });
}

/** Show the history's entry; its image is lost by a reload. */
function showEntry({ first = false } = {}) {
  const picture = history.state?.picture;
  const isLost = picture && !recall(picture);
  endTyping();
  show(readPlace(location.search, isLost ? "" : picture), { travelled: true, first });
  if (isLost) tell("notice", LOST_PICTURE);
}

begin();
