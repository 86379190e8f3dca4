"""Actions on the page in a browser, and waiting for their effects."""

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import FloatRect, Locator, Page, Route, expect

# Returns the lowest contrast of a text to its background (WCAG 2), and the text.
CONTRASTS = """() => {
    const number = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => {
        const [r, g, b] = colour.map((value) => value / 255)
            .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = (element) => {
        const [r, g, b, alpha = 1] = number(getComputedStyle(element).backgroundColor);
        if (alpha === 1) return [r, g, b];
        return ground(element.parentElement).map((value, at) => value * (1 - alpha) + [r, g, b][at] * alpha);
    };
    const contrast = (element) => {
        const lights = [light(number(getComputedStyle(element).color)), light(ground(element))];
        return (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
    };
    const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    return [...document.querySelectorAll("body *")]
        .filter((element) => element.checkVisibility() && hasText(element))
        .map((element) => [contrast(element), element.textContent.slice(0, 40)])
        .sort((one, other) => one[0] - other[0])[0];
}"""


def shoot(page: Page, name: str) -> None:
    """Save a screenshot in the folder VIDRET_SHOTS, if that is set."""
    if folder := os.environ.get("VIDRET_SHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def cards(page: Page) -> Locator:
    """Return the locator of the results."""
    return page.locator("#results .card a")


def titles(page: Page) -> Locator:
    """Return the locator of the titles of the results."""
    return page.locator("#results .title")


def place_of(page: Page) -> dict[str, str]:
    """Return the parameters of the URL."""
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def search(page: Page, query: str) -> None:
    """Type a query and press Enter."""
    page.get_by_role("searchbox", name="Search your videos").fill(query)
    page.keyboard.press("Enter")
    page.wait_for_url(lambda _: place_of(page).get("q") == query)


def ask(page: Page, query: str) -> None:
    """Search, and wait for the answer."""
    search(page, query)
    expect(page.locator("#status")).to_contain_text("ms.")


def press(page: Page, *keys: str) -> None:
    """Press keys one after another."""
    for key in keys:
        page.keyboard.press(key)


def catch_search(page: Page, act: Callable[[], object]) -> Any:
    """Do something, and return what the page then asks the server to search for."""
    with page.expect_request("**/api/search") as asking:
        act()
    return asking.value.post_data_json


def amend(page: Page, addresses: str, change: Callable[[Any], object]) -> None:
    """Change the answers of the server to some requests in place."""

    def answer(route: Route) -> None:
        body = route.fetch().json()
        change(body)
        route.fulfill(json=body)

    page.route(addresses, answer)


def hold(page: Page, addresses: str, most: int = 1000) -> list[Route]:
    """Return the list of the next requests to some addresses, which wait from here on."""
    held: list[Route] = []
    page.route(addresses, lambda route: held.append(route) if len(held) < most else route.fallback())
    return held


def box_of(locator: Locator) -> FloatRect:
    """Return where an element is, in pixels of the page."""
    box = locator.bounding_box()
    assert box is not None
    return box


def time_of(page: Page) -> float:
    """Return the time of the open video."""
    return float(page.evaluate("document.getElementById('film').currentTime"))


def wait_until(page: Page, condition: str) -> None:
    """Wait until a JavaScript condition is true; the page's policy forbids the eval that Playwright's waiting uses."""
    page.evaluate(
        f"""() => new Promise((resolve, reject) => {{
            const late = Date.now() + 10_000;
            const check = () => {{
                if ({condition}) resolve();
                else if (Date.now() > late) reject(new Error({json.dumps(condition)}));
                else setTimeout(check, 20);
            }};
            check();
        }})"""
    )


def wait_for_time(page: Page, time: float, *, tolerance: float = 0.3) -> None:
    """Wait until the open video is at a time."""
    wait_until(page, f"Math.abs(document.getElementById('film').currentTime - {time}) < {tolerance}")


def wait_for_film(page: Page) -> None:
    """Wait until the viewer is open, and listens to keys, and its video shows a frame."""
    wait_until(page, "document.getElementById('viewer').open && document.getElementById('film').readyState >= 2")


def give_by_file(page: Page, picture: Path) -> None:
    """Choose an image file."""
    with page.expect_file_chooser() as choosing:
        page.get_by_role("button", name="Search by image").click()
    choosing.value.set_files(picture)


def give_by_event(page: Page, picture: Path, event: str) -> None:
    """Drop or paste an image."""
    content = base64.b64encode(picture.read_bytes()).decode()
    page.evaluate(
        """async ([content, event]) => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], "bikes.png", { type: "image/png" }));
            const send = (name, given) => document.body.dispatchEvent(
                Object.assign(new (name === "paste" ? ClipboardEvent : DragEvent)(name, {
                    bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data, ...given })));
            if (event === "drop") send("dragover", {});
            window.veiled = !document.getElementById("drop").hidden;
            send(event, {});
        }""",
        [content, event],
    )
