// Saved searches, and lists of moments, which are changed and exported here.

import { differ, FILTERS, readFilters, readPlace, readSources, writePlace } from "./address.js";
import { ask } from "./api.js";
import { clock, count, find, make, mark, on, readClock, showIcon, tell, writeDay } from "./dom.js";

const FIRST = "My list";
const FORMATS = { otio: "OTIO", fcpxml: "FCPXML", edl: "EDL", markers: "Resolve markers", csv: "CSV", html: "Page" };
const dialog = find("lists");
const storage = openStorage();
let kept = [];
let name = storage?.getItem("list") || FIRST; // of the list at hand
let pending = Promise.resolve(); // the changes on their way
let past = []; // the list before each change, to undo it

const pathOf = (name) => `api/collections/${encodeURIComponent(name)}`;
const atHand = () => kept.find((each) => each.name === name && !each.finds) ?? { name, moments: [], revision: 0 };
const say = (sentence) => (find("lists-status").textContent = sentence);

export function listenToLists(getPlace) {
  on("to-lists", "click", async () => {
    dialog.showModal();
    find("lists-title").focus();
    await look();
    const lists = kept.filter(({ finds }) => !finds).map((list) => list.name);
    if (!storage?.getItem("list") && !lists.includes(name)) name = lists[0] ?? FIRST;
    show();
  });
  on("lists-close", "click", () => dialog.close());
  on("lists-choose", "change", () => choose(find("lists-choose").value));
  on("lists-new", "submit", (event) => {
    event.preventDefault();
    choose(find("lists-name").value.trim());
    find("lists-new").reset();
  });
  on("lists-undo", "click", () => change((now) => past.pop() ?? now, { isUndo: true }));
  on("lists-remove", "click", removeList);
  on("lists", "click", ({ target }) => target.closest("#lists-saved a") && dialog.close());
  on("keep", "click", () => saveSearch(getPlace()));
}

/** Return what the browser keeps, or null if it may keep nothing. */
function openStorage() {
  try {
    return localStorage;
  } catch {
    return null;
  }
}

/** Put a moment into the list at hand, unless it is there; `tellUser` gets a sentence about it. */
export const addToList = (moment, tellUser) => (pending = pending.then(() => add(moment, tellUser)));

async function add({ video, start, end }, tellUser) {
  await look();
  const isSame = (one) => one.video === video && one.start === start && one.end === end;
  if (atHand().moments.some(isSame)) return tellUser(`${name} has it already.`);
  try {
    const list = await ask(`${pathOf(name)}/moments`, { method: "POST", body: { moments: [{ video, start, end }] } });
    if (atHand().revision + 1 !== list.revision) past = [];
    past.push(list.moments.slice(0, -1));
    replaceKept(list);
    if (dialog.open) show();
    tellUser(`Added to ${name}: ${count(list.moments.length, "moment")}.`);
  } catch (error) {
    tellUser(error.message);
  }
}

export function makeAdding(result) {
  const tellUser = (sentence) => (find("status").textContent = sentence);
  const button = make("button", { title: "Add to the list (a)", onclick: () => addToList(result, tellUser) });
  Object.assign(button.dataset, { icon: "list", change: "" });
  showIcon(button, "list");
  return button;
}

async function look() {
  const { revision } = atHand();
  try {
    kept = (await ask("api/collections")).collections;
    if (atHand().revision !== revision) past = [];
    tell("lists-notice");
  } catch (error) {
    tell("lists-notice", error.message);
  }
}

const replaceKept = (list) => (kept = [...kept.filter((each) => each.name !== list.name), list]);

/** Show another list, once the changes of this one have arrived. */
async function choose(chosen) {
  await pending;
  name = chosen;
  past = [];
  storage?.setItem("list", name);
  say("");
  show();
}

/** Change the moments of the list by a function, after the pending changes. */
function change(edit, how = {}) {
  find("lists-moments").inert = !how.isShown; // until it is shown again
  pending = pending.then(() => apply(edit, how));
}

/** Show the list again, with the focus on `focused`, unless the control shows what it changed. */
async function apply(edit, { isUndo = false, isShown = false, focused = "" }) {
  const list = atHand();
  const listed = edit(list.moments).map(({ video, content, start, end, note }) => ({ ...(video === null ? { content } : { video }), start, end, note }));
  try {
    replaceKept(await ask(pathOf(name), { method: "PUT", body: { moments: listed, revision: list.revision } }));
    if (!isUndo) past.push(list.moments);
    tell("lists-notice");
    say("");
    find("lists-undo").disabled = !past.length;
    if (isShown) return;
  } catch (error) {
    past = [];
    await look();
    tell("lists-notice", error.message);
  }
  show();
  const control = find("lists-moments").querySelector(`[data-name="${focused}"]`);
  (control?.disabled ? control.parentElement.querySelector("button:enabled") : (control ?? find("lists-title"))).focus();
}

async function removeList() {
  await look();
  const { moments } = atHand();
  try {
    kept = (await ask(pathOf(name), { method: "DELETE" })).collections;
    past = [moments]; // which undoing makes again
    say(`${name} is removed.`);
  } catch (error) {
    tell("lists-notice", error.message);
  }
  show();
}

function show() {
  const { moments } = atHand();
  const names = [...new Set([name, ...kept.filter(({ finds }) => !finds).map((each) => each.name)])].sort();
  find("lists-choose").replaceChildren(...names.map((each) => new Option(each, each, false, each === name)));
  find("lists-moments").replaceChildren(...moments.map((_, at) => makeItem(moments, at)));
  find("lists-moments").inert = false;
  find("lists-empty").hidden = moments.length > 0;
  find("lists-undo").disabled = !past.length;
  find("lists-remove").disabled = !kept.some((each) => each.name === name);
  const exports = Object.entries(FORMATS).map(([form, label]) => make("a", { href: `${pathOf(name)}/export?format=${form}`, download: "" }, label));
  find("lists-export").replaceChildren(...(moments.length ? ["Export as ", ...exports.flatMap((link) => [link, " "])] : []));
  const saved = kept.filter(({ finds }) => finds);
  find("lists-searches").hidden = !saved.length;
  find("lists-saved").replaceChildren(...saved.map(makeSaved));
}

function makeItem(moments, at) {
  const { video, path, start, end, note } = moments[at];
  const file = path.split("/").at(-1);
  const set = (field, value) => change((now) => now.map((each, other) => (other === at ? { ...each, [field]: value } : each)), { isShown: true });
  const without = (now) => now.filter((_, other) => other !== at);
  const move = (to, focused) => change((now) => [...without(now).slice(0, to), now[at], ...without(now).slice(to)], { focused: `${focused}${to}` });
  const act = (title, label, onclick, name, disabled = false) => mark(make("button", { title, ariaLabel: `${title}: ${file}`, onclick, disabled }, label), name + at);
  const time = (field, value, label) => {
    const input = make("input", { value: clock(value, true), ariaLabel: `${label} of ${file}`, size: 7 });
    input.onchange = () => {
      const seconds = readClock(input.value.trim());
      const now = { ...atHand().moments[at], [field]: seconds };
      const isRight = now.start < now.end;
      input.setCustomValidity(isRight ? "" : "A time is minutes:seconds, and a moment begins before it ends.");
      if (input.reportValidity()) set(field, seconds);
    };
    return mark(input, field + at);
  };
  const words = mark(make("input", { value: note, placeholder: "Note", ariaLabel: `Note on ${file}`, maxLength: 2000, onchange: () => set("note", words.value) }), `note${at}`);
  const picture = video === null ? make("span", { className: "shot" }) : make("a", { className: "shot", href: writePlace({ ...readPlace(location.search), v: video, t: start.toFixed(1) }), title: path }, make("img", { src: `api/thumbnails/${video}?t=${((start + end) / 2).toFixed(1)}`, alt: `Open ${file}`, loading: "lazy" }));
  const acts = make("span", { className: "chips" },
    act("Move up", "↑", () => move(at - 1, "up"), "up", !at),
    act("Move down", "↓", () => move(at + 1, "down"), "down", at === moments.length - 1),
    act("Remove", "×", () => change(without), "remove"));
  const about = make("span", { className: "title" }, file, video === null ? make("span", { className: "soft" }, " (not in the index)") : "");
  const span = make("span", { className: "line soft" }, make("span", {}, time("start", start, "Start"), " – ", time("end", end, "End")), acts);
  return make("li", {}, picture, make("div", {}, about, span, words));
}

function makeSaved(search) {
  const remove = make("button", { title: `Remove ${search.name}`, onclick: async () => {
    await ask(pathOf(search.name), { method: "DELETE" }).catch((error) => tell("lists-notice", error.message));
    await look();
    show();
  } }, "×");
  remove.dataset.change = "";
  const lost = Object.keys(search.options).filter((name) => ![...FILTERS, "display", "k"].includes(name));
  const without = lost.length ? make("span", { className: "soft" }, ` opens here without ${lost.join(", ")}`) : "";
  const link = make("span", {}, make("a", { href: writePlace(placeOf(search)) }, search.name), without);
  return make("li", { className: "line" }, link, remove);
}

/** Return the state that runs a saved search again. */
function placeOf({ query: q, finds, options }) {
  const switches = { true: "on", false: "off" };
  const write = (field) => (field.startsWith("filmed") ? writeDay(1000 * options[field] - Number(field === "filmed_before")) : (switches[options[field]] ?? String(options[field])));
  const given = Object.fromEntries(FILTERS.filter((field) => field in options).map((field) => [field, write(field)]));
  const by = finds === "moments" ? "moment" : options.display === "diverse" ? "diverse" : "";
  return { ...readPlace(""), ...given, q, by };
}

async function saveSearch(place) {
  const sources = readSources(place);
  const finds = place.by === "moment" ? "moments" : "videos";
  const options = { ...readFilters(place), ...(sources.length && { sources }), ...(place.by === "diverse" && { display: "diverse" }), ...(place.sort_by && finds === "videos" && { sort_by: place.sort_by }) };
  await look();
  const same = kept.find((search) => search.finds && !differ(placeOf(search), place, ["q", "by", ...FILTERS]));
  if (same) return void (find("status").textContent = `Saved already as ${same.name}: see Lists.`);
  const words = place.q.replace(/[^\p{L}\p{M}\p{N}_ .-]+/gu, "").replace(/^[^\p{L}\p{N}_]+/u, "").slice(0, 60).trim() || "search";
  let [named, number] = [words, 1];
  while (kept.some(({ name }) => name === named)) named = `${words} ${(number += 1)}`;
  try {
    await ask(pathOf(named), { method: "PUT", body: { finds, query: place.q, options } });
    find("status").textContent = `Saved as ${named}: see Lists.`;
  } catch (error) {
    tell("notice", error.message);
  }
}
