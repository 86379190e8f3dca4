// Query images: chosen, dropped or pasted, scaled down, kept while the page is open.

import { find, on } from "./dom.js";

const LONGEST_SIDE = 1024;
const QUALITY = 0.9;
const kept = new Map();

export const recall = (name) => kept.get(name);

/** Listen for images: `onPicture(name)`, or `onError(sentence)`. */
export function listenForPictures(onPicture, onError) {
  const take = async (files) => {
    const file = [...files].find((item) => item.type.startsWith("image/"));
    if (!file) return onError("Only images can be used as a query.");
    try {
      onPicture(await keep(file));
    } catch {
      onError(`${file.name} cannot be read as an image by this browser.`);
    }
  };
  const input = find("file");
  on("choose", "click", () => input.click());
  input.addEventListener("change", () => {
    take([...input.files]);
    input.value = ""; // so that the same file can be chosen again
  });
  addEventListener("paste", (event) => {
    if (!event.clipboardData.files.length) return;
    event.preventDefault();
    take(event.clipboardData.files);
  });
  listenForDrops(take);
}

function listenForDrops(take) {
  const veil = find("drop");
  const onFiles = (name, act) =>
    addEventListener(name, (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      act(event);
    });
  onFiles("dragover", () => (veil.hidden = false));
  onFiles("dragleave", (event) => (veil.hidden = !event.relatedTarget)); // null outside of the window
  onFiles("drop", (event) => {
    veil.hidden = true;
    take(event.dataTransfer.files);
  });
}

const keep = async (file) => keepPicture(await createImageBitmap(file));

/** Keep an image element or a bitmap as a query, and return its name. */
export function keepPicture(bitmap) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.ceil(bitmap.width * scale);
  canvas.height = Math.ceil(bitmap.height * scale);
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white"; // behind transparent pixels, else black in a JPEG
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const name = `${performance.timeOrigin}-${kept.size}`; // unique after a reload, too
  kept.set(name, canvas.toDataURL("image/jpeg", QUALITY));
  return name;
}
