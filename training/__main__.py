"""`python -m training` trains the bundled tiny checkpoints."""

import sys

from training.train_tiny import main

sys.exit(main())
