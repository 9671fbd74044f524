"""What the manifests say: valid for Kubernetes and KEDA, and true of the services that they run."""

import re
import shutil
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import click
import kubernetes_validate  # type: ignore[import-untyped]
import pytest
from askmesh_client.channel import SERVICE, target_uri
from cloudcoil.models.keda.v1alpha1 import ScaledObject, TriggerAuthentication

from api_service.dependencies import LONGEST_WAIT_SECONDS
from api_service.health import router
from foundation import settings
from operations import commands
from tests.deploy.manifests import APP, FOLDER, OVERLAYS, Manifests, container, ports, probes, render
from worker_service.health import READY

KUBERNETES = ("1.31", "1.37")
"""The oldest and the newest version that the manifests are checked against."""
NAMESPACE = "kubernetes.io/metadata.name"
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
    "restored": (settings.DatabaseSettings, settings.RedisSettings),
}
SECRETS = {
    "database-url": "postgresql://user:0123456789abcdef@postgresql:5432/askmesh",
    "redis-url": "redis://:0123456789abcdef@redis:6379/0",
    "broker-url": "amqp://user:0123456789abcdef@rabbitmq:5672//",
}
# A worker's steps after its drain: outcomes, lease, broker. See worker_service/slots.py, runtime.py, runtime_step.py.
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


def test_the_overlays_of_the_document_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = (FOLDER / "README.md").read_text()
    own, elsewhere, tokens, ports_elsewhere, route = (
        textwrap.dedent(block) for block in re.findall(r"^ *```yaml\n(.*?)^ *```", document, re.DOTALL | re.MULTILINE)
    )
    shutil.copytree(FOLDER, tmp_path / "deploy" / "kubernetes")

    def rendered(name: str, overlay: str) -> Manifests:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "kustomization.yaml").write_text(overlay)
        return render(folder)

    base = "resources: [../deploy/kubernetes/base]\n"
    manifests = rendered("my-askmesh", own)
    assert container(manifests.pods()["migrations"])["image"] == "registry.example.com/askmesh/api_service:0.1.0"
    assert manifests.of_kind("Ingress")["askmesh"]["spec"]["rules"][0]["host"] == "ask.example.com"
    other = rendered("elsewhere", base + elsewhere)
    environment = other.environment(other.pods()["llm-service"], SECRETS)
    assert environment["ASKMESH_MODEL_URL"] == "https://models.example.com/v1"
    assert environment["ASKMESH_MODEL_NAME"] == "your/model"
    with_tokens = rendered("tokens", base + tokens)
    environment = with_tokens.environment(with_tokens.pods()["api-service"], SECRETS)
    for key, value in environment.items():
        if key.startswith("ASKMESH_"):
            monkeypatch.setenv(key, value)
    assert settings.load(settings.AccessSettings).takes_tokens
    assert settings.load(settings.LimitSettings).limit_requests_per_minute == 60
    assert 443 in allowed_out(with_tokens, "api-service")
    with_ports = rendered("ports", base + ports_elsewhere)
    assert {6432, 6380} < allowed_out(with_ports, "worker-service")
    assert allowed_out(with_ports, "llm-service") == {443, 8000}
    (rule,) = with_ports.of_kind("NetworkPolicy")["names"]["spec"]["egress"]
    assert {port["port"] for port in rule["ports"]} == {53, 5353}
    assert {peer.get("namespaceSelector", {}).get("matchLabels", {}).get(NAMESPACE) for peer in rule["to"]} == {
        "kube-system",
        "openshift-dns",
        None,
    }
    (gateway,) = rendered("gateway", base + route).of_kind("HTTPRoute").values()
    assert gateway["spec"]["hostnames"] == ["ask.example.com"]
    assert gateway["spec"]["parentRefs"] == [{"name": "public", "namespace": "gateways"}]


def with_component(tmp_path: Path, component: str) -> Manifests:
    """The base and a component, as an overlay of one's own has them."""
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    overlay = tmp_path / "mine"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(
        f"resources: [../kubernetes/base]\nnamespace: askmesh\ncomponents: [../kubernetes/components/{component}]\n"
    )
    return render(overlay)


def allowed_out(manifests: Manifests, pod: str) -> set[int]:
    """The numbered ports that policies let it connect to at any address."""
    return {
        port["port"]
        for policy in manifests.of_kind("NetworkPolicy").values()
        if pod in manifests.selected(policy["spec"]["podSelector"])
        for rule in policy["spec"].get("egress", ())
        if "to" not in rule
        for port in rule["ports"]
    }


def test_only_a_component_lets_api_service_out_to_an_issuer(tmp_path: Path, manifests: Manifests) -> None:
    stores = {5432, 5671, 5672, 6379}
    assert allowed_out(manifests, "api-service") == allowed_out(manifests, "worker-service") == stores
    opened = with_component(tmp_path, "issuer")
    assert allowed_out(opened, "api-service") == stores | {443}
    assert allowed_out(opened, "worker-service") == allowed_out(opened, "migrations") == stores
    for policy in opened.of_kind("NetworkPolicy").values():
        assert policy["metadata"]["namespace"] == "askmesh"
        kubernetes_validate.validate(policy, KUBERNETES[-1], strict=True)


def test_names_are_asked_for_wherever_clusters_answer(manifests: Manifests) -> None:
    ((rule,),) = (
        policy["spec"]["egress"] for name, policy in manifests.of_kind("NetworkPolicy").items() if name == "names"
    )
    # Of the cluster's own DNS, and NodeLocal DNSCache, which has an address of the node and is no pod.
    assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in rule["to"]
    assert {port["port"] for port in rule["ports"]} == {53}


def test_an_http_route_is_a_component_in_place_of_the_ingress(tmp_path: Path) -> None:
    manifests = with_component(tmp_path, "gateway")
    assert manifests.of_kind("Ingress") == {}
    (route,) = manifests.of_kind("HTTPRoute").values()
    assert (route["apiVersion"], route["metadata"]["namespace"]) == ("gateway.networking.k8s.io/v1", "askmesh")
    # As the Gateway API's schema of v1 has them.
    assert route["spec"].keys() == {"parentRefs", "hostnames", "rules"}
    (rule,) = route["spec"]["rules"]
    assert rule.keys() == {"matches", "timeouts", "backendRefs"}
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/"}}]
    # 0s: none. A stream lasts as long as its answer is written.
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}
    (backend,) = rule["backendRefs"]
    offered = manifests.of_kind("Service")[backend["name"]]["spec"]["ports"]
    assert backend["port"] in {port["port"] for port in offered}


def test_grpc_by_mutual_tls_is_a_component(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = with_component(tmp_path, "grpc-tls")
    for thing in manifests.of_kind("Deployment").values():
        kubernetes_validate.validate(thing, KUBERNETES[-1], strict=True)
    for name in SERVICES:
        pod = manifests.pods()[name]
        (mount,) = (mount for mount in container(pod)["volumeMounts"] if mount["name"] == "grpc-tls")
        (volume,) = (volume for volume in pod["spec"]["volumes"] if volume["name"] == "grpc-tls")
        assert volume["secret"]["secretName"] == f"{name}-grpc-tls"
        for key, value in manifests.environment(pod, SECRETS).items():
            if key.startswith("ASKMESH_"):
                monkeypatch.setenv(key, value)
        files = settings.load(settings.GrpcTlsSettings).files
        assert files is not None
        assert {str(file.parent) for file in files} == {mount["mountPath"]}
        assert {file.name for file in files} == {"ca.crt", "tls.crt", "tls.key"}
    llm = settings.load(settings.LlmServiceSettings)
    assert not llm.llm_plain_text
    assert set(llm.llm_callers.split(",")) == {"api-service", "worker-service"}
