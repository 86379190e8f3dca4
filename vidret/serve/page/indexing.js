// The "Index" tab: facts, the current run, failed files, and a form to add videos.

import { ask, isDropped, latest } from "./api.js";
import { offerSources } from "./asking.js";
import { clock, count, find, make, on, tell } from "./dom.js";
import { offerPeople } from "./people.js";

const BUSY_PAUSE = 1000; // milliseconds between requests during a run
const CALM_PAUSE = 15000;

const askIndex = latest((signal) => ask("api/index", { signal }));
let known = null;
let visible = false;
let timer = 0;
let asksToStop = false; // until the server has answered
let onEnd = null;

/** Return what the server says of the index now, or null if nothing is known. */
export async function findIndex() {
  await look();
  return known;
}

/** Show or leave the tab; it polls while it is shown or a run is in progress. */
export function showIndexTab(shown) {
  visible = shown;
  look();
}

/** Listen to the tab's forms; `whenDone` is called at the end of a run. */
export function listenToIndexTab(whenDone) {
  onEnd = whenDone;
  on("add", "submit", async (event) => {
    event.preventDefault();
    const paths = find("paths").value.split("\n").map((path) => path.trim()).filter(Boolean);
    if (await change("POST", { paths, retry_failed: find("retry").checked })) find("stop").focus();
  });
  on("stop", "click", async () => {
    asksToStop = true;
    showStopping();
    await change("DELETE");
    asksToStop = false;
  });
  on("pick", "toggle", () => find("pick").open && showFolder(""));
  on("missing-files", "toggle", showMissing);
  on("failures-filter", "input", showFailures);
}

async function change(method, body) {
  try {
    await ask("api/index", { method, body });
  } catch (error) {
    tell("index-notice", error.message);
    return false;
  }
  await look();
  return true;
}

async function look() {
  clearTimeout(timer);
  const wasRunning = known?.running;
  try {
    known = await askIndex();
    tell("index-notice");
    offerSources(known.words);
    offerPeople(known.people);
    find("put").hidden = !known.asks;
    document.body.classList.toggle("reading", !known.may_change);
    show();
  } catch (error) {
    if (isDropped(error)) return;
    tell("index-notice", error.message);
  }
  if (wasRunning && !known?.running) {
    if (known.last?.interrupted === false) find("add").reset(); // else the same paths can be started again
    onEnd();
  }
  if (visible || known?.running) timer = setTimeout(look, known?.running ? BUSY_PAUSE : CALM_PAUSE);
}

function show() {
  const { info, running, stopping, progress, last, allow_index: allowed, roots } = known;
  find("at-work").hidden = !running;
  find("index-path").textContent = info.path;
  find("numbers").replaceChildren(...listNumbers(info).map(([name, value]) => make("div", {}, make("dt", { className: "soft" }, name), make("dd", {}, value))));
  find("progress").hidden = !running;
  find("stop").hidden = !allowed;
  find("stop").textContent = "Stop";
  if (running) showProgress(progress);
  if (stopping || asksToStop) showStopping();
  showMissing();
  find("save").ariaDisabled = known.no_clips ? "true" : null;
  if (known.no_clips) find("save").title = `Nothing can be saved: ${known.no_clips}`;
  tell("last", ...(last && !running ? [describeRun(last)] : []));
  find("add").hidden = !allowed || running;
  find("roots").textContent = `They must be in ${roots.join(" or ")}.`;
  const command = make("code", {}, `vidret index PATH --index ${info.path}`);
  const option = make("code", {}, "--allow-index FOLDER");
  tell("how", ...(allowed ? [] : ["To add videos, run ", command, ", or start the server with ", option, " to add them here."]));
  showFailures();
}

function listNumbers({ videos, seconds, segments, num_bytes: bytes, encoder_name: encoder, files }) {
  const size = bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(1)} GB`;
  const numbers = { videos, "in total": seconds && clock(seconds), segments, "on disk": size, encoder };
  Object.assign(numbers, { "failed files": files.failed, "missing files": files.missing, "pending files": files.pending });
  return Object.entries(numbers).filter(([, value]) => value).map(([name, value]) => [name, value.toLocaleString("en")]);
}

function showProgress(progress) {
  const bar = find("share");
  if (!progress) {
    bar.removeAttribute("value");
    return tell("progress-status", "Finding files");
  }
  const { share, done, files, failed, elapsed, left, file } = progress;
  bar.value = share;
  const told = [`${Math.floor(share * 100)} %`, `${done} of ${count(files, "file")}`, failed && `${failed} failed`, `after ${clock(elapsed)}`, left !== null && `about ${clock(left)} left`];
  tell("progress-status", told.filter(Boolean).join(", "));
  tell("progress-file", ...(file ? [file] : []));
}

/** Answer a click at once: the run may need seconds to finish its segments. */
function showStopping() {
  find("stop").textContent = "Stop now";
  tell("progress-status", "Stopping: what is in progress is finished first");
}

const askFolder = latest((signal, path) => ask(`api/index/folders?${new URLSearchParams({ path })}`, { signal }));

/** Show a folder of the server, to add it or to look into those in it. */
async function showFolder(path) {
  try {
    const { path: here, parent, folders, videos } = await askFolder(path);
    const makeButton = (text, act) => make("li", {}, make("button", { type: "button", onclick: act }, text));
    const add = () => {
      const said = find("paths").value.trim();
      find("paths").value = said ? `${said}\n${here}` : here;
      find("paths").focus();
    };
    const up = here ? [makeButton("↑ Up", () => showFolder(parent ?? ""))] : [];
    const own = here ? [makeButton(`Add this folder (${count(videos, "video")}, ${count(folders.length, "folder")} in it)`, add)] : [];
    find("pick-path").textContent = here;
    const nameOf = (folder) => here ? folder.slice(here.length).replace(/^\//, "") : folder;
    find("pick-folders").replaceChildren(...up, ...own, ...folders.map((each) => makeButton(nameOf(each), () => showFolder(each))));
    if (path) find("pick-folders").querySelector("button")?.focus();
  } catch (error) {
    if (!isDropped(error)) tell("index-notice", error.message);
  }
}

function showMissing() {
  const { missing, info } = known;
  find("missing-files").hidden = !missing.length;
  find("missing-title").textContent = `Missing files: ${info.files.missing ?? 0}`;
  if (find("missing-files").open) find("missing-list").replaceChildren(...missing.map((path) => make("li", {}, path)));
}

function describeRun({ error, interrupted, encoded, unchanged, failed, elapsed }) {
  if (error === "interrupted") return "The last run was stopped at once."; // without a report
  if (error) return `The last run failed: ${error}`;
  const name = interrupted ? "The last run was stopped" : "The last run";
  return `${name}: ${count(encoded, "file")} encoded, ${unchanged} unchanged, ${failed.length} failed, in ${clock(elapsed)}.`;
}

function showFailures() {
  const { failures, info } = known;
  const all = info.files.failed ?? 0;
  const wanted = find("failures-filter").value.trim().toLowerCase();
  const found = failures.filter(({ path, reason }) => `${path} ${reason}`.toLowerCase().includes(wanted));
  const makeRow = ({ path, reason }) => make("tr", {}, make("td", {}, path), make("td", {}, reason));
  find("failures").hidden = !failures.length;
  find("failures-title").textContent = `Failed files (${failures.length < all ? `the first ${failures.length} of ` : ""}${all})`;
  find("failures-rows").replaceChildren(...found.map(makeRow));
  find("failures-status").textContent = found.length ? "" : "No failed file matches.";
}
