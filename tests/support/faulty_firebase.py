"""The local Firebase, with everything between it and the worker under a test's control."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Self

from tests.support.http_proxy import Fault, HttpProxy, SeenRequest
from tests.support.tcp_proxy import TcpProxy
from tools.emulators.firebase import FirebaseEmulators

__all__ = ["Fault", "FaultyFirebase", "HttpProxy", "SeenRequest", "TcpProxy"]


class FaultyFirebase(FirebaseEmulators):
    """`FirebaseEmulators` whose `env` leads through `storage_proxy` and `firestore_proxy`.

    `firestore_address`, `storage_url`, `documents` and `objects` still go straight to the emulators: the test sees the
    true state while the worker sees the faults.
    """

    storage_proxy: HttpProxy
    firestore_proxy: TcpProxy

    def __enter__(self) -> Self:
        super().__enter__()
        self._stack = ExitStack()
        self._stack.callback(super().__exit__)
        self.storage_proxy = self._stack.enter_context(HttpProxy(self.storage_url))
        self.firestore_proxy = self._stack.enter_context(TcpProxy(self.firestore_address))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def env(self) -> dict[str, str]:
        """The variables that direct Google's libraries to the proxies."""
        return {
            **super().env,
            "FIRESTORE_EMULATOR_HOST": self.firestore_proxy.address,
            "STORAGE_EMULATOR_HOST": self.storage_proxy.url,
        }

    def set_latency(self, seconds: float) -> None:
        """Add `seconds` each way to Storage and Firestore."""
        self.storage_proxy.latency = seconds
        self.firestore_proxy.latency = seconds

    def reset(self) -> None:
        """Clear documents, objects, faults and requests; both services are up, fast and reachable again."""
        self.set_latency(0.0)
        self.storage_proxy.accept()
        self.storage_proxy.clear()
        self.firestore_proxy.pass_through()
        super().reset()
