"""`python -m app.cluster`: models with several replicas behind one `/v1`, on Ray Serve.

    python -m app.cluster --cfg-path eval_configs/tiny_minigpt_v2.yaml --replicas 2
    python demo.py --server-url http://127.0.0.1:8000/v1

starts a cluster on this machine, or joins the one that RAY_ADDRESS names, and serves until Ctrl+C.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

from app.arguments import add_address_arguments, add_model_arguments, settle_model_arguments
from app.ending import Ending
from models.command_line import OneLineParser, place
from models.errors import MiniVLMError


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl+C or SIGTERM."""
    args = arguments(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl+C, which works at every moment of the start
    try:
        _serve(args)
    except MiniVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    return 0


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, its options about the models settled as those of demo.py."""
    parser = OneLineParser(prog="python -m app.cluster", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--cfg-path", type=place, action="append", required=True, metavar="YAML", help="a model; may be given again"
    )
    parser.add_argument("--download", action="store_true", help="first fetch every file that is not here")
    parser.add_argument("--replicas", type=int, metavar="N", help="of each model, at all times (1)")
    parser.add_argument("--max-replicas", type=int, metavar="N", help="instead: as many as this while much is asked …")
    parser.add_argument("--min-replicas", type=int, metavar="N", help="… and as few as this (1; 0: none at times)")
    parser.add_argument(
        "--target", type=float, default=4, metavar="N", help="questions of each, between the two numbers (%(default)s)"
    )
    parser.add_argument("--doors", type=int, default=1, metavar="N", help="processes that take requests (%(default)s)")
    parser.add_argument("--gpus", type=float, default=0, metavar="N", help="of one replica (%(default)s)")
    parser.add_argument("--cpus", type=float, default=1, metavar="N", help="of one replica (%(default)s)")
    add_model_arguments(parser)
    add_address_arguments(parser.add_argument_group("server"), host="127.0.0.1", port="8000")
    args = parser.parse_args(argv)
    settle_model_arguments(args)
    return args


def _serve(args: argparse.Namespace) -> None:
    from app.cluster.application import DRAINING_SECONDS
    from app.cluster.running import Cluster

    settings = {
        "configs": args.cfg_path,
        "replicas": args.replicas,
        "min_replicas": args.min_replicas,
        "max_replicas": args.max_replicas,
        "target": args.target,
        "doors": args.doors,
        "gpus": args.gpus,
        "cpus": args.cpus,
        "device": args.device,
        "dtype": args.dtype,
        "quantization": args.quantization,
        "copies_weights": args.copy_weights,
        "overrides": tuple(args.options),
        "api_keys": [args.api_key] if args.api_key else [],
        "allow_origins": args.allow_origin,
    }
    with Cluster(settings, host=args.host, port=args.port, download=args.download) as cluster:
        ending = Ending(DRAINING_SECONDS)
        print(f"Serving {', '.join(cluster.names)} at {cluster.url}/v1. Ctrl+C ends it.", flush=True)
        ending.wait(lambda: None)
        cluster.refuse()
        print("Stopping: answers that are being written may end; Ctrl+C stops at once.", file=sys.stderr)
        if not ending.let_finish(cluster.is_answering):
            print(f"Some answers did not end within {DRAINING_SECONDS:g} seconds.", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
