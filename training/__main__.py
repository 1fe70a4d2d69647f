"""`python -m training` trains the bundled tiny checkpoints."""

import sys

from training.tiny.train_tiny import main

sys.exit(main())
