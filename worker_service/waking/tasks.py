"""The one task: somebody says that there is work."""

from typing import Final

from celery import Celery

from live.hints import TASK
from worker_service.claiming.slots import Slots
from worker_service.waking.consumer import HintRequest
from worker_service.waking.loop_thread import LoopThread

_DEFECT_SECONDS: Final = 660.0
"""A hint ends by itself after 600 s. RabbitMQ closes a channel that holds one for 1,800 s."""


def add_tasks(app: Celery, slots: Slots, loop: LoopThread) -> None:
    """Make the app run a hint by letting slots look for due questions. Its thread waits while no slot is free."""

    @app.task(name=TASK, Request=HintRequest)
    def answer_due_questions(count: int = 1, *_: object, **__: object) -> None:  # a later release may say more
        loop.run(slots.work(count)).result(_DEFECT_SECONDS)
