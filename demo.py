"""MiniVLM Chat: chat about images with a released vision-language checkpoint, in the browser.

    python demo.py                                            the bundled tiny model, no download, no GPU
    python demo.py --list                                     every configuration and whether its files are here
    python demo.py --cfg-path eval_configs/minigpt_v2.yaml    a released checkpoint

torch and gradio are imported only once they are needed, so that --help, --version and wrong arguments answer at once.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

from app import launch
from models.errors import MiniVLMError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. What the user can mend is one line on stderr and exit status 2; the rest is a bug."""
    args = launch.parse_arguments(argv)
    try:
        if args.list:
            launch.show(launch.describe_configs())
        else:
            serve(args)
    except MiniVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    return 0


def serve(args: Namespace) -> None:
    """Load the model, build the page, and serve it until Ctrl+C; or answer without a page."""
    has_page = not (args.terminal or args.ask)
    launch.be_private()
    port = launch.free_port(args.host, args.port) if has_page else 0  # before the weights: loading can take minutes
    launch.check_before_loading(args)
    model = launch.load(args)
    if not has_page:
        return launch.run_terminal(model, args)
    from app.engine import ChatEngine
    from app.ui import build_demo

    with ChatEngine(model) as engine:
        page = build_demo(engine, new_scene=launch.new_scene if engine.info.is_toy else None)
        launch.run(page, args, port, engine)


if __name__ == "__main__":
    sys.exit(main())
