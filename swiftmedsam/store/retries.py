"""Tries again what may succeed later, and says in one line why something cannot succeed.

Every back end has its own exceptions. They are told apart by the few kinds that fsspec promises,
by status codes, and by the names of classes: so no package of a back end is imported here.
"""

import errno
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from swiftmedsam.case import CaseError
from swiftmedsam.messages import one_line, printable, shortened

PAUSES = (1.0, 3.0, 10.0, 30.0)  # seconds before each further try, up to half as many again
LOCAL_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
# Codes that s3fs gives to answers such as "invalid bucket name": the same request fails again.
USELESS = (errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG, errno.EMSGSIZE)
# In names of exceptions of botocore, google.auth and azure.
ABOUT_CREDENTIALS = ("Credential", "Authentication", "ProfileNotFound", "RefreshError", "Token")
TOO_MANY_OR_LATE = (408, 425, 429)  # statuses below 500 that may change

log = logging.getLogger(__name__)

T = TypeVar("T")


class StoreError(CaseError):
    """A file in a store cannot be listed, read or written; the message names it."""


def require_small(what: object, size: int, limit: int | None) -> None:
    """Refuse what is larger than the local cache may hold of a case.

    Raises:
        StoreError: it is.
    """
    if limit is not None and size > limit:
        raise StoreError(
            f"{what}: has {size / 1e6:.1f} MB or more, the local cache may take "
            f"{limit / 1e6:.1f} MB of a case (--cache-size)"
        )


def status_of(error: BaseException | None) -> int | None:
    """The status of HTTP that an exception tells; None if it tells none."""
    # aiohttp has `status`, gcsfs `code`, azure `status_code`
    answer = getattr(error, "response", None)  # of requests
    for key in ("status", "status_code", "code"):
        status = getattr(error, key, None) or getattr(answer, key, None)
        if isinstance(status, int) and 100 <= status < 600:
            return status
    return None


def is_denied(error: BaseException | None) -> bool:
    """Whether a store says that one may not do what was asked for."""
    if isinstance(error, PermissionError) or status_of(error) in (401, 403):
        return True
    # gcsfs makes a plain OSError of status 403
    return isinstance(error, OSError) and str(error).startswith("Forbidden: ")


def is_absent(error: BaseException | None) -> bool:
    """Whether a store says that it has nothing of that name."""
    return isinstance(error, FileNotFoundError) or status_of(error) == 404


def said_by(error: Exception) -> str:
    """What an exception says, as one line, without what azure adds for its own support."""
    text, support, _ = str(error).partition("\nRequestId:")
    if support:
        return shortened(printable(" ".join(text.split())))
    return one_line(error) or type(error).__name__


def reason_of(error: Exception) -> str:
    """Why it is useless to try again, in a few words; "" if it may succeed later."""
    name, words = type(error).__name__, said_by(error)
    if isinstance(error, FileNotFoundError):
        return "there is nothing of that name"
    if any(word in name for word in ABOUT_CREDENTIALS):
        return f"no credentials that work ({words})"
    if is_denied(error):
        return f"access is denied ({words})"
    if isinstance(error, OSError) and error.errno in LOCAL_FAULTS:
        return f"the local cache cannot take it ({words})"
    if isinstance(error, OSError) and error.errno in USELESS:
        return words
    status = status_of(error)
    if status is not None and 400 <= status < 500 and status not in TOO_MANY_OR_LATE:
        return f"status {status} ({words})"
    if isinstance(error, (ValueError, TypeError, ImportError)):
        return words
    return ""


def persistently(what: str, action: Callable[[], T]) -> T:
    """Do `action`, and again after a pause if it fails for a reason that may go away.

    Args:
        what: what could not be done, for messages: "s3://b/a.npz: could not be read".
        action: what to do; it begins anew each time.

    Raises:
        StoreError: it fails for good, or failed too often.
    """
    for pause in (*PAUSES, None):
        try:
            return action()
        except StoreError:
            raise
        except Exception as error:
            if why := reason_of(error):
                raise StoreError(f"{what}: {why}") from error
            found = said_by(error)
            if pause is None:
                tries = len(PAUSES) + 1
                raise StoreError(f"{what}: {found} ({tries} tries)") from error
            seconds = pause * random.uniform(1, 1.5)  # not all workers at the same time
            log.warning("%s: %s, trying again in %.0f s", what, found, seconds)
            time.sleep(seconds)
    raise AssertionError  # the last pause is None
