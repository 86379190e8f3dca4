// The shots of a video: ticks on the timeline, and a storyboard below the player.

import { clock, find, make, setCurrent } from "./dom.js";

const MOST_PICTURES = 400;

const list = find("storyboard");
let shots = [];

/** Show the shots of a video, by time; a video of one shot has no storyboard. */
export function showShots(id, found) {
  shots = found.length > 1 ? found : [];
  list.hidden = !shots.length;
  list.scrollLeft = 0;
  list.replaceChildren(...shots.slice(0, MOST_PICTURES).map((shot) => makeShot(id, shot)));
}

/** Draw where shots change: a tick for a cut, a bar for a fade, a dissolve or a wipe. */
export function drawShots(duration) {
  const x = (time) => ((time / duration) * 1000).toFixed(1);
  const changes = shots.slice(1).map(({ start }, at) => `M${x(shots[at].end)},0V10H${x(start)}V0Z`);
  find("cuts").setAttribute("d", duration ? changes.join("") : "");
}

/** Mark the shot of a time, and show it unless the user is busy with the storyboard. */
export function followShot(time) {
  const item = list.children[shots.findLastIndex(({ start }) => start <= time + 0.01)];
  if (!setCurrent(list, item) || !item || list.matches(":hover, :focus-within")) return;
  list.scrollLeft = item.offsetLeft - (list.clientWidth - item.offsetWidth) / 2;
}

export const findShot = (time) => shots.find(({ start, end }) => start <= time + 0.01 && time < end);

export function listenToShots(onSeek) {
  list.addEventListener("click", ({ target }) => {
    const shot = shots[[...list.children].indexOf(target.closest("li"))];
    if (shot) onSeek(shot.start);
  });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: "previousSibling", ArrowRight: "nextSibling" }[event.key];
    const item = event.target.closest("li");
    if (!step || !item) return;
    event.preventDefault();
    event.stopPropagation();
    item[step]?.firstChild.focus();
  });
}

function makeShot(id, { start, end }) {
  const middle = ((start + end) / 2).toFixed(1);
  const picture = make("img", { loading: "lazy", decoding: "async", alt: "", src: `api/thumbnails/${id}?t=${middle}&w=160` });
  return make("li", {}, make("button", { type: "button", title: `Shot from ${clock(start, true)} to ${clock(end, true)}` }, picture, clock(start)));
}
