"""What a process does when it is asked to stop: a training saves first, anything else ends.

SIGUSR1 tells that the time is nearly up, SIGTERM that the process must end (preemption, shutdown, a
worker that torchrun replaces), SIGINT is Ctrl-C. Python runs a handler between two bytecodes, so
that files that are written whole or not at all stay so when a handler raises. Nothing heavy is
imported here: a signal may come while the program still starts.
"""

import signal
import threading
import time
from types import FrameType

SAVED = 75  # EX_TEMPFAIL: the same command continues
TERMINATED, INTERRUPTED = 128 + signal.SIGTERM, 128 + signal.SIGINT
EXIT_CODES = {
    signal.SIGUSR1: SAVED,
    signal.SIGTERM: TERMINATED,
    signal.SIGINT: INTERRUPTED,
}
REPEATED_S = 2.0  # cluster software sends one request through several channels


class Stopped(SystemExit):
    """The process was asked to stop, and all that it must keep is saved."""


class StopSignals:
    """Remembers the first signal; while `patient`, leaves it to the training to act on it."""

    def __init__(self) -> None:
        self.exit_code = 0  # of the first signal; 0 is none
        self.noted_at = 0.0
        self.patient = False

    def begin(self) -> None:
        """Handle the signals of this process from here on."""
        self.exit_code, self.patient = 0, False
        self.listen()

    def listen(self) -> None:
        """Install the handlers, also in the place of others."""
        if threading.current_thread() is threading.main_thread():
            for number in EXIT_CODES:
                signal.signal(number, self._note)

    def begin_training(self) -> None:
        """From here on the training asks, after every batch, whether to save and stop."""
        self.patient = True
        self.listen()  # Lightning has put a handler of its own in this place

    def end_training(self) -> None:
        """From here on a signal ends the process at once, as does one that still waits."""
        self.patient = False
        if self.exit_code:
            raise Stopped(self.exit_code)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now, again = time.monotonic(), self.exit_code != 0
        if again and now - self.noted_at < REPEATED_S:
            return
        if not again:
            self.exit_code, self.noted_at = EXIT_CODES[signal.Signals(number)], now
        if again or not self.patient:
            raise Stopped(self.exit_code)


stop_signals = StopSignals()  # signals are the process's, and so is this
