"""examples/kserve: what KServe makes of it. Its webhook, as far as these files meet it.

By pkg/webhook/admission/pod/storage_initializer_injector.go and pkg/utils of KServe: the init
container that it would add, with the ClusterStorageContainer's laid over it (a strategic merge:
lists of words are replaced, lists with names are joined), and its volume unless the pod has one.
"""

from __future__ import annotations

import copy
from typing import Any

import yaml

from support.container import ROOT

FOLDER = ROOT / "examples" / "kserve"
MODELS = "/mnt/models"
VOLUME = "kserve-provision-location"
SERVER = "kserve-container"
# What a container's lists are joined by; all others are replaced.
_JOINED = {"env": "name", "volumeMounts": "mountPath", "ports": "containerPort"}

Made = dict[str, Any]


def documents(name: str) -> list[Made]:
    return list(yaml.safe_load_all((FOLDER / name).read_text("utf-8")))


def storage_container() -> Made:
    (found,) = documents("storage-container.yaml")
    return dict(found)


def inference_service() -> Made:
    (found,) = (
        one for one in documents("inference-service.yaml") if one["kind"] == "InferenceService"
    )
    return dict(found)


def pod(service: Made, storage: Made, server: Made) -> Made:
    """The pod of a service's predictor; `server` is its runtime's container."""
    predictor = copy.deepcopy(service["spec"]["predictor"])
    model = predictor.pop("model")
    model.pop("modelFormat")
    uri = model.pop("storageUri")
    served = laid_over({**server, "name": SERVER}, model)
    initializer = {
        "name": "storage-initializer",
        "image": "kserve/storage-initializer",
        "args": [uri, MODELS],
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": VOLUME, "mountPath": MODELS}],
        "resources": {"limits": {"memory": "1Gi"}},
    }
    if any(uri.startswith(each["prefix"]) for each in storage["spec"]["supportedUriFormats"]):
        initializer = laid_over(initializer, storage["spec"]["container"])
    mount = {"name": VOLUME, "mountPath": MODELS, "readOnly": True}
    served.setdefault("volumeMounts", []).append(mount)
    volumes = predictor.setdefault("volumes", [])
    if all(volume["name"] != VOLUME for volume in volumes):
        volumes.append({"name": VOLUME, "emptyDir": {}})
    spec = {**predictor, "containers": [served], "initContainers": [initializer]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "minilm"}, "spec": spec}


def laid_over(below: Made, above: Made) -> Made:
    """A strategic merge of two containers."""
    found = copy.deepcopy(below)
    for name, value in above.items():
        here = found.get(name)
        if name in _JOINED and here is not None:
            key = _JOINED[name]
            joined = {one[key]: one for one in here} | {one[key]: one for one in value}
            found[name] = list(joined.values())
        elif isinstance(here, dict) and isinstance(value, dict):
            found[name] = laid_over(here, value)
        else:
            found[name] = copy.deepcopy(value)
    return found
