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

from app import arguments, config_list, ending, launch, server
from app.launch_elsewhere import serve_elsewhere
from models.errors import MiniVLMError


@ending.signals_end_it()
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. What the user can mend is one line on stderr and exit status 2; the rest is a bug."""
    args = arguments.parse_arguments(argv)
    try:
        if args.list is not None:
            config_list.show(config_list.describe_configs(args.list))
        elif not serve_elsewhere(args):
            serve(args)
    except MiniVLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    return 0


def serve(args: Namespace) -> None:
    """Load the models, build the page, and serve it until Ctrl+C; or answer without a page."""
    has_page = not (args.terminal or args.ask)
    server.be_private()
    port = server.free_port(args.host, args.port) if has_page else 0  # before the weights: loading can take minutes
    launch.check_before_loading(args)
    if not has_page:
        return launch.run_without_page(args)
    from app.page.components import build_demo

    with launch.make_library(args) as library:
        server.own_upload_folder()
        default, several = library.model(library.entries[0].offer.id), len(library.entries) > 1
        scene, offered = launch.new_scene if several or default.info.is_toy else None, library if several else None
        kept, fetched = launch.feedback_file(args), launch.downloads(args, library)
        page = build_demo(default, new_scene=scene, library=offered, feedback=kept, downloads=fetched)
        server.run(page, args, port, library)


if __name__ == "__main__":
    sys.exit(main())
