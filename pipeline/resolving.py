"""The VAE that a run encodes with and the contract that its cache keeps, found out elsewhere.

Both take torch, some 300 MB, which nothing else of a driver loads: a process of its own does, and
ends.
"""

import signal
import sys
from multiprocessing import get_context
from multiprocessing.connection import Connection

from pipeline.config import Config
from pipeline.contract import Contract
from pipeline.errors import UserError
from pipeline.weights import make_contract, resolve_vae

Resolved = tuple[Config, Contract]


def resolve(config: Config) -> Resolved:
    """The configuration with the VAE's version, channels and widths as numbers, and the contract.

    Here where torch is loaded, or will be: encoders of the local runner are in this process. Raises
    ``UserError``.
    """
    if config.run.runner == "local" or "torch" in sys.modules:
        return _resolve(config)
    spawn = get_context("spawn")
    ours, theirs = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_answer, args=(config, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        answer: Resolved | UserError = ours.recv()
    except EOFError as error:
        process.join()
        raise RuntimeError(
            f"the process that reads the VAE's weights ended with {process.exitcode}"
        ) from error
    process.join()
    if isinstance(answer, UserError):
        raise answer
    return answer


def _resolve(config: Config) -> Resolved:
    vae = resolve_vae(config.vae, config.storage)
    config = config.model_copy(update={"vae": vae})
    return config, make_contract(config)


def _answer(config: Config, answers: Connection) -> None:
    """Resolve in a process of its own; one that is interrupted is told so by its parent's end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        answer: Resolved | UserError = _resolve(config)
    except UserError as error:
        answer = error
    answers.send(answer)
