"""S3 locations, clients and error messages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

import boto3
from boto3.exceptions import Boto3Error
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
)

from finetune.errors import JobError, PlatformError, UserError

# All exceptions of a request that fails because of S3, the network or permissions.
S3_FAILURES = (ClientError, BotoCoreError, Boto3Error)

_URI = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")
_CREDENTIAL_ERRORS = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound)


@dataclass(frozen=True, slots=True)
class S3Timeouts:
    """Timeouts and retries for S3.

    Attributes:
        attempts: Attempts per request before it fails; the pauses between them double, up to 20 s.
        connect_seconds: Timeout for connecting.
        read_seconds: Timeout for the next bytes of a response.
        stop_seconds: Seconds after which a stopped job sends no further request. Requests in flight time out within
            `read_seconds`, so the job ends within the platform's 120 s in any case.
    """

    attempts: int = 5
    connect_seconds: float = 5.0
    read_seconds: float = 20.0
    stop_seconds: float = 45.0


@dataclass(frozen=True, slots=True)
class S3Location:
    """Bucket and key prefix; the prefix is empty or ends with a slash."""

    bucket: str
    prefix: str

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Parse `s3://bucket/prefix`.

        Raises:
            UserError: It is not an S3 URI.
        """
        match = _URI.fullmatch(uri.strip())
        if match is None:
            raise UserError(
                f"checkpoint_s3_uri={uri!r} is not an S3 location. Use s3://bucket/prefix, with a bucket name of "
                "lowercase letters, digits, dots and hyphens."
            )
        prefix = (match[2] or "").strip("/")
        return cls(match[1], f"{prefix}/" if prefix else "")

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}"


def create_client(timeouts: S3Timeouts) -> Any:  # noqa: ANN401 - boto3 creates its client types at run time
    """Return an S3 client; endpoint, region and credentials come from the environment, as usual with boto3.

    Raises:
        UserError: The environment has an invalid endpoint or profile.
    """
    config = Config(
        retries={"mode": "standard", "total_max_attempts": timeouts.attempts},
        connect_timeout=timeouts.connect_seconds,
        read_timeout=timeouts.read_seconds,
    )
    try:
        return boto3.session.Session().client("s3", config=config)
    except (ValueError, BotoCoreError) as error:
        raise UserError(
            f"checkpoint_s3_uri cannot be used with this environment: {error}. Check AWS_ENDPOINT_URL, AWS_PROFILE and "
            "AWS_REGION."
        ) from error


def to_job_error(error: Exception, location: S3Location) -> JobError:
    """Convert a failed request into an error of the party that has to fix it."""
    setting = f"checkpoint_s3_uri={str(location)!r}"
    if isinstance(error, _CREDENTIAL_ERRORS):
        return UserError(f"{setting} cannot be used: {error}. Give the container AWS credentials, or a role.")
    if isinstance(error, ParamValidationError):
        return UserError(f"{setting} cannot be used: {error}")
    code, status = _error_code(error)
    if code == "NoSuchBucket":
        return UserError(f"{setting}: there is no bucket {location.bucket!r}. Create it, or use another bucket.")
    if status in (401, 403):
        return UserError(
            f"{setting} denied access ({code}). The job needs s3:ListBucket on the bucket and s3:GetObject, "
            "s3:PutObject and s3:DeleteObject below the prefix."
        )
    if 300 <= status < 500 and status not in (408, 429):
        return UserError(f"{setting} cannot be used: {error}. Check bucket, region and AWS_ENDPOINT_URL.")
    return PlatformError(f"{setting} could not be reached: {error}. Check the network, or retry later.")


def _error_code(error: Exception) -> tuple[str, int]:
    """Return S3's error code and the HTTP status, or an empty string and 0 without a response."""
    if not isinstance(error, ClientError):
        return "", 0
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code, int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
