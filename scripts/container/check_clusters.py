"""Check scripts/container against the schemas of those who read them.

python scripts/container/check_clusters.py --volcano_crd batch.volcano.sh_jobs.yaml

Needs pip install kubernetes-validate huaweicloudsdkmodelarts, and from Volcano's repository
config/crd/volcano/bases/batch.volcano.sh_jobs.yaml. Unknown names are errors, although Kubernetes only drops them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CLUSTERS = Path(__file__).resolve().parent.parent.parent / "scripts" / "container"
MODEL_PACKAGE = "huaweicloudsdkmodelarts.v1.model"
PLAIN: dict[str, Any] = {"str": str, "int": int, "float": (int, float), "bool": bool, "object": object}


def strict(schema: Any) -> Any:
    """A schema that takes no names but those it knows."""
    if isinstance(schema, list):
        return [strict(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: strict(value) for key, value in schema.items()}
    if schema.get("type") == "object" and schema.get("properties"):
        closed.setdefault("additionalProperties", bool(schema.get("x-kubernetes-preserve-unknown-fields")))
    return closed


def check_volcano(file: Path, crd: Path) -> Iterator[str]:
    """The job by Volcano's definition, and its pods by Kubernetes' own."""
    import jsonschema
    import kubernetes_validate

    job = yaml.safe_load(file.read_text(encoding="utf-8"))
    definition = yaml.safe_load(crd.read_text(encoding="utf-8"))
    version = next(each for each in definition["spec"]["versions"] if job["apiVersion"].endswith("/" + each["name"]))
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    for error in jsonschema.Draft202012Validator(schema).iter_errors(job):
        yield f"{file.name}: {'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
    for task in job["spec"]["tasks"]:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": task["name"]}, "spec": task["template"]["spec"]}
        try:
            kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{file.name}: {task['name']}: {str(error)[:200]}"


def model_class(name: str) -> Any:
    module = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    return getattr(importlib.import_module(f"{MODEL_PACKAGE}.{module}"), name)


def check_model(value: Any, kind: str, place: str) -> Iterator[str]:
    """A value by the type that ModelArts' SDK names: plain, a list or table of a type, or a class of the SDK."""
    if match := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{place}: must be a list"
            return
        for number, entry in enumerate(value):
            yield from check_model(entry, match[1], f"{place}[{number}]")
    elif match := re.fullmatch(r"dict\(str, (.+)\)", kind):
        for key, entry in value.items():
            yield from check_model(entry, match[1], f"{place}.{key}")
    elif kind in PLAIN:
        if not isinstance(value, PLAIN[kind]):
            yield f"{place}: must be {kind}"
    elif not isinstance(value, dict):
        yield f"{place}: must be an object ({kind})"
    else:
        known = model_class(kind)
        names = {wire: own for own, wire in known.attribute_map.items()}
        for key, entry in value.items():
            if key not in names:
                yield f"{place}.{key}: is not known in {kind}"
            else:
                yield from check_model(entry, known.openapi_types[names[key]], f"{place}.{key}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volcano_crd", type=Path, required=True)
    arguments = parser.parse_args()
    problems = list(check_volcano(CLUSTERS / "volcano.yaml", arguments.volcano_crd))
    body = json.loads((CLUSTERS / "modelarts.json").read_text(encoding="utf-8"))
    problems += check_model(body, "Job", "modelarts.json")
    print("\n".join(problems) or "volcano.yaml and modelarts.json: as their schemas say")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
