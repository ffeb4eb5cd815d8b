"""What the doctor finds, on this machine and on others made up for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import run_program
from hub_server import HubServer

from mindone_ddpm.runtime import doctor


def look(*flags: str) -> dict[str, dict[str, str]]:
    result = run_program("doctor", "--json", "--device", "CPU", *flags, HF_ENDPOINT="http://127.0.0.1:9")
    findings = {found["name"]: found for found in json.loads(result.stdout)}
    assert result.returncode == 0, findings
    return findings


@pytest.mark.slow
def test_training_sampling_and_ranks_work_on_this_machine():
    findings = look()
    for name in ("training", "sampling", "msrun"):
        assert findings[name]["status"] == "ok", findings[name]


def test_this_machine_fits():
    findings = look("--no-runs")
    assert {"python", "mindspore", "mindone", "Ascend", "GPU", "disk", "shared memory"} < findings.keys()
    assert "training" not in findings
    hub = findings["Hugging Face Hub"]
    assert hub["status"] == "warning" and "cannot be reached" in hub["text"] and "mirror" in hub["advice"]
    assert {"ModelScope", "Modelers"} < findings.keys()


def test_the_hubs_that_answer_and_what_to_set(monkeypatch):
    unreachable, server = "http://127.0.0.1:9", HubServer()
    for variable in ("HF_ENDPOINT", "OPENMIND_HUB_ENDPOINT"):
        monkeypatch.setenv(variable, unreachable)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", server.url)
    found = {finding.name: finding for finding in doctor.check_hubs()}
    assert found["ModelScope"].text.startswith(f"{server.url} answers")
    assert found["Hugging Face Hub"].status == "warning"
    assert found["Hugging Face Hub"].advice.endswith("or use --hub modelscope, which can be reached")
    assert f"{unreachable} cannot be reached" in found["Modelers"].text

    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "0")
    mirror = next(doctor.check_hubs())
    assert mirror.status == "warning" and "export HF_HUB_DISABLE_XET=1" in mirror.advice
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    mirror = next(doctor.check_hubs())
    assert mirror.status == "ok" and mirror.text == f"{server.url} answers; large files go there too, without Xet"
    server.close()


def test_a_client_that_is_missing_is_named_with_its_extra(monkeypatch):
    for variable in ("HF_ENDPOINT", "OPENMIND_HUB_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    texts = {finding.name: finding.text for finding in doctor.check_hubs()}
    assert texts["ModelScope"].endswith("for --hub modelscope: pip install 'mindone-ddpm[modelscope]'")


def test_a_package_that_does_not_fit_is_a_fault(monkeypatch):
    versions = {name: doctor.importlib.metadata.version(name) for name in doctor.CHECKED_PACKAGES}
    versions["mindspore"] = "1.0.0"

    def version(name):
        if name == "mindone":
            raise doctor.importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(
        doctor.importlib.metadata, "requires", lambda name: ["mindspore>=2.6,<2.11", "ruff; extra == 'dev'"]
    )
    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    found = {finding.name: finding for finding in doctor.check_packages()}
    assert found["mindspore"].status == "fault" and "1.0.0, but <2.11,>=2.6 is needed" in found["mindspore"].text
    assert found["mindspore"].advice == "pip install 'mindspore<2.11,>=2.6'"
    assert (found["mindone"].status, found["mindone"].text) == ("fault", "is not installed")
    assert found["numpy"].status == "ok"


VERSION_CFG = "# version: 1.0\nruntime_running_version=[7.6.0.1.220:{0}]\ncompiler_running_version=[7.6.0.1.220:{0}]\n"


def make_ascend(monkeypatch, tmp_path, devices=True, driver=True, sourced=True, cann="8.5.0") -> None:
    (tmp_path / "version.cfg").write_text(VERSION_CFG.format(cann))
    monkeypatch.setattr(doctor, "ASCEND_FOLDERS", (str(tmp_path),))
    monkeypatch.setattr(doctor, "available_devices", lambda: ["Ascend", "CPU"] if devices else ["CPU"])
    monkeypatch.setattr(doctor, "output_of", lambda *command: "NPU 0" if driver else None)
    if sourced:
        monkeypatch.setenv("ASCEND_HOME_PATH", str(tmp_path))
    else:
        monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)


def test_an_ascend_machine_that_is_whole(monkeypatch, tmp_path):
    make_ascend(monkeypatch, tmp_path)
    found = doctor.check_ascend()
    assert (found.status, found.text) == ("ok", "NPUs, driver answers, CANN 8.5.0")


@pytest.mark.parametrize(
    ("changes", "advice"),
    [({"driver": False}, "npu-smi info"), ({"devices": False}, "npu-smi info"), ({"sourced": False}, "set_env.sh")],
)
def test_an_ascend_machine_that_is_not(monkeypatch, tmp_path, changes, advice):
    make_ascend(monkeypatch, tmp_path, **changes)
    found = doctor.check_ascend()
    assert found.status == "fault" and advice in found.advice


def test_a_cann_that_mindspore_is_not_made_for(monkeypatch, tmp_path):
    make_ascend(monkeypatch, tmp_path, cann="7.0.RC1")
    found = doctor.check_ascend()
    assert found.status == "warning" and "CANN 7.0.RC1" in found.text and "made for CANN 8.2, 8.3" in found.advice


@pytest.mark.parametrize(
    ("name", "text", "version"),
    [
        ("version.cfg", VERSION_CFG.format("8.0.RC2.alpha001"), "8.0.RC2.alpha001"),
        ("version.cfg", "# version: 1.0\nruntime_running_version=[1.83.T8.0.B128:CANN-1.83]\n", "1.83"),
        ("version.cfg", "# version: 1.0\ntoolkit_running_version=[8.3]\n", "8.3"),
        ("compiler/version.info", "Version=7.6.0.1.220\nversion_dir=8.0.0\ntimestamp=20241\n", "8.0.0"),
        ("compiler/version.info", "Version=9.1.0\n", "9.1.0"),
        ("version.cfg", "# version: 1.0\n", None),
    ],
)
def test_what_cann_writes_about_itself(tmp_path, name, text, version):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert doctor.cann_version(tmp_path) == version


def test_the_script_to_source_is_that_of_the_toolkit_found(tmp_path):
    toolkit, newer = tmp_path / "ascend-toolkit" / "latest", tmp_path / "cann"
    for folder in (toolkit, newer):
        folder.mkdir(parents=True)
    assert doctor.set_env_script(toolkit) == tmp_path / "ascend-toolkit" / "set_env.sh"
    assert doctor.set_env_script(newer) == newer / "set_env.sh"
    (toolkit / "set_env.sh").touch()
    assert doctor.set_env_script(toolkit) == toolkit / "set_env.sh"


def test_cann_without_an_npu_is_no_fault_where_the_cpu_is_to_work(monkeypatch, tmp_path):
    make_ascend(monkeypatch, tmp_path, devices=False, driver=False)
    assert [doctor.check_ascend(device).status for device in ("auto", "CPU", "Ascend")] == [
        "warning",
        "warning",
        "fault",
    ]


def test_with_one_npu_ranks_are_not_tried(monkeypatch):
    monkeypatch.setattr(doctor, "max_local_ranks", lambda: 1)
    monkeypatch.setattr(doctor, "run", lambda name, text, *_: doctor.Finding(name, "ok", text))
    found = {finding.name: finding for finding in doctor.check_work("auto")}
    assert found["msrun"].status == "ok" and "one NPU" in found["msrun"].text


def test_a_gpu_that_mindspore_cannot_use(monkeypatch):
    monkeypatch.setattr(doctor, "output_of", lambda *command: "NVIDIA H200, 580.1\n")
    found = doctor.check_gpu()
    assert found.status == "warning" and "libcuda.so.1 is not found; training takes the CPU" in found.text
    assert "nvidia-smi" in found.advice


def test_a_run_that_fails_says_why():
    found = doctor.run("training", "well", "do this", "train", "--dataset_name", "digits", "--train_batch_size", "0")
    assert found.status == "fault" and "--train_batch_size 0" in found.text and found.advice == "do this"


def test_little_room_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 2**20})())
    assert doctor.check_disk(Path("/")).status == "warning"
    assert doctor.check_shared_memory().status == "warning"


def test_the_status_tells(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "check_python", lambda: doctor.Finding("python", "fault", "2.7", "a new one"))
    assert doctor.diagnose("CPU", with_runs=True, as_json=False) == 1
    said = capsys.readouterr().out
    assert said.startswith("fault    python           2.7\n" + " " * 26 + "a new one\n") and "training" not in said


def test_it_works_without_mindspore_at_hand(tmp_path):
    """On a machine where nothing fits, the doctor is what must still run."""
    (tmp_path / "mindspore.py").write_text("raise ImportError('broken')")
    program = "import sys; from mindone_ddpm.cli import main; sys.exit(main(['doctor', '--no-runs']))"
    from conftest import ROOT

    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin", "HF_ENDPOINT": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert result.returncode == 1 and "MindSpore        cannot be imported (broken)" in result.stdout, result.stderr
