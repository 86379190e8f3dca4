"""Tests of the command ``vidret train``, as far as Lightning does not run."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.chatting import run_chat, say
from tests.cli.runner import Runner
from tests.data.captioned import write_captioned
from tests.train.small import make_module
from vidret.encode.families.registry import load_encoder


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_model_is_exported_from_a_checkpoint(run: Runner, tmp_path: Path) -> None:
    module, checkpoint = make_module("clip"), dict[str, Any]()
    module.on_save_checkpoint(checkpoint)
    torch.save({**checkpoint, "state_dict": module.state_dict()}, tmp_path / "last.ckpt")
    out = tmp_path / "model.safetensors"
    code, _, err = run("train", "export", tmp_path / "last.ckpt", "--out", out)
    assert (code, f"Written: {out}" in err) == (0, True)
    load_encoder(str(out))
    run.check_refusal(("train", "export", tmp_path / "last.ckpt"), 1, "out must be given, since its run had none")
    run.check_refusal(("train", "export", tmp_path / "last.ckpt", "--device", "cpu"), 2, "No such option")


def test_the_command_writes_what_training_reads(run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VIDRET_LLM", raising=False)
    folder, out = write_captioned(tmp_path / "own", [1, 2], num_frames=3), tmp_path / "rewritten.jsonl"
    with run_chat(lambda _: say("one\ntwo")) as chat:
        command = ("train", "captions", out, "--annotations", folder, "--llm", chat.url, "--llm-model", "small")
        code, _, err = run(*command)
    assert (code, "3 of 3 captions in other words; use it as --data" in err) == (0, True)
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert rows[0] == {"video": "v0", "caption": "caption 0 of 0", "variants": ["one", "two"]}
    run.check_refusal(("train", "captions", out, "--annotations", folder), 2, "--llm")
