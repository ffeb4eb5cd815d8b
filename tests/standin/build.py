"""Builds the stand-in for CANN: libraries that MindSpore's Ascend plugin links and loads, for x86-64 Linux.

    python tests/standin/build.py        prints the folder with the built stand-in

Most of CANN's functions are only counted: their names are read from the plugin of the MindSpore at hand. What computes
is in native/. The result is kept in the cache folder, by MindSpore's version and the content of this folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from limits import LIMITS

HERE = Path(__file__).resolve().parent
TYPE_BITS = {
    **{"float32": 0, "float16": 1, "int8": 2, "int32": 3, "uint8": 4, "int16": 6, "int64": 9, "float64": 11},
    **{"bool": 12, "bfloat16": 27},
}
PLUGIN_FILES = [
    "libmindspore_ascend.so.*",
    "libmindspore_ops_ascend.so",
    "ascend/libd_collective.so",
    "ascend/libhccl_plugin.so",
    "ascend/libmindspore_ascend_res_manager.so",
    "ascend/libmindspore_graph_ir.so",
    "ascend/liblowlatency_collective.so",
    "ascend/libmindspore_internal_kernels.so",
    "ascend/libdvpp_utils.so",
    "ascend/libmindspore_extension_ascend_aclnn.so",
    "ascend/ms_kernels_*/**/lib/*.so",
]
SYSTEM_LIBRARIES = [
    "libc.so.6",
    "libm.so.6",
    "libgcc_s.so.1",
    "libstdc++.so.6",
    "libgomp.so.1",
    "libpthread.so.0",
    "ld-linux-x86-64.so.2",
    "libdl.so.2",
    "librt.so.1",
    "libz.so.1",
]
# Libraries of CANN that MindSpore opens by name, beside those that its plugin is linked to.
OPENED_LIBRARIES = [
    "libopapi.so",
    "libnnopbase.so",
    "libacl_op_compiler.so",
    "libacl_tdt_channel.so",
    "libmsprofiler.so",
    "libruntime.so",
    "libprofapi.so",
    "libge_runner.so",
    "libgraph.so",
    "libhccl.so",
    "libregister.so",
    "libascend_ml.so",
    "libacl_tdt_queue.so",
]
LOOKED_UP = re.compile(r"(acl|aclrt|aclmdl|aclop|acltdt|aclprof|aclsys|rt|Hccl|Hcom|hal|Msprof|Aml)[A-Z]\w+")
WITHOUT_LOOK_UPS = {"libtbe_adapter_ms.so"}  # 263 MB of operators' descriptions
LEFT_OUT = re.compile(r"InitPTACacheThreadLocal|SetPTAHashKey|UnInitPTA|PTA")  # MindSpore can do without them
# Bytes of objects of the graph engine that constructors must clear.
OBJECT_BYTES = {
    **{"AscendString": 16, "TensorDesc": 16, "Tensor": 16, "Shape": 16, "TensorType": 16, "Promote": 16},
    **{"Graph": 16, "GraphBuffer": 16, "Session": 8, "Operator": 24},
}
RETURNS_OBJECT = re.compile(
    r"ge::(GNode::Get(In|Out)(Control|Data)|Graph::GetDirectNode|Operator::GetOutputDesc|Session::GetCompiled)"
)
# Kernels are compiled as fast as float32 allows without changing infinities and NaN.
FAST_SOURCES = {"tensors", "convolution", "normalisation", "attention"}  # the others are bound by memory and libm
KERNEL_FLAGS = [
    "-ftree-vectorize",
    "-mavx2",
    "-mfma",
    "-mf16c",
    "-fno-math-errno",
    "-fassociative-math",
    "-fno-signed-zeros",
    "-fno-trapping-math",
]


KNOWN_VERSIONS = "2.7.1, 2.8.0, 2.9.0 and 2.10.0"  # of MindSpore


class StandInError(Exception):
    """The stand-in cannot be built here; the message is one line."""


def build() -> Path:
    """Build the stand-in for the MindSpore of this Python, or take what was built before.

    Returns:
        The folder that takes the place of CANN's ``latest``.

    Raises:
        StandInError: not x86-64 Linux, no compiler, or a MindSpore whose plugin is not known.
    """
    if platform.machine() != "x86_64" or sys.platform != "linux":
        raise StandInError(f"the stand-in for CANN is for x86-64 Linux; this is {platform.machine()} {sys.platform}")
    missing = [name for name in ("gcc", "g++", "nm", "readelf", "strings", "c++filt") if shutil.which(name) is None]
    if missing:
        raise StandInError(f"the stand-in for CANN is built with {', '.join(missing)}: install gcc, g++ and binutils")
    found = importlib.util.find_spec("mindspore")
    if found is None or not found.submodule_search_locations:
        raise StandInError("the stand-in for CANN requires MindSpore")
    mindspore = Path(found.submodule_search_locations[0])
    folder = _cache_folder(mindspore) / "latest"  # MindSpore looks for this name in the path
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            _build(mindspore, folder)
            (folder / "complete").touch()
    return folder


def _cache_folder(mindspore: Path) -> Path:
    sources = sorted(path for path in HERE.rglob("*") if path.suffix in (".c", ".cc", ".h"))
    digest = hashlib.sha256()
    for path in [HERE / "build.py", *sorted(HERE.glob("limit*.py")), HERE / "functions.txt", *sources]:
        digest.update(path.name.encode() + path.read_bytes())
    for path in _plugin(mindspore):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("STANDIN_CACHE") or cache / "mindone_ddpm_standin") / digest.hexdigest()[:16]


def _plugin(mindspore: Path) -> list[Path]:
    folder = mindspore / "lib" / "plugin"
    files = [path for pattern in PLUGIN_FILES for path in sorted(folder.glob(pattern))]
    if not files:
        raise StandInError(f"no Ascend plugin in {folder}: this MindSpore was built without Ascend")
    return files


def _output(*command: object) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False).stdout


def _symbols(path: Path) -> tuple[set[str], set[str]]:
    """Names, without their versions, that a library defines, and that others must define for it."""
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for line in _output("nm", "-D", path).splitlines():
        *_, kind, name = line.split()
        if kind not in "wv":  # weak and undefined: it does without
            names[kind != "U"].add(name.split("@")[0])
    return names[True], names[False]


def _texts(path: Path) -> set[str]:
    """Names in a library that it may look up while it runs."""
    names = set()
    for word in set(_output("strings", "-n", "5", path).split("\n")):
        if re.fullmatch(r"aclnn[A-Z]\w+", word):
            operator = word.removesuffix("GetWorkspaceSize")
            names |= {operator, f"{operator}GetWorkspaceSize"}
        elif LOOKED_UP.fullmatch(word):
            names.add(word)
    return names


def _host_libraries(mindspore: Path) -> list[Path]:
    """The libraries that are there without CANN."""
    library = mindspore / "lib"
    files = [*library.glob("*.so*"), *mindspore.glob("*.so*"), library / "plugin" / "libmindspore_ops_cpu.so"]
    files += (library / "plugin" / "ascend").rglob("*.so")
    for name in SYSTEM_LIBRARIES:
        files += [*Path("/").glob(f"lib*/x86_64-linux-gnu/{name}"), *Path("/lib64").glob(name)]
    return [path for path in files if path.exists()]


def missing_names(mindspore: Path) -> list[str]:
    """What CANN must define: undefined symbols of the plugin, and the names that it looks up while it runs."""
    plugin = _plugin(mindspore)
    host = [path for path in set(_host_libraries(mindspore)) if path not in plugin]
    with ThreadPoolExecutor(2) as pool:
        texts = pool.map(_texts, [path for path in plugin if path.name not in WITHOUT_LOOK_UPS])
        symbols = list(pool.map(_symbols, [*plugin, *host]))
        looked_up = set().union(*texts) - {"aclnnGetWorkspaceSize", "aclnn"}
    defined = set().union(*(names for names, _ in symbols))
    undefined = set().union(*(names for _, names in symbols[: len(plugin)]))
    wanted = {name for name in undefined | looked_up if not re.match(r"_?Py", name)}
    return sorted(name for name in wanted - defined if not LEFT_OUT.search(name))


def check_known(mindspore: Path, names: list[str]) -> None:
    """Refuse a MindSpore whose plugin calls functions of CANN that no known version calls.

    Nobody has looked what they must do, and a function that is only counted may be the wrong stand-in for one.
    Operators are left out: one without a kernel fails by its name when it is called.

    Raises:
        StandInError: it names the functions.
    """
    known = set((HERE / "functions.txt").read_text().split())
    unknown = [name for name in names if name not in known and not name.startswith("aclnn")]
    if not unknown:
        return
    version = re.search(r"[\d.]+\w*", (mindspore / "version.py").read_text())
    plain = _run_filter("c++filt", unknown[:8])
    found = version[0] if version else "this one"
    more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
    raise StandInError(
        f"the stand-in for CANN knows MindSpore {KNOWN_VERSIONS}; the plugin of {found} "
        f"also calls {', '.join(plain)}{more}: write in tests/standin/native what they must do where counting the "
        "call is not enough, and add them to tests/standin/functions.txt"
    )


def _limits_in_c() -> str:
    rows = []
    for name, limit in LIMITS.items():
        tensors = []
        for tensor, types in limit.tensors.items():
            taken = set(types.split())
            bits, bits_910 = (
                sum(1 << TYPE_BITS[one] for one in of) for of in (taken, taken - {*limit.without_910.split()})
            )
            fewest, most = limit.ranks.get(tensor, (0, limit.max_rank))
            tensors.append(f'{{"{tensor}", {bits}u, {bits_910}u, {fewest}, {most}}}')
        rules = ", ".join(f'"{rule}"' for rule in limit.rules)
        rows.append(f'{{"{name}", {{{", ".join(tensors)}}}, {{{rules}}}, "{limit.page}"}},')
    return "\n".join(rows) + "\n"


def _compile_native(objects: Path) -> list[Path]:
    """Compile native/, two files at a time. Returns the object files."""
    (objects / "limits.inc").write_text(_limits_in_c())
    jobs = []
    for source in sorted((HERE / "native").rglob("*.c*")):
        target = objects / f"{source.parent.name}_{source.stem}.o"
        if source.suffix == ".c":
            command = ["gcc", "-O1"]
        elif source.stem == "graph_engine":
            command = ["g++", "-O1", "-D_GLIBCXX_USE_CXX11_ABI=0"]  # as MindSpore's wheel was built
        else:
            level = "-O2" if source.stem in FAST_SOURCES else "-O1"
            command = ["g++", "-std=c++17", level, *KERNEL_FLAGS]
        jobs.append((target, [*command, "-fPIC", "-w", f"-I{objects}", "-c", str(source), "-o", str(target)]))
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda job: _run(*job[1]), jobs))
    return [target for target, _ in jobs]


def _run(*command: object) -> None:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if result.returncode:
        errors = [line for line in result.stderr.splitlines() if "error" in line] or [result.stderr.strip()[:300]]
        raise StandInError(f"{command[0]} failed: {errors[0]}")


def _generated_source(names: list[str]) -> str:
    """C for the functions of CANN that are only counted, and for the aclnn operators that have no kernel."""
    plain = _run_filter("c++filt", names)
    code = ['#include "runtime.h"', "#include <string.h>"]
    for i, (name, text) in enumerate(zip(names, plain, strict=True)):
        label = f'__asm__("{name}")'
        constructor = re.match(r"ge::(\w+)::\1\(", text)
        if re.match(r"_ZT[VISv]", name):
            code.append(f"long s{i}[64] {label} = {{0}};")
        elif name.startswith("aclnn") and name.endswith("GetWorkspaceSize"):
            code.append(f"long s{i}(void) {label};\nlong s{i}(void) {{ return stub_no_kernel({i}); }}")
        elif constructor:
            size = OBJECT_BYTES.get(constructor.group(1), 0)
            body = f"memset(p, 0, {size}); return stub_hit({i});"
            code.append(f"long s{i}(void *p) {label};\nlong s{i}(void *p) {{ {body} }}")
        elif RETURNS_OBJECT.match(text):
            code.append(f"long s{i}(void) {label};\nlong s{i}(void) {{ return stub_abort({i}); }}")
        elif re.match(r"ge::Operator::|ge::Shape::Set|ge::TensorDesc::Set|ge::Graph::Set", text):
            value = "p" if "ge::Graph::Set" in text else "0"
            code.append(f"void *s{i}(void *p) {label};\nvoid *s{i}(void *p) {{ stub_hit({i}); return {value}; }}")
        else:
            code.append(f"long s{i}(void) {label};\nlong s{i}(void) {{ return stub_hit({i}); }}")
    entries = ",".join(f'{{"{name}",0}}' for name in names)
    code += [f"struct stub_entry stub_table[] = {{{entries}}};", f"const int stub_count = {len(names)};"]
    return "\n".join(code) + "\n"


def _run_filter(command: str, lines: list[str]) -> list[str]:
    result = subprocess.run([command], input="\n".join(lines), capture_output=True, text=True, check=True)
    return result.stdout.split("\n")[: len(lines)]


def _build(mindspore: Path, folder: Path) -> None:
    libraries, objects = folder / "lib64", folder / "build"
    libraries.mkdir(parents=True)
    objects.mkdir()
    with ThreadPoolExecutor(1) as pool:
        names_later = pool.submit(missing_names, mindspore)
        compiled = _compile_native(objects)
        names = names_later.result()
    check_known(mindspore, names)
    provided = {
        line.split()[-1] for path in compiled for line in _output("nm", "--defined-only", path).splitlines() if line
    }
    (objects / "generated.c").write_text(_generated_source([name for name in names if name not in provided]))
    flags = ["-O0", "-fPIC", "-w", "-fno-builtin", f"-I{HERE / 'native'}"]
    _run("gcc", *flags, "-c", objects / "generated.c", "-o", objects / "generated.o")
    whole = libraries / "libascendcl.so"
    objects_made = [*compiled, objects / "generated.o"]
    _run("g++", "-shared", "-o", whole, "-Wl,-soname,libascendcl.so", *objects_made, "-lm", "-lpthread", "-lrt")
    _name_others(mindspore, libraries)
    (libraries / "driver").mkdir()
    (libraries / "driver" / "libascend_hal.so").symlink_to("../libascendcl.so")
    _write_what_python_reads(folder)


def _name_others(mindspore: Path, libraries: Path) -> None:
    """Every other library of CANN is the same one under another name."""
    plugin = _plugin(mindspore)
    known = {path.name for path in [*_host_libraries(mindspore), *plugin]}
    system = re.compile(r"(ld-linux|lib(stdc\+\+|m|c|gcc_s|gomp|pthread|dl|rt|z|python[\d.]*)\.so)")
    needed = set(OPENED_LIBRARIES)
    for path in plugin:
        needed |= set(re.findall(r"\(NEEDED\).*\[(lib[^\]]*)\]", _output("readelf", "-d", path)))
    for name in needed - {"libascendcl.so"}:
        if name not in known and not system.match(name) and not name.endswith("_ms.so"):
            (libraries / name).symlink_to("libascendcl.so")


PYTHON_FOLDER = "opp/built-in/op_impl/ai_core/tbe"  # MindSpore warns where PYTHONPATH lacks it
PROGRAM_FOLDER = "compiler/ccec_compiler/bin/"  # MindSpore 2.7 warns where PATH lacks it
# MindSpore's version check reads te.version and prints errors without it. Anything else that finds a package te imports
# operators that need the rest of it, so it is there for that check alone.
TE_PACKAGE = """import sys
from types import SimpleNamespace

_frame = sys._getframe(1)
while _frame is not None and "importlib" in _frame.f_code.co_filename:
    _frame = _frame.f_back
if _frame is None or not _frame.f_globals.get("__name__", "").endswith("_check_version"):
    raise ImportError("the stand-in for CANN has no package te")


def __getattr__(name):
    if name != "version":
        raise AttributeError(name)
    sys.modules.pop("te", None)
    return SimpleNamespace(version="8.3.0")
"""


def _write_what_python_reads(folder: Path) -> None:
    """What MindSpore's Python code looks for in CANN's folder. All supported versions of MindSpore take CANN 8.3."""
    for name, text in {"compiler": "Version=8.3.0\n", "driver": "Version=25.0\n"}.items():
        (folder / name).mkdir()
        (folder / name / "version.info").write_text(text)
    # Ranks are joined only where there is a package ``hccl``.
    for name, text in {"te": TE_PACKAGE, "hccl": ""}.items():
        package = folder / PYTHON_FOLDER / name
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(text)
    (folder / PYTHON_FOLDER / "hccl" / "sys_version.py").write_text('__sys_version__ = "8.3.0"\n')
    (folder / "opp_kernel").mkdir()  # MindSpore before 2.8 looks for it


if __name__ == "__main__":
    try:
        print(build())
    except StandInError as error:
        sys.exit(f"error: {error}")
