"""The house: imports go down only, no file grows beyond reading, no flag assumes NaN away."""

import ast
import functools
import itertools
from pathlib import Path

import pytest

import fastfisher

PACKAGE = Path(fastfisher.__file__).parent  # what is tested, installed or not
FILES = sorted(PACKAGE.rglob("*.py"))
LINES = 420

# Rooms from the cellar up; a room may import rooms of lower rank, and itself.
RANK = {
    "errors": 0,
    "linalg": 0,
    "machine": 0,
    "scalars": 1,
    "kernels": 1,
    "planning": 2,
    "arrays": 2,
    "slices": 2,
    "passes": 3,
    "devices": 3,
    "ops": 4,
    "damping": 4,
    "solvers": 5,
    "fisher": 6,
    "api": 7,
    "runtime": 8,
    "paths": 8,
    "optim": 8,
    "models": 8,
    "stats": 8,
    "stream": 8,
    "calibration": 8,
    "cli": 9,
    "demo": 9,
    "plots": 9,
    "torch": 9,
    "jax": 9,
    "sklearn": 9,
    "dask": 9,
    "__main__": 10,
}
# Neighbours of one rank that may still know each other, one way.
ALLOWED = {
    ("machine", "errors"),
    ("slices", "planning"),
    ("slices", "arrays"),
    ("calibration", "stream"),
    ("cli", "demo"),
    ("demo", "plots"),
    ("cli", "plots"),
}
HEAVY = {"torch", "jax", "matplotlib", "sklearn", "cupy", "statsmodels", "dask", "tqdm", "pandas"}


def room(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "front door" if parts == ("__init__",) else parts[0]


def module_of(path):
    parts = ["fastfisher", *path.relative_to(PACKAGE).with_suffix("").parts]
    return parts[:-1] if parts[-1] == "__init__" else parts


@functools.cache
def tree_of(path):
    return ast.parse(path.read_text())


@functools.cache
def imports(path):
    """[(dotted module, line, at module level)] of every import in a file."""
    tree, found = tree_of(path), []
    nested = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.walk(node)
    }
    package = module_of(path) if path.name == "__init__.py" else module_of(path)[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.append((alias.name, node.lineno, node not in nested))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                found.append((f"{module}.{alias.name}", node.lineno, node not in nested))
    return found


def internal(path):
    """Rooms a file imports, with the line; function-level imports count as well."""
    for name, line, _ in imports(path):
        parts = name.split(".")
        if parts[0] == "fastfisher" and len(parts) > 1:
            yield parts[1], line


def test_every_room_has_a_rank():
    rooms = {room(path) for path in FILES} - {"front door"}
    assert rooms <= set(RANK), f"rooms without a place in the house: {rooms - set(RANK)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    here = room(path)
    if here == "front door":
        pytest.skip("the front door resolves names on first use")
    for target, line in internal(path):
        if target not in RANK or target == here:
            # a public name of the front door, used by edges: from fastfisher import solve
            assert target == here or RANK[here] >= RANK["cli"] or target == "__version__", (
                f"{path.name}:{line} imports fastfisher.{target}, which is no room"
            )
            continue
        assert RANK[target] < RANK[here] or (here, target) in ALLOWED, (
            f"{path.name}:{line}: {here} (rank {RANK[here]}) imports {target} ({RANK[target]})"
        )


def test_rooms_import_each_other_without_cycles():
    edges = {(room(path), target) for path in FILES for target, _ in internal(path)}
    graph = {a: {b for x, b in edges if x == a and b != a} for a in {a for a, _ in edges}}

    def reachable(start):
        seen, todo = set(), [start]
        while todo:
            for target in graph.get(todo.pop(), ()):
                if target not in seen:
                    seen.add(target)
                    todo.append(target)
        return seen

    for name in graph:
        assert name not in reachable(name), f"{name} imports itself through others"


def test_files_of_one_room_do_not_import_in_circles():
    graph = {}
    for path in FILES:
        mine = ".".join(module_of(path))
        graph[mine] = set()
        for name, _, top in imports(path):
            if top and name.startswith("fastfisher."):
                parts = name.split(".")
                for k in range(len(parts), 1, -1):
                    candidate = PACKAGE.joinpath(*parts[1:k])
                    if candidate.with_suffix(".py").exists() and k > 1:
                        graph[mine].add(".".join(parts[:k]))
                        break
    state = {}

    def visit(name, trail):
        assert state.get(name) != "open", " -> ".join([*trail, name])
        if name in state:
            return
        state[name] = "open"
        for target in graph.get(name, ()):
            visit(target, [*trail, name])
        state[name] = "done"

    for name in graph:
        visit(name, [])


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_heavy_is_imported_at_module_level(path):
    for name, line, top in imports(path):
        if top:
            assert name.split(".")[0] not in HEAVY, f"{path.name}:{line} imports {name}"
            if path not in PROVIDERS:
                assert not name.startswith("numba.cuda"), f"{path.name}:{line} imports {name}"


# What depends on who provides CUDA; the front one is `compat`, the others are its own.
PROVIDERS = {PACKAGE / f"kernels/cuda/{name}.py" for name in ("compat", "ptx", "simulated")}


def test_the_cuda_kernels_take_everything_from_compat():
    for path in (PACKAGE / "kernels/cuda").rglob("*.py"):
        if path not in PROVIDERS:
            for name, line, _ in imports(path):
                assert name.split(".")[0] not in ("numba", "llvmlite"), f"{path.name}:{line}"
                assert not {"ptx", "simulated"} & {*name.split(".")}, f"{path.name}:{line}"


def test_only_kernels_import_numba():
    for path in FILES:
        for name, line, top in imports(path):
            if name.split(".")[0] == "numba" and room(path) != "kernels":
                assert not top, f"{path.name}:{line} imports {name} at module level"


def test_edges_do_not_import_each_other_but_the_command_line():
    edges = {name for name, rank in RANK.items() if rank == RANK["cli"]}
    for path, (target, line) in itertools.chain.from_iterable(
        zip(itertools.repeat(path), internal(path)) for path in FILES if room(path) in edges
    ):
        if target in edges and target != room(path):
            assert (room(path), target) in ALLOWED, f"{path.name}:{line} imports {target}"


ASSUMES_FINITE = {"nnan", "ninf", "fast", "reassoc"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_flag_assumes_that_nan_is_absent(path):
    """fastmath=True and nnan make isnan false; reassoc would let the order of sums change."""
    for node in ast.walk(tree_of(path)):
        pairs = []
        if isinstance(node, ast.keyword):
            pairs = [(node.arg, node.value)]
        elif isinstance(node, ast.Dict):
            pairs = [
                (getattr(k, "value", None), v) for k, v in zip(node.keys, node.values, strict=True)
            ]
        for name, value in pairs:
            if name == "fastmath":
                assert not (isinstance(value, ast.Constant) and value.value is True), path
        if room(path) == "kernels" and isinstance(node, ast.Set | ast.List | ast.Tuple):
            words = {e.value for e in node.elts if isinstance(e, ast.Constant)}
            assert not words & ASSUMES_FINITE, (
                f"{path.name}:{node.lineno}: {words & ASSUMES_FINITE}"
            )


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_short_and_say_what_they_are(path):
    text = path.read_text()
    count = len(text.splitlines())
    assert count <= LINES, f"{path.name} has {count} lines; it is asking to be two"
    assert ast.get_docstring(tree_of(path)) or not text.strip(), f"{path.name} has no docstring"


MARKS = ("TODO", "FIXME", "XXX", "NotImplementedError", "pdb", "breakpoint(")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_is_left_undone(path):
    text = path.read_text()
    for mark in MARKS:
        assert mark not in text, f"{path.name} holds {mark}"
