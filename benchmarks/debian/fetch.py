"""Gets files by package name with apt-get, dpkg and npm, without root and without installing anything.

apt is run under a configuration of its own, in the cache folder: the machine's sources, but private lists and a
private package cache. What was fetched once stays there, and a second run asks nobody. Packages are read as the
tar streams they contain, so that the images of the help packages (most of their size) never reach the disk.
"""

import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

ADVICE = (
    "apt-get, dpkg and npm are needed on the PATH (Debian or Ubuntu, a container will do), with sources that apt can "
    "reach; no root. If a proxy is set in /etc/apt/apt.conf.d, pass it as http_proxy instead."
)


class FetchError(RuntimeError):
    """A package or an index could not be fetched; the message says what to do."""


def run(command: Sequence[str], *, cwd: Path, config: Path | None = None) -> bytes:
    """Standard output of a program.

    Raises:
        FetchError: it is not there, or it failed.
    """
    path = shutil.which(command[0])
    if path is None:
        raise FetchError(f"{command[0]} was not found. {ADVICE}")
    environment = {**os.environ, "LC_ALL": "C.UTF-8", **({"APT_CONFIG": str(config)} if config else {})}
    done = subprocess.run([path, *command[1:]], cwd=cwd, env=environment, capture_output=True, check=False)
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-600:]
        raise FetchError(f"{' '.join(command[:3])} failed ({done.returncode}): {said}\n{ADVICE}")
    return done.stdout


def fetch_indexes(cache: Path, codes: Sequence[str]) -> Path:
    """Fetch the package lists with the descriptions in the languages ``codes``; return apt's lists folder.

    Raises:
        FetchError: apt-get is missing, or the English descriptions did not arrive.
    """
    root = (cache / "apt").resolve()
    lists, stamp = root / "lists", root / "languages.txt"
    if stamp.is_file() and set(codes) <= set(stamp.read_text(encoding="utf-8").split()):
        return lists
    for folder in ("lists/partial", "archives/partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    languages = " ".join(f'"{code}";' for code in codes)
    # Dir::Etc::parts points nowhere because container images like to set Acquire::Languages "none" in
    # /etc/apt/apt.conf.d, and that would win over this file. The sandbox user is root because apt, when run by root,
    # otherwise drops to a user who may not enter the cache folder; for anybody else the line has no effect.
    (root / "apt.conf").write_text(
        'Dir::Etc::parts "/dev/null";\n'
        f'Dir::State::lists "{lists}";\n'
        f'Dir::Cache "{root}";\n'
        'APT::Sandbox::User "root";\n'
        f"Acquire::Languages {{ {languages} }};\n",
        encoding="utf-8",
    )
    try:
        run(["apt-get", "update"], cwd=cache, config=root / "apt.conf")
    except FetchError:
        # One unreachable third-party source makes apt fail although Debian's own lists have arrived.
        if not any(lists.glob("*_i18n_Translation-en")):
            raise
    if not any(lists.glob("*_i18n_Translation-en")):
        raise FetchError(f"apt fetched no English package descriptions. {ADVICE}")
    (root / "names.txt").unlink(missing_ok=True)
    stamp.write_text(" ".join(codes), encoding="utf-8")
    return lists


def fetch_packages(cache: Path, wanted: Sequence[str]) -> list[Path]:
    """The ``.deb`` files of those packages that exist, downloaded unless they are in the cache."""
    config, names = cache.resolve() / "apt" / "apt.conf", cache / "apt" / "names.txt"
    if not names.is_file():
        names.write_bytes(run(["apt-cache", "pkgnames"], cwd=cache, config=config))
    known = set(names.read_text(encoding="utf-8").split())
    folder = cache / "debs"
    folder.mkdir(parents=True, exist_ok=True)
    packages = [name for name in wanted if name in known]
    if missing := [name for name in packages if not any(folder.glob(f"{name}_*.deb"))]:
        run(["apt-get", "download", *missing], cwd=folder, config=config)
    return [max(folder.glob(f"{name}_*.deb")) for name in packages]


def package_versions(debs: Sequence[Path]) -> dict[str, str]:
    """Package to version, read off the file names."""
    return {deb.name.split("_")[0]: deb.name.split("_")[1].replace("%3a", ":") for deb in debs}


def read_package(deb: Path, pattern: re.Pattern[str]) -> list[tuple[re.Match[str], bytes]]:
    """The regular files of a package whose path matches: the match and the content, ordered by path."""
    found: list[tuple[re.Match[str], bytes]] = []
    with tarfile.open(fileobj=io.BytesIO(run(["dpkg", "--fsys-tarfile", str(deb.resolve())], cwd=deb.parent))) as tar:
        for member in tar:
            match = pattern.search(member.name.removeprefix("./"))
            file = tar.extractfile(member) if match and member.isfile() else None
            if match and file:
                found.append((match, file.read()))
    return sorted(found, key=lambda pair: pair[0].string)


def fetch_npm(cache: Path, package: str, version: str) -> Path:
    """The archive of an npm package (``npm pack``: nothing is installed), unless it is in the cache."""
    folder = cache / "npm"
    archive = folder / f"{package}-{version}.tgz"
    if not archive.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        run(["npm", "pack", f"{package}@{version}", "--silent"], cwd=folder)
    return archive
