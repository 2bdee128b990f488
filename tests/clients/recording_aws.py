"""A stand-in for AWS on the loopback interface that also keeps every request for SageMaker as it was sent."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import requests
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
from werkzeug.wrappers import Response

Environment = dict[str, Any]
StartResponse = Callable[..., Callable[[bytes], object]]

REGION = "eu-west-1"
ACCOUNT = "123456789012"
# Without it SDK 3 refuses a role before it creates a job.
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"},
    ],
}


_DESCRIPTIONS = ("SageMaker.DescribeModel", "SageMaker.DescribeEndpoint")


@dataclass
class RecordingAws:
    """moto's server.

    Attributes:
        port: port it listens on.
        requests: to SageMaker's API: name of the operation, and its request.
    """

    port: int = 0
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def sent(self, operation: str) -> list[dict[str, Any]]:
        """The requests for one operation, in order."""
        return [request for name, request in self.requests if name == operation]

    @property
    def url(self) -> str:
        """The address for processes of this machine."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def credentials(self) -> dict[str, str]:
        """Credentials for boto3; any values work."""
        return {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}

    def environment(self) -> dict[str, str]:
        """Variables that point AWS clients on this machine to the server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            **{name.upper(): value for name, value in self.credentials.items()},
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def record(self, target: str, body: bytes) -> None:
        """Record a request if it is one for SageMaker."""
        service, _, operation = target.partition(".")
        if service == "SageMaker":
            self.requests.append((operation, json.loads(body or b"{}")))


@contextmanager
def recording_aws(host: str = "127.0.0.1") -> Iterator[RecordingAws]:
    """Serve on a free port of `host` while the block runs."""
    aws, backend = RecordingAws(), DomainDispatcherApplication(create_backend_app)

    def application(environment: Environment, start_response: StartResponse) -> Iterable[bytes]:
        target = environment.get("HTTP_X_AMZ_TARGET", "")
        answer: Iterable[bytes]
        # The bodies of uploads remain a stream.
        if target or environment.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
            body = environment["wsgi.input"].read(int(environment.get("CONTENT_LENGTH") or 0))
            environment["wsgi.input"] = io.BytesIO(body)
            aws.record(target, body)
            if b"Action=SimulatePrincipalPolicy" in body:
                return _access_denied(start_response)
            if target in _DESCRIPTIONS:
                return _without_empty_objects(Response.from_app(backend, environment))(environment, start_response)
        answer = backend(environment, start_response)
        return answer

    server = make_server(host, 0, application, threaded=True)
    aws.port = server.port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        # All moto servers in a process share their state.
        requests.post(f"{aws.url}/moto-api/reset", timeout=60).raise_for_status()
        yield aws
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _without_empty_objects(response: Response) -> Response:
    """Remove settings that were not requested, which AWS omits and SDK 3 refuses if they are empty."""
    fields = json.loads(response.get_data())
    response.set_data(json.dumps({name: value for name, value in fields.items() if value != {}}))
    return response


def _access_denied(start_response: StartResponse) -> Iterable[bytes]:
    """AWS's answer to callers that may not read roles; moto does not implement this check."""
    start_response("403 Forbidden", [("Content-Type", "text/xml")])
    error = "<Error><Type>Sender</Type><Code>AccessDenied</Code><Message>not authorized</Message></Error>"
    return [f"<ErrorResponse>{error}<RequestId>0</RequestId></ErrorResponse>".encode()]
