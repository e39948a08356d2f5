"""What goes wrong with a store: whether asking again may help, and the one line that is said of it."""

from __future__ import annotations

import os
import re
from typing import Any

from raypretrain.errors import StorageError

Options = dict[str, Any]
"""How to reach a store: ``endpoint_url``, ``key``, ``secret``; the rest is the environment's."""


class ChangedError(Exception):
    """The object is not the one whose tag was asked for."""


class ShorterError(Exception):
    """The object has fewer bytes than were asked for."""


# By name: the libraries of the stores share no classes, and most of them are not installed.
_BUSY = {
    "SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "RequestLimitExceeded", "Throttling",
    "ThrottlingException", "TooManyRequests", "OperationAborted", "BadDigest", "XAmzContentSHA256Mismatch",
}  # fmt: skip
_BUSY_STATUS = {408, 425, 429}
_CUT_SHORT = {"ClientPayloadError", "IncompleteReadError", "IncompleteRead", "ContentLengthError"}
_BROKEN = {
    "ResponseStreamingError", "ResponseParserError", "HTTPClientError", "ConnectionClosedError",
    "ServerDisconnectedError", "ClientOSError", "ServiceResponseError", "FlexibleChecksumError",
    "EndpointConnectionError", "ConnectTimeoutError", "ClientConnectorError", "ClientConnectorDNSError",
    "ServiceRequestError", "ProxyConnectionError", "FSTimeoutError",
}  # fmt: skip


def may_pass(error: BaseException) -> bool:
    """Whether the same request may well succeed later: the store is busy, or the connection broke."""
    if status(error):
        return status(error) >= 500 or status(error) in _BUSY_STATUS or _code(error) in _BUSY
    named = type(error).__name__ in _CUT_SHORT | _BROKEN
    return named or isinstance(error, ConnectionError | TimeoutError)


def answered(error: BaseException) -> bool:
    """Whether the store itself said no, or began to answer."""
    return status(error) > 0 or type(error).__name__ in _CUT_SHORT


def status(error: BaseException) -> int:
    """The HTTP status that the store gave, or 0."""
    for found in _chain(error):
        response = getattr(found, "response", None)
        if isinstance(response, dict):  # botocore
            given = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        elif type(found).__name__ == "HttpError":  # gcsfs
            given = getattr(found, "code", None)
        else:  # Azure
            given = getattr(found, "status_code", None)
        if isinstance(given, int) and given >= 300:
            return given
    return 0


def changed(url: str) -> StorageError:
    """What is said of a file that is not the one that was listed."""
    return StorageError(
        "has changed since the corpus was listed",
        where=url,
        fix="start a new run on the changed corpus, or put the old file back",
    )


_REFUSALS = {
    "InvalidAccessKeyId": "the access key is unknown there",
    "SignatureDoesNotMatch": "the secret key is wrong",
    "AccessDenied": "access denied",
    "403": "access denied",
    "401": "access denied",
    "ExpiredToken": "the credentials have expired",
    "InvalidToken": "the session token is not valid",
    "NoSuchBucket": "there is no such bucket",
    "NoSuchKey": "there is no such object",
    "404": "there is no such bucket or object",
    "InvalidRange": "the object has become shorter",
    "PermanentRedirect": "the bucket is in another region",
}
_NO_CREDENTIALS = (
    "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError",
    "DefaultCredentialsError", "ClientAuthenticationError", "TokenRetrievalError", "UnauthorizedSSOTokenError",
)  # fmt: skip
_FIXES = {
    "NoSuchBucket": "check the name",
    "NoSuchKey": "check the name",
    "404": "check the name",
    "InvalidRange": "start a new run on the changed corpus",
    "PermanentRedirect": "set AWS_DEFAULT_REGION to its region",
}


def refusal(url: str, options: Options | None, error: BaseException) -> StorageError:
    """The one line for ``error``. No secret is in it."""
    if isinstance(error, ChangedError) or _code(error) == "PreconditionFailed" or status(error) == 412:
        return changed(url)
    if isinstance(error, ShorterError):
        return StorageError(_REFUSALS["InvalidRange"], where=url, fix=_FIXES["InvalidRange"])
    code, name = _code(error), type(error).__name__
    keys = _where_keys_are(url)
    if what := _REFUSALS.get(code) or _REFUSALS.get(str(status(error))):
        return StorageError(what, where=url, fix=_FIXES.get(code, _FIXES.get(str(status(error)), keys)))
    said = without_secrets(str(error), options)
    if name in _NO_CREDENTIALS or (name == "ValueError" and "with credentials" in said):  # the latter: adlfs
        return StorageError("there are no credentials for it", where=url, fix=keys)
    if isinstance(error, PermissionError):
        return StorageError(f"access denied ({said})", where=url, fix=keys)
    if isinstance(error, FileNotFoundError):
        return StorageError("there is no such bucket or object", where=url, fix="check the name")
    endpoint = without_secrets(_endpoint(options), options)
    at = f" at {endpoint}" if endpoint else ""
    if not answered(error) and may_pass(error):
        fix = "check endpoint_url and the network"
        return StorageError(f"the object store{at} cannot be reached ({name})", where=url, fix=fix)
    detail = without_secrets(_answer(error), options) or f"{name}: {said}"
    return StorageError(f"the object store{at} failed ({detail})", where=url)


def without_secrets(text: str, options: Options | None) -> str:
    """``text`` without any secret that the options or the environment hold."""
    words = ("SECRET", "TOKEN", "PASSWORD", "CONNECTION", "KEY", "SAS")
    named = {**os.environ, **{str(key): value for key, value in (options or {}).items()}}
    secrets = {
        str(value)
        for key, value in named.items()
        if value and len(str(value)) >= 6 and any(word in key.upper() for word in words)
    }
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "***")
    return re.sub(r"://[^/@\s]+@", "://", text)


def _where_keys_are(url: str) -> str:
    scheme = url.partition("://")[0]
    if scheme in ("gs", "gcs"):
        return "check GOOGLE_APPLICATION_CREDENTIALS (or gcloud auth application-default login)"
    if scheme in ("az", "abfs", "abfss"):
        return "check AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or another of Azure's ways)"
    return "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE)"


def _endpoint(options: Options | None) -> str:
    return str((options or {}).get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL") or "")


def _code(error: BaseException) -> str:
    """The error code that the store gave, somewhere in the chain of causes; or nothing."""
    return _given(error).get("Code", "")


def _answer(error: BaseException) -> str:
    """Its answer in its own words, or nothing."""
    given = _given(error)
    return f"{status(error)} {given.get('Code', '')}: {given.get('Message', '')}" if given else ""


def _given(error: BaseException) -> dict[str, str]:
    for found in _chain(error):
        response = getattr(found, "response", None)
        if isinstance(response, dict) and "Error" in response:
            return {str(key): str(value) for key, value in response["Error"].items()}
    return {}


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in found:
        found.append(current)
        current = current.__cause__ or current.__context__
    return found
