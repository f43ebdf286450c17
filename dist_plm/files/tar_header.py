"""Untrusted tar files: a member with a large extended header is refused."""

import tarfile

HEADER_BYTES = 1 << 14
"""Largest extended header of a member, 16 KiB: names and times. Python before 3.11.10 parses it in quadratic time."""

_EXTENDED = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class SmallHeader(tarfile.TarInfo):
    """For `tarfile.open(..., tarinfo=SmallHeader)`; raises tarfile.ReadError for a larger extended header."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENDED and not 0 <= self.size <= HEADER_BYTES:
            raise tarfile.ReadError(f"an extended header of {self.size:,} bytes, at most {HEADER_BYTES:,}")
        return super()._proc_member(tar)  # type: ignore[misc]
