// The search box and the filters: input changes the state, and the state fills the fields.

import { FIELDS, FILTERS, readPlace, readSources } from "./address.js";
import { clock, find, make, on, readClock } from "./dom.js";
import { recall } from "./picture.js";
import { SOURCES } from "./words.js";

const TYPING_PAUSE = 60; // milliseconds without a key before a search starts
const LENGTHS = ["min_seconds", "max_seconds"];
let timer = 0;
let typing = false; // further letters of a query replace its history entry

/** Let the next letter start a new history entry, and drop what was typed but not searched for. */
export function endTyping() {
  clearTimeout(timer);
  typing = false;
}

/** Listen to the form: `go(change, how)` is called with changes of the state. */
export function listenToForm(go) {
  const query = find("query");
  const search = () => {
    clearTimeout(timer);
    const q = query.value.trim();
    if (!q && !find("chip").hidden) return;
    go({ tab: "", q, picture: "", k: "", v: "", t: "" }, { replace: typing });
    typing = true;
  };
  query.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(search, TYPING_PAUSE);
  });
  query.addEventListener("blur", () => (typing = false));
  on("ask", "submit", (event) => {
    event.preventDefault();
    search();
    endTyping();
  });
  for (const name of FIELDS) find(name).addEventListener("change", () => changeFilter(name, go));
  on("clear", "click", () => {
    go({ ...Object.fromEntries(FILTERS.map((name) => [name, ""])), k: "" });
    query.focus();
  });
  on("chip-remove", "click", () => {
    go({ picture: "", k: "" });
    query.focus();
  });
  on("unfold", "click", () => {
    find("unfold").ariaExpanded = find("filters").classList.toggle("open");
    find("facets").classList.toggle("open");
  });
  on("kinds", "click", ({ target }) => target.dataset.by !== undefined && go({ by: target.dataset.by, k: "" }));
  on("sources", "click", ({ target }) => {
    if (!target.value) return;
    const used = new Set(readUsed());
    if (!used.delete(target.value)) used.add(target.value);
    go({ sources: [...used].join(), k: "" });
  });
}

const readUsed = () => readSources(readPlace(location.search));

export function offerSources(words) {
  const known = words.filter(({ texts }) => texts).map(({ source }) => source);
  if (known.length) known.unshift("picture");
  find("sources").classList.remove("awaited");
  if (known.length === find("sources").children.length) return;
  find("sources").replaceChildren(...known.map((value) => make("button", { type: "button", value }, SOURCES[value][0])));
  showSources();
}

function showSources() {
  for (const chip of find("sources").children) chip.ariaPressed = readUsed().includes(chip.value);
}

/** Show a state in the fields, except in the one being typed in. */
export function showForm(place) {
  const query = find("query");
  const picture = recall(place.picture);
  if (query.value.trim() !== place.q) query.value = place.q;
  query.placeholder = picture ? "or describe what to look for" : "Search videos";
  find("chip").hidden = !picture;
  if (picture) find("chip-picture").src = picture;
  const asks = Boolean(place.q || picture || place.like);
  find("hint").hidden = asks;
  find("kinds").hidden = !asks || Boolean(place.tab);
  for (const kind of find("kinds").children) kind.ariaPressed = kind.dataset.by === place.by;
  find("kinds").children[1].hidden = !place.q && !picture; // moments need a query
  find("filters").hidden = find("unfold").hidden = place.tab === "index";
  find("sources").hidden = Boolean(picture);
  find("sort_by").parentElement.hidden = !place.q || place.by === "moment";
  showSources();
  for (const name of FIELDS) {
    const said = place[name];
    find(name).value = LENGTHS.includes(name) && said ? clock(Number(said)) : said;
    find(name).classList.toggle("used", Boolean(said));
    find(name).setCustomValidity("");
  }
  const used = FILTERS.filter((name) => place[name]).length;
  find("clear").hidden = !used;
  find("unfold").classList.toggle("used", used > 0);
  find("unfold").title = used ? `Filters, ${used} in use` : "Filters";
}

function changeFilter(name, go) {
  const field = find(name);
  let said = field.value.trim();
  if (LENGTHS.includes(name)) {
    const seconds = said && readClock(said);
    field.setCustomValidity(isNaN(seconds) ? "A length is seconds, or minutes:seconds such as 1:30." : "");
    field.reportValidity();
    said = String(seconds);
  }
  if (!field.validity.valid) return; // incomplete, or refused above
  go({ [name]: said, k: "" });
}
