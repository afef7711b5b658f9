"""Check every manifest that there is: generated ones, and overlays as kustomize renders them.

Core kinds by the API's own schemas, unknown fields refused; KubeRay's kinds by the models of
kinds.py, their pods as core kinds, and by KubeRay's CRDs where a folder of them is given.

Example:
  python -m infra.manifests.validate --crd-dir kuberay/helm-chart/kuberay-operator/crds
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from pydantic import ValidationError

from infra.manifests.kinds import RAY_KINDS
from infra.manifests.values import INFRA, ROOT
from pipeline.errors import UserError

Tree = dict[str, Any]
KUBERAY = INFRA / "kuberay"

_GROUP = "ray.io/"


def manifests(folder: Path = KUBERAY) -> Iterator[tuple[str, Tree]]:
    """Every document with where it comes from: files of the base, then rendered overlays."""
    for path in sorted((folder / "base").rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            yield from _documents(str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
    for path in sorted((folder / "overlays").glob("*/kustomization.yaml")):
        yield from _documents(str(path.parent.relative_to(ROOT)), kustomize(path.parent))


def kustomize(folder: Path) -> str:
    """What ``kubectl kustomize`` makes of a folder; raises ``UserError`` where it refuses."""
    kubectl = find_tool("kubectl")
    done = subprocess.run(
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UserError(f"kubectl kustomize {folder} failed: {done.stderr.strip()}")
    return done.stdout


def find_tool(name: str) -> str:
    """A program beside this Python, else on PATH; raises ``UserError`` where there is none."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise UserError(f"{name} is not installed; make setup installs it")
    return found


def read_crds(folder: Path) -> dict[str, Tree]:
    """Schemas of a folder's CRDs by ``apiVersion kind``, closed against unknown fields."""
    schemas = {}
    for path in sorted(folder.glob("*.yaml")):
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
        for version in spec["versions"]:
            schema = closed(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            key = f"{spec['group']}/{version['name']} {spec['names']['kind']}"
            schemas[key] = schema
    if not schemas:
        raise UserError(f"{folder} holds no CRD (*.yaml); name KubeRay's folder of them")
    return schemas


def closed(schema: Mapping[str, Any]) -> Tree:
    """A CRD's schema as JSON Schema that refuses fields it does not name."""
    out = dict(schema)
    if out.pop("x-kubernetes-int-or-string", False):
        return {"type": ["integer", "string"]}
    if "properties" in out:
        out["properties"] = {name: closed(one) for name, one in out["properties"].items()}
        if not out.get("x-kubernetes-preserve-unknown-fields"):
            out.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(out.get(key), dict):
            out[key] = closed(out[key])
    if out.pop("nullable", False):
        out["type"] = [out["type"], "null"]
    return out


def problems(document: Tree, crds: Mapping[str, Tree]) -> list[str]:
    """What is wrong with a document; nothing where it is right."""
    if not str(document.get("apiVersion")).startswith(_GROUP):
        return _core_problems(document)
    key = f"{document['apiVersion']} {document.get('kind')}"
    model = RAY_KINDS.get(str(document.get("kind")))
    if model is None:
        return [f"{key} is no kind that is used here"]
    found = []
    if crds:
        if key not in crds:
            return [f"the CRDs have no {key}"]
        errors = jsonschema.Draft7Validator(crds[key]).iter_errors(document)
        found = [f"{'/'.join(map(str, one.absolute_path))}: {one.message}" for one in errors]
    try:
        templates = model.model_validate(document).cluster.templates
    except ValidationError as error:
        wrong = [f"{'/'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        return [*found, *wrong]
    for template in templates:
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "pod"}}
        found += _core_problems({**pod, "template": template})
    return found


def _core_problems(document: Tree) -> list[str]:
    try:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{'/'.join(map(str, error.path))}: {error.message}"]
    except kubernetes_validate.SchemaNotFoundError:
        return [f"{document.get('apiVersion')} {document.get('kind')} is no kind of Kubernetes"]
    return []


def _documents(name: str, text: str) -> Iterator[tuple[str, Tree]]:
    for document in yaml.safe_load_all(text):
        if document is not None:
            yield f"{name}: {document.get('kind')}", document


def main(arguments: Sequence[str] | None = None) -> int:
    """Check everything; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.manifests.validate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--crd-dir", metavar="DIR", type=Path, help="of KubeRay's CRDs")
    args = parser.parse_args(arguments)
    wrong = 0
    try:
        crds = {} if args.crd_dir is None else read_crds(args.crd_dir)
        for name, document in manifests():
            found = problems(document, crds)
            print(f"{name} {'is wrong' if found else 'ok'}")
            for problem in found:
                print(f"  {problem}")
            wrong += len(found)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.crd_dir is None:
        print("KubeRay's CRDs were not asked: make validate CRD_DIR=... does")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
