"""The one task: somebody says that there is work."""

from celery import Celery

from live.hints import TASK
from worker_service.claiming.slots import Slots
from worker_service.waking.asyncio_pool import await_
from worker_service.waking.consumer import HintRequest


def add_tasks(app: Celery, slots: Slots) -> None:
    """Make the app run a hint by letting slots look for due questions."""

    @app.task(name=TASK, Request=HintRequest)
    def answer_due_questions(count: int = 1) -> None:
        await_(slots.work(count))
