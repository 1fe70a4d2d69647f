"""`python -m training.evaluate`: how good a checkpoint is (training/evaluation/scene_accuracy.py)."""

from training.evaluation.scene_accuracy import main

if __name__ == "__main__":
    raise SystemExit(main())
