"""The worker as a Celery program: its options, and what starts and stops with it."""

import logging
import sys
import warnings

from askmesh_client import CertificatesError, TlsFiles
from askmesh_client.channel import check_connection
from celery import signals
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning
from celery.worker import WorkController

from foundation.logs import configure_logging
from foundation.settings import (
    BrokerSettings,
    DatabaseSettings,
    GenerationSettings,
    GrpcTlsSettings,
    LlmClientSettings,
    LogSettings,
    ProcessSettings,
    QuestionSettings,
    RedisSettings,
    SettingsError,
    WorkerSettings,
    contradictions,
    load,
)
from live.hints import celery_app
from worker_service.runtime import Runtime, RuntimeSettings
from worker_service.runtime_step import RuntimeStep
from worker_service.waking.consumer import HintConsumer
from worker_service.waking.hint_pool import HintPool
from worker_service.waking.loop_thread import LoopThread

logger = logging.getLogger(__name__)

_EXIT_BAD_SETTINGS = 2
# A hint is done when its slots have started. A worker without a free slot holds no more than these from the others.
_HINTS_AT_A_TIME = 4


def main() -> int:
    """Run a worker until it is told to stop; the exit status."""
    try:
        configure_logging("worker_service", load(LogSettings))
        broker = load(BrokerSettings)
        settings = RuntimeSettings(
            database=load(DatabaseSettings),
            redis=load(RedisSettings),
            llm=load(LlmClientSettings),
            grpc_tls=load(GrpcTlsSettings),
            generation=load(GenerationSettings),
            questions=load(QuestionSettings),
            worker=load(WorkerSettings),
            process=load(ProcessSettings),
        )
        _check_connection(settings.llm, settings.grpc_tls)
    except SettingsError as error:
        print(f"worker_service: {error}", file=sys.stderr)  # noqa: T201 - the log is not set up yet
        return _EXIT_BAD_SETTINGS
    for contradiction in contradictions.of_times(settings.generation, settings.questions):
        logger.warning(contradiction)
    # Lines for each task cost 45 % of a task's CPU time.
    for library in ("celery", "kombu"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("celery.worker.consumer.consumer").setLevel(logging.CRITICAL)  # HintConsumer says it once
    signals.setup_logging.connect(_leave_logging_alone)
    # What it warns root of is pickle; hints are JSON.
    warnings.simplefilter("ignore", SecurityWarning)
    with LoopThread() as loop:
        worker = create_worker(broker, settings, loop)
        # At each lost connection it explains a default that create_worker sets on purpose.
        warnings.simplefilter("ignore", CPendingDeprecationWarning)
        worker.start()
    return worker.exitcode or 0


def create_worker(broker: BrokerSettings, settings: RuntimeSettings, loop: LoopThread) -> WorkController:
    """A Celery worker that is not started yet. It will answer on ``loop``."""
    app = celery_app("worker_service", broker)
    app.conf.update(
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        # Finds a broker that vanished without a word in 20 s.
        broker_heartbeat=10,
        broker_connection_max_retries=None,
        broker_channel_error_retry=True,
        # Answers go on while the broker is away, and hints that come twice do no harm.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_prefetch_count_reduction=False,
        worker_enable_remote_control=False,
        worker_redirect_stdouts=False,
    )
    if not broker.broker_url.get_secret_value().startswith("amqp"):
        # Redis has no heartbeat of its own: kombu finds a vanished one when a blocking read is overdue.
        app.conf.broker_transport_options |= {"health_check_interval": 10}
    app.steps["worker"].add(RuntimeStep)
    return app.Worker(
        pool_cls=HintPool,
        consumer_cls=HintConsumer,
        concurrency=_HINTS_AT_A_TIME,
        loglevel="WARNING",
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        loop=loop,
        open_runtime=lambda on_defect: Runtime(settings, on_defect),
    )


def _check_connection(settings: LlmClientSettings, tls: GrpcTlsSettings) -> None:
    try:
        files = TlsFiles(*tls.files) if tls.files else None
        check_connection(settings.llm_targets, files, settings.llm_server_name)
    except CertificatesError as error:
        raise SettingsError(f"ASKMESH_GRPC_*_FILE: {error}") from None
    except ValueError as error:
        raise SettingsError(f"ASKMESH_LLM_TARGETS: {error}") from None


def _leave_logging_alone(**_: object) -> None:
    """Celery sets logging up only if nobody listens to this signal."""
