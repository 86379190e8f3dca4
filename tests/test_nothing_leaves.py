"""Nothing leaves the machine: commands with words, and the libraries behind them, look up and reach loopback alone."""

import json
import re
import shutil
import signal
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.chatting import run_chat, say
from tests.guard import ROOT, Guard
from tests.word_films import SUBTITLES, write_worded
from vidret.cli.commands.demo import sample_videos

VIDRET = ("-c", "from vidret.cli import main; main()")
# Runs command lines one after another, and ends the output of each.
IN_TURN = """
import json, sys
from vidret.cli import main
for line in json.loads(sys.argv[1]):
    sys.argv = ["vidret", *line]
    try:
        main()
    except SystemExit as ended:
        assert not ended.code, line
    print("\\0", end="")
"""
LIBRARIES = (
    "cv2 decord einops faiss faster_whisper fastapi huggingface_hub mcp onnxruntime open_clip opentimelineio "
    "openvino pymilvus pytorch_lightning rapidocr ray sentence_transformers timm torchcodec transformers uvicorn "
    "watchfiles"
)


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> Guard:
    return Guard(tmp_path_factory.mktemp("guarded"))


@pytest.fixture(scope="module")
def told(guard: Guard) -> list[str]:
    """Make an index with sound, text on the screen and subtitles, and use it; return what each command printed."""
    films = guard.home / "films"
    write_worded(films / "sign.mkv", ("lighthouse", 2.0), subtitles=SUBTITLES)
    shutil.copy(sample_videos() / "bigbuckbunny.mp4", films / "bunny.mp4")
    with run_chat(lambda request_index: say("At the lighthouse [1]." if request_index else '["a lighthouse"]')) as chat:
        lines = [
            ["index", str(films)],
            ["search", "lighthouse", "--json"],
            ["locate", "a rabbit"],
            ["doctor"],
            ["ask", "where are we?", "--llm", chat.url, "--llm-model", "small"],
        ]
        index = str(guard.home / "index")
        return guard.run("-c", IN_TURN, json.dumps([[*line, "--index", index] for line in lines])).split("\0")


def test_the_guard_sees_python_and_native_code(tmp_path: Path) -> None:
    guard = Guard(tmp_path)
    guard.run(
        "-c",
        "import contextlib, ctypes, socket\n"
        "for host in ('example.com', '192.0.2.1', '2001:db8::1'):\n"
        "    with contextlib.suppress(OSError): socket.create_connection((host, 80))\n"
        "with contextlib.suppress(OSError): socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.2', 53))\n"
        "ctypes.CDLL(None).getaddrinfo(b'example.org', None, None, None)\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(('localhost', server.getsockname()[1]))\n",
    )
    tried = [" ".join(line.split()[:2]) for line in guard.attempts()]
    expected = ["getaddrinfo example.com", "connect 192.0.2.1", "connect 2001:db8::1", "sendto 192.0.2.2"]
    assert tried == [*expected, "getaddrinfo example.org"]


def test_commands_reach_nothing_and_questions_the_endpoint_alone(guard: Guard, told: list[str]) -> None:
    _, found, _, _, answered, _ = told
    hits = json.loads(found)
    assert Path(hits[0]["path"]).name == "sign.mkv"
    assert hits[0]["evidence"]
    assert "At the lighthouse [1]." in answered
    check(guard)


@pytest.mark.usefixtures("told")
def test_a_server_reaches_nothing(guard: Guard) -> None:
    process = guard.start(*VIDRET, "serve", "--index", guard.home / "index", "--port", 0)
    try:
        assert process.stderr is not None
        url = next(match[0] for line in process.stderr if (match := re.search(r"http://127\.0\.0\.1:\d+/", line)))
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}api/search", b'{"query": "lighthouse"}', headers)
        with urllib.request.urlopen(request, timeout=60) as reply:
            assert b"sign.mkv" in reply.read()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    check(guard)


@pytest.mark.slow
def test_libraries_reach_nothing_when_vidret_imports_them(guard: Guard) -> None:
    names = [name for name in LIBRARIES.split() if find_spec(name) is not None]
    assert len(names) > 12
    guard.run("-c", f"import time, vidret, {', '.join(names)}\ntime.sleep(3)")
    check(guard)


def test_statistics_of_libraries_are_off_whatever_was_set(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(guard.environment, "HF_HUB_DISABLE_TELEMETRY", "0")
    read = "import json, os, vidret\nfrom huggingface_hub import constants\n"
    read += "assert constants.HF_HUB_DISABLE_TELEMETRY\nprint(json.dumps(dict(os.environ)))"
    settings = json.loads(guard.run("-c", read))
    assert settings["ORT_DISABLE_TELEMETRY"] == settings["DISABLE_SAFETENSORS_CONVERSION"] == "1"
    assert settings["RAY_USAGE_STATS_ENABLED"] == "0"


def test_documentation_is_built_and_read_without_other_sites() -> None:
    """No fonts of Google, and no plugin that downloads (social, privacy) or inventories of other projects."""
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert "\n  font: false\n" in text
    plugins = text.split("\nplugins:\n")[1].split("\nnav:")[0]
    assert re.findall(r"^  - (\w+)", plugins, re.MULTILINE) == ["search", "mkdocstrings"]
    assert not re.search("inventories|https?://|extra_(css|javascript)", text)
    assert not any("```mermaid" in page.read_text("utf-8") for page in (ROOT / "docs").rglob("*.md"))


def check(guard: Guard) -> None:
    """Check that nothing was tried, and that no library left a name for this machine to be known by."""
    assert guard.attempts() == []
    traces = [path for path in guard.home.rglob("*") if re.search("microsoft|deviceid|telemetry", path.name, re.I)]
    assert traces == []
