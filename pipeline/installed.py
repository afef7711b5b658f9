"""The versions of what a run is made with; recorded with it, and no part of a sample's identity."""

import importlib.metadata

_PACKAGES = ("t2v-latents", "av", "deltalake", "numpy", "pyarrow", "ray", "torch")


def installed_versions() -> dict[str, str | None]:
    """Version by package; None for one that is not installed."""
    return {name: _version(name) for name in _PACKAGES}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
