"""Entry point of `python -m sagemaker_simulator`: runs a training job on this machine."""

import sys

from sagemaker_simulator.cli import main

if __name__ == "__main__":
    sys.exit(main())
