"""The machine and the versions in the head of every measured table."""

from benchmarks.system_info import describe, system_info


def test_the_line_names_cores_processor_and_the_versions_that_are_installed():
    info = {"cores": 2, "cpu": "EPYC", "python": "3.11.7", "torch": "2.13", "none-such": None}
    packages = ("torch", "none-such")
    assert describe(info, packages) == "2 cores of EPYC; Python 3.11.7, torch 2.13"
    assert describe(info, packages, note=", one used").startswith("2 cores of EPYC, one used; ")


def test_what_is_not_installed_has_no_version():
    info = system_info(("numpy", "none-such"))
    assert info["none-such"] is None
    assert info["numpy"].split(".")[0].isdigit()
    assert info["cores"] >= 1
    assert info["cpu"]
