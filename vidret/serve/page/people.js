// The people of an index: a grid, and names that are offered while an @ is typed.

import { ask } from "./api.js";
import { clock, count, find, make, mark, on, tell } from "./dom.js";

const OFFERED = 8;
const FACES = 24;
const opened = new Set();
const TYPED = /(^|[\s(-])@([\p{L}\p{M}\p{N}_ -]*)$/u;
let people = [];

/** Offer the people of an index, or say that there are none. */
export async function offerPeople(known) {
  find("to-people").hidden = find("people-undo").hidden = !known;
  if (!known) tell("people-notice", "No people yet: vidret index PATH --people on");
  else if (!people.length) await change("api/people");
}

export const isPerson = (name) => people.some(({ handle }) => handle === name.toLowerCase());

export function listenToPeople() {
  const query = find("query");
  on("people-undo", "click", () => change("api/people/undo", "POST"));
  on("query", "input click blur", () => setTimeout(offerNames, 200));
  on("names", "click", ({ target }) => {
    if (!target.value) return;
    const at = query.selectionStart;
    const before = query.value.slice(0, at).replace(TYPED, `$1@${target.value} `);
    query.value = before + query.value.slice(at).trimStart();
    query.focus();
    query.setSelectionRange(before.length, before.length);
    query.dispatchEvent(new Event("input"));
  });
}

function offerNames() {
  const query = find("query");
  const typed = document.activeElement === query && query.value.slice(0, query.selectionStart).match(TYPED);
  if (!typed && find("names").contains(document.activeElement)) return;
  const begun = typed && typed[2].toLowerCase().replaceAll(" ", "-");
  const offered = typed ? people.filter(({ name, handle }) => name && handle.startsWith(begun) && handle !== begun) : [];
  find("names").hidden = !offered.length;
  find("names").replaceChildren(...offered.slice(0, OFFERED).map(({ name, handle }) => make("button", { type: "button", value: handle }, name)));
}

async function change(path, method = "GET", body = undefined) {
  try {
    people = (await ask(path, { method, body })).people;
    tell("people-notice");
  } catch (error) {
    tell("people-notice", error.message);
  }
  find("people-status").textContent = `${count(people.length, "person").replace("persons", "people")}. Name them, then search for @name.`;
  const { name } = document.activeElement.dataset;
  find("people").replaceChildren(...people.map(makePerson));
  find("people").querySelector(`[data-name="${name}"]`)?.focus();
}

function makePerson({ id, name, handle, tracks, videos, best_tracks: best }) {
  const path = `api/people/${id}`;
  const label = name || `person ${id}`;
  const faces = make("ul", { className: "faces", hidden: true });
  faces.role = "list";
  const field = mark(make("input", { value: name, placeholder: label, maxLength: 64, ariaLabel: `Name of ${label}` }), `name-${id}`);
  field.onchange = () => change(path, "PATCH", { name: field.value });
  const check = mark(make("button", {}, "Faces"), `faces-${id}`);
  const showFaces = async () => {
    faces.hidden = !opened.has(id);
    check.ariaExpanded = String(!faces.hidden);
    if (faces.hidden) return;
    try {
      const { tracks } = await ask(`${path}/tracks`);
      faces.replaceChildren(...tracks.slice(0, FACES).map((track) => makeFace(track, path, label, `faces-${id}`)));
    } catch (error) {
      tell("people-notice", error.message);
    }
  };
  check.onclick = () => {
    if (!opened.delete(id)) opened.add(id);
    showFaces();
  };
  showFaces();
  const hide = mark(make("button", { title: `Leave ${label} out of this list` }, "Hide"), `hide-${id}`);
  hide.onclick = () => change(path, "PATCH", { hidden: true });
  const link = make("a", { href: `?${new URLSearchParams({ q: `@${handle}` })}`, title: `Search for ${label}` }, makePicture(best[0]));
  const seen = make("span", { className: "soft" }, `${count(tracks, "time")} in ${count(videos, "video")}`);
  return make("li", {}, link, field, seen, make("div", { className: "chips" }, check, hide), faces);
}

function makeFace({ id, path: file, start }, path, label, name) {
  const button = mark(make("button", { title: `Not ${label}: ${file.split("/").pop()} at ${clock(start)}` }, makePicture(id)), name);
  button.onclick = () => change(`${path}/not`, "POST", { tracks: [id] });
  return make("li", {}, button);
}

const makePicture = (track) => make("img", { src: `api/people/faces/${track}`, alt: "", loading: "lazy" });
