"""Level one of verification: is a certificate what was issued, and does its arithmetic hold?

Reads files, imports no PyTorch, and searches nothing: each certificate states its value, and the theorem's predicate is asked once.
Evidence is taken as stated; measuring it again is level two (:func:`nonvacuous.verify` with a model and data).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import CertificateRefused, InvalidInput


@dataclass(frozen=True)
class Checked:
    """Outcome for one certificate: ``ok``, the ``level`` reached (1 arithmetic, 2 evidence), and ``message`` saying what or why not."""

    source: str
    certificate: Certificate | None
    ok: bool
    level: int
    message: str


@dataclass(frozen=True)
class Verification:
    """Outcomes in the order of their files."""

    results: tuple[Checked, ...]

    @property
    def verified(self) -> int:
        """Certificates that hold at the level asked for."""
        return sum(result.ok for result in self.results) - self.unmeasured

    @property
    def unmeasured(self) -> int:
        """Certificates that are consistent, but whose evidence could not be measured again with what was given, unlike others'."""
        if not any(result.level == 2 and result.certificate is not None for result in self.results):
            return 0
        return sum(result.ok and result.level == 1 for result in self.results)

    @property
    def refused(self) -> int:
        """Certificates that do not."""
        return sum(not result.ok for result in self.results)

    @property
    def ok(self) -> bool:
        """Whether all hold."""
        return bool(self.results) and self.refused == 0

    @property
    def summary(self) -> str:
        """One line: how many hold, at which level, and how many were refused."""
        if any(result.level == 2 for result in self.results):
            skipped = f", {self.unmeasured} consistent but not measured again" if self.unmeasured else ""
            return f"{self.verified} verified{skipped}, {self.refused} refused"
        return f"{self.verified} consistent (evidence unchecked), {self.refused} refused"


def certificate_files(paths: Iterable[str | Path]) -> list[Path]:
    """The certificate files meant by paths: files as they are, directories by the certificates in them, however deep.

    Of a directory: every ``.json`` under a folder called ``certificates``, itself included. If there is none, the ``.json`` it holds
    directly, or else those of the folders in it. Reports (audit.json, certify.json) are left out.
    Raises :class:`InvalidInput` if a path does not exist or a directory holds none.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = _in_folder(path)
            if not inside:
                raise InvalidInput(
                    f"{path} holds no certificates: give a certificate's file, or the directory `nonvacuous audit` wrote"
                )
            files += inside
        elif path.exists():
            files.append(path)
        else:
            raise InvalidInput(f"{path} does not exist")
    if not files:
        raise InvalidInput("nothing to verify: give at least one certificate file or directory")
    return files


def _in_folder(folder: Path) -> list[Path]:
    within = sorted(file for file in folder.rglob("*.json") if file.name not in ("audit.json", "certify.json"))
    named = [file for file in within if "certificates" in (folder.resolve().name, *file.relative_to(folder).parts[:-1])]
    return named or [file for file in within if file.parent == folder] or within


def consistent(source: str, certificate: Certificate) -> Checked:
    """The outcome for a certificate whose constructor has accepted its arithmetic."""
    message = f"{certificate.bound}: risk ≤ {certificate.value!r} follows from the stated evidence"
    return Checked(source, certificate, True, 1, message)


def check(path: str | Path) -> Checked:
    """Level one for one file; never raises for a bad certificate."""
    try:
        return consistent(str(path), Certificate.load(path))
    except CertificateRefused as error:
        return Checked(str(path), None, False, 1, str(error))


def check_files(paths: Iterable[str | Path]) -> Verification:
    """Level one for all certificates under the paths."""
    return Verification(tuple(check(file) for file in certificate_files(paths)))
