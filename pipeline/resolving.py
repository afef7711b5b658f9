"""The VAE that a run encodes with and the contract that its cache keeps, found out elsewhere.

Both take torch, some 200 MB, which nothing else of a driver loads: a process of its own does, and
ends.
"""

import os
import pickle
import subprocess
import sys

from pipeline.config import Config
from pipeline.contract import Contract
from pipeline.errors import UserError
from pipeline.weights import make_contract, resolve_vae

Resolved = tuple[Config, Contract]

_CODE = "from pipeline.resolving import answer; answer()"


def resolve(config: Config) -> Resolved:
    """The configuration with the VAE's version, channels and widths as numbers, and the contract.

    Here where torch is loaded, or will be: encoders of the local runner are in this process. Raises
    ``UserError``.
    """
    if config.run.runner == "local" or "torch" in sys.modules:
        return _resolve(config)
    done = subprocess.run(
        [sys.executable, "-P", "-c", _CODE],
        input=pickle.dumps(config),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
        process_group=0,  # Ctrl-C is for the parent alone, which ends this
    )
    if done.returncode:
        raise RuntimeError(f"the process that reads the VAE's weights ended with {done.returncode}")
    found: Resolved | UserError = pickle.loads(done.stdout)
    if isinstance(found, UserError):
        raise found
    return found


def answer() -> None:
    """Resolve the configuration that comes by stdin; the answer alone goes to stdout."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    config: Config = pickle.load(sys.stdin.buffer)
    try:
        found: Resolved | UserError = _resolve(config)
    except UserError as error:
        found = error
    with answers:
        answers.write(pickle.dumps(found))


def _resolve(config: Config) -> Resolved:
    vae = resolve_vae(config.vae, config.storage)
    config = config.model_copy(update={"vae": vae})
    return config, make_contract(config)
