"""The house rules of a broker: what holds where no policy says otherwise."""

from __future__ import annotations

import msgspec

from modelvault.manifest import MAX_FILES

NEVER_MS = 253_402_300_799_000  # 9999-12-31T23:59:59Z: a lease without `max_total_s`


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """Durations in seconds, sizes in bytes.

    `upload_ttl_s` is how long an upload can be resumed after its last sign of life, and
    `upload_alive_s` how long it counts among `max_open_uploads`: a job that is killed again and
    again isn't kept from its next push.
    `carried_ttl_s` is how long an import may take whose keys and files are carried by hand.
    `default_ttl_s` is the longest that one grant or renewal lasts; a policy can only shorten it.
    `max_ranks` is how many recipient keys one upload can have: processes that write one version.
    `sampled_segments` bounds how many encrypted segments one commit reads back, and
    `sampled_per_file` how many of one file.
    """

    upload_ttl_s: int = 24 * 3600
    upload_alive_s: int = 3600
    carried_ttl_s: int = 7 * 24 * 3600
    link_ttl_s: int = 15 * 60
    delete_grace_s: int = 7 * 24 * 3600
    default_ttl_s: int = 15 * 60
    max_open_uploads: int = 16
    max_files: int = MAX_FILES
    max_ranks: int = 4096
    max_labels: int = 64
    max_tensors: int = 100_000
    max_page: int = 1000
    sampled_per_file: int = 4
    sampled_segments: int = 64
    clock_margin_s: int = 3600

    def counted_until(self, now: int) -> int:
        """Uploads that expire after this moment were alive lately, in milliseconds as `now`."""
        return now + max(0, self.upload_ttl_s - self.upload_alive_s) * 1000
