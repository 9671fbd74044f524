"""The figures of deploy/kubernetes fit together and are those of docs/scaling.md; KEDA's query, on PostgreSQL."""

import json
import re
from pathlib import Path

import asyncpg
import pytest

from tests.deploy.manifests import FOLDER, Manifests, container, render

README = FOLDER / "README.md"
DOCUMENT = Path(__file__).parents[2] / "docs" / "scaling.md"
# Migrations, the askmesh command, KEDA, and those that PostgreSQL keeps for its superuser.
SPARE_CONNECTIONS = 20
LEASE_CONNECTIONS = 2


@pytest.fixture
def gpu() -> Manifests:
    return render("overlays/gpu")


def setting(manifests: Manifests, name: str, setting: str) -> int:
    return int(manifests.environment(manifests.pods()[name], _Anything())[f"ASKMESH_{setting}"])


class _Anything(dict[str, str]):
    def __contains__(self, key: object) -> bool:
        return True

    def __missing__(self, key: str) -> str:
        return ""


def most(manifests: Manifests) -> tuple[int, int]:
    """The most replicas of api_service and worker_service."""
    edge = manifests.of_kind("HorizontalPodAutoscaler")["api-service"]["spec"]["maxReplicas"]
    return edge, manifests.of_kind("ScaledObject")["worker-service"]["spec"]["maxReplicaCount"]


def test_slots_fit_those_who_answer(gpu: Manifests) -> None:
    slots = setting(gpu, "worker-service", "WORKER_SLOTS") * most(gpu)[1]
    options = dict(option.split("=", 1) for option in container(gpu.pods()["vllm"])["args"] if "=" in option)
    written = int(options["--max-num-seqs"]) * gpu.of_kind("Deployment")["vllm"]["spec"]["replicas"]
    assert written <= slots <= 1.25 * written, "more waits in vLLM, where it is not fair"
    queued = int(options["--max-num-queued-reqs"]) * gpu.of_kind("Deployment")["vllm"]["spec"]["replicas"]
    assert slots <= queued, "workers would run into a full queue"
    replicas = gpu.of_kind("Deployment")["llm-service"]["spec"]["replicas"]
    # With one replica of llm_service down.
    assert slots <= setting(gpu, "llm-service", "MAX_GENERATIONS") * (replicas - 1)


def test_workers_are_added_before_they_are_full(gpu: Manifests) -> None:
    scaler = gpu.of_kind("ScaledObject")["worker-service"]["spec"]
    (trigger,) = scaler["triggers"]
    slots = setting(gpu, "worker-service", "WORKER_SLOTS")
    assert float(trigger["metadata"]["targetQueryValue"]) == pytest.approx(0.8 * slots, abs=1)
    assert scaler["minReplicaCount"] >= 2
    assert scaler["fallback"]["replicas"] == scaler["maxReplicaCount"]
    for limit in re.findall(r"LIMIT (\d+)", trigger["metadata"]["query"]):
        assert int(limit) >= float(trigger["metadata"]["targetQueryValue"]) * scaler["maxReplicaCount"]


def test_the_document_says_how_many_connections_postgresql_needs(gpu: Manifests) -> None:
    edge, workers = most(gpu)

    def needed(workers: int) -> int:
        # A rolling update has one replica more of each.
        return (
            (edge + 1) * setting(gpu, "api-service", "DATABASE_POOL_SIZE")
            + (workers + 1) * (setting(gpu, "worker-service", "DATABASE_POOL_SIZE") + LEASE_CONNECTIONS)
            + SPARE_CONNECTIONS
        )

    document = DOCUMENT.read_text()
    assert f"max_connections = {needed(workers)}" in document
    # With two vLLM, as the document says what to set for them, llm_service bears it too.
    assert f"`max_connections` to {needed(2 * workers)}" in document
    assert f"`fallback.replicas` to {2 * workers}" in document
    slots = setting(gpu, "worker-service", "WORKER_SLOTS") * 2 * workers
    replicas = gpu.of_kind("Deployment")["llm-service"]["spec"]["replicas"]
    assert slots <= setting(gpu, "llm-service", "MAX_GENERATIONS") * (replicas - 1)


async def test_keda_counts_wanted_slots_by_index(database_url: str) -> None:
    scaler = render("base").of_kind("ScaledObject")["worker-service"]
    query = scaler["spec"]["triggers"][0]["metadata"]["query"]
    connection = await asyncpg.connect(database_url)
    try:
        await _fill(connection)
        assert await connection.fetchval(query) == 300 + 40
        # The rights that README.md gives to KEDA are enough, and they are needed.
        await connection.execute("CREATE ROLE keda_test")
        await connection.execute("SET ROLE keda_test")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.fetchval(query)
        await connection.execute("RESET ROLE")
        (grant,) = re.findall(r"`(GRANT .*?) TO keda`", README.read_text())
        await connection.execute(f"{grant} TO keda_test")
        await connection.execute("SET ROLE keda_test")
        assert await connection.fetchval(query) == 300 + 40
        # It can count, and read nothing of what anybody has asked or was answered.
        for table, column in (("answers", "text"), ("answers", "answer_key"), ("questions", "text"), ("api_keys", "*")):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.fetch(f"SELECT {column} FROM {table} LIMIT 1")
        plan = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}"))[0]
        await connection.execute("RESET ROLE")
    finally:
        await connection.execute("DROP OWNED BY keda_test")
        await connection.execute("DROP ROLE keda_test")
        await connection.close()
    nodes = list(_nodes(plan["Plan"]))
    # By partial indexes over what is not final; which of them depends on what VACUUM has seen.
    scans = {(node["Node Type"], node.get("Index Name")) for node in nodes if "Relation Name" in node}
    assert len(scans) == 2
    assert {index for _, index in scans} <= {"answers_claim", "answers_deadline", "answers_holder"}
    # Of the 498 pages that the table has; 11 were seen.
    assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 100


def _nodes(plan: dict[str, object]) -> list[dict[str, object]]:
    children = plan.get("Plans", [])
    assert isinstance(children, list)
    return [plan, *(node for child in children for node in _nodes(child))]


async def _fill(connection: asyncpg.Connection) -> None:
    """30,000 finished answers, 300 due, 60 that wait for a later time, 40 in progress."""
    insert = """
        INSERT INTO answers
            (answer_key, reusable, state, model, text, due_at, holder, token, next_deadline, finished_at)
        SELECT decode(md5($1 || n), 'hex'), false, $1, '', $2, $3, $4, $4, now() + interval '1 hour', $5
        FROM generate_series(1, $6) AS n
    """
    async with connection.transaction():
        now = await connection.fetchval("SELECT now()")
        await connection.execute(insert, "completed", "an answer", None, None, now, 30_000)
        await connection.execute(insert, "queued", None, None, None, None, 300)
        await connection.execute(insert, "in_progress", None, None, 1, None, 40)
        await connection.execute(insert, "queued", None, now, None, None, 60)
    await connection.execute("VACUUM ANALYZE answers")
