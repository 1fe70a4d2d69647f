"""`python -m training.sparse_upcycling`: sparse experts from dense ones (training/stages/upcycling.py)."""

from training.stages.upcycling import main

if __name__ == "__main__":
    main()
