#!/usr/bin/env python3
"""Compiles the kernels for devices: prebuilt/NAME.fatbin for each NAME.cu, and prebuilt/MANIFEST.json, which says from what.

    kernels/cuda/build.py          compile what changed since the manifest was written
    kernels/cuda/build.py --check  compile everything elsewhere and compare: exit 1 if a byte differs

Cargo never runs this: the results are checked in, and a test holds the manifest against the sources. The compiler comes
from PyPI (no GPU, driver or CUDA installation is needed, only a host C++ compiler) into target/cuda-toolchain; exit 3
means that it could not be had. No result may spill registers, use more than its launch bound leaves it, or, where it
multiplies matrices, do so without tensor cores.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PREBUILT = FOLDER / "prebuilt"
MANIFEST = PREBUILT / "MANIFEST.json"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", FOLDER.parents[1] / "target"))

# The disassembler's first release on PyPI is 13.2; it only reads what the compiler of 13.0 wrote.
TOOLCHAIN = {
    "nvidia-cuda-nvcc": "13.0.88",
    "nvidia-cuda-crt": "13.0.88",
    "nvidia-nvvm": "13.0.88",
    "nvidia-cuda-runtime": "13.0.96",
    "nvidia-cuda-cccl": "13.0.85",
}
DISASSEMBLER = {"nvidia-cuda-cuobjdump": "13.2.51", "nvidia-cuda-nvdisasm": "13.2.51"}

# Binaries for every device since Ampere; PTX, which the driver compiles, for those to come.
ARCHITECTURES = (80, 86, 89, 90, 100, 120)
FLAGS = [
    "-fatbin",
    "-O3",
    "-std=c++17",
    "--compress-mode=size",
    *(f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES),
    "-gencode=arch=compute_80,code=compute_80",
]
# Kernels whose names begin like this multiply on tensor cores.
MULTIPLIES = ("attention", "gemm", "max_logits")
BYTES_MAX = 4 << 20
REGISTERS = 65536  # of a multiprocessor

NO_TOOLCHAIN = 3


class Unfit(Exception):
    """A kernel that does not compile, or not to what it must be."""


def tools():
    """The folder of nvcc and its companions; fetched once."""
    home = TARGET / "cuda-toolchain"
    wanted = {**TOOLCHAIN, **DISASSEMBLER}
    stamp = home / "installed.json"
    if not stamp.exists() or json.loads(stamp.read_text()) != wanted:
        try:
            venv.create(home, with_pip=True, clear=True)
            pins = [f"{name}=={version}" for name, version in wanted.items()]
            pip = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
            subprocess.run([*pip, *pins], check=True)
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"the compiler could not be had: {error}", file=sys.stderr)
            sys.exit(NO_TOOLCHAIN)
        stamp.write_text(json.dumps(wanted))
    return next(home.glob("lib/python3*/site-packages/nvidia/cu13/bin"))


def sources(name):
    """The file and every header that it includes, in the order of their names."""
    found, left = set(), [name]
    while left:
        file = left.pop()
        if file not in found:
            found.add(file)
            text = (FOLDER / file).read_text()
            # What only the host's emulation includes lies elsewhere, and changes nothing here.
            left += [header for header in re.findall(r'^#include "([^"]+)"', text, re.M) if "/" not in header]
    return sorted(found)


def source_hash(name):
    """What the result depends on: files, flags, compiler. `kernels/src/cuda/tests/prebuilt.rs` has the twin."""
    digest = hashlib.sha256()
    for file in sources(name):
        text = (FOLDER / file).read_bytes()
        digest.update(f"{file} {len(text)}\n".encode() + text)
    compiler = [f"{tool} {version}" for tool, version in sorted(TOOLCHAIN.items())]
    digest.update("\n".join([*FLAGS, *compiler]).encode())
    return digest.hexdigest()


def bounds(name):
    """The registers that each kernel may use: read from the launch bounds in its PTX."""
    command = [tools() / "nvcc", "-ptx", "-std=c++17", "-arch=compute_80", "-o", "/dev/stdout", name]
    ptx = subprocess.run(command, cwd=FOLDER, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = re.findall(r"\.entry (\w+)\(.*?\.maxntid (\d+).*?\.minnctapersm (\d+)", ptx, re.S)
    return {kernel: min(255, REGISTERS // (int(threads) * int(blocks)) // 8 * 8) for kernel, threads, blocks in found}


def complaints(kernel, usage, bound):
    """What is wrong with a kernel's registers, architecture by architecture."""
    if bound is None:
        yield f"{kernel}: no launch bounds"
    for architecture, (registers, stack, stores, loads) in usage.items():
        if stack or stores or loads:
            yield f"{kernel} for sm_{architecture}: {stores} bytes spilled"
        if bound is not None and registers > bound:
            yield f"{kernel} for sm_{architecture}: {registers} registers, at most {bound}"
    missing = set(map(str, ARCHITECTURES)) - set(usage)
    if missing:
        yield f"{kernel}: not compiled for {sorted(missing)}"


def without_tensor_cores(fatbin):
    """Kernels that should multiply on tensor cores and do not."""
    command = [tools() / "cuobjdump", "-sass", fatbin]
    path = f"{tools()}:{os.environ.get('PATH', '')}"  # it calls nvdisasm
    listing = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "PATH": path})
    functions = re.split(r"^\s*Function : ", listing.stdout, flags=re.M)[1:]
    found = [(function.split(None, 1)[0], "HMMA" in function) for function in functions]
    return [f"{kernel}: no tensor cores" for kernel, has in found if kernel.startswith(MULTIPLIES) and not has]


def compile_one(name, folder):
    """Compiles NAME.cu into the folder; what the manifest says of it, after everything asserted of it held."""
    fatbin = folder / name.replace(".cu", ".fatbin")
    command = [tools() / "nvcc", *FLAGS, "-Xptxas", "-v", "-o", fatbin, name]
    log = subprocess.run(command, cwd=FOLDER, stderr=subprocess.PIPE, text=True)
    if log.returncode != 0:
        raise Unfit(log.stderr)
    usage = {}
    pattern = (
        r"entry function '(\w+)' for 'sm_(\d+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers"
    )
    for kernel, architecture, stack, stores, loads, registers in re.findall(pattern, log.stderr, re.S):
        usage.setdefault(kernel, {})[architecture] = [int(registers), int(stack), int(stores), int(loads)]
    bound = bounds(name)
    wrong = [text for kernel in sorted(usage) for text in complaints(kernel, usage[kernel], bound.get(kernel))]
    wrong += without_tensor_cores(fatbin) if any(kernel.startswith(MULTIPLIES) for kernel in usage) else []
    if wrong or not usage:
        raise Unfit("\n".join([f"{name}:", *wrong]))
    data = fatbin.read_bytes()
    registers = {kernel: max(of[0] for of in usage[kernel].values()) for kernel in sorted(usage)}
    print(f"{name}: {len(usage)} kernels, {len(data)} bytes, up to {max(registers.values())} registers", flush=True)
    return {
        "source": source_hash(name),
        "fatbin": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "registers": registers,
    }


def compile_all(names, folder):
    """All of them, several at a time: what the manifest says of each."""
    tools()  # once, before the threads
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return dict(zip(names, pool.map(lambda name: compile_one(name, folder), names)))
    except Unfit as error:
        sys.exit(str(error))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare a build of everything with what is checked in")
    check = parser.parse_args().check
    names = sorted(path.name for path in FOLDER.glob("*.cu"))
    held = json.loads(MANIFEST.read_text())["modules"] if MANIFEST.exists() else {}
    if check:
        with tempfile.TemporaryDirectory() as folder:
            built = compile_all(names, Path(folder))
        differ = sorted(name for name in {*built, *held} if built.get(name) != held.get(name))
        if differ:
            sys.exit(f"not what is checked in: {', '.join(differ)}; run kernels/cuda/build.py")
        return
    PREBUILT.mkdir(exist_ok=True)
    changed = [name for name in names if held.get(name, {}).get("source") != source_hash(name)]
    built = compile_all(changed, PREBUILT) if changed else {}
    built = {name: built.get(name) or held[name] for name in names}
    for gone in {path.name for path in PREBUILT.glob("*.fatbin")} - {name.replace(".cu", ".fatbin") for name in names}:
        (PREBUILT / gone).unlink()
    total = sum(module["bytes"] for module in built.values())
    if total > BYTES_MAX:
        sys.exit(f"{total} bytes, at most {BYTES_MAX} in all")
    manifest = {"flags": FLAGS, "toolchain": TOOLCHAIN, "modules": built}
    MANIFEST.write_text(json.dumps(manifest, indent=1) + "\n")
    print(f"{total} bytes in all")


if __name__ == "__main__":
    main()
