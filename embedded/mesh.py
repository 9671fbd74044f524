"""The composition of ``make run``: which processes there are, where they are, and in which order they start."""

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from embedded.model import NAME as EMBEDDED_MODEL
from embedded.model import EmbeddedModelServer
from embedded.ports import HOST, consecutive, free_port, listen, port_of
from embedded.postgresql import PostgreSQL
from embedded.probes import Notification, grpc_serves, http_answers
from embedded.processes import Program, Server
from embedded.runtime_folder import RuntimeFolder
from embedded.valkey import Valkey
from foundation.exposure import refuse_exposure
from foundation.settings import (
    GROUPS,
    LEASE_CONNECTIONS,
    PREFIX,
    AccessSettings,
    ApiSettings,
    DatabaseSettings,
    EmbeddedSettings,
    GenerationSettings,
    GrpcTlsSettings,
    ProcessSettings,
    SettingsError,
    load,
)

# Services get all other settings: a new one reaches them without a change here, a secret only those who need it.
_SUPERVISOR_ONLY = {PREFIX + name.upper() for name in EmbeddedSettings.model_fields}
_STORES = {"ASKMESH_DATABASE_URL", "ASKMESH_REDIS_URL", "ASKMESH_BROKER_URL"}
_MODEL_SERVER = {"ASKMESH_MODEL_URL", "ASKMESH_MODEL_API_KEY"}

# A service is gone 0.3 s after the end of its drain time, and after more than a second on a busy machine. With the head
# starts of three services this limit keeps the whole stop below 10 s.
_EXIT_SECONDS = 2.5

_USUAL_CONNECTIONS = 200
# Beside the services' pools: migrations, somebody's psql, and those that PostgreSQL keeps for its superuser.
_SPARE_CONNECTIONS = 20


class LocalMesh:
    """The servers and services of one machine. Their addresses are decided, and the public port is open.

    A server is not among them if the environment gives its address.
    """

    def __init__(self, held: ExitStack) -> None:
        """Complete ``os.environ``, from which settings are read; ``held`` closes what is opened here.

        Raises SettingsError, and EmbeddedError where a port is taken.
        """
        self._held = held
        self._settings = settings = load(EmbeddedSettings)
        self._logs = settings.data_dir / "logs"
        self._runtime = RuntimeFolder(settings.data_dir)
        self.stores: list[Server] = []
        self.model: list[Server] = []
        self.table: list[tuple[str, str]] = []
        """What runs where, for people."""

        self.access = load(AccessSettings)
        host = load(ApiSettings).api_host
        self._listener = held.enter_context(listen(settings.port, "ASKMESH_PORT", host))
        refuse_exposure(self._listener, self.access)
        self.port = port_of(self._listener)
        # Listening on every address, it answers on this machine's own as well.
        self._api_host = {"0.0.0.0": HOST, "::": "::1"}.get(host, host)  # noqa: S104 - nothing is bound here
        self._grpc_ports = consecutive(settings.grpc_port, settings.llm_replicas, "ASKMESH_GRPC_PORT")
        self.url = f"http://{_shown(self._api_host)}:{self.port}"
        self.table.append(("api_service", self.url))
        tls = load(GrpcTlsSettings).files
        ports = ", ".join(f"localhost:{port}" for port in self._grpc_ports)
        self.table.append(("llm_service", f"{ports} ({'gRPC, mutual TLS' if tls else 'gRPC'})"))
        self.table.append(("worker_service", "no port"))
        os.environ["ASKMESH_LLM_TARGETS"] = ",".join(f"{HOST}:{port}" for port in self._grpc_ports)
        if tls and not os.environ.get("ASKMESH_LLM_SERVER_NAME"):
            os.environ["ASKMESH_LLM_SERVER_NAME"] = "llm_service"
        if not os.environ.get("ASKMESH_DRAIN_SECONDS"):
            os.environ["ASKMESH_DRAIN_SECONDS"] = "5"
        self._add_model()
        self._add_postgresql()
        self._add_valkey()
        self.table.append(("logs", str(self._logs)))
        for group in GROUPS:
            load(group)
        self.stop_seconds = load(ProcessSettings).drain_seconds + _EXIT_SECONDS

    @property
    def servers(self) -> list[Server]:
        """All servers that run here, in the order of their starts."""
        return [*self.stores, *self.model]

    def check_grpc_ports(self) -> None:
        """Raise EmbeddedError if one of llm_service's ports is taken. Only for when llm_service has ended."""
        for port in self._grpc_ports:
            listen(port, "ASKMESH_GRPC_PORT").close()

    def migrations(self) -> Program:
        """The program that must succeed before services start."""
        return self._service("migrations", module="schema.migrations", withheld=_MODEL_SERVER)

    def services(self) -> list[list[Program]]:
        """The services in the order of their starts; those in one list start together."""
        self._runtime.create()
        self._held.callback(self._runtime.remove)
        settings = self._settings
        return [
            [
                self._llm_service(name, port)
                for name, port in zip(_names("llm_service", settings.llm_replicas), self._grpc_ports, strict=True)
            ],
            [self._worker_service(name) for name in _names("worker_service", settings.worker_replicas)],
            [self._api_service(name) for name in _names("api_service", settings.api_replicas)],
        ]

    def _llm_service(self, name: str, port: int) -> Program:
        added = {"ASKMESH_LLM_HOST": HOST, "ASKMESH_LLM_PORT": str(port)}
        probed = port
        if load(GrpcTlsSettings).files:
            # The supervisor has no certificate.
            probed = free_port()
            added |= {"ASKMESH_LLM_HEALTH_HOST": HOST, "ASKMESH_LLM_HEALTH_PORT": str(probed)}
        return self._service(
            name, module="llm_service", withheld=_STORES, added=added, is_ready=partial(grpc_serves, probed)
        )

    def _worker_service(self, name: str) -> Program:
        notification = Notification(self._runtime.path / name)
        self._held.callback(notification.close)
        return self._service(
            name,
            module="worker_service",
            withheld=_MODEL_SERVER,
            added={"NOTIFY_SOCKET": str(notification.address)},
            is_ready=notification.arrived,
        )

    def _api_service(self, name: str) -> Program:
        descriptor = self._listener.fileno()
        return self._service(
            name,
            module="api_service",
            withheld=_MODEL_SERVER,
            added={"ASKMESH_API_LISTEN_FD": str(descriptor)},
            is_ready=partial(http_answers, self.port, "/readyz", self._api_host),
            descriptors=(descriptor,),
        )

    def _service(
        self,
        name: str,
        *,
        module: str,
        withheld: set[str],
        added: dict[str, str] | None = None,
        is_ready: Callable[[], bool] = lambda: True,
        descriptors: tuple[int, ...] = (),
    ) -> Program:
        # NOTIFY_SOCKET, where it is set, is the supervisor's own.
        hidden = _SUPERVISOR_ONLY | withheld | {"NOTIFY_SOCKET"}
        inherited = {key: value for key, value in os.environ.items() if key.upper() not in hidden}
        return Program(
            name=name,
            command=(sys.executable, "-m", module),
            log=self._logs / f"{name}.log",
            environment=inherited | {"PYTHONUNBUFFERED": "1"} | (added or {}),
            is_ready=is_ready,
            stop_seconds=self.stop_seconds,
            descriptors=descriptors,
        )

    def _add_model(self) -> None:
        if self._is_given("ASKMESH_MODEL_URL"):
            return
        name = load(GenerationSettings).model_name or EMBEDDED_MODEL
        if name != EMBEDDED_MODEL:
            raise SettingsError(
                f"ASKMESH_MODEL_NAME: the embedded model is {EMBEDDED_MODEL}: for {name} set ASKMESH_MODEL_URL"
            )
        model = EmbeddedModelServer(self._settings.data_dir / "model", log=self._logs / "model.log", name=name)
        os.environ |= {"ASKMESH_MODEL_NAME": name, "ASKMESH_MODEL_URL": model.url}
        self.model.append(model)
        self.table.append(("model", f"{model.url} ({name})"))

    def _add_valkey(self) -> None:
        valkey = Valkey(self._settings.data_dir / "valkey", log=self._logs / "valkey.log")
        needed = False
        for use, setting, url in (
            ("cache", "ASKMESH_REDIS_URL", valkey.url()),
            ("broker", "ASKMESH_BROKER_URL", valkey.broker_url),
        ):
            if not self._is_given(setting):
                os.environ[setting] = url
                needed = True
                self.table.append((f"valkey ({use})", url))
        if needed:
            self.stores.append(valkey)

    def _add_postgresql(self) -> None:
        if self._is_given("ASKMESH_DATABASE_URL"):
            return
        settings = self._settings
        server = partial(PostgreSQL, settings.data_dir / "postgresql", log=self._logs / "postgresql.log")
        url = os.environ["ASKMESH_DATABASE_URL"] = server().url
        connections = connections_of(settings, load(DatabaseSettings).database_pool_size)
        self.stores.append(server(settings={"max_connections": str(connections)}))
        self.table.append(("postgresql", url))
        # For the askmesh command, which people run beside the mesh.
        address = settings.data_dir / "database_url"
        address.write_text(url)
        self._held.callback(address.unlink, missing_ok=True)

    def _is_given(self, setting: str) -> bool:
        """Whether the environment names a server to use. Its URL can hold a password and is not shown."""
        if not os.environ.get(setting):
            return False
        self.table.append((setting.removeprefix(PREFIX).removesuffix("_URL").lower(), f"as {setting} says"))
        return True


def connections_of(settings: EmbeddedSettings, pool_size: int) -> int:
    """How many connections PostgreSQL must accept: those of all processes, and some for people and migrations."""
    pools = settings.api_replicas * pool_size + settings.worker_replicas * (pool_size + LEASE_CONNECTIONS)
    return max(_USUAL_CONNECTIONS, pools + _SPARE_CONNECTIONS)


def _shown(host: str) -> str:
    """The host in a URL."""
    if host == HOST:
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _names(service: str, replicas: int) -> list[str]:
    """The names of the processes of one service, which their log files bear."""
    return [service] if replicas == 1 else [f"{service}-{number}" for number in range(1, replicas + 1)]
