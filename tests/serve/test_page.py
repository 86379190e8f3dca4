"""Tests of the page in a browser, with real films."""

import base64
import gzip
import io
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, FloatRect, Page, Route, expect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.chatting import run_chat, stream
from tests.index_server import run_app
from tests.made_identities import FACES, make_track, make_tracks
from tests.serve.conftest import find_id
from tests.serve.looking import (
    CONTRASTS,
    amend,
    ask,
    box_of,
    cards,
    catch_search,
    give_by_event,
    give_by_file,
    hold,
    place_of,
    press,
    search,
    shoot,
    time_of,
    titles,
    wait_for_film,
    wait_for_time,
    wait_until,
)
from tests.serve.paged import MARKUP, TOUR, make_index, open_browser, serve_page, write_library, write_words
from tests.video.films import write_video
from vidret.encode.families.registry import load_encoder
from vidret.engine import Engine
from vidret.language.endpoint import ChatEndpoint
from vidret.serve.app import PAGE, create_app
from vidret.serve.routes.indexing import Indexer
from vidret.store.identities.persons import Persons
from vidret.store.identities.store import IdentityStore
from vidret.store.store import Store
from vidret.store.tokens import TOKENS, make_token
from vidret.types import Filters, SavedCollection, SearchOptions, TimedText
from vidret.video.probe import probe
from vidret.video.reader import read_frames

pytestmark = pytest.mark.browser

BIKES, BUNNY = "bicycles in traffic", "a cartoon rabbit"
LARGEST_PAGE = 50_000  # bytes as they are sent, all files together
TOKEN = "a-token-of-tests"
SIGN = "\N{BICYCLE}\N{BICYCLE} <b>EMERGENCY</b> EXIT"  # two letters beyond the first plane of Unicode, and markup
CALL = "Every line is busy now, so the caller shall please hold the line until the harbour office answers."
WORDS = {
    "bikes.mp4": [
        TimedText(0.5, 2.0, "Welcome to the cycling club.", "speech", 0.9, "en"),
        TimedText(2.04, 4.0, "The brakes need oil before the winter.", "speech", 0.9, "en"),
        TimedText(3.04, 6.0, SIGN, "screen", 0.9, "en"),
        TimedText(6.5, 8.0, "Ring the bell at every crossing.", "speech", 0.9, "en"),
    ],
    "phone.mp4": [TimedText(0.0, 4.0, CALL, "speech", 0.9, "en")],
}
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
FILLED = "#results .title, #moments button, #numbers div, #map a"  # one of these exists once responses have arrived
NOTE_SHIFTS = """window.shifts = [];
const note = (list) => list.getEntries().forEach(({ sources }) => shifts.push(...sources.map(({ node }) => node?.id)));
new PerformanceObserver(note).observe({ type: "layout-shift", buffered: true });"""
# Removes the card that is looked at, before it would play, and waits until its film could.
REMOVE_CARDS_SOON = """async () => {
    const wait = (time) => new Promise((resolve) => setTimeout(resolve, time));
    const make = document.createElement.bind(document);
    window.films = [];
    document.createElement = (name) => {
        const element = make(name);
        if (name === "video") films.push(element);
        return element;
    };
    const card = document.querySelectorAll("#results .card a")[1];
    card.dispatchEvent(new PointerEvent("pointerenter", { pointerType: "mouse" }));
    await wait(100);
    document.getElementById("results").replaceChildren();
    await wait(800);
}"""
PRESS_ALT_LEFT = """(element) => element.dispatchEvent(
    new KeyboardEvent("keydown", { key: "ArrowLeft", altKey: true, bubbles: true, cancelable: true }))"""
ROLES = "button|link|textbox|searchbox|combobox|checkbox|slider|dialog|progressbar"
Look = Callable[..., Page]


LINES = [text.text for text in WORDS["bikes.mp4"]]
LINE_LABELS = ["0:00 said", "0:02 said", "0:03 on screen", "0:06 said"]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_library(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def indexed(films: Path) -> Iterator[Engine]:
    with make_index(films.parent / "index", load_encoder("starter"), films) as engine:
        (films / "gone.mp4").unlink()
        yield engine


@pytest.fixture(scope="module")
def bikes(indexed: Engine) -> int:
    """Return the id of the film with bikes."""
    return find_id(indexed, "bikes.mp4")


@pytest.fixture(scope="module")
def url(indexed: Engine, films: Path) -> Iterator[str]:
    with serve_page(indexed, roots=(films,)) as url:
        yield url


@pytest.fixture(scope="module")
def empty_url(indexed: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("empty") / "index"
    with make_index(folder, indexed.encoder) as engine, serve_page(engine, token=TOKEN) as url:
        yield url


@pytest.fixture(scope="module")
def worded_url(indexed: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a copy of the index with words."""
    folder = tmp_path_factory.mktemp("worded") / "index"
    shutil.copytree(indexed.path, folder)
    for name, texts in WORDS.items():
        write_words(folder, name, texts)
    with Engine.open(folder, encoder=indexed.encoder) as engine, serve_page(engine) as url:
        engine.search("bicycle")  # measures the baseline
        yield url


@pytest.fixture(scope="module")
def asking_url(indexed: Engine, films: Path) -> Iterator[str]:
    """Serve the index with a language model that cites a right and a wrong moment."""
    answering = run_chat(lambda _: stream("People ride <b>bicycles</b> [", "1][9]."))
    with answering as chat, serve_page(indexed, llm=ChatEndpoint(url=chat.url, model="small")) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def refusals() -> list[str]:
    """Return the list of expected refusals, which the browser's console reports as errors."""
    return []


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    """Return a stack for servers of a single test, which end after its pages: an open page asks for more."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def contexts() -> dict[str, BrowserContext]:
    """Return the browser's context for each server, which all tests share: a new one loads as much as a page."""
    return {}


@pytest.fixture
def look(
    browser: Browser,
    contexts: dict[str, BrowserContext],
    url: str,
    refusals: list[str],
    servers: ExitStack,
    request: pytest.FixtureRequest,
) -> Iterator[Look]:
    """Return a function that opens a path in a new page; other errors in its console fail the test."""
    pages: list[Page] = []
    complaints: list[str] = []

    def open_page(place: str = "/", *, at: str = url, **given: Any) -> Page:
        context = None if given else contexts.get(at)
        if context is None:
            context = browser.new_context(base_url=at, **given)
            if not given:
                contexts[at] = context
                context.new_page().goto("/page/words.js")  # stays open, so that later pages use its process
        page = context.new_page()
        pages.append(page)
        page.set_viewport_size({"width": 1280, "height": 860})
        page.set_default_timeout(15_000)
        page.on("console", lambda message: complaints.extend(note_complaint(message)))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(place or at)
        return page

    yield open_page
    for page_index, page in enumerate(pages):
        shoot(page, f"{request.node.name}-{page_index}")
        page.evaluate("window.localStorage?.clear()")
        page.close()
    assert [text for text in complaints if not any(refusal in text for refusal in refusals)] == []


def note_complaint(message: ConsoleMessage) -> list[str]:
    return [f"{message.text} {message.location['url']}"] if message.type in ("error", "warning") else []


# Search


def test_a_search_shows_titles_times_and_scores_and_the_way_back(look: Look) -> None:
    page = look()
    expect(page.locator("#query")).to_be_focused()
    expect(titles(page)).to_have_count(6)
    expect(page.locator("#to-people")).to_be_hidden()  # nobody looked for people
    page.goto("/?tab=people")
    expect(page.get_by_role("alert")).to_contain_text("vidret index PATH --people on")
    expect(page.get_by_role("button", name="Undo")).to_be_hidden()
    page.goto("/")
    ask(page, BIKES)
    expect(titles(page).first).to_have_text("bikes")
    assert re.fullmatch(r"0:10\s*bikes\s*at 0:\d\d\s*(likely|possible)", cards(page).first.inner_text())
    score = str(cards(page).first.locator("[title^=probability]").get_attribute("title"))
    assert re.match(r"probability 0\.\d{3}, score \d+\.\d{3}, picture .*segment 0\.\d{3}", score)
    assert place_of(page) == {"q": BIKES}
    assert page.title() == f"{BIKES} - vidret"
    ask(page, BUNNY)
    cards(page).first.click()
    expect(page.locator("#viewer")).to_be_visible()
    page.go_back()
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator("#query")).to_have_value(BUNNY)
    page.go_back()
    expect(page.locator("#query")).to_have_value(BIKES)
    expect(titles(page).first).to_have_text("bikes")
    page.go_back()
    expect(page.locator("#query")).to_have_value("")
    page.go_forward()
    page.go_forward()
    page.go_forward()
    expect(page.locator("#viewer")).to_be_visible()


def test_typing_searches_with_one_history_entry_and_file_names_are_escaped(look: Look) -> None:
    page = look()
    expect(titles(page)).to_have_count(6)
    page.locator("#query").press_sequentially(BUNNY, delay=30)
    expect(titles(page).first).to_have_text("old")
    page.locator("#query").press_sequentially(" in a meadow", delay=30)
    page.wait_for_url("**meadow")
    page.go_back()
    expect(page.locator("#query")).to_have_value("")
    page.locator("#query").press_sequentially("people")  # another query, which has its own entry
    page.wait_for_url("**q=people")
    page.go_back()
    expect(page.locator("#query")).to_have_value("")
    expect(titles(page).filter(has_text="tilted")).to_have_text(MARKUP)
    page.get_by_role("link", name=MARKUP).click()
    expect(page.locator("#viewer-title")).to_have_text(MARKUP)
    expect(page.locator("#viewer-path")).to_contain_text(MARKUP)
    assert page.locator("i").count() == 0


def test_card_plays_its_segment_while_hovered_or_focused_unless_motion_is_reduced(look: Look) -> None:
    page = look(f"/?q={BIKES}&k=24")
    cards(page).first.hover()
    film = page.locator("#results video.seen")
    expect(film).to_have_count(1)
    wait_until(page, "document.querySelector('#results video').currentTime > 0.3")
    assert film.evaluate("film => film.muted && !film.paused")
    page.evaluate("document.querySelector('#results video').currentTime = 9.9")
    wait_until(page, "document.querySelector('#results video').currentTime < 5")  # it loops
    page.locator("#status").hover()
    expect(film).to_have_count(0)
    page.locator("#query").press("ArrowDown")
    expect(page.locator("#results .card:first-child video")).to_have_count(1)
    page.evaluate(REMOVE_CARDS_SOON)
    assert page.evaluate("window.films.filter((film) => !film.paused).length") == 0, "none plays unseen"
    still = look(f"/?q={BIKES}", reduced_motion="reduce")
    still.locator("#query").press("ArrowDown")
    cards(still).first.click()
    wait_for_film(still)
    assert still.locator("#results video").count() == 0
    assert still.evaluate("document.getElementById('film').paused")


def test_negative_terms_exclude_and_weak_results_are_announced(look: Look, refusals: list[str]) -> None:
    refusals.append("422")
    streets = re.compile("tour|bikes")  # in either order: their scores are close
    page = look("/?q=people&k=many&min_seconds=long&v=../7&t=now&tab=other")  # invalid parameters are ignored
    expect(titles(page).first).to_have_text(streets)
    expect(page.locator("#viewer")).to_be_hidden()
    expect(page.locator("#clear")).to_be_hidden()
    page.goto("/?q=people&k=9999")
    expect(titles(page).first).to_have_text(streets)
    ask(page, "people -street")  # which is in each of its shots; bicycles are not
    expect(titles(page).first).to_have_text("phone")
    expect(page.locator("#hint")).to_contain_text("A minus excludes words: dog -beach")
    page.locator("#query").fill("-dog")
    expect(page.get_by_role("alert")).to_have_text("query must contain a positive word, got '-dog'")
    expect(cards(page)).to_have_count(0)
    search(page, "quarterly tax regulations")
    expect(page.get_by_role("alert")).to_have_text("Nothing matches well. The nearest are:")
    assert page.locator(".card.weak").count() == cards(page).count() > 0
    assert float(page.locator(".weak img").first.evaluate("img => getComputedStyle(img).opacity")) < 1
    page.get_by_role("button", name=re.compile("^More like")).last.click()  # a plain blue film
    expect(page.get_by_role("alert")).to_have_text("Nothing else matches well. The nearest are:")
    page.goto("/?q=PHONE .mp4")
    page.get_by_role("link", name="Show 1 video by name").click()
    expect(titles(page)).to_have_text(["phone"])
    assert place_of(page) == {"name": "PHONE .mp4"}
    page.locator("#name").fill("nowhere")
    page.locator("#name").press("Enter")
    expect(page.get_by_role("alert")).to_have_text("No video matches these filters. Clear them")


def test_unlikely_results_are_folded(look: Look, indexed: Engine) -> None:
    likelihoods = [hit.likelihood for hit in indexed.search(BIKES, 24)]
    num_unlikely = likelihoods.count("unlikely")
    assert 0 < num_unlikely < len(likelihoods)
    page = look()
    for address, kind in ((f"/?q={BIKES}", "videos"), (f"/?q={BIKES}&by=moment", "moments")):
        page.goto(address)
        expect(page.locator("#status")).to_contain_text(kind)
        expect(page.locator("#results")).not_to_contain_text("unlikely")
        num_cards = cards(page).count()
        rest = page.get_by_role("button", name="less likely")
        if kind == "videos":
            expect(rest).to_have_text(f"{num_unlikely} less likely")
        rest.click()
        expect(page.locator("#results")).to_contain_text("unlikely")
        assert cards(page).count() > num_cards > 0
        expect(cards(page).nth(num_cards)).to_be_focused()
        expect(page.locator("#more")).to_be_hidden()


def test_a_phrase_that_nothing_has_is_not_called_an_empty_index(look: Look, worded_url: str, empty_url: str) -> None:
    page = look('/?q="quarterly tax regulations"', at=worded_url)
    alert = page.get_by_role("alert")
    expect(alert).to_have_text("Nobody says or shows this phrase word for word. Search without quotes")
    page.get_by_role("button", name="Moments").click()
    page.wait_for_url("**by=moment**")
    alert.get_by_role("link", name="Search without quotes").click()
    expect(page.locator("#query")).to_have_value("quarterly tax regulations")
    page = look('/?q="quarterly tax regulations"')
    expect(page.get_by_role("alert")).to_contain_text("This index has pictures only")
    page = look("", at=empty_url)
    search(page, BIKES)
    page.get_by_role("button", name="Moments").click()
    page.wait_for_url("**by=moment**")
    expect(page.get_by_role("alert")).to_contain_text("There are no videos in this index yet.")
    expect(page.locator("#understood")).to_be_hidden()


def test_filters_select_videos_and_are_part_of_the_url(look: Look, films: Path) -> None:
    page = look(f"/?q={BIKES}")
    page.get_by_role("textbox", name="Folder").fill(str(films / "people"))
    press(page, "Enter")
    expect(titles(page)).to_have_text(["phone"])
    page.get_by_role("button", name="Clear filters").click()
    shortest = page.get_by_label("Minimum length")
    shortest.fill("0:08")
    shortest.blur()
    folded = "(parseInt(document.getElementById('more').textContent) || 0)"
    wait_until(page, f"document.querySelectorAll('#results .title').length + {folded} === 2")
    if (rest := page.get_by_role("button", name="1 less likely")).is_visible():  # hardly likely on some processors
        rest.click()
    expect(titles(page)).to_have_text(["bikes", "tour"])
    page.get_by_label("Maximum length").fill("12")
    page.get_by_label("Maximum length").blur()
    expect(titles(page)).to_have_text(["bikes"])
    expect(page.get_by_label("Maximum length")).to_have_value("0:12")
    assert place_of(page) == {"q": BIKES, "min_seconds": "8", "max_seconds": "12"}
    page.get_by_role("button", name="Clear filters").click()
    page.get_by_label("Filmed on or before").fill("2017-07-14")
    expect(titles(page)).to_have_text(["tour"])
    page.get_by_label("Filmed on or after").fill("2017-07-16")
    expect(page.get_by_role("alert")).to_have_text("No video matches these filters. Clear them")
    for text, is_valid in (("0:03", True), ("long", False), ("", True)):
        shortest.fill(text)
        shortest.blur()
        assert shortest.evaluate("field => field.validity.valid") is is_valid
        assert ("min_seconds" in place_of(page)) is (text != "")


def test_copies_are_behind_a_click_and_moments_of_one_event_are_one_chip(look: Look, bikes: int) -> None:
    page = look()
    copy = {"video": bikes, "path": "/small/bikes.mp4", "time": 2.5}

    def split(answer: Any) -> None:
        first = answer["moments"][0]
        spans = [(0.0, 2.0), (2.0, 4.5), (8.0, 9.0)]
        answer["moments"] = [{**first, "start": start, "end": end, "events": []} for start, end in spans]

    add_copies = {"near_copies": [copy], "copies": ["/twin/bikes.mp4"]}
    amend(page, "**/api/search", lambda answer: answer["hits"][0].update(add_copies))
    ask(page, BIKES)
    folded = page.locator("#results .copies")
    expect(folded).to_have_count(1)
    expect(folded.get_by_role("link")).to_be_hidden()
    folded.get_by_text("2 copies").click()
    expect(folded).to_contain_text("/twin/bikes.mp4 (same content)")
    page.get_by_role("link", name="/small/bikes.mp4").click()
    assert place_of(page) == {"q": BIKES, "v": str(bikes), "t": "2.5"}
    amend(page, "**/curve?*", split)
    page.goto(f"/?q={BIKES}&v={bikes}")
    chips = page.locator("#moments button")
    expect(chips).to_have_text([re.compile("0:00.0 . 0:04.5.*, 2 moments"), re.compile(r"0:08.0 . 0:09.0\D*$")])


def test_the_list_of_all_videos_goes_on_as_its_end_comes_near_unless_there_is_a_search_and_results_on_request(
    look: Look, refusals: list[str]
) -> None:
    refusals.append("422")
    page = look()
    refused = list[str]()

    def give_pages_of_two(route: Route) -> None:
        if "cursor" in route.request.url and len(refused) < 2:
            refused.append(route.request.url)
            route.fulfill(status=422, json={"detail": "not now"})
        else:
            route.continue_(url=re.sub(r"limit=\d+", "limit=2", route.request.url))

    page.route("**/api/videos?*", give_pages_of_two)
    searches = hold(page, "**/api/search")
    page.goto("/")
    expect(page.get_by_role("alert")).to_have_text("not now")
    search(page, BIKES)
    expect(page.locator("#status")).to_have_text("Searching")
    for shown in ("none", ""):  # its end goes out of sight, and comes near again
        page.evaluate("shown => document.querySelector('#more').style.display = shown", shown)
        page.wait_for_timeout(200)
    expect(page.locator("#status")).to_have_text("Searching")
    assert len(refused) == 1
    searches.pop().continue_()
    expect(page.locator("#status")).to_contain_text("ms.")
    page.unroute("**/api/search")
    page.goto("/")
    expect(page.get_by_role("alert")).to_have_text("not now")
    pages = hold(page, "**/api/videos?*cursor*", 1)
    page.get_by_role("button", name="Show more").click()
    cards(page).first.click()
    expect(page.locator("#viewer")).to_be_visible()
    give_pages_of_two(pages[0])
    press(page, "Escape")
    expect(page.locator("#status")).to_have_text("6 videos.")
    expect(page.locator("#results .page")).to_have_count(2)
    assert len(set(titles(page).all_inner_texts())) == 6
    expect(page.locator("#more")).to_be_hidden()
    cards(page).nth(0).focus()
    for card_index in range(1, 6):
        press(page, "ArrowRight")
        expect(cards(page).nth(card_index)).to_be_focused()
    hold(page, "**/api/videos/*")  # its facts are late
    press(page, "ArrowLeft", "Enter")
    expect(page.locator("#viewer-title")).to_have_text(titles(page).nth(4).inner_text())
    page.goto(f"/?q={BIKES}&k=2")
    expect(cards(page)).to_have_count(2)
    page.get_by_role("button", name="Show more").click()
    expect(cards(page)).to_have_count(5)
    expect(cards(page).nth(2)).to_be_focused()
    expect(page.locator("#more")).to_be_hidden()


# Words


def test_cards_show_the_line_that_matches_and_chips_filter_by_source(look: Look, worded_url: str, url: str) -> None:
    page = look("/?q=harbour&k=24", at=worded_url)
    line = page.locator(".said").first  # a long one starts shortly before its match
    expect(line).to_have_text("said 0:00 … caller shall please hold the line until the harbour office answers.")
    ask(page, "emergency exit")
    expect(line).to_have_text(f"on screen 0:03 {SIGN}")
    expect(line.locator("mark")).to_have_text(["EMERGENCY", "EXIT"])
    expect(cards(page).first.locator(".line")).to_contain_text("on screen at 0:03")
    assert line.locator("b").count() == 0, "words are not markup"
    line.click()
    expect(page.get_by_role("dialog", name="bikes")).to_be_visible()
    assert place_of(page)["t"] == "3.0"
    page.goto("/?q=emergency exit")
    chips = page.get_by_role("group", name="Sources to search").get_by_role("button")
    expect(chips).to_have_text(["Pictures", "Speech", "On screen"])
    expect(page.locator(".said .label").first).to_have_text("on screen 0:03")
    assert catch_search(page, chips.nth(1).click)["sources"] == ["speech"]
    expect(chips.nth(1)).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#results")).not_to_contain_text("on screen")
    chips.nth(0).click()
    page.wait_for_url(lambda _: place_of(page).get("sources") == "speech,picture")
    page.reload()
    expect(chips.nth(0)).to_have_attribute("aria-pressed", "true")
    expect(chips.nth(2)).to_have_attribute("aria-pressed", "false")
    chips.nth(1).click()
    page.wait_for_url(lambda _: place_of(page).get("sources") == "picture")
    page.get_by_role("button", name="Clear filters").click()
    expect(chips.nth(0)).to_have_attribute("aria-pressed", "false")
    assert place_of(page) == {"q": "emergency exit"}
    plain = look("/?q=emergency exit&sources=odd", at=url)
    expect(titles(plain)).not_to_have_count(0)
    expect(plain.locator("#sources button")).to_have_count(0)


def test_shots_are_on_the_timeline_and_in_a_storyboard(look: Look, indexed: Engine) -> None:
    video_id = find_id(indexed, "tour.mp4")
    shots = indexed.shots(video_id)
    assert len(shots) > 2
    page = look(f"/?v={video_id}")
    board = page.get_by_role("list", name="Shots").get_by_role("button")
    expect(board).to_have_count(len(shots))
    assert str(page.locator("#cuts").get_attribute("d")).count("M") == len(shots) - 1
    wait_for_film(page)
    board.nth(1).click()
    wait_for_time(page, shots[1].start)
    expect(page.locator("#storyboard [aria-current]")).to_have_count(1)
    assert page.locator("#storyboard li").nth(1).get_attribute("aria-current") == "true"
    press(page, "ArrowRight", "Enter")
    wait_for_time(page, shots[2].start)
    wait_until(page, "[...document.querySelectorAll('#storyboard img')].some((picture) => picture.naturalWidth)")
    page.goto(f"/?v={find_id(indexed, 'phone.mp4')}")  # of one shot
    wait_for_film(page)
    expect(page.locator("#storyboard")).to_be_hidden()
    assert page.locator("#cuts").get_attribute("d") == ""


def test_events_of_a_query_are_named_and_on_the_timeline(look: Look, indexed: Engine) -> None:
    query, video_id = f"{BIKES}, then a man in a car", find_id(indexed, "tour.mp4")
    (moment,) = indexed.locate(query, 1, video=video_id, weak=True)
    first, second = moment.events
    curve = {**asdict(indexed.curve(query, video_id)), "moments": [asdict(moment)], "weak": False}
    answer = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in curve.items()}
    page = look("/")
    page.route("**/curve?*", lambda route: route.fulfill(json=answer))  # of six films nearly everything is weak
    search(page, query)
    expect(page.locator("#understood")).to_have_text(f"Looking for 1. {BIKES} then 2. a man in a car.")
    lines = page.locator("#results .card", has_text="tour").locator(".said")
    expect(lines).to_have_text([re.compile(rf"^1\. 0:\d\d {BIKES}$"), re.compile(r"^2\. 0:\d\d a man in a car$")])
    page.get_by_role("link", name="tour").click()
    events = page.locator(".event")
    expect(events).to_have_text(["1", "2"])
    expect(page.locator("#typical")).to_be_hidden()
    expect(page.get_by_role("list", name="Moments found").get_by_role("button")).to_contain_text("2 events")
    expect(events.nth(1)).to_have_attribute("title", re.compile(r"^2\. a man in a car, 0:\d\d\.\d to "))
    wait_for_film(page)
    events.nth(1).click()
    wait_for_time(page, second.start)
    assert first.end <= second.start
    press(page, "Escape")
    search(page, BIKES)
    expect(page.locator("#understood")).to_be_hidden()
    search(page, "ein Hund und eine Katze")
    expect(page.locator("#understood")).to_contain_text(
        "Starter understands English only, and this seems to be another"
    )


def test_a_moment_is_copied_saved_and_searched_by_its_frame(look: Look, indexed: Engine, tmp_path: Path) -> None:
    video_id = find_id(indexed, "tour.mp4")
    page = look(f"/?v={video_id}&t=6.0", permissions=["clipboard-read"])
    wait_for_film(page)
    page.get_by_role("button", name="Copy a link to this time").click()
    expect(page.locator("#viewer-announcement")).to_have_text("Link copied.")
    link = str(page.evaluate("navigator.clipboard.readText()"))
    assert f"v={video_id}" in link
    assert link.endswith("t=6.0")
    expect(page.get_by_role("list", name="Shots").get_by_role("button")).not_to_have_count(0)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Save this moment").click()
    waiting.value.save_as(tmp_path / "clip.mp4")
    named = re.fullmatch(r"tour (\d+\.\d\d)-(\d+\.\d\d)\.mp4", waiting.value.suggested_filename)
    assert named is not None
    start, end = map(float, named.groups())
    assert start <= 6.0 < end
    assert end - start < 10, "one shot of the film"
    assert probe(tmp_path / "clip.mp4").duration == pytest.approx(end - start, abs=0.15)
    expect(page.locator("#viewer-announcement")).to_contain_text("Saved 0:0")
    frames = hold(page, "**/api/thumbnails/*w=960", 1)
    press(page, "l", "Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    while not frames:
        page.wait_for_timeout(20)
    frames[0].continue_()
    page.wait_for_timeout(300)
    expect(page.locator("#chip")).to_be_hidden()  # the video was closed meanwhile
    page.go_back()
    page.get_by_role("button", name="Find videos like this frame").click()
    expect(page.locator("#viewer")).to_be_hidden()
    expect(titles(page).first).to_have_text(re.compile("tour|old|bikes"))
    expect(page.get_by_alt_text("Query image")).to_be_visible()


def test_results_are_of_three_kinds_and_judged_by_buttons_and_keys(look: Look, indexed: Engine) -> None:
    page = look(f"/?q={BIKES}&k=24")
    expect(cards(page)).to_have_count(5)
    kinds = page.get_by_role("group", name="Results")
    expect(kinds.get_by_role("button", name="Videos")).to_have_attribute("aria-pressed", "true")
    kinds.get_by_role("button", name="Kinds").click()
    found = indexed.search(BIKES, 24, display="diverse")
    expect(titles(page)).to_have_text([Path(hit.path).stem for hit in found])
    assert 1 < len(found) < 5
    assert place_of(page)["by"] == "diverse"
    kinds.get_by_role("button", name="Videos").click()
    page.locator("#sort_by").fill("crowded")
    press(page, "Enter")
    page.wait_for_url(lambda _: "sort_by" in place_of(page))
    expect(titles(page)).to_have_text([Path(hit.path).stem for hit in indexed.search(BIKES, 24, sort_by="crowded")])
    kinds.get_by_role("button", name="Moments").click()
    expect(page.locator("#status")).to_contain_text("moment")
    assert place_of(page)["by"] == "moment"
    first = cards(page).first
    expect(first.locator(".line")).to_contain_text(re.compile(r"0:\d\d\.\d . 0:\d\d\.\d"))
    first.click()
    expect(page.locator("#viewer")).to_be_visible()
    page.goto(f"/?q={BIKES}&k=24")
    expect(cards(page)).to_have_count(5)
    bunny = find_id(indexed, "tour.mp4")
    tour = page.get_by_role("listitem").filter(has=page.get_by_role("link", name="tour"))
    liked = tour.get_by_role("button", name=re.compile(r"^More like tour at 0:\d\d$"))
    scene = liked.get_attribute("title") or ""
    body = catch_search(page, liked.click)
    assert (body["query"], body["unlike"], len(body["seen"])) == (BIKES, [], 5)
    ((video, seconds),) = body["like"]
    assert video == bunny
    judged = page.get_by_role("group", name="Judged results")
    expect(judged.get_by_role("button", name="Undo: More like tour")).to_have_count(1)
    expect(tour.get_by_role("button", name=scene)).to_have_count(0)
    expect(liked).to_have_count(1)  # another scene of the same film
    assert place_of(page)["like"] == f"{video}@{seconds:.1f}"
    cards(page).first.focus()
    press(page, "-")
    expect(judged.get_by_role("button", name="Undo: Less like")).to_have_count(1)
    expect(cards(page).first).to_be_focused()
    check_names(page)
    press(page, "u")
    expect(judged.get_by_role("button", name="Undo: Less like")).to_have_count(0)
    page.reload()
    expect(judged.get_by_role("button", name=re.compile(r"^Undo: More like (tour|video \d+) at"))).to_have_count(1)
    page.locator("#query").fill("")
    press(page, "Enter")
    page.wait_for_url(lambda _: "like" not in place_of(page))
    expect(judged).to_be_hidden()
    for kind in ("", "&by=moment"):
        page.goto(f"/?like={bunny}@1.0{kind}")  # without a query, which moments need
        expect(cards(page)).not_to_have_count(0)
        expect(titles(page).filter(has_text="phone")).to_have_count(1)
        expect(page.get_by_role("button", name="Moments")).to_be_hidden()
    judged.get_by_role("button").first.click()
    expect(judged).to_be_hidden()
    expect(page.locator("#status")).to_have_text("6 videos.")
    page.goto("/?q=people&like=wrong&unlike=7@x")  # invalid parameters are ignored
    expect(judged).to_be_hidden()


def test_only_results_of_the_query_count_as_seen_and_further_ones_follow_those_of_a_judgement(
    look: Look, indexed: Engine, bikes: int
) -> None:
    page = look(f"/?q={BUNNY}&k=24")
    expect(cards(page)).to_have_count(5)
    kinds = page.get_by_role("group", name="Results")
    kinds.get_by_role("button", name="Moments").click()
    expect(page.locator("#status")).to_contain_text("moment")
    ask(page, BIKES)  # as moments
    kinds.get_by_role("button", name="Videos").click()
    expect(page.locator("#status")).to_contain_text("video")
    asked = catch_search(page, page.get_by_role("button", name=re.compile("^More like")).first.click)
    found = {(hit.video, round(hit.time, 1)) for hit in indexed.search(BIKES, 24)}
    assert {(video, time_s) for video, time_s in asked["seen"]} <= found

    first = catch_search(page, lambda: page.goto(f"/?q={BIKES}&k=2&like={bikes}@1.0"))
    page.get_by_role("button", name="Show more").wait_for()
    page.wait_for_timeout(100)  # seen; a page that draws nothing would never answer when it draws next
    further = catch_search(page, page.get_by_role("button", name="Show more").click)
    assert further["k"] > first["k"] == 2
    assert further | {"k": 2} == first, "what was seen meanwhile would change the order"


def test_results_marked_right_or_wrong_teach_the_concept_of_the_query(
    look: Look, servers: ExitStack, films: Path, tmp_path: Path, indexed: Engine
) -> None:
    folder = tmp_path / "index"
    shutil.copytree(indexed.path, folder)
    engine = servers.enter_context(Engine.open(folder, encoder=indexed.encoder))
    url = servers.enter_context(serve_page(engine))
    engine.teach("club", [films / "bikes.mp4"])
    page = look(at=url)
    ask(page, "@club outdoors")
    marks = page.locator("#results .chips").first
    marks.get_by_role("button", name="Right").click()
    expect(page.locator("#status")).to_have_text("@club has learned from 2 right and 0 wrong.")
    marks.get_by_role("button", name="Wrong").click()
    expect(page.locator("#status")).to_have_text("@club has learned from 1 right and 1 wrong.")
    expect(marks.get_by_role("button", name="Wrong")).to_have_attribute("aria-pressed", "true")
    (concept,) = engine.concepts()
    assert len(concept.no) == 1
    ask(page, BIKES)
    expect(page.locator("#results .chips")).to_have_count(0)


def test_the_home_page_shows_kinds_days_and_counts_or_only_videos_and_the_map_zooms(
    look: Look, films: Path, refusals: list[str]
) -> None:
    refusals.append("500")
    page = look()
    for name in ("facets", "kinds"):
        page.route(f"**/api/{name}?*", lambda route: route.fulfill(status=500, json={"title": "out of order"}))
    page.reload()
    expect(page.get_by_role("alert").first).not_to_be_empty()
    expect(cards(page)).not_to_have_count(0)
    expect(page.locator("#home")).to_be_hidden()
    assert page.evaluate(
        "document.getElementById('found').offsetLeft === document.getElementById('search-tab').offsetLeft"
    )
    page.unroute_all(behavior="wait")
    page.reload()
    facets = page.get_by_role("complementary", name="Narrow down")
    folders = facets.get_by_role("list", name="Folder").get_by_role("button")
    expect(folders).to_have_text([re.compile(r"films\s*6"), re.compile(r"films/people\s*1")])
    folders.last.click()
    expect(titles(page)).to_have_text(["phone"])
    assert place_of(page) == {"folder": str(films / "people")}
    expect(folders.last).to_have_attribute("aria-pressed", "true")
    folders.last.click()
    page.get_by_role("list", name="Filmed").get_by_role("button", name="2017: 1 video").click()
    expect(titles(page)).to_have_text(["tour"])
    assert place_of(page) == {"filmed_after": "2017-01-01", "filmed_before": "2017-12-31"}
    page.get_by_role("button", name="Clear filters").click()
    kinds = page.get_by_role("list", name="Kinds").get_by_role("link")
    expect(kinds.first).to_have_text(re.compile(r"\d+ videos?"))
    expect(kinds.first.locator("img")).to_have_js_property("complete", True)
    kinds.first.click()
    assert re.fullmatch(r"\d+@\d+\.\d", place_of(page)["like"])
    expect(page.locator("#judged")).to_contain_text("Judged")
    expect(page.locator("#home")).to_be_hidden()
    refusals.append("404")  # of the film that is gone, which may be the first on the map
    page.goto("/?tab=map")
    tiles = page.locator("#map a")
    expect(page.locator("#map-status")).to_contain_text("moments; what looks alike is near")
    before = tiles.count()
    assert before > 3
    page.get_by_role("button", name="Zoom in").click()
    expect(tiles).not_to_have_count(before)
    page.get_by_role("button", name="Zoom out").click()
    expect(tiles).to_have_count(before)
    tiles.first.focus()
    for key in ("+", "ArrowRight", "ArrowRight"):  # where the tile that has the focus may be replaced
        press(page, key)
        assert page.evaluate("document.getElementById('map').contains(document.activeElement)"), "keys go on working"
    assert page.evaluate(f"({PRESS_ALT_LEFT})(document.activeElement)"), "which is to go back"
    page.get_by_role("button", name="Zoom out").click()
    expect(tiles).to_have_count(before)
    tiles.first.click()
    expect(page.locator("#viewer")).to_be_visible()
    assert place_of(page).keys() == {"tab", "v", "t"}
    press(page, "Escape")
    expect(page.locator("#map")).to_be_visible()


def test_people_are_named_corrected_and_offered_while_an_at_is_typed(
    look: Look, indexed: Engine, servers: ExitStack, refusals: list[str], tmp_path: Path
) -> None:
    refusals.append("422")  # of the search for a name that is only begun
    index = shutil.copytree(indexed.path, tmp_path / "index")
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (200, 120, 90)).save(file, "JPEG")
    with Store.open(index) as store, IdentityStore.create(index) as identities:
        content = store.videos.get(find_id(indexed, "bikes.mp4")).fingerprint
        tracks = [replace(track, thumbnail=file.getvalue()) for track in make_tracks([0, 1, 0], length_s=1.0)]
        identities.write_tracks(content, FACES, [*tracks, replace(make_track(1, 5, 6), thumbnail=file.getvalue())])
    Persons(index).group()
    engine = servers.enter_context(Engine.open(index, encoder=indexed.encoder))
    page = look("/?tab=people", at=servers.enter_context(serve_page(engine)))
    people = page.locator("#people > li")
    expect(people).to_have_count(2)
    page.get_by_label("Name of person 1").fill("Anna Maria")
    press(page, "Tab")
    expect(page.get_by_label("Name of Anna Maria")).to_have_value("Anna Maria")
    expect(people.first.get_by_role("button", name="Faces")).to_be_focused()
    press(page, "Enter")
    faces = people.first.get_by_role("button", name="Not Anna Maria")
    expect(faces).to_have_count(2)
    faces.first.click()
    expect(people.first).to_contain_text("1 time in 1 video")
    expect(faces).to_have_count(1)  # they stay open
    page.get_by_role("button", name="Undo").click()
    expect(people.first).to_contain_text("2 times in 1 video")
    people.nth(1).get_by_role("button", name="Hide").click()
    expect(people).to_have_count(1)
    page.locator("#query").press_sequentially("@an")
    page.get_by_role("group", name="Names").get_by_role("button", name="Anna Maria").click()
    expect(page.locator("#query")).to_have_value("@anna-maria ")
    expect(titles(page)).to_have_text(["bikes"])
    expect(page.locator("#results .card").first).to_contain_text(re.compile("@anna-maria seen 0:0\\d to 0:0\\d"))
    expect(page.get_by_role("button", name="Right")).to_have_count(0)
    hold(page, "**/api/people")
    page.reload()
    expect(titles(page)).to_have_text(["bikes"])
    expect(page.get_by_role("button", name="Right")).to_have_count(0)


def test_words_that_a_person_does_not_say_are_not_called_unsaid(
    look: Look, indexed: Engine, servers: ExitStack, tmp_path: Path
) -> None:
    index = shutil.copytree(indexed.path, tmp_path / "index")
    write_words(index, "bikes.mp4", WORDS["bikes.mp4"])
    with Store.open(index) as store, IdentityStore.create(index) as identities:
        identities.write_tracks(store.videos.get(find_id(indexed, "bikes.mp4")).fingerprint, FACES, make_tracks([0, 0]))
    Persons(index).group()
    Persons(index).rename(1, "anna")
    engine = servers.enter_context(Engine.open(index, encoder=indexed.encoder))
    engine.search("bicycle")  # measures the baseline
    page = look('/?q="ring the bell" by @anna', at=servers.enter_context(serve_page(engine)))
    alert = page.get_by_role("alert")
    expect(alert).to_have_text("This person does not say these words. Search for both")
    alert.get_by_role("link").click()
    expect(page.locator("#query")).to_have_value('"ring the bell" @anna')
    expect(titles(page)).to_have_text(["bikes"])


def test_transcript_seeks_follows_and_filters(look: Look, worded_url: str, bikes: int) -> None:
    page = look(f"/?v={bikes}&t=1.0", at=worded_url)
    lines = page.get_by_role("region", name="Transcript").get_by_role("button")
    expect(lines).to_have_text([f"{time}{text}" for time, text in zip(LINE_LABELS, LINES, strict=True)])
    current = page.locator("#lines [aria-current]")
    expect(current).to_contain_text("Welcome")
    wait_for_film(page)
    lines.last.click()
    wait_for_time(page, 6.5)
    expect(current).to_contain_text("Ring the bell")
    page.evaluate("document.getElementById('film').currentTime = 2.5")  # as playback does
    expect(current).to_contain_text("The brakes")
    search_box = page.get_by_role("searchbox", name="Find in the transcript")
    search_box.fill("EXIT")
    expect(page.locator("#lines button:visible")).to_have_text([f"0:03 on screen{SIGN}"])
    search_box.press_sequentially(" mn")  # these are keys of the player
    expect(page.locator("#lines button:visible")).to_have_count(0)
    search_box.fill("the")
    press(page, "ArrowDown", "ArrowDown")
    expect(lines.nth(1)).to_be_focused()
    press(page, "Enter")
    wait_for_time(page, 2.04)
    press(page, "ArrowUp", "ArrowUp")
    expect(search_box).to_be_focused()
    page.get_by_role("button", name="Close").click()
    page.get_by_role("link", name="tour").click()  # nothing is said there
    expect(page.locator("#facts")).not_to_be_empty()
    expect(page.locator("#transcript")).to_be_hidden()


def test_days_are_those_of_the_users_time_zone(look: Look) -> None:
    page = look(timezone_id="Asia/Tokyo")
    amend(page, "**/api/videos/*", lambda video: video.update(filmed="2024-12-31T20:00:00+00:00"))
    cards(page).first.click()
    expect(page.locator("#facts")).to_contain_text("filmed 2025-01-01")


def test_matching_words_are_marked_on_timeline_and_transcript(look: Look, worded_url: str, bikes: int) -> None:
    page = look(f"/?q=emergency exit&v={bikes}&t=3.0", at=worded_url)
    expect(page.locator("#lines mark")).to_have_text(["EMERGENCY", "EXIT"])
    expect(page.locator("#moments .best")).to_contain_text("on screen")
    drawn = {name: str(page.locator(f"#{name}").get_attribute("d")) for name in ("texts", "texts-found")}
    assert {name: path.count("M") for name, path in drawn.items()} == {"texts": len(LINES), "texts-found": 1}
    duration = float(page.evaluate("document.getElementById('film').duration"))
    start, end = map(float, re.findall(r"[\d.]+", drawn["texts-found"].replace(",5", "")))
    assert (start, end) == pytest.approx((3040 / duration, 6000 / duration - 1), abs=2)
    column = page.locator(".match.screen")
    expect(column).to_have_text("on screen")
    timeline, box = box_of(page.locator("#timeline")), box_of(column)
    times = [(x - timeline["x"]) / timeline["width"] * duration for x in (box["x"], box["x"] + box["width"])]
    assert times == pytest.approx([3.04, 6.0], abs=0.1)
    assert box["y"] < timeline["y"] + 20, "words that are shown say more than any frame"
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 30)
    expect(page.locator("#reading")).to_contain_text(f"on screen: {SIGN}")
    page.goto(f"{page.url}&sources=picture")
    expect(page.locator("#curve path.score-line")).to_have_count(1)
    expect(page.locator(".match")).to_have_count(0)


def test_long_transcripts_stay_usable(look: Look, worded_url: str, bikes: int) -> None:
    line = {"source": "speech", "confidence": 1, "language": "en"}
    texts = [{**line, "start": i / 1000, "end": i / 1000, "text": f"line {i}"} for i in range(5000)]
    page = look("/", at=worded_url)
    page.route("**/transcript", lambda route: route.fulfill(json={"texts": texts}))
    page.goto(f"/?v={bikes}&t=4.0")
    current = page.locator("#lines [aria-current]")
    expect(current).to_be_in_viewport()
    assert 3990 <= int(str(current.text_content()).split()[-1]) <= 4200
    page.get_by_role("searchbox", name="Find in the transcript").fill("line 4321")
    expect(page.locator("#lines button:visible")).to_have_count(1)
    display = page.locator("#lines li:visible").evaluate("line => getComputedStyle(line).display")
    assert display == "block", "list items are numbered again for each that is hidden, which takes seconds"


# The viewer


def test_hit_opens_at_its_time_and_the_timeline_and_its_moments_seek(look: Look) -> None:
    page = look(f"/?q={BIKES}&k=24")
    page.get_by_role("link", name="tour").click()
    expect(page.get_by_role("dialog", name="tour")).to_be_visible()
    wait_for_film(page)
    found, (_, before), (_, bikes) = time_of(page), *TOUR[:2]
    assert before - 1 < found < before + bikes + 1
    wait_until(page, f"document.getElementById('film').currentTime > {found + 0.2}")  # it plays
    expect(page.locator("#curve path.score-line")).to_have_count(1)
    typical = page.get_by_text("typical score of other queries")
    expect(typical).to_be_visible()
    expect(typical, "legible over words that match").not_to_have_css("background-color", "rgba(0, 0, 0, 0)")
    press(page, "Space")
    box = box_of(page.locator("#timeline"))
    page.mouse.click(box["x"] + box["width"] * 0.9, box["y"] + 30)
    duration = sum(seconds for _, seconds in TOUR)
    wait_for_time(page, 0.9 * duration)
    page.wait_for_url(re.compile(r"t=15\.\d"))
    expect(page.locator("#reading")).to_have_text(re.compile(r"0:15\.\d  -?0\.\d{3}"))
    page.mouse.move(box["x"] + 5, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 30, steps=3)
    page.mouse.up()
    wait_for_time(page, duration / 2)
    marks, moments = page.locator(".mark"), page.get_by_role("list", name="Moments found").get_by_role("button")
    expect(moments).not_to_have_count(0)
    expect(marks).to_have_count(moments.count())  # drawn once the duration is known, which may be later
    best = page.locator("#moments .best")
    start, end = (float(seconds) for seconds in re.findall(r"0:(\d\d\.\d)", best.inner_text()))
    first, last = before, before + bikes
    assert min(end, last) - max(start, first) > 0.7 * (end - start), "the moment shows the bikes"
    press(page, "End")
    best.click()
    wait_for_time(page, start)
    press(page, "Home")
    wait_for_time(page, 0.0)
    press(page, "n")
    first_start = float(str(marks.first.get_attribute("data-start")))
    wait_for_time(page, first_start)
    press(page, "End", "p")
    wait_for_time(page, float(str(marks.last.get_attribute("data-start"))))
    press(page, "End")
    marks.first.click()
    wait_for_time(page, first_start)


def test_film_whose_clock_starts_late_is_shown_at_the_right_time(
    look: Look, servers: ExitStack, indexed: Engine, tmp_path: Path
) -> None:
    (tmp_path / "films").mkdir()
    film = write_video(tmp_path / "films" / "late.mp4", range(40), rate=5, options={"g": "5"}, shift=10)
    engine = servers.enter_context(make_index(tmp_path / "index", indexed.encoder, film))
    url = servers.enter_context(serve_page(engine))
    page = look(f"{url}?v={find_id(engine, 'late.mp4')}&t=3.0", at=url)
    wait_for_time(page, 2 + 3.0, tolerance=0.01)  # the file's clock starts at 2 s, and the browser keeps it
    expect(page.locator("#clock")).to_have_text("0:03 / 0:08")
    press(page, "Home")
    wait_for_time(page, 2 + 0.0, tolerance=0.01)
    page.wait_for_url(re.compile(r"t=0\.0"))
    expect(page.locator("#clock")).to_have_text("0:00 / 0:08")


def test_keys_go_through_results_and_a_video_and_its_url_can_be_shared(look: Look) -> None:
    page = look(f"/?q={BIKES}&k=24")
    expect(cards(page)).to_have_count(5)
    page.locator("#query").blur()
    page.keyboard.press("/")
    expect(page.locator("#query")).to_be_focused()
    press(page, "ArrowDown")
    expect(cards(page).nth(0)).to_be_focused()
    press(page, "ArrowRight")
    expect(cards(page).nth(1)).to_be_focused()
    press(page, "ArrowDown")  # three in a row
    expect(cards(page).nth(4)).to_be_focused()
    press(page, "ArrowUp")
    expect(cards(page).nth(1)).to_be_focused()
    press(page, "ArrowUp")
    expect(page.locator("#query")).to_be_focused()
    press(page, "ArrowDown", "Enter")
    expect(page.get_by_role("dialog", name="bikes")).to_be_visible()
    wait_for_film(page)
    press(page, "Space")
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    press(page, "Home", "ArrowRight")
    wait_for_time(page, 0.5, tolerance=0.05)
    press(page, "ArrowLeft")
    wait_for_time(page, 0.0, tolerance=0.05)
    press(page, "m")
    expect(page.locator("#mute")).to_have_attribute("aria-pressed", "true")
    press(page, "m", "9")
    expect(page.get_by_role("slider", name="Volume")).to_have_js_property("value", "0.9")
    press(page, ">")
    assert page.evaluate("[film.playbackRate, film.volume.toFixed(1)]") == [1.5, "0.9"]
    press(page, "?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    press(page, "Escape")
    expect(page.get_by_role("dialog", name="Keys")).to_be_hidden()
    press(page, "Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    expect(cards(page).nth(0)).to_be_focused()
    assert place_of(page) == {"q": BIKES, "k": "24"}
    page.get_by_role("link", name="tour").click()
    wait_for_film(page)
    press(page, "Space", "End", "ArrowLeft")
    page.wait_for_url(re.compile(r"t=16\."))
    other = look("/?" + urlsplit(page.url).query)
    expect(other.locator("#query")).to_have_value(BIKES)
    expect(other.get_by_role("dialog", name="tour")).to_be_visible()
    expect(other.locator("#curve path.score-line")).to_have_count(1)
    wait_for_time(other, float(place_of(page)["t"]))
    assert other.evaluate("document.getElementById('film').paused"), "shared links do not start playback"
    other.keyboard.press("Escape")
    expect(other.locator("#viewer")).to_be_hidden()
    expect(titles(other).first).to_have_text("bikes")
    box = box_of(page.locator("#close"))
    page.mouse.dblclick(box["x"] + 10, box["y"] + 10)
    expect(page.locator("#viewer")).to_be_hidden()
    page.wait_for_timeout(100)
    assert place_of(page) == {"q": BIKES, "k": "24"}, "the second click opens nothing below"


def test_unplayable_film_is_shown_as_single_frames_and_a_missing_one_as_a_grey_tile(
    look: Look, films: Path, refusals: list[str]
) -> None:
    refusals += ["404", "ERR_FAILED"]
    page = look()
    page.route("**/stream", lambda route: route.abort())
    page.route("**/thumbnails/**", lambda route: route.abort())
    page.get_by_role("link", name="phone").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("The server does not respond.")
    for selector in ("#film", "#still"):
        expect(page.locator(selector)).to_be_hidden()
    page.unroute_all(behavior="wait")
    press(page, "Escape")
    page.get_by_role("link", name="old").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("This browser cannot play this file")
    still = page.get_by_role("img", name="Frame at the selected time")
    expect(still).to_be_visible()
    expect(page.locator("#clock")).to_have_text("0:00 / 0:03")  # else its end is not known yet
    press(page, "End")
    expect(still).to_have_attribute("src", re.compile(r"t=3\.0"))
    page.wait_for_url(re.compile(r"t=3\.0"))
    expect(page.get_by_role("button", name="Play")).to_be_disabled()
    press(page, "Escape")
    card = page.get_by_role("link", name="gone")
    expect(card).to_contain_text("file is missing")
    wait_until(page, "[...document.querySelectorAll('#results img')].every(img => img.complete)")
    pixels = card.locator(".shot").screenshot()
    grey = np.asarray(Image.open(io.BytesIO(pixels)).convert("RGB")).reshape(-1, 3)
    assert np.ptp(np.median(grey, axis=0)) <= 4
    card.click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_have_text(f"{films / 'gone.mp4'}: its file is gone")


# Images


@pytest.fixture(scope="module")
def image_path(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an image file with a frame of the bikes, larger than the page sends."""
    frame = read_frames(str(films / "bikes.mp4"), times=np.array([4.0])).pixels[0]
    path = tmp_path_factory.mktemp("pictures") / "bikes.png"
    Image.fromarray(np.asarray(frame)).resize((2048, 870)).save(path)
    return path


def test_image_query(look: Look, image_path: Path) -> None:
    page = look()
    for way in ("file", "drop", "paste"):
        page.goto("/")
        expect(titles(page)).to_have_count(6)
        give = partial(give_by_file, page, image_path)
        if way != "file":
            give = partial(give_by_event, page, image_path, way)
        sent = catch_search(page, give)
        assert way == "file" or page.evaluate("window.veiled") == (way == "drop")
        with Image.open(io.BytesIO(base64.b64decode(sent["image"].partition(",")[2]))) as small:
            assert (small.format, small.size) == ("JPEG", (1024, 435))
        expect(page.locator("#status")).to_contain_text("An image cannot be shared by URL.")
        expect(titles(page).first).to_have_text("bikes")
        expect(page.locator("#drop")).to_be_hidden()
        assert place_of(page) == {}
    cards(page).first.click()
    expect(page.locator("#curve path.score-line")).to_have_count(1)
    press(page, "Escape")
    page.get_by_role("button", name="Remove the image").click()
    expect(page.locator("#chip")).to_be_hidden()
    expect(titles(page)).to_have_count(6)
    page.go_back()
    expect(page.get_by_role("img", name="Query image", exact=True)).to_be_visible()
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("The image is gone")
    ask(page, BUNNY)
    expect(page.get_by_role("alert")).to_be_hidden()
    page.go_back()
    expect(page.get_by_role("alert")).to_contain_text("The image is gone")


def test_invalid_image_is_refused_in_one_sentence(look: Look, films: Path, tmp_path: Path) -> None:
    page = look()
    give_by_file(page, films / "bikes.mp4")
    expect(page.get_by_role("alert")).to_have_text("Only images can be used as a query.")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    give_by_file(page, broken)
    expect(page.get_by_role("alert")).to_have_text("broken.png cannot be read as an image by this browser.")


# The index


def test_the_index_tab_lists_facts_and_failed_and_missing_files(
    look: Look, indexed: Engine, films: Path, bikes: int
) -> None:
    page = look("/?tab=index")
    expect(page.locator("#numbers div").first).to_have_text(re.compile(r"videos\s*6"))
    expect(page.locator("#numbers div").nth(1)).to_have_text(re.compile(r"in total\s*0:\d\d"))
    expect(page.locator("#index-path")).to_have_text(str(indexed.path))
    assert page.locator("#put").is_hidden(), "there is no language model to ask"
    rows = page.locator("#failures-rows tr")
    expect(rows).to_have_text([re.compile(r"broken\.mp4\s*is not a video")])
    page.get_by_label("Filter", exact=True).fill("nothing like it")
    expect(rows).to_have_count(0)
    expect(page.locator("#failures-status")).to_have_text("No failed file matches.")
    page.get_by_label("Filter", exact=True).fill("BROKEN")
    expect(rows).to_have_count(1)
    expect(page.locator("#roots")).to_have_text(f"They must be in {films}.")
    page.get_by_role("link", name="Search").click()
    expect(titles(page)).to_have_count(6)

    def lose_files(answer: Any) -> None:
        answer["info"]["files"]["missing"] = 3
        answer |= {"missing": ["/films/a.mp4", "/films/b.mp4", "/films/c.mp4"], "no_clips": "cutting needs ffmpeg"}

    amend(page, "**/api/index", lose_files)
    page.goto(f"/?tab=index&v={bikes}")
    page.get_by_role("button", name="Nothing can be saved: cutting needs ffmpeg").click(force=True)
    expect(page.locator("#viewer-announcement")).to_have_text("Nothing can be saved: cutting needs ffmpeg")
    press(page, "Escape")
    page.get_by_text("Missing files: 3").click()
    expect(page.locator("#missing-list li")).to_have_text(["/films/a.mp4", "/films/b.mp4", "/films/c.mp4"])


def test_run_is_started_watched_and_stopped(look: Look, films: Path, refusals: list[str]) -> None:
    refusals.append("422")
    page = look("/?tab=index")
    paths = page.get_by_label("Files or folders on the server, one per line")
    paths.fill("/nowhere/at/all")
    page.get_by_role("button", name="Start indexing").click()
    expect(page.locator("#index-notice")).to_have_text("/nowhere/at/all: no such file or folder")
    paths.fill("")
    page.get_by_text("Choose a folder").click()
    page.get_by_role("button", name=str(films), exact=True).click()
    expect(page.get_by_role("button", name="people")).to_be_visible()
    page.get_by_role("button", name="Add this folder (5 videos, 1 folder in it)").click()
    expect(paths).to_have_value(str(films))
    page.get_by_role("button", name="Start indexing").click()
    expect(page.get_by_role("button", name="Stop")).to_be_focused()
    progress = page.locator("#progress-status")
    expect(progress).to_have_text("25 %, 1 of 4 files, 1 failed, after 0:20, about 1:00 left")
    expect(page.get_by_role("progressbar")).to_have_js_property("value", 0.25)
    expect(page.get_by_role("img", name="indexing now")).to_be_visible()
    expect(page.locator("#add")).to_be_hidden()
    expect(page.locator("#progress-file")).to_have_text("/films/bikes.mp4")

    def stop_when_told(route: Route) -> None:
        if route.request.method == "DELETE":
            expect(progress).to_have_text("Stopping: what is in progress is finished first")
            expect(page.get_by_role("button", name="Stop now")).to_be_visible()
        route.continue_()

    page.route("**/api/index", stop_when_told)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#last")).to_have_text(
        "The last run was stopped: 1 file encoded, 0 unchanged, 1 failed, in 0:03."
    )
    expect(page.locator("#add")).to_be_visible()
    expect(paths).to_have_value(str(films))  # to go on


def test_run_that_was_stopped_at_once_has_not_failed(look: Look) -> None:
    page = look("/?tab=index")
    last: dict[str, str] = {}
    amend(page, "**/api/index", lambda answer: answer.update(running=False, last=last))
    for error, message in (("interrupted", "was stopped at once."), ("the disk is full", "failed: the disk is full")):
        last["error"] = error
        page.reload()
        expect(page.locator("#last")).to_have_text(f"The last run {message}")


def test_empty_index_leads_to_the_form_where_it_may_be_used_and_else_it_and_a_lost_token_have_instructions(
    look: Look, empty_url: str, films: Path, refusals: list[str]
) -> None:
    refusals += ["401", "500"]
    page = look("", at=empty_url)
    amend(page, "**/api/index", lambda answer: answer.update(allow_index=True, roots=[str(films)]))
    page.reload()
    page.get_by_role("alert").get_by_role("link", name="Index").click()
    expect(page.locator("#add")).to_be_visible()
    page.unroute_all(behavior="wait")
    page.route("**/api/index", lambda route: route.fulfill(status=500, json={"detail": "out of order"}))
    page.goto("/")
    expect(page.locator("#index-notice")).to_have_text("out of order")
    expect(page.locator("#notice")).to_be_hidden()  # nobody knows whether it is empty
    page.unroute_all(behavior="wait")
    page.goto("/")
    expect(page.get_by_role("alert")).to_contain_text(re.compile(r"no videos in this index yet.*vidret index ~/Videos"))
    assert TOKEN not in page.url
    page.get_by_role("link", name="Index").click()
    expect(page.locator("#how")).to_contain_text("--allow-index FOLDER")
    expect(page.locator("#add")).to_be_hidden()
    page.context.clear_cookies()
    search(page, BIKES)
    expect(page.locator("#notice")).to_contain_text("open the link with ?token= that vidret serve printed")


# Errors


def test_question_is_answered_with_citations_that_play(look: Look, asking_url: str) -> None:
    page = look(at=asking_url)
    page.locator("#query").type("who rides a bicycle?")
    page.get_by_role("button", name="Ask").click()
    answer = page.locator("#answer")
    expect(answer).to_contain_text("People ride <b>bicycles</b> [1].", timeout=20_000)
    expect(answer).to_contain_text("not retrieved: 9")
    expect(page.locator("#status")).to_contain_text("ms.")
    cited, time = (answer.locator("a").get_attribute("title") or "").rsplit(" ", 1)
    assert re.fullmatch(r"\d:\d\d", time)
    answer.locator("a").click()
    expect(page.locator("#viewer-title")).to_have_text(cited)
    wait_for_film(page)
    press(page, "Escape")
    expect(answer).to_contain_text("People ride")
    ask(page, "a dog")
    expect(answer).to_be_hidden()


def test_late_responses_are_dropped_and_a_busy_server_is_asked_once_more(look: Look, refusals: list[str]) -> None:
    refusals += ["503", "ERR_FAILED"]
    page = look()
    dropped: list[str] = []
    page.on("requestfailed", lambda request: dropped.append(request.url) if "search" in request.url else None)
    held = hold(page, "**/api/search", 1)
    search(page, BUNNY)
    ask(page, BIKES)
    expect(titles(page).first).to_have_text("bikes")
    assert len(held) == len(dropped) == 1
    page.unroute("**/api/search")
    problem = {"title": "busy", "status": 503, "detail": "the server is busy, ask again"}
    asked: list[str] = []

    def refuse_all_but_the_second(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) == 2:
            route.continue_()
        else:
            route.fulfill(status=503, json=problem, headers={"Retry-After": "0.1"})

    page.route("**/api/search", refuse_all_but_the_second)
    with page.expect_response(lambda answer: answer.url.endswith("/api/search") and answer.ok):
        search(page, "a man in a car")
    assert len(asked) == 2
    search(page, BUNNY)
    expect(page.get_by_role("alert")).to_have_text("the server is busy, ask again")
    assert len(asked) == 4
    page.unroute("**/api/search")
    page.route("**/api/search", lambda route: route.abort())
    search(page, BIKES)
    expect(page.get_by_role("alert")).to_contain_text("The server does not respond.")


# Layout


def test_results_appear_in_the_place_of_skeletons(look: Look) -> None:
    page = look()
    before: list[FloatRect] = []
    late: list[Route] = []

    def measure_first(route: Route) -> None:
        skeleton = page.locator(".skeleton").first
        before.extend([box_of(skeleton), box_of(skeleton.locator(".title"))])
        route.continue_()

    page.route("**/api/search", measure_first)
    page.route("**/api/facets?*", lambda route: late.append(route))
    page.goto(f"/?q={BIKES}")
    expect(titles(page).first).to_have_text("bikes")
    late[0].continue_()
    expect(page.locator("#strip button")).not_to_have_count(0)
    after = [box_of(page.locator(".card").first), box_of(titles(page).first)]
    for one, other in zip(before, after, strict=True):
        assert (one["x"], one["y"], one["height"]) == pytest.approx((other["x"], other["y"], other["height"]), abs=1)


def test_the_viewer_opens_in_the_place_that_its_words_take(look: Look, worded_url: str, bikes: int) -> None:
    page = look("", at=worded_url)
    page.add_init_script(NOTE_SHIFTS)
    patient = "const wait = setTimeout; window.setTimeout = (act, ms) => wait(act, ms === 400 ? 20_000 : ms);"
    page.add_init_script(patient)  # on a busy machine words take longer than the page waits for them
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 860})
        page.goto(f"/?q={BIKES}&v={bikes}&t=2")
        expect(page.locator("#facts a")).to_be_visible()
        expect(page.locator("#moments button").first).to_be_visible()
        assert page.evaluate("shifts.filter((part) => /^(viewer|watch|player|stage|film)$/.test(part))") == []


def test_a_video_that_is_closed_while_it_waits_stays_closed_and_errors_do_not_keep_it(
    look: Look, worded_url: str, bikes: int, refusals: list[str]
) -> None:
    refusals.append("500")
    page = look(f"/?q={BIKES}", at=worded_url)
    hold(page, "**/transcript")
    cards(page).first.click()
    page.wait_for_url(lambda _: "v" in place_of(page))
    page.go_back()
    page.wait_for_timeout(800)  # twice as long as it waits
    expect(page.locator("#viewer")).to_be_hidden()
    assert page.evaluate("!document.getElementById('film').hasAttribute('src')")
    cards(page).first.click()
    expect(page.locator("#viewer")).to_be_visible()  # without its words
    expect(page.locator("#facts a")).to_be_visible()
    press(page, "Escape")
    page.unroute("**/transcript")
    curves = hold(page, "**/curve?*", 1)
    cards(page).first.click()
    expect(page.locator("#facts a")).to_be_visible()
    press(page, "Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    for late in curves:
        late.continue_()
    page.wait_for_timeout(300)
    page.get_by_role("link", name="vidret").click()
    expect(page.locator("#status")).to_have_text(re.compile(r"videos?\.$"))  # the list, no results
    cards(page).nth(1).click()
    expect(page.locator("#facts a")).to_be_visible()
    expect(page.locator("#curve path, .mark")).to_have_count(0)  # of another video
    page.route("**/transcript", lambda route: route.fulfill(status=500, json={"detail": "out of order"}))
    page.goto(f"/?v={bikes}")
    expect(page.locator("#viewer-notice")).to_have_text("out of order")
    expect(page.locator("#facts a")).to_be_visible()


@pytest.mark.parametrize("is_worded", [False, True])
def test_every_place_is_legible_and_accessible(
    look: Look, url: str, worded_url: str, bikes: int, is_worded: bool
) -> None:
    places = {
        "home": "/",
        "results": f"/?q={BIKES}",
        "filters": f"/?q={BIKES}&min_seconds=2",
        "weak": "/?q=quarterly tax regulations",
        "viewer": f"/?q={BIKES}&v={bikes}&t=2",
        "index": "/?tab=index",
        "map": "/?tab=map",
    }
    filled = FILLED
    if is_worded:
        places = {"said": "/?q=emergency exit", "transcript": f"/?q=emergency exit&v={bikes}&t=2"}
        filled = ".said mark, #lines mark"
    page = look(at=worded_url if is_worded else url)
    for name, place in places.items():
        page.set_viewport_size({"width": 1280, "height": 860})
        page.goto(place)
        expect(page.locator(filled).first).to_be_visible()
        if "&v=" in place:
            expect(page.locator("#viewer-title")).not_to_be_empty()
        check_names(page)
        if name == "viewer":
            slider = page.get_by_role("slider", name="Position in the video")
            expect(slider).to_have_attribute("aria-valuetext", "0:02 of 0:10")
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            contrast, text = page.evaluate(CONTRASTS)
            assert contrast >= 4.5, f"{text}, {scheme}"
            ground = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
            assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == (scheme == "dark")
            shoot(page, f"{scheme}-{name}")
        page.set_viewport_size({"width": 320, "height": 640})
        if name == "filters":
            page.get_by_role("button", name="Filters").click()
            expect(page.get_by_role("textbox", name="Folder")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 320
        assert page.evaluate("document.getElementById('viewer').scrollWidth") <= 320
        if name == "viewer":
            last = box_of(page.locator("#moments li").last)
            assert last["y"] + last["height"] <= box_of(page.locator("#viewer-path"))["y"], "no elements overlap"
        shoot(page, f"narrow-{name}")


def check_names(page: Page) -> None:
    """Check that every control has a name and a role."""
    lines = page.locator("body").aria_snapshot().splitlines()
    used = [line for line in lines if re.match(rf"\s*- '?({ROLES})\b", line)]
    assert len(used) > 5
    assert [line for line in used if not re.search(r'"[^"]*\w', line)] == []
    unlabelled = "[...document.querySelectorAll('input, textarea')].filter((e) => !e.labels.length && !e.ariaLabel)"
    assert page.evaluate(f"{unlabelled}.length") == 0
    for role in ("search", "navigation", "main"):
        expect(page.get_by_role(role, include_hidden=True)).to_have_count(1)


def test_page_is_small_and_self_contained() -> None:
    texts = {path.name: path.read_text() for path in PAGE.iterdir()}
    assert sum(len(gzip.compress(text.encode())) for text in texts.values()) <= LARGEST_PAGE
    markup = texts["index.html"]
    modules = re.findall(r'<(?:link rel="modulepreload" href|script type="module" src)="page/(.+?)"', markup)
    assert sorted(modules) == sorted(name for name in texts if name.endswith(".js")), "loaded side by side"
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", markup), "inline is forbidden"
    for name, text in texts.items():
        assert not re.search(r"https?://(?!www\.w3\.org/)", text), f"{name} leads elsewhere"
        assert "innerHTML" not in text


def test_a_browser_that_may_keep_nothing_shows_the_page(look: Look, url: str) -> None:
    page = look("/page/words.js", at=url)
    denied = "{ configurable: true, get() { throw new Error('denied'); } }"
    page.add_init_script(f"Object.defineProperty(window, 'localStorage', {denied})")
    page.goto("/")
    expect(cards(page)).not_to_have_count(0)
    page.evaluate("delete window.localStorage")  # which the fixture clears


# Lists and saved searches


def list_moments(engine: Engine, name: str) -> list[tuple[str, float, float, str]]:
    return [
        (Path(moment.path).name, moment.start, moment.end, moment.note) for moment in engine.collection(name).moments
    ]


@pytest.fixture
def lists(indexed: Engine) -> Iterator[Engine]:
    """Remove the collections that a test makes."""
    yield indexed
    for kept in indexed.collections():
        indexed.remove_collection(kept.name)


def test_lists_are_changed_and_exported_and_saved_searches_opened(
    look: Look, lists: Engine, bikes: int, image_path: Path
) -> None:
    lists.add_to_list("Another", lists.locate(BIKES, 1))
    page = look()
    ask(page, BIKES)
    expect(cards(page).first).to_be_visible()
    page.get_by_role("button", name="Add to the list").first.click()
    expect(page.locator("#status")).to_have_text("Added to My list: 1 moment.")
    cards(page).first.focus()
    press(page, "a")
    expect(page.locator("#status")).to_have_text("My list has it already.")
    cards(page).nth(1).focus()
    press(page, "a")
    expect(page.locator("#status")).to_have_text("Added to My list: 2 moments.")
    page.get_by_role("button", name="Lists").click()
    items = page.get_by_role("list", name="Moments of the list").get_by_role("listitem")
    expect(items).to_have_count(2)
    items.first.get_by_label("Note on bikes.mp4").fill("the best take")
    press(page, "Tab")
    expect(page.get_by_role("button", name="Undo")).to_be_enabled()
    items.first.get_by_label("End of bikes.mp4").fill("0:01.5")
    press(page, "Tab")
    items.first.get_by_title("Move down").click()
    expect(items.nth(1).get_by_label("Note on bikes.mp4")).to_have_value("the best take")
    expect(items.nth(1).get_by_title("Move up")).to_be_focused()
    assert list_moments(lists, "My list")[1][2:] == (1.5, "the best take")
    items.first.get_by_title("Remove").click()
    expect(items).to_have_count(1)
    page.get_by_role("button", name="Undo").click()
    expect(items).to_have_count(2)
    with page.expect_download() as download:
        page.get_by_role("link", name="Resolve markers").click()
    assert "the best take |C:ResolveColorGreen |M:My list 2" in download.value.path().read_text()
    items.nth(1).get_by_label("Start of bikes.mp4").fill("later")
    press(page, "Tab")
    assert page.get_by_label("Start of bikes.mp4").first.evaluate("input => !input.validity.valid")
    page.goto(f"/?q={BIKES}&v={bikes}&t=1")
    expect(page.locator("#moments button").first).to_be_visible()
    press(page, "a")
    expect(page.locator("#viewer-announcement")).to_have_text("Added to My list: 3 moments.")
    name, start, end, _ = list_moments(lists, "My list")[-1]
    assert (name, start <= 1 < end) == ("bikes.mp4", True)
    page.goto(f"/?q={BIKES}&min_seconds=2&filmed_after=2001-02-03&filmed_before=2037-02-03&by=moment&sound=off")
    expect(page.locator("#status")).to_contain_text("ms.")
    page.get_by_role("button", name="Save search").click()
    expect(page.locator("#status")).to_have_text(f"Saved as {BIKES}: see Lists.")
    page.get_by_role("button", name="Save search").click()
    expect(page.locator("#status")).to_have_text(f"Saved already as {BIKES}: see Lists.")
    saved = dict(lists.collection(BIKES).options)
    assert (saved["min_seconds"], saved["filmed_before"]) == (2, datetime(2037, 2, 4).timestamp()), (
        "all of the last day"
    )
    options = SearchOptions(k=3, at_least=0.5, filters=Filters(min_fps=5))
    lists.save_collection(SavedCollection.of_search("by a program", BUNNY, options))
    page.goto("/")
    give_by_file(page, image_path)
    expect(page.locator("#chip")).to_be_visible()
    page.get_by_role("button", name="Lists").click()
    expect(page.locator("#lists-saved")).to_contain_text("by a program opens here without min_fps, at_least")
    page.get_by_role("link", name=BIKES).click()
    expect(page.locator("#chip")).to_be_hidden()  # the words are searched for
    expect(page.locator("#lists")).to_be_hidden()
    wanted = {"q": BIKES, "by": "moment", "min_seconds": "2", "filmed_after": "2001-02-03", "sound": "off"}
    wanted["filmed_before"] = "2037-02-03"
    assert place_of(page) == wanted
    page.set_viewport_size({"width": 320, "height": 640})
    for query, name in ((BIKES, f"{BIKES} 2"), ("🚲", "search"), ("w" * 70, "w" * 60)):  # the first with other filters
        page.goto(f"/?q={query}")
        expect(page.locator("#status")).to_contain_text("ms.")
        page.get_by_role("button", name="Save search").click()
        expect(page.locator("#status")).to_have_text(f"Saved as {name}: see Lists.")
    page.get_by_role("button", name="Lists").click()
    expect(page.get_by_role("link", name="w" * 60)).to_be_visible()
    assert page.evaluate("document.getElementById('lists').scrollWidth") <= 320


def test_what_somebody_else_changed_is_shown_not_overwritten(look: Look, lists: Engine, refusals: list[str]) -> None:
    refusals.append("409")
    lists.add_to_list("My list", [*lists.locate(BIKES, 2), *lists.locate(BUNNY, 2)])
    page = look()
    page.get_by_role("button", name="Lists").click()
    items = page.get_by_role("list", name="Moments of the list").get_by_role("listitem")
    expect(items).to_have_count(4)
    changes, moments = hold(page, "**/api/collections/*", 1), list_moments(lists, "My list")
    boxes = [box_of(items.nth(index).get_by_title("Remove")) for index in range(2)]
    for box in boxes:  # the second before the first has arrived, when the others have other places
        page.mouse.click(box["x"] + 5, box["y"] + 5)
    while not changes:
        page.wait_for_timeout(20)
    changes[0].continue_()
    expect(items).to_have_count(3)
    assert list_moments(lists, "My list") == moments[1:]
    items.first.get_by_title("Remove").click()
    expect(items).to_have_count(2)
    kept = lists.collection("My list")
    lists.save_collection(replace(kept, moments=kept.moments[:1]))
    items.first.get_by_label("Note on").fill("late")
    press(page, "Tab")
    expect(page.locator("#lists-notice")).to_contain_text("My list was changed meanwhile")
    expect(items).to_have_count(1)
    assert list_moments(lists, "My list")[0][3] == ""


def test_adding_and_undoing_heed_what_somebody_else_changed(look: Look, lists: Engine) -> None:
    page = look()
    ask(page, BIKES)
    add = page.get_by_role("button", name="Add to the list").first
    for said in ("Added to My list: 1 moment.", "My list has it already."):
        add.click()
        expect(page.locator("#status")).to_have_text(said)
    lists.save_collection(replace(lists.collection("My list"), moments=()))
    add.click()
    expect(page.locator("#status")).to_have_text("Added to My list: 1 moment.")
    lists.add_to_list("My list", lists.locate(BUNNY, 1))
    page.get_by_role("button", name="Lists").click()
    expect(page.get_by_role("list", name="Moments of the list").get_by_role("listitem")).to_have_count(2)
    undo = page.get_by_role("button", name="Undo")
    expect(undo).to_be_disabled()
    lists.add_to_list("My list", lists.locate(BIKES, 1))
    moments = list_moments(lists, "My list")
    page.get_by_role("button", name="Remove list").click()
    expect(page.get_by_role("list", name="Moments of the list").get_by_role("listitem")).to_have_count(0)
    undo.click()
    expect(page.get_by_role("list", name="Moments of the list").get_by_role("listitem")).to_have_count(3)
    assert list_moments(lists, "My list") == moments


def test_who_may_only_read_is_offered_no_changes(look: Look, lists: Engine, servers: ExitStack) -> None:
    lists.add_to_list("Another", lists.locate(BIKES, 1))  # the only one is opened
    token = make_token(lists.path, "ann", "read")
    servers.callback(TOKENS.path(lists.path).unlink)
    page = look(f"/?token={token}", at=servers.enter_context(serve_page(lists)))
    ask(page, BIKES)
    expect(cards(page).first).to_be_visible()
    for name in ("Save search", "Add to the list"):
        expect(page.get_by_role("button", name=name)).to_have_count(0)
    page.get_by_role("button", name="Lists").click()
    expect(page.get_by_role("list", name="Moments of the list").get_by_role("listitem")).to_have_count(1)
    expect(page.get_by_role("button", name="Move up")).to_have_count(0)
    expect(page.get_by_role("link", name="EDL")).to_be_visible()


def test_the_page_works_under_the_prefix_of_a_proxy(look: Look, lists: Engine, servers: ExitStack) -> None:
    app = create_app(lists, Indexer([]), token="a-long-token")

    async def strip_prefix(scope: Scope, receive: Receive, send: Send) -> None:
        served: ASGIApp = app
        if scope["type"] == "http":
            headers = [(b"host", b"127.0.0.1:1"), *(header for header in scope["headers"] if header[0] != b"host")]
            served = app if scope["path"].startswith("/videos/") else Response("another site", 404)
            scope = {**scope, "path": scope["path"].removeprefix("/videos"), "headers": headers}
        await served(scope, receive, send)

    url = servers.enter_context(run_app(strip_prefix))
    page = look("", at=f"{url}/videos/?token=a-long-token")
    ask(page, BIKES)
    wait_until(page, "document.querySelector('#results img').naturalWidth > 0")
    cards(page).first.click()
    wait_for_film(page)
    assert urlsplit(page.url).path == "/videos/"
    assert [cookie.get("path") for cookie in page.context.cookies()] == ["/videos"]
    press(page, "Escape")
    page.get_by_role("link", name="Map").click()
    expect(page.locator("#map")).to_be_visible()
    assert page.url.startswith(f"{url}/videos/?tab=map")
