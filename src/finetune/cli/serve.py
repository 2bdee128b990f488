"""The command `finetune serve`: serves a trained model over HTTP on this machine, as the image does."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from finetune.serving.configuration import ServingConfiguration

_Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="model.tar.gz, the folder of its contents, or the folder of a job.")
]
_Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all interfaces.")]
_Port = Annotated[int, typer.Option("--port", "-p", min=1, max=65_535, help="Port to listen on.")]


def serve(model: _Model, *, host: _Host = "127.0.0.1", port: _Port = 8080) -> None:
    """Serve a model over HTTP until Ctrl-C: `POST /invocations` with an image, a text or JSON, and `GET /ping`.

    The server is that of the image, with the same environment variables for batches and limits.
    """
    from finetune.serving.artifact import artifact_folder
    from finetune.serving.configuration import ServingConfiguration
    from finetune.serving.server import STOP_SIGNALS, end_process
    from finetune.serving.server import serve as run_server

    with artifact_folder(model) as folder:

        def configure() -> ServingConfiguration:
            return replace(
                ServingConfiguration.from_environment(), model_folder=folder, multi_model=False, host=host, port=port
            )

        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        exit_code = run_server(configure)
    end_process(exit_code)
