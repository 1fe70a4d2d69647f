"""`demo.py` in front of another server: no model is loaded, and nothing that could load one."""

from __future__ import annotations

import argparse
import sys

from app import server
from models.errors import RequestError


def serve_elsewhere(args: argparse.Namespace) -> bool:
    """Serve page and API in front of the server that the command line, or its YAML, means, until Ctrl+C.

    False at once if they mean a model that is loaded here. Raises MiniVLMError.
    """
    from app.remote.remote_config import remote_config

    has_choice = len(args.cfg_paths) > 1 or args.models_dir or args.max_loaded
    if has_choice and args.server_url is None and not (args.terminal or args.ask):
        return False  # it is one of the models that the page offers
    path = None if args.server_url is not None and args.is_default_config else args.cfg_path
    config = remote_config(path, args.options, url=args.server_url, key=args.server_key, model=args.server_model)
    if config is None:
        return False
    if len(args.cfg_paths) > 1:
        raise RequestError("Another server is one model; leave the other --cfg-path out, or its YAML.")
    if args.terminal or args.ask:
        raise RequestError("--terminal and --ask need a model that is loaded here; they can't ask another server.")
    server.be_private()
    port = server.free_port(args.host, args.port)
    from app.api.openai.served import OneModel
    from app.page.components import build_demo
    from app.remote.remote_model import RemoteModel
    from app.remote.served_elsewhere import find_served

    served = find_served(config)
    print(f"Asking {served.model} at {served.where}: questions and pictures are sent there.", file=sys.stderr)
    server.own_upload_folder()
    with RemoteModel(served) as model:
        models = OneModel(served.model, model)
        server.serve(build_demo(model), args, port, models, lambda: {"": model.stats()})
    return True
