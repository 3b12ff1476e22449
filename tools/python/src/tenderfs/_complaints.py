"""What is said when something does not work: once, for a training loop would say it in every epoch."""

from __future__ import annotations

import logging

LOG = logging.getLogger("tenderfs")


class Complaints:
    """Of one loader, or of one job: the first is a warning, the others are for who debugs."""

    def __init__(self) -> None:
        self._was_said = False

    def say(self, message: str, *facts: object) -> None:
        level = logging.DEBUG if self._was_said else logging.WARNING
        self._was_said = True
        LOG.log(level, message + "; reading goes on as without a plan", *facts)
