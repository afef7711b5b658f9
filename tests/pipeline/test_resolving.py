"""The VAE and the contract of a run, found out by a process of its own."""

import subprocess
import sys

import pytest
from helpers import make_config

from pipeline.resolving import resolve
from pipeline.weights import make_contract

APART = """
import sys
from helpers import make_config
from pipeline.errors import UserError
from pipeline.resolving import resolve

if __name__ == "__main__":
    config, contract = resolve(make_config(run__runner="ray"))
    print(contract.contract_id, config.vae.version)
    try:
        resolve(make_config(run__runner="ray", vae={"checkpoint": "/nowhere/vae.safetensors"}))
    except UserError as error:
        print(error)
    print("torch" in sys.modules)
"""


@pytest.mark.slow
def test_a_driver_that_loads_no_torch_finds_the_same(tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(APART)
    path = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=True, env=path
    )
    found, mistake, loaded = done.stdout.splitlines()
    assert found == f"{make_contract(make_config()).contract_id} 2"
    assert "/nowhere/vae.safetensors" in mistake
    assert loaded == "False"


def test_a_local_runner_resolves_here():
    config, contract = resolve(make_config())
    assert contract == make_contract(make_config())
    assert None not in (config.vae.version, config.vae.z_channels)
