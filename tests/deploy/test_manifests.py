"""What the manifests say: valid for Kubernetes and KEDA, and true of the services that they run."""

import re
import tomllib
from typing import Any

import click
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from askmesh_client.channel import SERVICE, target_uri
from cloudcoil.models.keda.v1alpha1 import ScaledObject, TriggerAuthentication

from api_service.health.endpoints import router
from api_service.http.dependencies import LONGEST_WAIT_SECONDS
from foundation import settings
from operations import commands
from tests.deploy.manifests import APP, FOLDER, OVERLAYS, Manifests, container, ports, probes, render
from worker_service.health import READY

KUBERNETES = ("1.31", "1.37")
"""The oldest and the newest version that the manifests are checked against."""
KEDA = {"ScaledObject": ScaledObject, "TriggerAuthentication": TriggerAuthentication}
OURS: dict[str, tuple[type[settings.Group], ...]] = {
    "api-service": (
        settings.ApiSettings,
        settings.AccessSettings,
        settings.DatabaseSettings,
        settings.RedisSettings,
        settings.BrokerSettings,
        settings.GenerationSettings,
        settings.QuestionSettings,
        settings.LimitSettings,
        settings.LlmClientSettings,
        settings.GrpcTlsSettings,
        settings.ProcessSettings,
    ),
    "worker-service": (
        settings.WorkerSettings,
        settings.DatabaseSettings,
        settings.RedisSettings,
        settings.BrokerSettings,
        settings.GenerationSettings,
        settings.QuestionSettings,
        settings.LlmClientSettings,
        settings.GrpcTlsSettings,
        settings.ProcessSettings,
    ),
    "llm-service": (
        settings.LlmServiceSettings,
        settings.GenerationSettings,
        settings.GrpcTlsSettings,
        settings.ProcessSettings,
    ),
    "migrations": (settings.DatabaseSettings,),
    "restored": (settings.DatabaseSettings,),
}
SECRETS = {
    "database-url": "postgresql://user:0123456789abcdef@postgresql:5432/askmesh",
    "redis-url": "redis://:0123456789abcdef@redis:6379/0",
    "broker-url": "amqp://user:0123456789abcdef@rabbitmq:5672//",
}
# A worker's steps after its drain: outcomes, lease, broker. See claiming/slots.py, runtime.py and runtime_step.py in
# worker_service.
LAST_STEPS_SECONDS = 15
VERSION = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())["project"]["version"]
SERVICES = ("api-service", "worker-service", "llm-service")


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return render(request.param)


@pytest.fixture
def gpu() -> Manifests:
    return render("overlays/gpu")


def quantity(text: str) -> float:
    """A Kubernetes quantity in its base unit."""
    number, unit = re.fullmatch(r"([0-9.]+)([A-Za-z]*)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"": 1, "m": 1e-3, "Mi": 2**20, "Gi": 2**30}[unit]


def test_kubernetes_and_keda_accept_them(gpu: Manifests) -> None:
    # Which holds all of the base.
    for thing in gpu.objects:
        if (schema := KEDA.get(thing["kind"])) is not None:
            accepted = schema.model_validate(thing).model_dump(mode="json", by_alias=True, exclude_unset=True)
            assert accepted == thing, "KEDA's schema has no such field"
            continue
        for version in KUBERNETES:
            kubernetes_validate.validate(thing, version, strict=True)


def test_everything_stands_in_the_namespace_and_once(manifests: Manifests) -> None:
    (namespace,) = manifests.of_kind("Namespace")
    assert all(
        thing["metadata"].get("namespace") == namespace for thing in manifests.objects if thing["kind"] != "Namespace"
    )
    names = [(thing["kind"], thing["metadata"]["name"]) for thing in manifests.objects]
    assert len(names) == len(set(names))


def test_selectors_select_the_pods_they_are_named_after(manifests: Manifests) -> None:
    deployments = manifests.of_kind("Deployment")
    for name, deployment in deployments.items():
        assert manifests.selected(deployment["spec"]["selector"]) == [name]
        for constraint in deployment["spec"]["template"]["spec"].get("topologySpreadConstraints", ()):
            assert manifests.selected(constraint["labelSelector"]) == [name]
    for name, budget in manifests.of_kind("PodDisruptionBudget").items():
        assert manifests.selected(budget["spec"]["selector"]) == [name]
    for name, service in manifests.of_kind("Service").items():
        assert manifests.selected({"matchLabels": service["spec"]["selector"]}) == [name]
    for kind in ("HorizontalPodAutoscaler", "ScaledObject"):
        for scaler in manifests.of_kind(kind).values():
            scaled = deployments[scaler["spec"]["scaleTargetRef"]["name"]]
            assert "replicas" not in scaled["spec"], "applying it again would undo the scaling"
    assert set(SERVICES) <= set(manifests.of_kind("PodDisruptionBudget"))


def test_ports_are_those_that_the_services_listen_on(manifests: Manifests) -> None:
    pods = manifests.pods()
    for name, service in manifests.of_kind("Service").items():
        assert all(port["targetPort"] in ports(pods[name]) for port in service["spec"]["ports"])
    for ingress in manifests.of_kind("Ingress").values():
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                offered = manifests.of_kind("Service")[backend["name"]]["spec"]["ports"]
                assert backend["port"]["name"] in {port["name"] for port in offered}
    for name, port, setting in (
        ("api-service", "http", "API"),
        ("llm-service", "grpc", "LLM"),
        ("llm-service", "health", "LLM_HEALTH"),
        ("worker-service", "health", "WORKER_HEALTH"),
    ):
        environment = manifests.environment(pods[name], SECRETS)
        assert str(ports(pods[name])[port]) == environment[f"ASKMESH_{setting}_PORT"]
        assert environment[f"ASKMESH_{setting}_HOST"] == "0.0.0.0"


def test_probes_ask_what_exists(manifests: Manifests) -> None:
    paths = {route.path for route in router.routes}  # type: ignore[attr-defined]
    names = {"worker-service": {"", READY}, "llm-service": {"", SERVICE}}
    for name in manifests.of_kind("Deployment"):
        pod = manifests.pods()[name]
        assert [kind for kind, _ in probes(pod)] == ["startupProbe", "readinessProbe", "livenessProbe"]
        for kind, probe in probes(pod):
            if "httpGet" in probe:
                assert probe["httpGet"]["port"] in ports(pod)
                known = {"/health"} if name == "vllm" else paths
                assert probe["httpGet"]["path"] in known
                # Whoever cannot reach PostgreSQL must not be restarted for it.
                assert kind == "readinessProbe" or probe["httpGet"]["path"] != "/readyz"
            else:
                assert probe["grpc"]["port"] in ports(pod).values()
                assert probe["grpc"].get("service", "") in names[name]
                assert kind == "readinessProbe" or "service" not in probe["grpc"]


def test_each_service_starts_with_its_settings(manifests: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    pods = manifests.pods()
    known = {name for name, _ in settings.described()}
    for name, groups in OURS.items():
        environment = {
            key: value
            for key, value in manifests.environment(pods[name], SECRETS).items()
            if key.startswith("ASKMESH_")
        }
        assert environment.keys() <= known
        with monkeypatch.context() as patched:
            for key, value in environment.items():
                patched.setenv(key, value)
            for group in groups:
                settings.load(group)
        needed = {settings.PREFIX + field.upper() for group in groups for field in group.model_fields} | {
            "ASKMESH_LOG_LEVEL"
        }
        assert environment.keys() <= needed, f"{name} does not read them"


def test_no_variable_of_kubernetes_looks_like_a_setting(manifests: Manifests) -> None:
    assert all(pod["spec"]["enableServiceLinks"] is False for pod in manifests.pods().values())


def test_those_who_must_agree_read_the_same(manifests: Manifests) -> None:
    environments = [
        manifests.environment(manifests.pods()[name], SECRETS) for name in ("api-service", "worker-service")
    ]
    for field in settings.GenerationSettings.model_fields:
        key = settings.PREFIX + field.upper()
        assert environments[0].get(key) == environments[1].get(key)


def test_services_find_one_another(manifests: Manifests, gpu: Manifests) -> None:
    service = manifests.of_kind("Service")["llm-service"]["spec"]
    targets = f"llm-service:{service['ports'][0]['port']}"
    assert service["clusterIP"] == "None"
    for name in ("api-service", "worker-service"):
        assert manifests.environment(manifests.pods()[name], SECRETS)["ASKMESH_LLM_TARGETS"] == targets
    assert target_uri(targets) == f"dns:///{targets}"
    (port,) = gpu.of_kind("Service")["vllm"]["spec"]["ports"]
    environment = gpu.environment(gpu.pods()["llm-service"], SECRETS)
    assert environment["ASKMESH_MODEL_URL"] == f"http://vllm:{port['port']}/v1"
    assert environment["ASKMESH_MODEL_NAME"]


def test_secrets_are_only_referred_to_and_documented(manifests: Manifests) -> None:
    assert not manifests.of_kind("Secret")
    documented = re.findall(r"^ *\| `([a-z-]+)` \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    keys = manifests.secret_keys()
    assert {name for name, _ in keys} == {"askmesh"}
    assert {key for _, key in keys} <= set(documented)
    assert {key for _, key in render("overlays/gpu").secret_keys()} == set(documented)
    for config in manifests.of_kind("ConfigMap").values():
        assert not any(
            re.search(r"://[^/]*@|password|token", value, re.IGNORECASE) for value in config["data"].values()
        )


def test_a_pod_has_time_to_drain(manifests: Manifests) -> None:
    for name in SERVICES:
        pod = manifests.pods()[name]
        drain = float(manifests.environment(pod, SECRETS)["ASKMESH_DRAIN_SECONDS"])
        before = container(pod).get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        after = LAST_STEPS_SECONDS if name == "worker-service" else 5
        assert pod["spec"]["terminationGracePeriodSeconds"] >= before + drain + after


def test_vllm_has_time_to_finish(gpu: Manifests) -> None:
    pod = gpu.pods()["vllm"]
    (drain,) = (
        int(option.split("=")[1]) for option in container(pod)["args"] if option.startswith("--shutdown-timeout")
    )
    assert pod["spec"]["terminationGracePeriodSeconds"] > drain
    resources = container(pod)["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"]
    assert f"--tensor-parallel-size={resources['limits']['nvidia.com/gpu']}" in container(pod)["args"]


def test_no_pod_has_more_rights_than_it_needs(manifests: Manifests) -> None:
    for pod in manifests.pods().values():
        assert pod["spec"]["automountServiceAccountToken"] is False
        whole: dict[str, Any] = pod["spec"]["securityContext"]
        assert whole["runAsNonRoot"] is True
        assert whole["runAsUser"] > 0
        assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container(pod)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        resources = container(pod)["resources"]
        assert quantity(resources["requests"]["memory"]) <= quantity(resources["limits"]["memory"])


def test_who_may_connect_to_whom(manifests: Manifests) -> None:
    policies = manifests.of_kind("NetworkPolicy")
    (everybody,) = (
        policy["spec"]
        for policy in policies.values()
        if "egress" not in policy["spec"] and "ingress" not in policy["spec"]
    )
    assert everybody == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    pods = manifests.pods()
    let_in: set[tuple[str, str]] = set()
    let_out: set[tuple[str, str]] = set()
    for name, policy in policies.items():
        chosen = manifests.selected(policy["spec"]["podSelector"])
        assert chosen, f"{name} is about no pod"
        for kind, side, found in (("ingress", "from", let_in), ("egress", "to", let_out)):
            for rule in policy["spec"].get(kind, ()):
                for peer in rule.get(side, ()):
                    others = manifests.selected(peer["podSelector"]) if "podSelector" in peer else []
                    assert others or {"namespaceSelector", "ipBlock"} & peer.keys(), f"{name} names no pod"
                    found |= {(other, pod) if kind == "ingress" else (pod, other) for pod in chosen for other in others}
                    for port in rule["ports"]:
                        if isinstance(port["port"], str):
                            assert all(
                                port["port"] in ports(pods[end]) for end in (chosen if kind == "ingress" else others)
                            )
    # What one side lets out the other lets in.
    assert let_in == let_out
    assert let_in >= {("api-service", "llm-service"), ("worker-service", "llm-service")}


def test_images_have_the_release_as_their_tag(manifests: Manifests) -> None:
    images = {name: container(pod)["image"] for name, pod in manifests.pods().items()}
    assert images["migrations"] == images["restored"] == images["api-service"] == f"askmesh/api_service:{VERSION}"
    assert images["worker-service"] == f"askmesh/worker_service:{VERSION}"
    assert images["llm-service"] == f"askmesh/llm_service:{VERSION}"
    assert all(re.search(r":v?[0-9]+\.[0-9]+\.[0-9]+$", image) for image in images.values())


def test_labels_name_each_pod(manifests: Manifests) -> None:
    for name, thing in manifests.of_kind("Deployment").items():
        assert thing["spec"]["template"]["metadata"]["labels"][APP] == name
    # A Job cannot be changed: that of another release has another name.
    (migrations,) = manifests.of_kind("Job")
    assert migrations == f"migrations-{VERSION.replace('.', '-')}"
    assert "ttlSecondsAfterFinished" not in manifests.of_kind("Job")[migrations]["spec"]


def test_what_is_for_after_a_restore_never_runs_by_itself(manifests: Manifests) -> None:
    ((name, job),) = manifests.of_kind("CronJob").items()
    assert job["spec"]["suspend"] is True
    assert f"--from=cronjob/{name}" in (FOLDER.parents[1] / "docs" / "operations.md").read_text()
    assert container(manifests.pods()[name])["command"][-2:] == ["operations", "restored"]
    assert commands.askmesh.get_command(click.Context(commands.askmesh), "restored") is not None


def test_a_proxy_waits_for_longer_than_anybody_may_be_silent(gpu: Manifests) -> None:
    annotations = gpu.of_kind("Ingress")["askmesh"]["metadata"]["annotations"]
    named = {name.removeprefix("nginx.ingress.kubernetes.io/"): value for name, value in annotations.items()}
    postgresql_hangs = 20
    assert int(named["proxy-read-timeout"]) > LONGEST_WAIT_SECONDS + postgresql_hangs
    assert named["proxy-buffering"] == "off"
    (largest,) = (
        limit.le for limit in settings.ApiSettings.model_fields["max_body_bytes"].metadata if hasattr(limit, "le")
    )
    assert int(named["proxy-body-size"].removesuffix("m")) * 2**20 == largest
