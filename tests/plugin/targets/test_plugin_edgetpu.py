from __future__ import annotations

import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from standin import NOT_RUN, StandIn

# A board that answers without being measured: what it returns is what the tests below compute with.
BOARD = """
from pytest_dwsconv.core.measurement import Measurement

class Board:
    def measure(self, model, shape=None):
        place = dict(host="ssh=lab", machine="lab, board 7", device="/dev/tpu7")
        python = dict(python="3.9.2", runtime="tflite 2.5")
        library = dict(library="/lib/libtpu.so", library_version="RuntimeVersion(14)", clock="max")
        samples = (0.010, 0.011, 0.012, 0.013, 0.020)
        figures = dict(model=f"{model} {shape}", first_invoke=0.05, samples=samples)
        return Measurement(**figures, **place, **python, **library)

def pytest_dwsconv_latency_backend(config, target):
    return Board() if target == "edgetpu" else None
"""


pytestmark = pytest.mark.usefixtures("inner")


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """libedgetpu is a file that cannot be loaded, whatever this machine has."""
    (tmp_path / "libedgetpu.so.1").write_text("not a library")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))


# --------------------------------------------------------------------------- options


def test_help_lists_options_and_ini_keys(pytester: pytest.Pytester) -> None:
    shown = " ".join(pytester.runpytest("--help").stdout.str().split())
    for text in (
        "--dws-edgetpu={auto,require,off} without an Edge TPU, tests that want one are skipped "
        "(auto, the default)",
        "--dws-edgetpu-host=SPEC where the Edge TPU is: python=/path/python3.9, "
        "ssh=pi@raspberrypi, or both",
        "--dws-edgetpu-device=STR which Edge TPU, as pycoral names it",
        "dws_edgetpu (string): as --dws-edgetpu",
        "dws_edgetpu_host (string): as --dws-edgetpu-host",
        "dws_edgetpu_device (string): as --dws-edgetpu-device",
    ):
        assert text in shown


def test_fixtures_are_described(pytester: pytest.Pytester) -> None:
    pytester.runpytest("--fixtures").stdout.fnmatch_lines(
        [
            "edgetpu [[]session scope] -- *",
            "*The connected Edge TPU: *",
            "edgetpu_latency -- *",
            "*Hold a model to a latency: *",
        ]
    )


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--dws-edgetpu=maybe", "*invalid choice: 'maybe'*"),
        (
            "--dws-edgetpu-host=pi",
            "*dws-edgetpu: 'pi' is not a host: write python=/path/python3.9*",
        ),
        ("--dws-edgetpu-device=cpu", "*dws-edgetpu: 'cpu' is not a device: write :1, usb, usb:0*"),
        ("-odws_edgetpu=maybe", "*dws_edgetpu 'maybe' is not auto, require or off"),
        ("-odws_edgetpu_host=pi", "*dws-edgetpu: 'pi' is not a host*"),
        ("-odws_edgetpu_device=cpu", "*dws-edgetpu: 'cpu' is not a device*"),
    ],
)
def test_a_setting_that_cannot_be_used_ends_the_run(
    pytester: pytest.Pytester, argument: str, message: str
) -> None:
    pytester.makepyfile("def test_plain(): pass")
    result = pytester.runpytest(argument)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


# --------------------------------------------------------------------------- with and without a
# device

WANTS = """
def test_latency(edgetpu_latency):
    edgetpu_latency("net_edgetpu.tflite", max="12ms")

def test_device(edgetpu):
    assert edgetpu.devices()

def test_plain():
    pass
"""


@pytest.fixture
def wants(pytester: pytest.Pytester) -> None:
    """A suite that wants a device, and the model that it measures."""
    pytester.makepyfile(WANTS)
    (pytester.path / "net_edgetpu.tflite").write_bytes(NOT_RUN)


@pytest.mark.usefixtures("no_library", "wants")
def test_without_a_device_tests_are_skipped_with_the_reason(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest("-rs")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(
        [
            "SKIPPED*this host has no libedgetpu that loads*: install one there: *"
            "tflite-runtime==2.11.0*or a rebuilt libedgetpu*"
        ]
    )


@pytest.mark.usefixtures("no_library", "wants")
@pytest.mark.parametrize("argument", ["--dws-edgetpu=require", "-odws_edgetpu=require"])
def test_without_a_device_tests_fail_where_one_is_required(
    pytester: pytest.Pytester, argument: str
) -> None:
    result = pytester.runpytest(argument)
    result.assert_outcomes(passed=1, failed=1, errors=1)
    message = "an Edge TPU is required by dws-edgetpu: this host has no libedgetpu that loads*"
    result.stdout.fnmatch_lines([message, message])
    result.stdout.no_fnmatch_line("*another exception occurred*")


def test_the_command_line_takes_the_place_of_the_ini_file(
    pytester: pytest.Pytester, standin: StandIn
) -> None:
    standin.plug_in("usb0")
    pytester.makeini("[pytest]\ndws_edgetpu = require\ndws_edgetpu_device = pci")
    pytester.makepyfile(
        "def test_device(edgetpu): assert [device.type for device in edgetpu.devices()] == ['usb']"
    )
    pytester.runpytest("--dws-edgetpu-device=usb").assert_outcomes(passed=1)


@pytest.mark.usefixtures("standin", "wants")
def test_switched_off_nothing_is_looked_for(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest(
        "--dws-edgetpu=off", "--dws-edgetpu-host=python=/nowhere/python", "-rs"
    )
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["SKIPPED*the Edge TPU is switched off by dws-edgetpu"])


def test_an_unreachable_host_is_an_absent_device(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(pytester.path))
    pytester.makepyfile("def test_device(edgetpu): pass")
    result = pytester.runpytest("--dws-edgetpu-host=ssh=pi@raspberrypi", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*ssh=pi@raspberrypi cannot be reached: *"])


def test_a_python_that_is_not_there_is_no_reason_to_skip(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_device(edgetpu): pass")
    result = pytester.runpytest("--dws-edgetpu-host=python=/nowhere/python")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["E*EdgeTpuError: python=/nowhere/python cannot be used: No such file or directory*"]
    )


@pytest.mark.usefixtures("no_library")
@pytest.mark.parametrize("model", ["'absent.tflite'", "b'PK'", "{}", "None"])
def test_a_model_that_is_not_there_is_no_reason_to_skip(
    pytester: pytest.Pytester, model: str
) -> None:
    pytester.makepyfile(f"def test_latency(edgetpu_latency): edgetpu_latency({model}, max='12ms')")
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*InputError: *give *a .tflite file*"])
    pytester.runpytest("--dws-edgetpu=off").assert_outcomes(skipped=1)


def test_the_device_is_given_to_a_test(pytester: pytest.Pytester, standin: StandIn) -> None:
    paths = standin.plug_in("usb0", "pci0")
    pytester.makepyfile(
        f"""
        def test_device(edgetpu):
            assert [device.path for device in edgetpu.devices()] == [{str(paths[1])!r}]
            assert edgetpu.host.spec.text == "python={sys.executable}"
        """
    )
    arguments = (
        "--dws-edgetpu=require",
        "--dws-edgetpu-device=pci",
        f"--dws-edgetpu-host=python={sys.executable}",
    )
    pytester.runpytest(*arguments).assert_outcomes(passed=1)


@pytest.mark.usefixtures("wants")
def test_a_device_that_cannot_be_used_is_no_reason_to_skip(
    pytester: pytest.Pytester, standin: StandIn, tmp_path: Path
) -> None:
    """There may be a device where PyPI's pycoral is, and the user has something to mend."""
    (tmp_path / "packages" / "pycoral").mkdir(parents=True)
    (tmp_path / "packages" / "pycoral" / "__init__.py").touch()
    command = f"--dws-edgetpu-host=python=env PYTHONPATH={tmp_path / 'packages'} {sys.executable}"
    result = pytester.runpytest(command)
    result.assert_outcomes(passed=1, failed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["E*EdgeTpuError: *has a pycoral that cannot be used (*that of PyPI, a program about*"]
    )


@pytest.mark.usefixtures("no_library", "wants")
def test_a_device_is_looked_for_once(pytester: pytest.Pytester, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path / "starts"}\nexec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    pytester.runpytest(f"--dws-edgetpu-host=python={python}").assert_outcomes(passed=1, skipped=2)
    # seen to start, and connected to
    assert len((tmp_path / "starts").read_text().splitlines()) == 2


@pytest.mark.usefixtures("no_library")
def test_whoever_asks_for_the_backend_skips_as_well(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.parametrize("target", ["edgetpu", "another"])
        def test_backend(pytestconfig, target):
            ask = pytestconfig.hook.pytest_dwsconv_latency_backend
            assert ask(config=pytestconfig, target=target) is None
        """
    )
    pytester.runpytest().assert_outcomes(skipped=1, passed=1)
    pytester.runpytest("--dws-edgetpu=require").assert_outcomes(failed=1, passed=1)


# --------------------------------------------------------------------------- holding a model to a
# latency


BUDGETS = """
import pytest
from torch import nn

LIMITS = dict(latency="12ms", target="edgetpu")

@pytest.mark.parametrize("params", [112, 50])
def test_fixture(dws_budget, params):
    dws_budget(nn.Conv2d(3, 4, 3), (1, 3, 8, 8), params=params, **LIMITS)

@pytest.mark.dws_budget(params=50, input_size="1,3,8,8", **LIMITS)
def test_marked(): return nn.Conv2d(3, 4, 3)
"""
OVER = "*Conv2d has 112 parameters, the budget is 50 (62 over). *"
UNKNOWN = "the latency of Conv2d on edgetpu is unknown: this host has no libedgetpu that loads *"


@pytest.mark.usefixtures("no_library")
def test_without_a_device_the_rest_of_a_budget_holds(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(BUDGETS)
    result = pytester.runpytest("-rs", "-W", "error")
    result.assert_outcomes(skipped=1, failed=2)
    result.stdout.fnmatch_lines([OVER, f"*{UNKNOWN}", OVER, f"*{UNKNOWN}", f"SKIPPED*{UNKNOWN}"])


@pytest.mark.usefixtures("no_library")
@pytest.mark.parametrize(
    ("arguments", "status", "lines"),
    [
        ((), 0, ["*= dwsconv: not known =*", UNKNOWN]),
        (
            ("--dws-edgetpu=off",),
            0,
            ["the latency of Conv2d on edgetpu is unknown: the Edge TPU is switched off by *"],
        ),
        (
            ("--dws-edgetpu=require",),
            1,
            ["*= dwsconv: over budget =*", "an Edge TPU is required by dws-edgetpu: this *"],
        ),
    ],
)
def test_a_configured_latency_without_a_device(
    pytester: pytest.Pytester, arguments: tuple[str, ...], status: int, lines: list[str]
) -> None:
    pytester.makepyfile(
        nets="from torch import nn\ndef net(): return nn.Conv2d(3, 4, 3)",
        test_it="def test_it(): pass",
    )
    setting = "dws_models=nets:net 1,3,8,8 latency=4ms target=edgetpu"
    result = pytester.runpytest("-o", setting, "-o", "pythonpath=.", *arguments)
    assert result.ret == status
    result.stdout.fnmatch_lines(lines)


@pytest.fixture
def board(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(BOARD)


def test_a_backend_of_the_users_own_that_skips_may_take_any_model(
    pytester: pytest.Pytester,
) -> None:
    pytester.makeconftest(
        """
        import pytest

        def pytest_dwsconv_latency_backend(config, target):
            pytest.skip("no board today")
        """
    )
    pytester.makepyfile("def test_latency(edgetpu_latency): edgetpu_latency('net', max='12ms')")
    result = pytester.runpytest("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*no board today*"])


@pytest.mark.usefixtures("board")
def test_a_backend_of_the_users_own_measures(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        def test_latency(edgetpu_latency):
            measurement = edgetpu_latency("net", (1, 3, 32, 32), max="12ms")
            assert (measurement.model, measurement.median) == ("net (1, 3, 32, 32)", 0.012)
            assert measurement.host == "ssh=lab"
        """
    )
    pytester.runpytest("--dws-edgetpu=require").assert_outcomes(passed=1)


@pytest.mark.usefixtures("board")
@pytest.mark.parametrize(
    ("arguments", "over"),
    [
        ('max="12ms"', None),
        ("max=0.012", None),
        (
            'max="11ms"',
            "12.000 ms, measured at the percentile 50 of 5 invokes, the limit is 11.000 ms (1.000 "
            "ms over).",
        ),
        ('max="11ms", tolerance="10%"', None),
        ('max="11ms", tolerance=0.05', "*the limit is 11.000 ms + 5% (0.450 ms over)."),
        (
            'max="12ms", percentile=90',
            "17.200 ms, measured at the percentile 90 of 5 invokes, the limit is 12.000 ms *",
        ),
        ('max="10ms", percentile=0', None),
    ],
)
def test_a_percentile_is_held_to_the_limit(
    pytester: pytest.Pytester, arguments: str, over: str | None
) -> None:
    pytester.makepyfile(f"def test_latency(edgetpu_latency): edgetpu_latency('net', {arguments})")
    result = pytester.runpytest()
    result.assert_outcomes(**{"failed" if over else "passed": 1})
    if over:
        details = (
            "E*net None: measured 12.000 ms median, 17.200 ms p90, 19.720 ms p99, spread 56.7%, "
            "first invoke 50.000*"
        )
        result.stdout.fnmatch_lines([f"E*net None took {over}", details])
        result.stdout.no_fnmatch_line("*plugin/targets/edgetpu.py*")


@pytest.mark.usefixtures("board")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            'max="12"',
            "FormatError: '12' is not a quantity: write a number from 0 with us, ms or s, as in "
            "5ms",
        ),
        ('max="12MB"', "FormatError: '12MB' is not a quantity: *"),
        (
            'max="12ms", percentile=200',
            "InputError: a percentile is a number from 0 to 100, not 200",
        ),
        (
            'max="12ms", percentile="p90"',
            "InputError: a percentile is a number from 0 to 100, not 'p90'",
        ),
        ('max="12ms", tolerance="x"', "FormatError: 'x' is not a tolerance: *"),
        ('max="12ms", tolerance=None', "FormatError: None is not a tolerance: *"),
        ("", "TypeError: *missing 1 required keyword-only argument: 'max'"),
    ],
)
def test_a_limit_that_cannot_be_read_fails(
    pytester: pytest.Pytester, arguments: str, message: str
) -> None:
    pytester.makepyfile(f"def test_latency(edgetpu_latency): edgetpu_latency('net', {arguments})")
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(f"E*{message}")
    result.stdout.no_fnmatch_line("*measured*")
    result.stdout.no_fnmatch_line("*pytest_dwsconv?plugin?edgetpu.py*")


def test_a_model_that_cannot_be_read_fails_in_one_sentence(
    pytester: pytest.Pytester, standin: StandIn
) -> None:
    standin.plug_in("usb0")
    pytester.makepyfile(
        "def test_latency(edgetpu_latency): edgetpu_latency('absent.tflite', max='12ms')"
    )
    result = pytester.runpytest()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        "E*InputError: absent.tflite cannot be read: No such file or directory; give the path*"
    )
    result.stdout.no_fnmatch_line("*pytest_dwsconv?edgetpu?device.py*")
    result.stdout.no_fnmatch_line("*FileNotFoundError*")


def test_a_backend_that_has_not_measured_fails_in_one_sentence(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
class Hasty:
    def measure(self, model, shape=None):
        return 0.005

def pytest_dwsconv_latency_backend(config, target):
    return Hasty() if target == "edgetpu" else None
""")
    pytester.makepyfile("""
from torch import nn

def test_file(edgetpu_latency):
    edgetpu_latency("net.tflite", max="12ms")

def test_model(edgetpu_latency):
    edgetpu_latency(nn.Conv2d(3, 4, 3), (1, 3, 8, 8), max="12ms")

def test_nowhere(edgetpu_latency):
    edgetpu_latency(nn.Conv2d(3, 4, 3, device="meta"), (1, 3, 8, 8), max="12ms")
""")
    result = pytester.runpytest()
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        [
            "E*InputError: net.tflite was not measured: the backend must return a Measurement, not "
            "0.005",
            "E*InputError: Conv2d was not measured: the backend must return a Measurement, not "
            "0.005",
            "E*InputError: Conv2d is on the meta device, where nothing is computed: make it on "
            "another",
        ]
    )
    result.stdout.no_fnmatch_line("*pytest_dwsconv?measurement.py*")


# --------------------------------------------------------------------------- reports

MEASURES = """
import pytest

@pytest.mark.parametrize("net", ["a", "b"])
def test_latency(edgetpu_latency, net):
    edgetpu_latency(net, max="12ms")

def test_too_slow(edgetpu_latency):
    edgetpu_latency("c", max="1ms")
"""


@pytest.mark.usefixtures("board")
@pytest.mark.parametrize("distribution", [("-p", "no:xdist"), ("-n2",)])
class TestReports:
    def test_a_table_joins_the_summary(
        self, pytester: pytest.Pytester, distribution: tuple[str, ...]
    ) -> None:
        pytester.makepyfile(MEASURES)
        result = pytester.runpytest(*distribution, "--dws-report")
        result.assert_outcomes(passed=2, failed=1)
        result.stdout.fnmatch_lines(
            [
                "Measured latency of *Median *p90 *p99 *Spread *First invoke *Device *Machine "
                "*Runtime *Clock*",
                "a None *12.000 ms *17.200 ms *19.720 ms *56.7% *50.000 ms */dev/tpu7 *lab, board "
                "7 *tflite 2.5 *max*",
                "b None *",
                "c None *",
            ]
        )
        result.stdout.no_fnmatch_line("*No model was reported*")

    def test_json_has_every_measurement(
        self, pytester: pytest.Pytester, distribution: tuple[str, ...]
    ) -> None:
        pytester.makepyfile(test_nets=MEASURES)
        pytester.runpytest(*distribution, "--dws-report=json:run.json")
        document = json.loads((pytester.path / "run.json").read_text())
        assert document["models"] == []
        names = ["test_latency[a]", "test_latency[b]", "test_too_slow"]
        assert [row["tests"] for row in document["measured"]] == [
            [f"test_nets.py::{name}"] for name in names
        ]
        measurement = document["measured"][0]["measurement"]
        assert (measurement["obtained"], measurement["median"], measurement["model"]) == (
            "measured",
            0.012,
            "a None",
        )

    def test_junit_properties_are_called_measured(
        self, pytester: pytest.Pytester, distribution: tuple[str, ...]
    ) -> None:
        pytester.makepyfile(MEASURES)
        pytester.runpytest("--junitxml=run.xml", *distribution).assert_outcomes(passed=2, failed=1)
        cases = ElementTree.parse(pytester.path / "run.xml").findall(".//testcase")
        (case,) = [case for case in cases if case.get("name") == "test_latency[a]"]
        properties = {row.get("name"): row.get("value") for row in case.iter("property")}
        figures = [
            float(str(properties.pop(f"dwsconv.a_None.measured_{name}")))
            for name in ("median", "p90", "p99")
        ]
        assert figures == pytest.approx([0.012, 0.0172, 0.01972])
        assert properties == {
            "dwsconv.a_None.measured_first_invoke": "0.05",
            "dwsconv.a_None.measured_on": "/dev/tpu7 of lab, board 7",
        }

    def test_nothing_is_printed_unasked(
        self, pytester: pytest.Pytester, distribution: tuple[str, ...]
    ) -> None:
        pytester.makepyfile(MEASURES.partition("def test_too_slow")[0])
        result = pytester.runpytest(*distribution)
        result.assert_outcomes(passed=2)
        result.stdout.no_fnmatch_line("*easured*")
