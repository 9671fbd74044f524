"""Run the REST edge: ``python -m api_service``."""

import logging
import sys

from api_service.app import Settings, create_app
from api_service.http.server import listen, run
from foundation.exposure import refuse_exposure
from foundation.logs import configure_logging
from foundation.settings import LogSettings, ProcessSettings, SettingsError, contradictions, load

logger = logging.getLogger("api_service")


def main() -> int:
    """Serve until told to stop; 2 where a setting is wrong, 1 where it cannot listen."""
    try:
        configure_logging("api_service", load(LogSettings))
        settings = Settings.from_environment()
        drain_seconds = load(ProcessSettings).drain_seconds
        listening = listen(settings.api)
        refuse_exposure(listening, settings.access)
    except SettingsError as error:
        return _refuse(2, str(error))
    except OSError as error:
        return _refuse(1, f"cannot listen on {settings.api.api_host}:{settings.api.api_port}: {error}")
    for contradiction in (
        *contradictions.of_times(settings.generation, settings.questions),
        *contradictions.of_sizes(settings.api, settings.questions),
    ):
        logger.warning(contradiction)
    run(create_app(settings), listening, drain_seconds, settings.api.max_connections)
    return 0


def _refuse(status: int, reason: str) -> int:
    print(f"api_service: {reason}", file=sys.stderr)  # noqa: T201 - for whoever starts it, also before there is a log
    return status


if __name__ == "__main__":
    sys.exit(main())
