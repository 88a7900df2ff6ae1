"""The embedded S3 server: MiniStack, made to say nothing was written where nothing was.

MiniStack logs an object that the disk did not take and answers 200; the object would be gone after its next start. Here
the process ends instead: nobody is answered, the supervisor starts it anew from what the disk has, and a client that
tries again is told the truth once more.
"""

from __future__ import annotations

import errno
import os
import sys

import ministack.app
from ministack.services import s3

DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def main() -> None:
    write = s3._atomic_write

    def write_or_end(path: str, data: bytes | str, *, text: bool = False) -> None:
        try:
            write(path, data, text=text)
        except OSError as error:
            if error.errno not in DISK_FAULTS:
                raise
            sys.stderr.write(f"{path} could not be written ({error.strerror}); ending, so that nobody is told it was\n")
            sys.stderr.flush()
            os._exit(1)

    s3._atomic_write = write_or_end
    ministack.app.main()


if __name__ == "__main__":
    main()
