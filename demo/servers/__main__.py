"""`python -m demo.servers`: start the servers, print the variables that name them, and wait for Ctrl-C."""

import signal
import sys

from demo.servers import ServersUnavailable, servers


def main() -> None:
    """Print one `export` line for each server, then `ready`, and keep them until a signal comes."""
    # SIGINT too: a shell starts what it runs in the background with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        with servers(own=True) as started:
            for variable, address in started.environment().items():
                print(f"export {variable}='{address}'")
            print("# ready; Ctrl-C ends them", flush=True)
            signal.pause()
    except ServersUnavailable as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        pass


main()
