"""Tests of the command ``vidret train``, as far as Lightning does not run."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.cli.runner import Runner
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
