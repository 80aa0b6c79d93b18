"""Names of files in a tar: the sample that a name belongs to, and the name in the headers before a payload."""

from __future__ import annotations

import io
import re
import tarfile

# Before the payload stands its ustar header. A name that is not ASCII, or longer than the header's field, stands in
# headers before that: one of its own (pax or GNU) and blocks of records.
USTAR_LEAD = tarfile.BLOCKSIZE
PAX_LEAD = 3 * tarfile.BLOCKSIZE  # as our writer makes it: one block of records
LONGEST_LEAD = 128 * tarfile.BLOCKSIZE  # of other makers, who also put times and owners there
_EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
# WebDataset's own marks of files that are about the tar, not of a sample.
_ABOUT_THE_TAR = re.compile(r"__[^/]*__($|/)")


def key_and_suffix(name: str) -> tuple[str, str] | None:
    """The sample's key and the lower-case extension of a file, as WebDataset splits names: at the first dot of the
    last part. None for what belongs to no sample: names without a dot, or beginning with one."""
    folder, slash, base = name.rpartition("/")
    stem, dot, suffix = base.partition(".")
    if not stem or not dot or _ABOUT_THE_TAR.match(name):
        return None
    return folder + slash + stem, suffix.lower()


def lead_of(key: bytes) -> int:
    """Bytes before the payload in which the name of a sample's file is most probably whole."""
    return USTAR_LEAD if key.isascii() and len(key) + len(".jpg") <= tarfile.LENGTH_NAME else PAX_LEAD


def belongs(name: bytes | None, key: bytes) -> bool:
    """Whether `name` is the key and an extension. The last part of a key has no dot."""
    return name is not None and name.startswith(key + b".") and b"/" not in name[len(key) :]


def name_before_payload(lead: bytes) -> bytes | None:
    """Name in the tar headers that `lead` ends with, read the quick way, which knows ustar and our pax headers only.

    None if they are no headers.
    """
    ustar = lead[-USTAR_LEAD:]
    if ustar[257:262] != b"ustar":
        return None
    pax = lead[-PAX_LEAD:-USTAR_LEAD]
    if len(pax) == PAX_LEAD - USTAR_LEAD and pax[257:262] == b"ustar" and pax[156:157] == tarfile.XHDTYPE:
        records = pax[tarfile.BLOCKSIZE :].rstrip(b"\0").split(b"\n")  # "<length> <keyword>=<value>"
        for record in records:
            keyword, _, value = record.partition(b" ")[2].partition(b"=")
            if keyword == b"path":
                return value
    name, prefix = (field.partition(b"\0")[0] for field in (ustar[:100], ustar[345:500]))
    return prefix + b"/" + name if prefix else name


def names_by_tarfile(lead: bytes) -> set[bytes]:
    """Every name that `tarfile` finds in headers that end where `lead` ends, however they are made (V7, GNU, pax)."""
    found = set()
    start = len(lead) - tarfile.BLOCKSIZE
    while start >= 0:
        if start == len(lead) - tarfile.BLOCKSIZE or lead[start + 156 : start + 157] in _EXTENDED:
            member = _first_member(lead[start:])
            if member is not None and member.offset_data == len(lead) - start:
                found.add(member.name.encode("utf-8", "surrogateescape"))
        start -= tarfile.BLOCKSIZE
    return found


def _first_member(content: bytes) -> tarfile.TarInfo | None:
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
            return tar.next()
    except (tarfile.TarError, ValueError, OverflowError, RecursionError):  # a block that is no header
        return None
