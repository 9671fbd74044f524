"""Why the broker does not take or deliver hints, with the remedy, in one line."""

from typing import Final

from amqp.exceptions import AMQPError
from kombu.exceptions import OperationalError

_REASONS: Final = {
    # Reply codes of AMQP 0-9-1, https://www.rabbitmq.com/amqp-0-9-1-reference#domain.reply-code
    403: "it refuses the user of ASKMESH_BROKER_URL, who needs the right password and permissions to configure, write"
    " and read askmesh.hints: rabbitmqctl set_permissions",
    405: "another connection has the queue askmesh.hints for itself",
    406: "it has the queue askmesh.hints as another type: delete that, and it is made anew as a quorum queue:"
    " rabbitmqctl delete_queue askmesh.hints",
    530: "it does not know the virtual host in ASKMESH_BROKER_URL, or refuses it to the user",
}


def explain(error: BaseException) -> str:
    """The reason where that is known, and the error's type; nothing that could hold a password or a hint."""
    named = type(error).__name__
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, AMQPError) and (reason := _REASONS.get(int(found.code or 0))):
            return f"{reason} ({named})"
        if isinstance(found, ConnectionRefusedError):
            return f"nobody listens at ASKMESH_BROKER_URL ({named})"
        if isinstance(found, OSError) and found.strerror:
            return f"{found.strerror} ({named})"
        found = found.__cause__ or found.__context__
    # What redis-py says while it connects names the address, or the kind of refusal.
    return f"{' '.join(str(error).split())[:200]} ({named})" if isinstance(error, OperationalError) else named
