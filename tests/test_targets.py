from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from torch import nn

from pytest_dwsconv.errors import DwsconvError, InputError, TargetError
from pytest_dwsconv.targets import build_from_file, load_target, parse_input_size

NETS = """
from torch import nn

class Net(nn.Module):
    class Inner(nn.Module):
        pass

def factory():
    return Net()

def sized(width, depth=2):
    net = Net()
    net.given = (width, depth)
    return net

def broken():
    raise RuntimeError("no weights\\nsecond line")

def leaves():
    raise SystemExit(3)

def nothing():
    return None

instance = Net()
number = 4
"""

BUILT = [("Net", "Net"), ("Net.Inner", "Inner"), ("factory", "Net"), ("instance", "Net")]

REFUSED = [
    ("Nett", "there is no Nett there: did you mean Net?"),
    ("Net.Iner", "there is no Iner there: did you mean Inner?"),
    ("zzz", "there is no zzz there: name a model, a class or a function"),
    (
        "sized",
        "without arguments (missing a required argument: 'width'): write those it needs in "
        "parentheses, as",
    ),
    (
        "sized(1, wide=2)",
        "with these arguments (got an unexpected keyword argument 'wide'): write those it needs",
    ),
    ("sized(width)", "its arguments must be literals, as in factory(num_classes=10)"),
    ("sized(**{'width': 1})", "its arguments must be literals"),
    ("sized(1", "its arguments must be literals"),
    ("sized(1)(2)", "its arguments must be literals"),
    ("instance(3)", "calling it raised NotImplementedError"),
    ("broken", "calling it raised RuntimeError: no weights"),
    ("leaves", "calling it raised SystemExit: 3"),
    ("nothing", "gives a NoneType, not a torch.nn.Module"),
    ("number", "is an int: name a model, a class or a function"),
]


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with models in the working folder, under a name no other test imports."""
    path = tmp_path / f"nets_{tmp_path.name}.py"
    path.write_text(NETS)
    monkeypatch.chdir(tmp_path)
    return path


def assert_one_sentence(error: pytest.ExceptionInfo[DwsconvError], part: str) -> None:
    assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "type_name"), BUILT)
def test_a_target_is_an_instance_a_class_or_a_function(
    nets: Path, name: str, type_name: str
) -> None:
    for model in (load_target(f"{nets.stem}:{name}"), build_from_file(nets, name)):
        assert isinstance(model, nn.Module)
        assert type(model).__name__ == type_name


@pytest.mark.parametrize(
    ("call", "given"),
    [
        ("sized(7)", (7, 2)),
        ("sized(depth=(1, 'a'), width=None)", (None, (1, "a"))),
        (" sized( -1 ) ", (-1, 2)),
    ],
)
def test_a_factory_may_be_given_literals(nets: Path, call: str, given: object) -> None:
    assert load_target(f"{nets.stem}:{call}").given == given


@pytest.mark.parametrize(("name", "part"), REFUSED)
def test_what_gives_no_model_is_refused_in_one_sentence(nets: Path, name: str, part: str) -> None:
    with pytest.raises(TargetError) as by_target:
        load_target(f"{nets.stem}:{name}")
    with pytest.raises(TargetError) as by_file:
        build_from_file(nets, name)
    assert_one_sentence(by_target, part)
    assert_one_sentence(by_file, part)
    assert f"{nets.stem}:{name}" in str(by_target.value)
    assert f"{nets}:{name}" in str(by_file.value)


@pytest.mark.parametrize(
    ("target", "part"),
    [
        ("torch", "is not written module:factory"),
        ("torch:", "is not written module:factory"),
        (":Net", "is not written module:factory"),
        (
            "no_such_package:Net",
            "there is no module no_such_package: install it, or run from the folder",
        ),
        ("torch.nn.no_such:Net", "there is no module torch.nn.no_such: install it"),
        ("..relative:Net", "importing ..relative raised TypeError"),
    ],
)
def test_a_module_that_does_not_exist_is_refused(target: str, part: str) -> None:
    with pytest.raises(TargetError) as error:
        load_target(target)
    assert_one_sentence(error, part)


def test_a_module_that_fails_on_import_is_told_from_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "needs_more.py").write_text("import no_such_dependency")
    with pytest.raises(TargetError) as error:
        load_target("needs_more:Net", [tmp_path])
    assert_one_sentence(
        error, "importing needs_more raised ModuleNotFoundError: No module named 'no_such_depend"
    )
    assert isinstance(error.value.__cause__, ModuleNotFoundError)


def test_folders_are_importable_only_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "only_meanwhile.py").write_text("from torch import nn\nmodel = nn.Conv2d(1, 1, 1)")
    path = list(sys.path)
    assert isinstance(load_target("only_meanwhile:model", [tmp_path]), nn.Conv2d)
    assert sys.path == path


def test_folders_go_before_what_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"twice_{tmp_path.name}"
    for number, folder in enumerate(("installed", "given"), start=1):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.py").write_text(
            f"from torch import nn\nmodel = nn.Conv2d(1, {number}, 1)"
        )
    monkeypatch.syspath_prepend(tmp_path / "installed")
    assert load_target(f"{name}:model", [tmp_path / "given"]).extra_repr().startswith("1, 2")


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("def broken(:", "cannot be executed, it raised SyntaxError"),
        ("raise ValueError", "cannot be executed, it raised ValueError"),
        ("from . import sibling", "cannot be executed, it raised ImportError"),
    ],
)
def test_a_file_that_cannot_be_executed(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "net.py"
    path.write_text(text)
    modules, folders = set(sys.modules), list(sys.path)
    with pytest.raises(TargetError) as error:
        build_from_file(path, "Net")
    assert_one_sentence(error, part)
    assert str(path) in str(error.value)
    assert error.value.__cause__ is not None
    assert {name for name in set(sys.modules) - modules if "dwsconv" in name} == set()
    assert sys.path == folders


def test_a_missing_file() -> None:
    with pytest.raises(
        TargetError, match=re.escape("file no/such.py cannot be read: No such file or directory")
    ):
        build_from_file(Path("no/such.py"), "Net")


def test_a_file_shadows_nothing_and_is_executed_afresh(tmp_path: Path) -> None:
    path = tmp_path / "json.py"
    path.write_text("from torch import nn\nmodel = nn.Conv2d(1, 2, 1)")
    before = sys.modules.get("json")
    first = build_from_file(path, "model")
    path.write_text("from torch import nn\nmodel = nn.Conv2d(1, 3, 1)")
    second = build_from_file(path, "model")
    assert [model.extra_repr()[:4] for model in (first, second)] == ["1, 2", "1, 3"]
    assert sys.modules.get("json") is before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_executed_as_python_executes_it(tmp_path: Path) -> None:
    path = tmp_path / "annotated.py"
    path.write_text(
        "from torch import nn\n"
        "def build(width: int = 2): return nn.Conv1d(width, 1, 1)\n"
        "model = build() if build.__annotations__['width'] is int else None"
    )
    assert isinstance(build_from_file(path, "model"), nn.Conv1d)


def test_a_file_imports_its_neighbours(tmp_path: Path) -> None:
    package = tmp_path / "net_package" / "models"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "blocks.py").write_text(
        "from torch import nn\ndef block(): return nn.Conv2d(1, 5, 3)"
    )
    (package / "relative.py").write_text("from .blocks import block")
    assert isinstance(build_from_file(package / "relative.py", "block"), nn.Conv2d)
    plain = tmp_path / "plain.py"
    (tmp_path / "plain_blocks.py").write_text((package / "blocks.py").read_text())
    plain.write_text("from plain_blocks import block")
    assert isinstance(build_from_file(plain, "block"), nn.Conv2d)


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("1,3,224,224", ((1, 3, 224, 224),)),
        ("1x3x224x224", ((1, 3, 224, 224),)),
        (" 1 , 3 X 224", ((1, 3, 224),)),
        ("7", ((7,),)),
        ("1,3,8,8; 1,10", ((1, 3, 8, 8), (1, 10))),
    ],
)
def test_input_sizes(text: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    assert parse_input_size(text) == shapes


@pytest.mark.parametrize("text", ["", "1,3,", "1,-3", "0,3", "1,3;", "big", "1.5,2", "1,²"])
def test_what_is_no_input_size(text: str) -> None:
    with pytest.raises(InputError) as error:
        parse_input_size(text)
    assert_one_sentence(error, f"input size {text!r} is not a shape")


@pytest.mark.parametrize("digits", [19, 400, 5000])
def test_a_side_that_no_tensor_can_have_is_not_one_of_an_input(digits: int) -> None:
    assert parse_input_size("9" * 18) == ((10**18 - 1,),)
    with pytest.raises(InputError, match="is not a shape"):
        parse_input_size(f"1,{'9' * digits}")


@pytest.mark.parametrize(
    "arguments",
    ["9" * 5000, "[" * 100_000, "-" * 100_000 + "1"],
    ids=["digits", "brackets", "signs"],
)
def test_arguments_that_python_cannot_parse_are_refused_in_a_short_sentence(arguments: str) -> None:
    with pytest.raises(TargetError, match="its arguments must be literals") as error:
        load_target(f"collections:Counter({arguments})")
    assert len(str(error.value)) < 500


def test_a_name_with_nul_is_not_that_of_a_file_or_module() -> None:
    with pytest.raises(TargetError, match="its name has a NUL"):
        build_from_file(Path("a\0.py"), "Net")
    with pytest.raises(TargetError, match=r"there is no module a\\x00b: install"):
        load_target("a\0b:Net")
    with pytest.raises(TargetError, match=r"there is no Net\\x00 there"):
        load_target("collections:Net\0")


def test_a_file_is_a_target_too(nets: Path, tmp_path: Path) -> None:
    assert type(load_target(f"{nets.name}:Net.Inner")).__name__ == "Inner"
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "far.py").write_text(NETS)
    assert load_target("far.py:sized(7)", [folder]).given == (7, 2)
    with pytest.raises(TargetError, match=r"file missing\.py cannot be read: No such file"):
        load_target("missing.py:Net", [folder])


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that build what they are asked for, and keep what they were given."""

    def build(name: str, **given: object) -> nn.Module:
        model = nn.Identity()
        model.given = {"name": name, **given}  # type: ignore[assignment]
        return model

    def detector(*, weights: object = None, weights_backbone: object = "a download") -> nn.Module:
        return build("detector", weights=weights, weights_backbone=weights_backbone)

    timm, torchvision, models = map(ModuleType, ("timm", "torchvision", "torchvision.models"))
    vars(timm).update(create_model=build, list_models=lambda: ["resnet18", "3d_net"])
    vars(models).update(list_models=lambda: ["detector"], get_model_builder=lambda name: detector)
    vars(torchvision).update(models=models)
    for module in (timm, torchvision, models):
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.mark.parametrize(
    ("target", "given"),
    [
        ("timm:resnet18", {"name": "resnet18", "pretrained": False}),
        ("timm:3d_net(depth=2)", {"name": "3d_net", "pretrained": False, "depth": 2}),
        ("timm:resnet18.a1_in1k", {"name": "resnet18.a1_in1k", "pretrained": False}),
        ("timm:create_model('any')", {"name": "any"}),
        ("torchvision:detector", {"name": "detector", "weights": None, "weights_backbone": None}),
    ],
)
def test_models_of_timm_and_torchvision_go_by_their_registered_names(
    registries: None, target: str, given: dict[str, object]
) -> None:
    assert load_target(target).given == given


def test_a_name_that_no_registry_has_is_refused(registries: None) -> None:
    with pytest.raises(TargetError, match=r"timm has no model resnet1: did you mean resnet18\?"):
        load_target("timm:resnet1")
