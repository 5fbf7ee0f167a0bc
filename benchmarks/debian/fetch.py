"""Gets files by package name with apt-get and dpkg, without root and without installing anything.

apt is run under a configuration of its own, in the cache folder: the machine's sources, but private lists and a
private package cache. What was fetched once stays there, and a second run asks nobody. Packages are read as the
tar streams they contain, so that the images of the help packages (most of their size) never reach the disk.
"""

import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

ADVICE = (
    "apt-get, dpkg and npm are needed on the PATH (Debian or Ubuntu, a container will do), with sources that apt can "
    "reach; no root. If a proxy is set in /etc/apt/apt.conf.d, pass it as http_proxy instead."
)


class FetchError(RuntimeError):
    """A package or an index could not be fetched; the message says what to do."""


def tool(name: str) -> str:
    """Path of a program.

    Raises:
        FetchError: it is not there.
    """
    path = shutil.which(name)
    if path is None:
        raise FetchError(f"{name} was not found. {ADVICE}")
    return path


def _run(command: Sequence[str], *, config: Path, cwd: Path) -> str:
    done = subprocess.run(
        [tool(command[0]), *command[1:]],
        cwd=cwd,
        env={**os.environ, "APT_CONFIG": str(config), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise FetchError(f"{' '.join(command[:3])} failed ({done.returncode}): {done.stderr.strip()[-600:]}\n{ADVICE}")
    return done.stdout


def write_config(cache: Path, ddtp_codes: Iterable[str]) -> Path:
    """Write the private apt.conf and return its path.

    ``Dir::Etc::parts`` points nowhere because container images like to set ``Acquire::Languages "none"`` in
    /etc/apt/apt.conf.d, and that would win over this file. The sandbox user is root because apt, when run by root,
    otherwise drops to a user who may not enter the cache folder; for anybody else the line has no effect.
    """
    root = (cache / "apt").resolve()
    for folder in ("lists/partial", "archives/partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    languages = " ".join(f'"{code}";' for code in ddtp_codes)
    config = root / "apt.conf"
    config.write_text(
        'Dir::Etc::parts "/dev/null";\n'
        f'Dir::State::lists "{root / "lists"}";\n'
        f'Dir::Cache "{root}";\n'
        'APT::Sandbox::User "root";\n'
        f"Acquire::Languages {{ {languages} }};\n",
        encoding="utf-8",
    )
    return config


def fetch_indexes(cache: Path, ddtp_codes: Sequence[str]) -> Path:
    """Fetch the package lists with the translations in ``ddtp_codes``; return apt's lists folder.

    Raises:
        FetchError: apt-get is missing, or the English descriptions did not arrive.
    """
    lists = cache.resolve() / "apt" / "lists"
    stamp = cache / "apt" / "languages.txt"
    if stamp.is_file() and set(ddtp_codes) <= set(stamp.read_text(encoding="utf-8").split()):
        return lists
    config = write_config(cache, ddtp_codes)
    try:
        _run(["apt-get", "update"], config=config, cwd=cache)
    except FetchError:
        # One unreachable third-party source makes apt fail although Debian's own lists have arrived.
        if not any(lists.glob("*_i18n_Translation-en")):
            raise
    if not any(lists.glob("*_i18n_Translation-en")):
        raise FetchError(f"apt fetched no English package descriptions. {ADVICE}")
    (cache / "apt" / "names.txt").unlink(missing_ok=True)
    stamp.write_text(" ".join(ddtp_codes), encoding="utf-8")
    return lists


def known_packages(cache: Path) -> set[str]:
    """Names of all packages in the fetched lists."""
    names = cache / "apt" / "names.txt"
    if not names.is_file():
        found = _run(["apt-cache", "pkgnames"], config=cache.resolve() / "apt" / "apt.conf", cwd=cache)
        names.write_text(found, encoding="utf-8")
    return set(names.read_text(encoding="utf-8").split())


def download(cache: Path, packages: Sequence[str]) -> dict[str, Path]:
    """Download packages that are not in the cache yet; return name to ``.deb`` file."""
    folder = cache / "debs"
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in packages if not any(folder.glob(f"{name}_*.deb"))]
    if missing:
        _run(["apt-get", "download", *missing], config=cache.resolve() / "apt" / "apt.conf", cwd=folder)
    return {name: max(folder.glob(f"{name}_*.deb")) for name in packages}


def package_version(deb: Path) -> str:
    """Version of a downloaded package, read off its file name."""
    return deb.name.split("_")[1].replace("%3a", ":")


def read_package(deb: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Yield ``(path inside the package, content)`` of every regular file whose name ends with ``suffix``."""
    done = subprocess.run([tool("dpkg"), "--fsys-tarfile", str(deb)], capture_output=True, check=False)
    if done.returncode != 0:
        raise FetchError(f"dpkg could not read {deb.name}: {done.stderr.decode(errors='replace').strip()[-300:]}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() and member.name.endswith(suffix) else None
            if content is not None:
                yield member.name.removeprefix("./"), content.read()
