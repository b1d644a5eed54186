import sys
import time

import pytest
from paretrim_worker.power import (
    Ina3221,
    Meter,
    Rapl,
    Recorder,
    Tegrastats,
    find_meter,
    ina3221_rails,
    parse_tegrastats,
    rapl_packages,
    total_rails,
)

# Real lines, shortened at the front: ../shared/jetson/tegrastats_samples.txt names their sources.
TX2 = (
    "RAM 2344/7852MB (lfb 1154x4MB) SWAP 0/3926MB (cached 0MB) CPU [1%@345,off,off,1%@345] "
    "EMC_FREQ 4%@1600 GR3D_FREQ 0%@624 APE 150 PLL@37.5C Tdiode@34.25C VDD_SYS_GPU 152/152 "
    "VDD_SYS_SOC 687/687 VDD_4V0_WIFI 0/0 VDD_IN 3056/3056 VDD_SYS_CPU 152/152 VDD_SYS_DDR 883/883"
)
NX = (
    "RAM 2673/7765MB (lfb 118x4MB) SWAP 0/3883MB (cached 0MB) CPU [12%@1190,8%@1190] EMC_FREQ 7% "
    "GR3D_FREQ 33% AO@35C thermal@33.9C VDD_IN 3902/3611 VDD_CPU_GPU_CV 1331/1180 VDD_SOC 997/941"
)
AGX = (
    "RAM 4083/31919MB (lfb 6179x4MB) SWAP 0/15959MB (cached 0MB) CPU [0%@1190,off] EMC_FREQ 0% "
    "GR3D_FREQ 0% AO@42C Tboard@41C GPU 0/16 CPU 310/432 SOC 931/953 CV 0/0 VDDRQ 466/488 "
    "SYS5V 1522/1559"
)
AGX_JETPACK_5 = (
    "GPU 0mW/0mW CPU 465mW/465mW SOC 1242mW/1242mW CV 0mW/0mW VDDRQ 465mW/465mW SYS5V 2760mW/2760mW"
)
ORIN_NANO = (
    "04-27-2026 15:00:54 RAM 779/7620MB (lfb 2x4MB) SWAP 0/3810MB (cached 0MB) CPU [0%@1344,...] "
    "GR3D_FREQ 0% cpu@50.125C VDD_IN 6626mW/6625mW VDD_CPU_GPU_CV 1228mW/1230mW VDD_SOC "
    "2380mW/2380mW"
)
ORIN = (
    "VDD_GPU_SOC 5139mW/5139mW/5139mW VDD_CPU_CV 3268mW/3268mW/3268mW "
    "VIN_SYS_5V0 5500mW/5500mW/5500mW"
)


@pytest.mark.parametrize(
    ("line", "total_mw"),
    [
        (TX2, 3056),  # VDD_IN is the total: not 4930, the sum of all
        (NX, 3902),
        (AGX, 0 + 310 + 931 + 0 + 466 + 1522),
        (AGX_JETPACK_5, 0 + 465 + 1242 + 0 + 465 + 2760),
        (ORIN_NANO, 6626),
        (ORIN, None),  # these rails are not the whole board
    ],
)
def test_tegrastats_lines(line, total_mw):
    rails = parse_tegrastats(line)
    names = total_rails(list(rails))
    assert (sum(rails[name] for name in names) if names else None) == total_mw


def test_tegrastats_rails_only():
    assert set(parse_tegrastats(TX2)) == {
        "VDD_SYS_GPU",
        "VDD_SYS_SOC",
        "VDD_4V0_WIFI",
        "VDD_IN",
        "VDD_SYS_CPU",
        "VDD_SYS_DDR",
    }


def test_shared_samples_all_parse():
    """Every real line of the sample file gives rails."""
    from pathlib import Path

    samples = Path(__file__).resolve().parents[3] / "shared/jetson/tegrastats_samples.txt"
    if not samples.exists():
        pytest.skip("the sample file is not here")
    lines = [line for line in samples.read_text().splitlines() if "/" in line and "mW" in line]
    lines += [line for line in samples.read_text().splitlines() if line.startswith("RAM ")]
    parsed = [parse_tegrastats(line) for line in lines if not line.startswith(("#", " ", "["))]
    assert len(parsed) >= 7
    assert all(parsed)


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text + "\n")


def jetpack4_tx2(sysfs):
    """Rails of ../shared/jetson/device_facts.csv: 0x40 GPU, SOC, WIFI; 0x41 IN, CPU, DDR."""
    drivers = sysfs / "bus/i2c/drivers/ina3221x"
    for address, names, powers in (
        ("0-0040", ("VDD_SYS_GPU", "VDD_SYS_SOC", "VDD_4V0_WIFI"), (152, 687, 0)),
        ("0-0041", ("VDD_IN", "VDD_SYS_CPU", "VDD_SYS_DDR"), (3056, 152, 883)),
    ):
        files = {}
        for index, (name, power) in enumerate(zip(names, powers)):
            files["rail_name_%d" % index] = name
            files["in_power%d_input" % index] = str(power)
        write(drivers / address / "iio:device0", **files)


def jetpack5_nx(sysfs):
    write(
        sysfs / "bus/i2c/drivers/ina3221/7-0040/hwmon/hwmon4",
        in1_label="VDD_IN",
        in1_input="5000",
        curr1_input="780",
        in2_label="VDD_CPU_GPU_CV",
        in2_input="5000",
        curr2_input="266",
        in3_label="NC",
        in3_input="0",
        curr3_input="0",
        in7_label="sum of shunt voltages",
        in7_input="1000",
    )


def jetpack5_agx(sysfs):
    drivers = sysfs / "bus/i2c/drivers/ina3221"
    for bus, names in (("1-0040", ("GPU", "CPU", "SOC")), ("1-0041", ("CV", "VDDRQ", "SYS5V"))):
        files = {}
        for index, name in enumerate(names, start=1):
            files["in%d_label" % index] = name
            files["in%d_input" % index] = "19000"
            files["curr%d_input" % index] = "100"
        write(drivers / bus / "hwmon" / ("hwmon" + bus[-1]), **files)


@pytest.mark.parametrize(
    ("board", "total_mw"),
    [(jetpack4_tx2, 3056.0), (jetpack5_nx, 3900.0), (jetpack5_agx, 6 * 1900.0)],
)
def test_ina3221_of_each_board(tmp_path, board, total_mw):
    board(tmp_path)
    meter = find_meter(tmp_path)
    assert isinstance(meter, Ina3221)
    assert meter.power_mw() == pytest.approx(total_mw)


def test_unconnected_and_summing_channels_are_no_rails(tmp_path):
    jetpack5_nx(tmp_path)
    assert set(ina3221_rails(tmp_path)) == {"VDD_IN", "VDD_CPU_GPU_CV"}


def test_rails_that_are_not_the_whole_give_no_meter(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    write(
        tmp_path / "bus/i2c/drivers/ina3221x/0-0040/iio:device0",
        rail_name_0="VDD_SYS_GPU",
        in_power0_input="152",
    )
    assert find_meter(tmp_path) is None


def test_no_meter_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert find_meter(tmp_path) is None


def test_tegrastats_is_the_fallback(tmp_path, monkeypatch):
    script = tmp_path / "tegrastats"
    script.write_text(
        f"#!{sys.executable}\nimport sys, time\nassert sys.argv[1:] == ['--interval', '100']\n"
        f"while True:\n    print({NX!r}, flush=True)\n    time.sleep(0.01)\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    meter = find_meter(tmp_path)
    assert isinstance(meter, Tegrastats)
    deadline = time.monotonic() + 10
    while meter.power_mw() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert meter.power_mw() == 3902
    meter.close()
    assert meter.power_mw() is None


def test_rapl_is_what_the_counter_gains(tmp_path, monkeypatch):
    package = tmp_path / "class/powercap/intel-rapl:0"
    write(package, name="package-0", energy_uj="1000000", max_energy_range_uj="5000000")
    write(
        tmp_path / "class/powercap/intel-rapl:0:0",
        name="core",
        energy_uj="9",
        max_energy_range_uj="10",
    )
    monkeypatch.setenv("PATH", "")
    assert isinstance(find_meter(tmp_path), Rapl)
    now = [0.0]
    meter = Rapl([package], clock=lambda: now[0])
    now[0] = 2.0
    write(package, energy_uj="4000000")
    assert meter.power_mw() == pytest.approx(1500)  # 3 J in 2 s
    now[0] = 3.0
    write(package, energy_uj="499999")  # 1.5 J later, past the counter's end
    assert meter.power_mw() == pytest.approx(1500)


def test_rapl_adds_packages_only(tmp_path):
    """psys is the whole platform: with it the packages would count twice."""
    zones = tmp_path / "class/powercap"
    for zone, name in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:0:1", "dram"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:2", "psys"),
    ):
        write(zones / zone, name=name, energy_uj="0", max_energy_range_uj="1")
    assert [path.name for path in rapl_packages(tmp_path)] == ["intel-rapl:0", "intel-rapl:1"]


class Counter(Meter):
    """Like RAPL: the first reading is the mean since another measurement, long ago."""

    source = "counter"

    def __init__(self):
        self.readings = iter([5000.0])

    def power_mw(self):
        return next(self.readings, 1000.0)


def test_a_recording_leaves_out_what_was_before_it():
    recorder = Recorder(Counter(), period_s=0.002)
    with recorder.recording():
        time.sleep(0.05)
    mean_mw, readings = recorder.mean_mw(0, time.monotonic())
    assert mean_mw == 1000
    assert readings >= 1


class Stepping(Meter):
    """100 mW, then 500 mW from a moment on."""

    source = "stepping"

    def __init__(self):
        self.high = False

    def power_mw(self):
        return 500.0 if self.high else 100.0


def test_recorder_gives_the_mean_of_a_window():
    meter = Stepping()
    recorder = Recorder(meter, period_s=0.002)
    with recorder.recording():
        time.sleep(0.05)
        middle_s = time.monotonic()
        meter.high = True
        time.sleep(0.05)
        end_s = time.monotonic()
    assert recorder.mean_mw(0, middle_s)[0] == 100
    mean_mw, readings = recorder.mean_mw(middle_s + 0.005, end_s)
    assert mean_mw == 500
    assert readings >= 2
    assert recorder.mean_mw(end_s + 1, end_s + 2) == (None, 0)
