"""`python -m training --cfg-path training/configs/NAME.yaml` trains a stage; see docs/training.md."""

import sys

from models.quantization import load_bitsandbytes

load_bitsandbytes()  # before accelerate does
try:
    from training.train import main
except ModuleNotFoundError as error:  # installed for the chat only
    sys.exit(f'error: training needs {error.name}, which is not installed; run: pip install -e ".[train]"')

sys.exit(main())
