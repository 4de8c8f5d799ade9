"""Which failed logins may heal: a broker that stops or is cut off in the middle of one has refused nothing."""

from __future__ import annotations

import pytest
from pika import exceptions

from worker.connectors.rabbitmq_errors import login_failed
from worker.errors import ConnectorError, Refused, Unavailable
from worker.interface import Connection

CONNECTION = Connection("shop", "rabbitmq", "localhost", username="test", path="/orders")
CUT = exceptions.StreamLostError("Transport indicated EOF")
STOPPING = exceptions.ConnectionClosedByBroker(320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'")
PASSWORD = exceptions.ConnectionClosedByBroker(403, "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN.")
NO_HOST = exceptions.ConnectionClosedByBroker(530, "NOT_ALLOWED - vhost orders not found")


def failed(kind: type[exceptions.AMQPConnectionError], cause: Exception) -> ConnectorError:
    """pika wraps what happened in what it probably means."""
    return login_failed(CONNECTION, "localhost:5672", kind(repr(cause)))


@pytest.mark.parametrize("kind", [exceptions.ProbableAuthenticationError, exceptions.ProbableAccessDeniedError])
@pytest.mark.parametrize("cause", [CUT, STOPPING])
def test_a_login_that_is_cut_short_may_heal(kind: type[exceptions.AMQPConnectionError], cause: Exception) -> None:
    error = failed(kind, cause)
    assert isinstance(error, Unavailable)
    assert "closed the connection" in str(error)


def test_a_login_that_is_refused_does_not_heal() -> None:
    wrong_password = failed(exceptions.ProbableAuthenticationError, PASSWORD)
    assert isinstance(wrong_password, Refused) and "refuses user test" in str(wrong_password)
    no_host = failed(exceptions.ProbableAccessDeniedError, NO_HOST)
    assert isinstance(no_host, Refused) and "no virtual host orders" in str(no_host)
