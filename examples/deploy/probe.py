"""Whether the broker in this container answers: `probe.py /healthz [PORT]` exits with 0 if so.

For Docker's HEALTHCHECK, and wherever a probe has to be a command.
"""

from __future__ import annotations

import http.client
import ssl
import sys


def main(path: str, port: str = "8443") -> int:
    # It asks itself, on loopback, shows no secret and believes nothing but a status: whose
    # certificate that is doesn't matter, and the name in it needn't be "localhost".
    unverified = ssl.create_default_context()
    unverified.check_hostname = False
    unverified.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection("localhost", int(port), timeout=4, context=unverified)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read(4096)
    except OSError as failure:
        print(f"{path}: {failure}")
        return 1
    print(body.decode("utf-8", "replace"))
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    match sys.argv[1:]:
        case [path]:
            sys.exit(main(path))
        case [path, port]:
            sys.exit(main(path, port))
        case _:
            print("usage: probe.py PATH [PORT]", file=sys.stderr)
            sys.exit(2)
