"""Writes a folder for a Hugging Face Space: `make space ARGS="--lane zerogpu --cfg-path eval_configs/X.yaml"`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from app.arguments import DEFAULT_CONFIG
from app.spaces.lanes import LANES
from models.command_line import OneLineParser, place
from models.errors import MiniVLMError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. What the user can mend is one line on stderr and exit status 2."""
    parser = OneLineParser(prog="python -m app.spaces", description="Write a folder for a Hugging Face Space.")
    parser.add_argument("--lane", choices=tuple(LANES), default="cpu", help="the Space's hardware (%(default)s)")
    parser.add_argument("--cfg-path", type=place, default=DEFAULT_CONFIG, metavar="YAML", help="what it is to serve")
    parser.add_argument("--out", type=place, default=Path("space"), metavar="DIR", help="a new folder (%(default)s)")
    parser.add_argument("--title", help="of the Space (default: the model's name)")
    parser.add_argument(
        "--index", metavar="URL", help="where pip looks for packages, too: that of CPU builds of torch saves 3 GB"
    )
    args = parser.parse_args(argv)
    from app.spaces.space_folder import make_folder

    try:
        line = make_folder(args.lane, args.cfg_path, args.out, title=args.title, index=args.index)
    except MiniVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if line:
        print(line)
    print(f"{args.out} is ready. Push it with: hf upload --repo-type space USER/NAME {args.out} .")
    return 0


if __name__ == "__main__":
    sys.exit(main())
