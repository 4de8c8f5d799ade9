"""A proxy between a worker and its broker that a test can cut, delay and half-close."""

from __future__ import annotations

import json
import os
import time
import urllib.request
import uuid
from typing import Any
from urllib.error import URLError

from worker.testing.containers import BrokerContainer, free_port

TOXIPROXY_IMAGE = "WORKER_TEST_TOXIPROXY_IMAGE"

_CONTROL = 8474
_READY = 30.0


class Proxy:
    """One listening port in front of one upstream."""

    def __init__(self, control: str, name: str, port: int) -> None:
        self.port = port
        self._control = control
        self._name = name

    @property
    def address(self) -> str:
        """`host:port` for clients."""
        return f"127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Closes every connection and refuses new ones, until `restore`."""
        self._call("POST", f"/proxies/{self._name}", {"enabled": False})

    def restore(self) -> None:
        """Takes away what `cut`, `silence` and `delay` did."""
        for toxic in self._call("GET", f"/proxies/{self._name}/toxics"):
            self._call("DELETE", f"/proxies/{self._name}/toxics/{toxic['name']}")
        self._call("POST", f"/proxies/{self._name}", {"enabled": True})

    def silence(self, *streams: str) -> None:
        """Nothing passes any more and nobody is told: a cable that was pulled. `streams`: upstream, downstream, else both."""
        for stream in streams or ("upstream", "downstream"):
            self._toxic("timeout", stream, timeout=0)

    def delay(self, seconds: float) -> None:
        """Everything from the broker comes so much later."""
        self._toxic("latency", "downstream", latency=int(seconds * 1000))

    def narrow(self, rate: int) -> None:
        """No more than so many bytes a second reach the broker."""
        self._toxic("bandwidth", "upstream", rate=rate // 1000)

    def _toxic(self, kind: str, stream: str, **attributes: int) -> None:
        body = {"name": f"{kind}-{stream}", "type": kind, "stream": stream, "attributes": attributes}
        self._call("POST", f"/proxies/{self._name}/toxics", body)

    def _call(self, method: str, path: str, body: object = None) -> Any:
        return _call(self._control, method, path, body)


class ToxiproxyContainer(BrokerContainer):
    """Shares this machine's network, so that it reaches brokers on the ports they are published on.

    >>> with ToxiproxyContainer() as toxiproxy:
    ...     proxy = toxiproxy.proxy("127.0.0.1:5672")
    ...     proxy.cut()
    """

    def __init__(self, image: str | None = None) -> None:
        super().__init__(image or os.environ.get(TOXIPROXY_IMAGE) or "ghcr.io/shopify/toxiproxy:2.12.0")
        self._port = free_port()
        self.with_kwargs(network_mode="host")
        self.with_command(f"-host=127.0.0.1 -port={self._port}")

    @property
    def _control(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY
        while True:
            try:
                _call(self._control, "GET", "/version")
                return
            except (URLError, OSError):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no toxiproxy at {self._control} after {_READY:.0f} s") from None
                time.sleep(0.05)

    def proxy(self, upstream: str) -> Proxy:
        """Listens on a new port and passes everything on to `upstream`, a `host:port`."""
        name, port = uuid.uuid4().hex[:8], free_port()
        _call(self._control, "POST", "/proxies", {"name": name, "listen": f"127.0.0.1:{port}", "upstream": upstream})
        return Proxy(self._control, name, port)


def _call(control: str, method: str, path: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(control + path, data, {"User-Agent": "worker.testing"}, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        written = answer.read()
    try:
        return json.loads(written) if written else None
    except json.JSONDecodeError:
        return written.decode()
