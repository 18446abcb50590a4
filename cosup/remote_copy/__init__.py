"""Read a run at a URI: a copy on this machine holds the files of it that were read.

`folder_of` lists the files at the URI and copies their manifests, `cosup.origins` fetches every
other file when it is first read. A file that is here already is fetched again only if the manifest
at the URI records another one, or if its size or time there is another. What is read is checked
against the manifest as in any run.

A run that is being written is copied to its URI every minute, the manifest before the files that it
records. So a file may be older than the manifest says. It is read again a few times then, and at
last as the state that it had before: the copy's manifest is cut back to it.

Copies are in `COSUP_CACHE`, one per URI; those that were not used for longest are removed where all
together are larger than `MOST_BYTES`. Nothing but `Copy.put_back` writes to the URI.
"""

from cosup.remote_copy.copy import Copy
from cosup.remote_copy.places import alone, copy_of, folder_of, place_of
from cosup.remote_copy.session import ENDED, SESSION, session_at

__all__ = ["ENDED", "SESSION", "Copy", "alone", "copy_of", "folder_of", "place_of", "session_at"]
