"""The manifests of deploy/kubernetes as kubectl renders them, and how their parts are found."""

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
OVERLAYS = ("base", "overlays/gpu")
APP = "app.kubernetes.io/name"

Object = dict[str, Any]


@cache
def render(overlay: str | Path) -> "Manifests":
    """The overlay, of deploy/kubernetes or in a folder of its own, as ``kubectl apply -k`` sends it."""
    kubectl = Path(sys.prefix) / "bin" / "kubectl"
    rendered = subprocess.run([kubectl, "kustomize", FOLDER / overlay], capture_output=True, text=True, check=False)
    assert rendered.returncode == 0, rendered.stderr
    assert not rendered.stderr, rendered.stderr  # warnings
    return Manifests(tuple(yaml.safe_load_all(rendered.stdout)))


@dataclass(frozen=True)
class Manifests:
    """All objects of an overlay."""

    objects: Sequence[Object]

    def of_kind(self, kind: str) -> dict[str, Object]:
        """By their names."""
        return {thing["metadata"]["name"]: thing for thing in self.objects if thing["kind"] == kind}

    def pods(self) -> dict[str, Object]:
        """The pod template of each Deployment, Job and CronJob, by its label, which a Job's name goes on from."""
        templates = {
            name: thing["spec"]["template"]
            for kind in ("Deployment", "Job")
            for name, thing in self.of_kind(kind).items()
        }
        for name, thing in self.of_kind("CronJob").items():
            templates[name] = thing["spec"]["jobTemplate"]["spec"]["template"]
        by_label = {template["metadata"]["labels"][APP]: (name, template) for name, template in templates.items()}
        assert len(by_label) == len(templates)
        assert all(name.startswith(label) for label, (name, _) in by_label.items())
        return {label: template for label, (_, template) in by_label.items()}

    def selected(self, selector: Mapping[str, Any]) -> list[str]:
        """The names of the pod templates that a label selector selects."""
        return [name for name, pod in self.pods().items() if _matches(selector, pod["metadata"]["labels"])]

    def secret_keys(self) -> set[tuple[str, str]]:
        """Each Secret's name and key that something reads."""
        references = [
            source["valueFrom"]["secretKeyRef"]
            for pod in self.pods().values()
            for source in container(pod).get("env", ())
            if "secretKeyRef" in source.get("valueFrom", {})
        ]
        for authentication in self.of_kind("TriggerAuthentication").values():
            references += authentication["spec"]["secretTargetRef"]
        return {(reference["name"], reference["key"]) for reference in references}

    def environment(self, pod: Object, secrets: Mapping[str, str]) -> dict[str, str]:
        """What the container of the pod finds in its environment, with these values of Secrets' keys."""
        maps = self.of_kind("ConfigMap")
        found: dict[str, str] = {}
        for source in container(pod).get("envFrom", ()):
            found |= maps[source["configMapRef"]["name"]]["data"]
        for variable in container(pod).get("env", ()):
            if "value" in variable:
                found[variable["name"]] = variable["value"]
            elif (reference := variable["valueFrom"].get("configMapKeyRef")) is not None:
                found[variable["name"]] = maps[reference["name"]]["data"][reference["key"]]
            elif (reference := variable["valueFrom"]["secretKeyRef"])["key"] in secrets:
                found[variable["name"]] = secrets[reference["key"]]
            else:
                assert reference.get("optional"), f"nobody sets {reference['key']}"
        return found


def container(pod: Object) -> Object:
    """Its only container."""
    (only,) = pod["spec"]["containers"]
    assert "initContainers" not in pod["spec"]
    return dict(only)


def ports(pod: Object) -> dict[str, int]:
    """The container's ports by their names."""
    return {port["name"]: port["containerPort"] for port in container(pod).get("ports", ())}


def probes(pod: Object) -> Iterator[tuple[str, Object]]:
    """Each probe with its kind."""
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        if kind in container(pod):
            yield kind, container(pod)[kind]


def _matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    wanted = dict(selector.get("matchLabels") or {})
    assert set(selector) <= {"matchLabels", "matchExpressions"}
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return wanted.items() <= labels.items()
