"""Tokens with which an AWS principal logs in to Amazon MSK: signed by AWS' own library, from credentials that are kept."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    CredentialProvider,
    Credentials,
    DeferredRefreshableCredentials,
    ReadOnlyCredentials,
)
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError, ProfileNotFound
from botocore.session import Session

from worker.errors import ConnectorError, Refused, Unavailable

_SESSION = "stream-worker"
"""The name of an assumed role's session. Always the same: brokers refuse to re-authenticate a connection as somebody else."""
_DENIED = ("AccessDenied", "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch", "ValidationError")
"""What AWS says when asking again will not help; else it is busy, or throttles us."""
_LASTING = (NoCredentialsError, PartialCredentialsError, ProfileNotFound)


class _Kept(CredentialProvider):  # type: ignore[misc]  # untyped
    """Credentials for the signer, which would otherwise go through the whole chain for each token."""

    def __init__(self, credentials: ReadOnlyCredentials) -> None:
        self._credentials = credentials

    def load(self) -> ReadOnlyCredentials:
        return self._credentials


class Tokens:
    """What confluent-kafka calls for a token, on whichever thread; keeps what went wrong, as the client tells nobody."""

    def __init__(self, where: str, region: str, options: Mapping[str, str]) -> None:
        """`options`: profile, role_arn, role_session_name, access_key_id, secret_access_key, session_token."""
        self.principal = "the AWS principal"
        self.failure: ConnectorError | None = None
        """Why there is no token."""
        self._where = where
        self._region = region
        self._options = options
        self._lock = threading.Lock()
        self._credentials: Any = None

    def __call__(self, config: str | None = None) -> tuple[str, float]:
        """A token, and when it expires in seconds since the epoch. Raises `Refused` or `Unavailable`."""
        from aws_msk_iam_sasl_signer.MSKAuthTokenProvider import generate_auth_token_from_credentials_provider

        with self._lock:
            try:
                credentials = self._load()
                token, expires = generate_auth_token_from_credentials_provider(
                    self._region, _Kept(credentials.get_frozen_credentials())
                )
            except (BotoCoreError, ClientError, ValueError) as error:
                self.failure = self._explained(error)
                raise self.failure from error
            self.failure = None
            # A token that outlives its credentials is denied.
            own = getattr(credentials, "_expiry_time", None)
            return token, min(expires / 1000, own.timestamp()) if own is not None else expires / 1000

    def _load(self) -> Any:
        """Found once; those that expire refresh themselves."""
        if self._credentials is None:
            told = self._options
            session = Session(profile=told.get("profile"))
            if "access_key_id" in told:
                found: Any = Credentials(told["access_key_id"], told["secret_access_key"], told.get("session_token"))
            else:
                found = session.get_credentials()
            if found is None:
                raise NoCredentialsError
            self.principal = f"access key {found.access_key}"
            if "role_arn" in told:
                found = self._assume(session, found, told["role_arn"])
                self.principal = told["role_arn"]
            self._credentials = found
        return self._credentials

    def _assume(self, session: Session, credentials: Any, role: str) -> Any:
        def client(*arguments: Any, **named: Any) -> Any:
            return session.create_client(*arguments, **{"region_name": self._region, **named})

        name = self._options.get("role_session_name", _SESSION)
        fetcher = AssumeRoleCredentialFetcher(client, credentials, role, extra_args={"RoleSessionName": name})
        return DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")

    def _explained(self, error: Exception) -> ConnectorError:
        if isinstance(error, NoCredentialsError):
            told = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or profile=, or run where a role is given"
            return Refused(f"{self._where}no AWS credentials found: {told}")
        if isinstance(error, ClientError):
            said, role = error.response.get("Error", {}), self._options.get("role_arn", "this")
            kind = Refused if str(said.get("Code")).startswith(_DENIED) else Unavailable
            return kind(f"{self._where}AWS refuses {role}: {said.get('Code')}: {said.get('Message')}")
        return (Refused if isinstance(error, _LASTING) else Unavailable)(f"{self._where}no token: {error}")
