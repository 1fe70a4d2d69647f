"""The rules of the code base that a linter does not know: who imports whom, one file per family, no secrets."""

from __future__ import annotations

import ast
import re
import subprocess
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from models.config import available_families, load_config
from tests.paths import ROOT
from tests.sources import PACKAGES, imports_of, program_files, relative, source_files, tree_of

# What each package may not import. training.scenes, the tiny models' world, is open to two: "New scene" on the page,
# inside a function, and benchmarks of the bundled models.
FORBIDDEN = {
    "models": ("engine", "app", "training", "benchmarks", "demo", "gradio"),
    "engine": ("app", "training", "benchmarks", "demo", "gradio"),
    "app": ("training", "benchmarks", "demo"),
    "training": ("app", "benchmarks", "demo", "gradio"),
    "benchmarks": ("app", "training", "demo", "gradio"),
}
ALLOWED = {"app": ("training.scenes",), "benchmarks": ("training.scenes",)}
# What the rooms of app may not import either.
ROOMS_WITHOUT = {
    "page": ("torch",),
    "chat": ("gradio", "torch", "app.page", "app.api", "app.library"),
    "api": ("torch", "app.page"),
    "limits": ("torch", "app.page"),
    "terminal": ("gradio", "torch", "app.page"),
    "batch": ("gradio", "torch", "app.page"),
    "library": ("gradio", "app.page"),
    "extras": ("gradio", "app.page"),
    "remote": ("gradio", "torch", "app.page"),
    "cluster": ("gradio", "app.page"),
    "spaces": ("app.page",),
}
ORDER = "the order is demo -> app -> engine -> models, and training, benchmarks -> engine"
ONLY_INSIDE_FUNCTIONS = ("training.scenes",)
BATCHING_NAMES = tuple(
    f"engine.batching.generation_loop.{name}" for name in ("GenerationLoop", "LoopStopped", "Ticket")
)

# The folders of training, and the files beside them that they build on: what each may import of the others.
TRAINING_IMPORTS = {
    "instructions": (),
    "recipe": (),
    "step_watch": (),
    "batch_trainer": ("step_watch",),
    "scenes": ("instructions",),
    "data": ("instructions", "recipe", "scenes"),
    "stages": ("recipe", "step_watch", "batch_trainer", "data"),
    "families": ("recipe", "data", "stages"),
    "tiny": ("step_watch", "batch_trainer", "scenes", "stages"),
    "evaluation": ("scenes", "data"),
}

each_source = pytest.mark.parametrize("path", source_files(), ids=relative)
each_program = pytest.mark.parametrize("path", program_files(), ids=relative)


def is_under(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@each_program
def test_only_the_cluster_imports_ray(path: Path) -> None:
    names = [name for name, _ in imports_of(path) if is_under(name, "ray")]
    assert not names or is_under(relative(path).replace("/", "."), "app.cluster"), names


@each_source
def test_imports_point_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for name, in_function in imports_of(path):
        allowed = any(is_under(name, module) for module in ALLOWED.get(package, ()))
        if any(is_under(name, module) for module in FORBIDDEN.get(package, ())):
            assert allowed, f"{relative(path)} imports {name}; {ORDER}"
        if package == "app" and any(is_under(name, module) for module in ONLY_INSIDE_FUNCTIONS):
            assert in_function, f"{relative(path)} imports {name} at the top; import it where it is used"


@pytest.mark.parametrize("room", ROOMS_WITHOUT)
def test_rooms_of_the_app_know_only_what_they_need(room: str) -> None:
    for path in sorted((ROOT / "app" / room).rglob("*.py")):
        for name, _ in imports_of(path):
            wrong = any(is_under(name, other) for other in ROOMS_WITHOUT[room])
            assert not wrong, f"{relative(path)} imports {name}, of which app/{room} knows nothing"


def test_every_room_of_the_app_is_listed() -> None:
    assert ROOMS_WITHOUT.keys() == {path.parent.name for path in (ROOT / "app").glob("*/__init__.py")}


@each_source
def test_one_room_knows_the_librarys_batching(path: Path) -> None:
    is_inside = "engine/batching" in relative(path)  # its tests too
    for name, _ in imports_of(path):
        if is_under(name, "transformers.generation.continuous_batching") or "ContinuousBatching" in name:
            assert is_inside, f"{relative(path)} imports {name}; only engine/batching may know how transformers batches"
        if is_under(name, "engine.batching") and not is_inside:
            assert name in BATCHING_NAMES, (
                f"{relative(path)} imports {name}; outside of its folder use {BATCHING_NAMES}"
            )


@pytest.mark.parametrize("package", [*PACKAGES, "benchmarks"])
def test_no_circles(package: str) -> None:
    imports: dict[str, set[str]] = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        names = [name for name, _ in imports_of(path) if is_under(name, package)]
        imports[module] = {
            name if (ROOT / f"{name.replace('.', '/')}.py").is_file() else name.rpartition(".")[0] for name in names
        }
    TopologicalSorter(imports).prepare()  # raises CycleError with the circle


def rooms_of(folder: Path) -> dict[str, set[str]]:
    """For each folder inside this one that holds code, the names of its sibling folders that it imports from."""
    package = ".".join(folder.relative_to(ROOT).parts)
    rooms = {path.parent.name for path in folder.glob("*/*.py")}
    return {
        room: {
            name.removeprefix(f"{package}.").partition(".")[0]
            for path in sorted((folder / room).rglob("*.py"))
            for name, _ in imports_of(path)
            if is_under(name, package)
        }
        & rooms - {room}
        for room in sorted(rooms)
    }


@pytest.mark.parametrize("package", [*PACKAGES, "benchmarks", "tests"])
def test_no_circles_between_sibling_folders(package: str) -> None:
    """Of two folders side by side one builds on the other, never both on each other, by whatever modules."""
    for folder in sorted({path.parent.parent for path in (ROOT / package).rglob("*/*.py")}):
        TopologicalSorter(rooms_of(folder)).prepare()  # raises CycleError with the circle


@pytest.mark.parametrize("room", TRAINING_IMPORTS)
def test_inside_training_imports_point_one_way(room: str) -> None:
    """Commands (train, prepare, evaluate …) stand above all folders; no folder imports them."""
    folder = ROOT / "training" / room
    for path in sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]:
        for name, _ in imports_of(path):
            if is_under(name, "training") and not is_under(name, f"training.{room}"):
                allowed = any(is_under(name, f"training.{other}") for other in TRAINING_IMPORTS[room])
                assert allowed, f"{relative(path)} imports {name}; TRAINING_IMPORTS says what {room} may import"


def test_every_folder_of_training_has_its_place() -> None:
    folders = {path.parent.name for path in (ROOT / "training").glob("*/__init__.py")}
    assert folders <= TRAINING_IMPORTS.keys()


@pytest.mark.parametrize("family", available_families())
def test_no_family_imports_a_sibling(family: str) -> None:
    siblings = [f"models.families.{other}" for other in available_families() if other != family]
    names = [name for name, _ in imports_of(ROOT / "models" / "families" / f"{family}.py")]
    assert not [name for name in names if any(is_under(name, sibling) for sibling in siblings)]


@each_program
def test_no_branch_on_a_familys_name(path: Path) -> None:
    if path.parent.name == "families":
        return
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Compare):
            names = {getattr(side, "attr", getattr(side, "id", None)) for side in (node.left, *node.comparators)}
            text = any(isinstance(side, ast.Constant) for side in (node.left, *node.comparators))
            assert not ("family" in names and text), (
                f"{relative(path)}:{node.lineno} asks which family it has; let the family say what differs"
            )


@each_source
def test_no_star_imports_and_no_eval(path: Path) -> None:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.names[0].name != "*", f"{relative(path)}:{node.lineno} star import"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec"), f"{relative(path)}:{node.lineno} {node.func.id}()"


def test_the_command_line_stays_small() -> None:
    assert len((ROOT / "demo.py").read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.parametrize("path", sorted((ROOT / "eval_configs").glob("*.yaml")), ids=relative)
def test_every_config_parses(path: Path) -> None:
    assert load_config(path).family in available_families()


def text_files() -> list[Path]:
    """Everything people read or run that git has or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    names = listed.stdout.splitlines() if listed.returncode == 0 else [relative(path) for path in source_files()]
    suffixes = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".css", ".js", ".html", ""}
    paths = [ROOT / name for name in names]
    return [path for path in paths if path.suffix in suffixes and path.is_file() and path != Path(__file__).resolve()]


def test_no_machine_paths_and_no_package_registries() -> None:
    wrong = re.compile(r"/(home|root|work|Users|opt)/\w|pypi\.org|pythonhosted|download\.pytorch|conda\.anaconda|npmjs")
    found = [
        f"{relative(path)}: {match[0]}"
        for path in text_files()
        if (match := wrong.search(path.read_text(encoding="utf-8", errors="replace")))
    ]
    assert not found


@pytest.mark.parametrize("path", [one for one in source_files() if "tests/" not in relative(one)], ids=relative)
def test_no_checkpoint_runs_code(path: Path) -> None:
    """Whoever loads with a library says that code in the files is not to be run; the libraries else may ask for it."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            said = {word.arg: word.value for word in node.keywords}
            if node.func.attr in ("from_pretrained", "from_config"):
                value = said.get("trust_remote_code")
                is_false = isinstance(value, ast.Constant) and value.value is False
                assert is_false, f"{relative(path)}:{node.lineno} loads without trust_remote_code=False"
                source = node.args[0] if node.args else None
                if relative(path).startswith("models/") and not isinstance(source, ast.Constant):
                    is_here = isinstance(
                        said.get("local_files_only"), ast.Constant
                    )  # a folder that went would be asked for
                    assert is_here, f"{relative(path)}:{node.lineno} loads without local_files_only=True"
            if node.func.attr == "load" and isinstance(node.func.value, ast.Name) and node.func.value.id == "torch":
                value = said.get("weights_only")
                is_true = isinstance(value, ast.Constant) and value.value is True
                assert is_true, f"{relative(path)}:{node.lineno} loads without weights_only=True"
