import pytest
from paretrim_worker import board as board_module
from paretrim_worker.board import Board, Conditions, throttled_between


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture
def jetson(tmp_path):
    """The files that a TX2 has."""
    write(tmp_path / "proc/device-tree/model", "NVIDIA Jetson TX2 Developer Kit\x00")
    write(tmp_path / "proc/device-tree/serial-number", "0423318026412\x00")
    write(tmp_path / "etc/nv_tegra_release", "# R32 (release), REVISION: 7.1, GCID: 29818004\n")
    write(
        tmp_path / "etc/nvpmodel.conf",
        "< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_1 1\n< POWER_MODEL ID=1 NAME=MAXQ >\n",
    )
    thermal = tmp_path / "sys/class/thermal"
    write(thermal / "thermal_zone0/type", "GPU-therm\n")
    write(thermal / "thermal_zone0/temp", "48500\n")
    write(thermal / "thermal_zone1/type", "PMIC-Die\n")
    write(thermal / "thermal_zone1/temp", "100000\n")
    write(thermal / "cooling_device0/type", "pwm-fan\n")
    write(thermal / "cooling_device0/cur_state", "3\n")
    write(thermal / "cooling_device1/type", "gpu-balanced\n")
    write(thermal / "cooling_device1/cur_state", "0\n")
    write(tmp_path / "sys/class/devfreq/17000000.gp10b/cur_freq", "1300500000\n")
    write(tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq", "2035200\n")
    return tmp_path


def test_a_jetson(jetson):
    board = Board(jetson)
    assert board.name() == "NVIDIA Jetson TX2 Developer Kit"
    assert len(board.device_id()) == 16
    assert "0423318026412" not in board.device_id()
    assert board.power_modes() == ["MAXN", "MAXQ"]
    assert board.versions()["l4t"].startswith("R32")
    conditions = board.conditions()
    assert conditions.clocks_mhz == {"17000000.gp10b": 1300.5, "cpu0": 2035.2}
    assert conditions.temperatures_c == {"GPU-therm": 48.5}  # the PMIC's 100 is no temperature
    assert conditions.throttled is False


def test_a_throttled_jetson(jetson):
    write(jetson / "sys/class/thermal/cooling_device1/cur_state", "2\n")
    assert Board(jetson).conditions().throttled is True


@pytest.mark.parametrize(
    ("says", "mode"), [("NV Power Mode: MAXN\n0\n", "MAXN"), ("NV Power Mode:MAXQ\n1\n", "MAXQ")]
)
def test_the_power_mode_is_nvpmodels(jetson, tmp_path_factory, monkeypatch, says, mode):
    folder = tmp_path_factory.mktemp("bin")
    tool = folder / "nvpmodel"
    tool.write_text("#!/bin/sh\nprintf '%s'\n" % says.replace("\n", "\\n"))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    assert Board(jetson).power_mode() == mode


def test_a_jetson_that_does_not_tell_its_mode_has_none(jetson, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("bin")
    (folder / "nvpmodel").write_text("#!/bin/sh\nexit 1\n")
    (folder / "nvpmodel").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    assert Board(jetson).power_mode() == ""


def test_a_host(tmp_path, monkeypatch):
    monkeypatch.setattr(board_module.shutil, "which", lambda name: None)
    write(tmp_path / "proc/cpuinfo", "processor : 0\nmodel name\t: AMD EPYC 7B13\n")
    write(tmp_path / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n")
    write(tmp_path / "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "2\n")
    board = Board(tmp_path)
    assert board.name() == "AMD EPYC 7B13"
    assert board.power_mode() == "performance"
    assert board.conditions() == Conditions({}, {}, False, 2)


def test_a_machine_that_tells_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(board_module.shutil, "which", lambda name: None)
    board = Board(tmp_path)
    assert board.power_mode() == "fixed"
    assert board.power_modes() == ["fixed"]
    assert board.conditions() == Conditions({}, {}, None, 0)


@pytest.mark.parametrize(
    ("before", "after", "throttled"),
    [
        ((None, 0), (None, 0), None),
        ((False, 0), (False, 0), False),
        ((True, 0), (False, 0), True),
        ((False, 0), (True, 0), True),
        ((False, 3), (False, 4), True),
    ],
)
def test_throttled_between(before, after, throttled):
    assert throttled_between(Conditions({}, {}, *before), Conditions({}, {}, *after)) is throttled
