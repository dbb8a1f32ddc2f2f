"""Chips and working sets, against what tools and logs printed on real Macs."""

from __future__ import annotations

import pytest

from mpsprobe.knowledge import chips

#: (chip, GPU cores, TFLOPS, GB/s) as applegpuinfo printed them on the machine itself: its issues 11, 7, 2, 1, 10.
APPLEGPUINFO = [
    ("Apple M1", 8, 2.617, 68.3),
    ("Apple M1 Pro", 14, 4.645, 204.8),
    ("Apple M1 Max", 32, 10.617, 409.6),
    ("Apple M1 Ultra", 48, 15.925, 819.2),
    ("Apple M2 Max", 38, 13.6, 409.6),
]

#: (memory GiB, macOS, recommendedMaxWorkingSetSize in bytes) as ggml printed it, MiB or MB as fits the size.
WORKING_SETS = [
    (8, "14.2", 5461.34 * 2**20),  # h2oai/h2ogpt issue 1359
    (16, "14.0", 10922.67 * 2**20),  # ise-uiuc/magicoder issue 19
    (32, "13.5", 21845.34 * 2**20),  # ollama issue 434
    (96, "13.5", 73728.00 * 2**20),  # llama.cpp issue 3213
    (16, "26.0", 12713.12e6),
    (24, "26.5.1", 17.76 * 2**30),  # sgl-project/sglang PR 29949
    (48, "26.0", 40200.90e6),
    (64, "26.0", 55662.79e6),
    (128, "26.0", 107.52 * 2**30),  # antirez/ds4 PR 893
]


@pytest.mark.parametrize(("name", "cores", "tflops", "gbs"), APPLEGPUINFO)
def test_peaks_are_those_of_the_machine(name: str, cores: int, tflops: float, gbs: float) -> None:
    chip = chips.find(name)
    assert chip is not None
    assert chip.peak_flops(cores, "float32") == pytest.approx(tflops * 1e12, rel=1e-3)
    assert next(v for v in chip.variants if v.gpu_cores == cores).bandwidth_gbs == gbs


@pytest.mark.parametrize(("memory", "macos", "size"), WORKING_SETS)
def test_working_sets_are_those_of_real_macs(memory: int, macos: str, size: float) -> None:
    predicted, _ = chips.working_set(memory * 2**30, macos)
    assert predicted == pytest.approx(size, rel=1e-4)


def test_a_size_nobody_reported_takes_the_share_below_it() -> None:
    predicted, row = chips.working_set(18 * 2**30, "26.0")
    assert row.memory_gib == 16
    assert predicted == pytest.approx(0.74 * 18 * 2**30)
    assert chips.working_set(192 * 2**30, "26.0")[1].memory_gib == 128
    # 8 GB was not reported since macOS 26: the older, smaller share.
    assert chips.working_set(8 * 2**30, "26.0")[1].since_macos == 12


def test_without_macos_the_cautious_share_is_taken() -> None:
    assert chips.working_set(64 * 2**30)[0] == chips.working_set(64 * 2**30, "12.0")[0]


def test_a_virtual_machine_fits_the_rule() -> None:
    # VeloxQuant-MLX issue 395: 7,516,192,768 bytes of memory, working set 5,010,800,640.
    assert chips.working_set(7516192768, "15.5")[0] == pytest.approx(5_010_800_640, rel=1e-5)


def test_what_no_source_states_is_unknown() -> None:
    m5, m3 = chips.find("m5"), chips.find("m3")
    assert m5 is not None
    assert m3 is not None
    assert m5.peak_flops(10, "float16") is None  # its matrix units
    assert m3.peak_flops(10, "float32") is not None
    assert m3.peak_flops(10, "float16") is None
    assert m3.peak_flops(10, "bfloat16") is None


@pytest.mark.parametrize("name", ["Apple M1 Max", "m1-max", "M1 Max"])
def test_names_of_chips(name: str) -> None:
    found = chips.find(name)
    assert found is not None
    assert found.name == "Apple M1 Max"


def test_a_chip_that_is_not_known() -> None:
    assert chips.find("Apple M9") is None
    assert chips.find("Intel") is None


@pytest.mark.parametrize("chip", chips.all_chips(), ids=lambda chip: chip.key)
def test_rows_are_complete(chip: chips.Chip) -> None:
    assert all(source.startswith(("https://", "log: ")) for source in chip.sources)
    assert chip.sources
    cores = [variant.gpu_cores for variant in chip.variants]
    assert cores == sorted(set(cores))
    assert all(variant.memory_gib == sorted(variant.memory_gib) for variant in chip.variants)
    # Metal's feature tables: apple7 is the M1, 8 the M2, 9 the M3, M4 and A18 Pro, 10 the M5; the M6 counts as one.
    families = {"m1": 7, "m2": 8, "m3": 9, "m4": 9, "a18": 9, "m5": 10, "m6": 10}
    assert chip.family == f"apple{families[chip.key.partition('-')[0]]}"
    assert not chip.clock_from or chips.find(chip.clock_from).gpu_clock_mhz == chip.gpu_clock_mhz  # type: ignore[union-attr]


def test_observations_name_their_source() -> None:
    assert all(row.source.startswith(("https://", "log: ")) for row in chips.working_set_observations())
