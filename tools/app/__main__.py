"""`python -m tools.app [--port 5173]`: starts everything, prints its address, and ends everything on Ctrl-C."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import time

from tools.app.stack import LocalApp

PORT = 5173
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Run until interrupted; return 1 if it could not start, or if the worker exited by itself."""
    parser = argparse.ArgumentParser(prog="python -m tools.app", description=__doc__)
    parser.add_argument("--port", type=int, default=PORT, help="of the page; another where it is taken")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("tools.emulators.install").setLevel(logging.INFO)  # the first installation takes minutes
    for number in ENDINGS:
        signal.signal(number, _end)
    started = time.monotonic()
    try:
        with LocalApp(port=arguments.port, say=_say) as app:
            _say(f"ready after {time.monotonic() - started:.0f} s")
            if arguments.port not in (0, app.port):
                _say(f"port {arguments.port} is taken, so it is another one")
            sys.stdout.write(f"\n  {app.url}\n\nCtrl-C ends it. Nothing is kept.\n")
            sys.stdout.flush()
            while app.worker.returncode is None:
                time.sleep(0.5)
            sys.stderr.write(f"The worker ended:\n{app.worker.log[-2000:]}\n")
            return 1
    except KeyboardInterrupt:
        return 0
    except RuntimeError as error:  # the message says what is missing, or what the process wrote before it exited
        sys.stderr.write(f"{error}\n")
        return 1


def _end(*_: object) -> None:
    """Interrupt once: a second Ctrl-C must not interrupt the clean-up of processes and folders."""
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
