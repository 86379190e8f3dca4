// The viewer of one video: player, timeline with the scores of the query, and moments.

import { ask, isDropped, readProblem, send } from "./api.js";
import { nameLanguage } from "./browse.js";
import { clock, count, find, isCalm, isModified, make, on, showIcon, tell, writeDay } from "./dom.js";
import { addToList } from "./lists.js";
import { drawShots, findShot, followShot, listenToShots, showShots } from "./shots.js";
import { drawTexts, drawTimeline, listenToTimeline, moveHead } from "./timeline.js";
import { emphasiseLines, followLine, listenToTranscript, showTranscript } from "./transcript.js";
import { labelOf, nameChannels } from "./words.js";

const SAME_EVENT = 0.5; // seconds between moments of one event, at most
const PATIENCE = 400; // milliseconds to wait for words and shots
const ADDRESS_PAUSE = 300; // milliseconds before the URL gets a new time
const UNPLAYABLE = "This browser cannot play this file: it shows single frames. You can download the file.";

const dialog = find("viewer");
const film = find("film");
const still = find("still"); // for files that cannot be played
const nothing = { id: "", duration: 0, curve: null, texts: [], time: 0 }; // `time` is where playback starts, or that of the frame
let shown = nothing;
let control = new AbortController(); // of what is asked
let zero = null; // start of the file's clock, which Chromium keeps; null before the first frame

const askAbout = (part, request) => ask(`api/videos/${shown.id}${part}`, { ...request, signal: control.signal });
const askCurve = ({ q, image, sources }) =>
  image ? askAbout("/curve", { method: "POST", body: { image } }) : askAbout(`/curve?${new URLSearchParams([["q", q], ...sources.map((source) => ["sources", source])])}`);

/** Open a video at a time, with the scores of a query: its text `q` or its `image`, or neither. */
export async function openViewer(id, { time, query, title, playing }) {
  const asked = Boolean(query.q || query.image);
  const own = replaceShown({ ...nothing, id, time });
  dialog.classList.toggle("plain", !asked);
  find("viewer-title").textContent = title;
  for (const part of ["viewer-path", "facts", "moments"]) find(part).replaceChildren();
  tell("viewer-notice");
  say("");
  drawTimeline(null, 0);
  showFilm(playing && !isCalm());
  showWords([]);
  showShots(id, []);
  const [words, board] = [askAbout("/transcript"), askAbout("/shots")];
  if (!dialog.open) {
    await Promise.race([Promise.allSettled([words, board]), new Promise((open) => setTimeout(open, PATIENCE))]); // they make it larger
    if (shown !== own) return;
    dialog.showModal();
    find("viewer-title").focus();
  }
  try {
    const texts = words.then(({ texts }) => showWords(texts)); // at once if they are here, so that nothing moves
    const shots = board.then(({ shots }) => showBoard(id, shots));
    await Promise.all([describe(), texts, shots, asked && search(query)]);
  } catch (error) {
    if (!isDropped(error)) tell("viewer-notice", error.message);
  }
}

/** Close the viewer, and stop the downloads. */
export function closeViewer() {
  replaceShown(nothing);
  dialog.close();
  film.removeAttribute("src");
  film.load();
}

/** Drop the requests of the last video, and return the new one. */
function replaceShown(next) {
  control.abort();
  control = new AbortController();
  return (shown = next);
}

export function seek(time) {
  shown.time = Math.min(Math.max(0, time), getDuration() || Infinity); // the length may be still to come
  if (film.hidden) showStill();
  else if (zero !== null) film.currentTime = zero + shown.time;
  follow();
}

/** Listen to the viewer: its time, its end, and wishes for videos like a frame. */
export function listenToViewer(onTime, onClose, onLike) {
  let timer = 0;
  const tellTime = () => {
    clearTimeout(timer);
    timer = setTimeout(() => dialog.open && onTime(now()), ADDRESS_PAUSE);
  };
  on("film", "loadedmetadata loadeddata", () => {
    if (zero !== null || film.readyState < film.HAVE_CURRENT_DATA) return; // without a frame, Chromium may give 0
    zero = film.currentTime;
    seek(shown.time);
  });
  on("film", "seeked pause", tellTime);
  on("still", "load", tellTime);
  on("still", "error", () => (still.hidden = true));
  on("film", "timeupdate seeking", follow);
  on("film", "play pause volumechange", showState);
  on("film", "error", () => film.hasAttribute("src") && giveUpFilm());
  on("film", "click", togglePlay);
  const similar = () => findSimilar(onLike);
  const acts = { play: togglePlay, mute: toggleSound, fill: toggleFullScreen, next: goToNext, previous: goToPrevious };
  for (const [id, act] of Object.entries({ ...acts, similar, copy: copyLink, save: saveClip, close: onClose, listed: addMoment })) on(id, "click", act);
  on("volume", "input", () => setVolume(Number(find("volume").value)));
  on("speed", "change", () => setSpeed(0));
  on("viewer", "keydown", onKey);
  on("viewer", "cancel", (event) => {
    event.preventDefault();
    onClose();
  });
  listenToTranscript(seek);
  listenToShots(seek);
  listenToTimeline(() => ({ curve: shown.curve, duration: getDuration() }), seek);
  showState();
}

// Display

async function describe() {
  const video = await askAbout("");
  shown.duration = video.duration;
  find("viewer-title").textContent = video.title;
  find("viewer-path").textContent = [video.path, ...video.copies].join("  =  ");
  const { width, height, fps, duration, filmed, camera, changed, languages, salvaged } = video;
  const facts = [width && `${width} × ${height}`, fps && `${fps.toFixed(2) * 1} fps`, clock(duration)];
  facts.push(filmed ? `filmed ${writeDay(filmed)}` : changed && `changed ${writeDay(changed)}`, camera, languages.map(nameLanguage).join(", "), salvaged && `damaged: ${salvaged}`);
  const download = make("a", { href: film.src, download: video.path.split("/").at(-1) }, "Download");
  find("facts").replaceChildren(`${facts.filter(Boolean).join(" · ")} · `, download);
  drawTimeline(shown.curve, getDuration());
  drawShots(getDuration());
  markWords();
  follow();
}

function showBoard(id, shots) {
  showShots(id, shots);
  drawShots(getDuration());
  follow();
}

function showWords(texts) {
  shown.texts = texts;
  dialog.classList.toggle("worded", texts.length > 0);
  showTranscript(texts);
  markWords();
  follow();
}

/** Mark the words that match, in the transcript and on the timeline. */
function markWords() {
  for (const words of shown.curve?.moments.flatMap(({ evidence }) => evidence) ?? []) {
    const line = shown.texts.find(({ start, text }) => start === words.start && text === words.text);
    if (line) line.matches = words.matches;
  }
  emphasiseLines();
  drawTexts(shown.texts, getDuration());
}

async function search(query) {
  const curve = await askCurve(query);
  if (!curve.times.length) return;
  const best = curve.moments[0];
  curve.moments.sort((one, other) => one.start - other.start); // as in the timeline
  shown.curve = curve;
  if (getDuration()) drawTimeline(curve, getDuration());
  markWords();
  if (curve.weak) tell("viewer-notice", "This video does not match well.");
  find("moments").replaceChildren(...joinMoments(curve.moments).map((moments) => makeMoment(moments, moments.includes(best))));
}

/** Return moments in groups: those that follow one another without a gap are one event. */
function joinMoments(moments) {
  const groups = [];
  for (const moment of moments) {
    const last = groups.at(-1);
    const ends = last && Math.max(...last.map(({ end }) => end));
    if (last && !moment.events.length && moment.start - ends <= SAME_EVENT) last.push(moment);
    else groups.push([moment]);
  }
  return groups;
}

/** Create the button of moments of one event. */
function makeMoment(moments, best) {
  const [{ start, events }] = moments;
  const end = Math.max(...moments.map((moment) => moment.end));
  const where = events.length ? count(events.length, "event") : nameChannels(moments.flatMap(({ evidence }) => evidence)) || labelOf("picture");
  const told = make("span", { className: "soft" }, moments.length > 1 ? `${where}, ${moments.length} moments` : where);
  const button = make("button", { type: "button", className: best ? "best" : "" }, `${clock(start, true)} – ${clock(end, true)}`, told);
  button.addEventListener("click", () => seek(start));
  return make("li", {}, button);
}

function showFilm(playing) {
  setPlayable(true);
  zero = null;
  film.poster = thumbnail();
  film.src = `api/videos/${shown.id}/stream`;
  if (playing) film.play().catch(() => {}); // refused, or closed
}

async function giveUpFilm() {
  const { id } = shown;
  setPlayable(false);
  showStill();
  const answer = send(film.src, { headers: { Range: "bytes=0-0" } });
  const sentence = await answer.then((response) => (response.ok ? UNPLAYABLE : readProblem(response))).catch((error) => error.message);
  if (shown.id === id) tell("viewer-notice", sentence);
}

function setPlayable(playable) {
  film.hidden = !playable;
  still.hidden = true;
  for (const name of ["play", "mute", "volume", "speed"]) find(name).disabled = !playable;
}

function showStill() {
  still.hidden = false;
  still.src = thumbnail();
}

const thumbnail = (time = shown.time) => `api/thumbnails/${shown.id}?t=${time.toFixed(1)}&w=960`;
const say = (sentence) => (find("viewer-announcement").textContent = sentence);
const getDuration = () => shown.duration || film.duration || 0;
const now = () => (film.hidden || zero === null ? shown.time : film.currentTime - zero);

function follow() {
  moveHead(now(), getDuration());
  followLine(now());
  followShot(now());
  find("clock").textContent = `${clock(now())} / ${clock(getDuration())}`;
}

function showState() {
  showIcon(find("play"), film.paused ? "play" : "pause");
  showIcon(find("mute"), film.muted ? "silent" : "sound");
  find("play").ariaLabel = film.paused ? "Play" : "Pause";
  find("mute").ariaPressed = film.muted;
  find("volume").value = film.muted ? 0 : film.volume;
}

// Actions

function togglePlay() {
  if (film.paused) film.play().catch(() => {}); // see "error"
  else film.pause();
}

/** Search with the frame that is shown, as the server decodes it. */
async function findSimilar(onLike) {
  const own = shown;
  const frame = make("img", { src: thumbnail(now()) });
  try {
    await frame.decode();
    if (shown === own) onLike(frame);
  } catch {
    tell("viewer-notice", "The frame at this time cannot be read.");
  }
}

/** Copy the URL of the time shown; the clipboard API would need TLS. */
function copyLink() {
  const link = new URL(location);
  link.searchParams.set("t", now().toFixed(1));
  const field = make("textarea", { value: link.href });
  dialog.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  say(copied ? "Link copied." : `This browser does not allow copying: ${link.href}`);
  find("copy").focus();
}

/** Return the moment at the time shown; else its shot; else the ten seconds around it. */
function findSpan() {
  const time = now();
  const moment = shown.curve?.moments.find(({ start, end }) => start <= time + 0.01 && time < end);
  const around = { start: Math.max(0, time - 5), end: Math.min(time + 5, getDuration()) };
  return moment ?? findShot(time) ?? around;
}

async function saveClip() {
  if (find("save").ariaDisabled) return say(find("save").title);
  const { start, end } = findSpan();
  const span = `${clock(start, true)} – ${clock(end, true)}`;
  const name = find("viewer-title").textContent;
  say(`Cutting ${span} ...`);
  try {
    const response = await send(`api/videos/${shown.id}/clip?${new URLSearchParams({ start, end })}`);
    if (!response.ok) throw new Error(await readProblem(response));
    const href = URL.createObjectURL(await response.blob());
    make("a", { href, download: `${name} ${start.toFixed(2)}-${end.toFixed(2)}.mp4` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 60_000);
    say(`Saved ${span}.`);
  } catch (error) {
    say("");
    tell("viewer-notice", error.message);
  }
}

const addMoment = () => addToList({ video: Number(shown.id), ...findSpan() }, say);

function setVolume(volume) {
  film.volume = Math.min(1, Math.max(0, volume));
  film.muted = !film.volume;
}

/** Play at the speed chosen, or that many steps beside it; it stays for the next video. */
function setSpeed(step) {
  const speed = find("speed");
  speed.selectedIndex = Math.min(speed.length - 1, Math.max(0, speed.selectedIndex + step));
  film.playbackRate = film.defaultPlaybackRate = Number(speed.value);
}

function toggleSound() {
  film.muted = !film.muted;
}

function toggleFullScreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else find("stage").requestFullscreen();
}

const listStarts = () => shown.curve?.moments.map((moment) => moment.start) ?? [];
const goToNext = () => seek(listStarts().find((start) => start > now() + 0.2) ?? now());
const goToPrevious = () => seek(listStarts().findLast((start) => start < now() - 0.5) ?? now());

function onKey(event) {
  if (isModified(event) || event.target.matches("[type=search], select, [type=range]")) return;
  const step = Math.min(5, Math.max(0.5, getDuration() / 20));
  const act = {
    ArrowLeft: () => seek(now() - step),
    ArrowRight: () => seek(now() + step),
    Home: () => seek(0),
    End: () => seek(getDuration()),
    n: goToNext,
    p: goToPrevious,
    m: toggleSound,
    9: () => setVolume(film.volume - 0.1),
    0: () => setVolume(film.volume + 0.1),
    "<": () => setSpeed(-1),
    ">": () => setSpeed(1),
    s: () => find("save").click(),
    c: () => find("copy").click(),
    l: () => find("similar").click(),
    a: addMoment,
    f: toggleFullScreen,
    " ": togglePlay,
  }[event.key];
  if (!act || (event.key === " " && event.target.closest("button"))) return;
  event.preventDefault();
  act();
}
