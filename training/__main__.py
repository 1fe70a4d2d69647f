"""`python -m training --cfg-path training/configs/NAME.yaml` trains a stage; see docs/training.md."""

import sys

from training.train import main

sys.exit(main())
