"""`python -m tools.app [--port 5173]`: start everything, print one address, end everything at Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import time

from tools.app.page import BuildError
from tools.app.stack import LocalApp
from tools.emulators.firebase import EmulatorError
from tools.emulators.functions import FunctionsError
from tools.emulators.google_firestore import MissingEmulatorError
from tools.emulators.install import InstallError, MissingNodeError

PORT = 5173
EXPECTED = (MissingEmulatorError, MissingNodeError, InstallError, BuildError, EmulatorError, FunctionsError)


def main() -> int:
    """Run until somebody ends it; 1 when it could not start, or the worker ended by itself."""
    parser = argparse.ArgumentParser(prog="python -m tools.app", description=__doc__)
    parser.add_argument("--port", type=int, default=PORT, help="of the page; another where it is taken")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    try:
        with LocalApp(port=arguments.port, say=_say) as app:
            _say(f"ready after {time.monotonic() - started:.0f} s")
            sys.stdout.write(f"\n  {app.url}\n\nCtrl-C ends it. Nothing is kept.\n")
            sys.stdout.flush()
            while app.worker.returncode is None:
                time.sleep(0.5)
            sys.stderr.write(f"The worker ended:\n{app.worker.log[-2000:]}\n")
            return 1
    except KeyboardInterrupt:
        return 0
    except EXPECTED as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
