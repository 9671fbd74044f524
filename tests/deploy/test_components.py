"""Components and the overlays of deploy/kubernetes/README.md, rendered as somebody's own overlay takes them."""

import re
import shutil
import textwrap
from pathlib import Path

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from foundation import settings
from tests.deploy.manifests import FOLDER, OVERLAYS, Manifests, container, render
from tests.deploy.test_manifests import KUBERNETES, SECRETS, SERVICES

NAMESPACE = "kubernetes.io/metadata.name"


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return render(request.param)


@pytest.mark.processes
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


@pytest.mark.processes
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


@pytest.mark.processes
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


@pytest.mark.processes
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
