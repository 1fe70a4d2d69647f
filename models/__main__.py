"""Files of released models: fetch what a configuration needs, say what files are, make one folder of them.

python -m models fetch eval_configs/minigpt_v2.yaml             a plan, then the download; again to go on after a cut
python -m models fetch eval_configs/minigpt_v2.yaml --dry-run   the plan alone
python -m models verify eval_configs/minigpt_v2.yaml            what each file is, whether all fit, memory needed
python -m models verify some/file.pth                           what this file, or folder, is
python -m models convert eval_configs/minigpt_v2.yaml OUT       one folder that loads several times faster
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from models.command_line import OneLineParser, place, quoted, reader_may_leave
from models.errors import MiniVLMError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. What the user can mend is one line on stderr and exit status 2; the rest is a bug."""
    parser = OneLineParser(prog="python -m models", description="Files of released models.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=OneLineParser)
    fetch = commands.add_parser("fetch", help="download everything that a configuration needs")
    fetch.add_argument("--dry-run", action="store_true", help="show the plan and download nothing")
    fetch.set_defaults(run=run_fetch)
    verify = commands.add_parser("verify", help="say what files are and whether they fit, from their headers alone")
    verify.set_defaults(run=run_verify)
    convert = commands.add_parser("convert", help="write a model as one folder that loads several times faster")
    convert.set_defaults(run=run_convert)
    for command, also in ((fetch, ""), (verify, "; or one file or folder"), (convert, "")):
        command.add_argument(
            "config", type=place, metavar="YAML", help=f"a configuration, as for demo.py --cfg-path{also}"
        )
        command.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the YAML")
    convert.add_argument(
        "out", type=place, metavar="OUT", help="the folder, which need not exist; replaced if it is older"
    )
    convert.add_argument(
        "--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16", help="number format (%(default)s)"
    )
    convert.add_argument(
        "--quantization", choices=["none", "8bit", "4bit"], default="none", help="of the language model (%(default)s)"
    )
    args = parser.parse_args(argv)
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # before the first import of the hub's client
    try:
        with reader_may_leave():
            args.run(args)
    except MiniVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        kept = {"fetch": " What has come is kept; start again to go on.", "convert": " Nothing half-written was left."}
        print(f"\nStopped.{kept.get(args.command, '')}", file=sys.stderr)
        return 130
    return 0


def run_fetch(args: argparse.Namespace) -> None:
    """Show the plan, then download."""
    from models.fetching.command import download_for

    download_for(args.config, args.options, dry_run=args.dry_run, report=print)
    options = f" --options {shlex.join(args.options)}" if args.options else ""
    what, command = ("Fetch", "-m models fetch") if args.dry_run else ("Serve", "demo.py --cfg-path")
    print(f"{what} it: python {command} {quoted(args.config)}{options}")


def run_verify(args: argparse.Namespace) -> None:
    """Say what the files are."""
    from models.inspection.verify import verify

    verify(args.config, args.options)


def run_convert(args: argparse.Namespace) -> None:
    """Write a converted folder."""
    from models.conversion.convert import convert

    options = {"dtype": args.dtype, "quantization": args.quantization, "overrides": args.options}
    convert(args.config, args.out, **options)


if __name__ == "__main__":
    sys.exit(main())
