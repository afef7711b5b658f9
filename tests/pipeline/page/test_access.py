"""What decodes latents, and the folder for files, as jobs are asked for them."""

import argparse

import pytest

from pipeline.config import VAESection
from pipeline.errors import UserError
from pipeline.page.access import add_access, decoder_of, local_folder
from pipeline.page.look import Decoder


def asked(*arguments):
    parser = argparse.ArgumentParser()
    add_access(parser)
    return decoder_of(parser.parse_args(arguments))


def test_the_device_is_that_of_this_machine_and_not_the_recorded_one():
    recorded = VAESection(checkpoint="/v.safetensors", compute_dtype="bfloat16", device="cuda")
    here = asked().section(recorded)
    assert here == recorded.model_copy(update={"device": "auto"})
    assert asked("--device", "cpu").section(recorded).device == "cpu"
    named = asked("--checkpoint", "/w.safetensors", "--device", "cpu").section(recorded)
    assert (named.checkpoint, named.device) == ("/w.safetensors", "cpu")
    assert Decoder("/w.safetensors").section(None).device == "auto"
    assert asked("--device", "cpu").section(None) is None


def test_a_folder_is_looked_at_and_not_made(tmp_path):
    assert local_folder(str(tmp_path / "a/b")) == tmp_path / "a/b"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for out in ("file", "file/a/b"):
        with pytest.raises(UserError, match="is no folder; name a folder"):
            local_folder(str(tmp_path / out))
    with pytest.raises(UserError, match="File name too long"):
        local_folder(str(tmp_path / ("x" * 300)))
