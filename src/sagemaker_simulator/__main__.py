"""`python -m sagemaker_simulator`: run a training job on this machine."""

import sys

from sagemaker_simulator.cli import main

if __name__ == "__main__":
    sys.exit(main())
