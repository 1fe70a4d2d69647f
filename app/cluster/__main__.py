"""`python -m app.cluster`: models with several replicas behind one `/v1`, on Ray Serve.

    python -m app.cluster --cfg-path eval_configs/tiny_minigpt_v2.yaml --replicas 2
    python demo.py --server-url http://127.0.0.1:8000/v1

starts a cluster on this machine, or joins the one that RAY_ADDRESS names, and serves until Ctrl+C.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from app.serving_options import add_serving_options, serving_overrides
from models.command_line import OneLineParser
from models.errors import MiniVLMError


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl+C or SIGTERM."""
    args = _parser().parse_args(argv)
    try:
        _serve(args)
    except MiniVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="python -m app.cluster", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--cfg-path", type=Path, action="append", required=True, metavar="YAML", help="a model; may be given again"
    )
    parser.add_argument("--replicas", type=int, default=1, metavar="N", help="of each model (%(default)s)")
    parser.add_argument("--min-replicas", type=int, metavar="N", help="as few as this while little is asked; 0: none")
    parser.add_argument("--max-replicas", type=int, metavar="N", help="as many as this while much is asked")
    parser.add_argument("--gpus", type=float, default=0, metavar="N", help="of one replica (%(default)s)")
    parser.add_argument("--cpus", type=float, default=1, metavar="N", help="of one replica (%(default)s)")
    parser.add_argument("--device", default="auto", help="as for demo.py (%(default)s)")
    parser.add_argument("--dtype", default="auto", help="as for demo.py (%(default)s)")
    parser.add_argument("--quantization", choices=("none", "8bit", "4bit"), help="as for demo.py")
    parser.add_argument("--options", nargs="+", default=[], metavar="KEY=VALUE", help="keys of the YAML, overridden")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (%(default)s)")
    parser.add_argument("--api-key", help="asked of every request; also MINIVLM_API_KEY")
    parser.add_argument("--allow-origin", action="append", default=[], metavar="ORIGIN", help="pages that may ask")
    add_serving_options(parser)
    return parser


def _serve(args: argparse.Namespace) -> None:
    from app.cluster.running import Cluster

    key = args.api_key or os.environ.get("MINIVLM_API_KEY")
    settings = {
        "configs": args.cfg_path,
        "replicas": args.replicas,
        "min_replicas": args.min_replicas,
        "max_replicas": args.max_replicas,
        "gpus": args.gpus,
        "cpus": args.cpus,
        "device": args.device,
        "dtype": args.dtype,
        "quantization": args.quantization,
        "overrides": (*args.options, *serving_overrides(args)),
        "api_keys": [key] if key else [],
        "allow_origins": args.allow_origin,
    }
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    with Cluster(settings, host=args.host, port=args.port) as cluster:
        print(f"Serving {', '.join(cluster.names)} at {cluster.url}/v1. Ctrl+C ends it.", flush=True)
        ended.wait()


if __name__ == "__main__":
    raise SystemExit(main())
