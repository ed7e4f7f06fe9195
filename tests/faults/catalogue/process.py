"""What happens to the process itself."""

from tests.faults.catalogue.row import Row

ROWS: dict[str, Row] = {
    "P01": Row("SIGTERM in the middle of a flush", "the last version is stored, marked as no longer live; exit code 0"),
    "P02": Row("a second signal while it ends", "it ends at once"),
    "P03": Row("SIGKILL", "records stop looking fresh by themselves; others take over after the lease"),
    "P04": Row("memory runs out", "buffers are bounded before that; what happens then is as after SIGKILL"),
    "P05": Row("the event loop stalls", "said with the stack; longer than the lease: nothing is written afterwards"),
    "P06": Row("old and new process overlap at a deploy", "sessions change owner once; never back"),
    "P07": Row("cut off from the database only", "stops acting before others may take over; writes nothing late"),
    "P08": Row("frozen for longer than its lease, then awake", "writes nothing under its old lease; begins anew"),
    "P09": Row("crash around the sending of an order", "resolved by asking, never by sending again"),
    "P10": Row("a task ends by an unexpected error", "only that session is restarted; none is left without a way on"),
    "P11": Row("a reader is cancelled anywhere", "its connection is made anew by somebody else"),
    "P12": Row("a cancellation is swallowed", "stopping a session ends in time all the same"),
    "P13": Row("events come faster than they are handled", "bounded; the record is the latest state"),
    "P14": Row("no file descriptor is left", "what is connected goes on; not ready; back by itself"),
    "P15": Row("nobody reads stdout, or its disk is full", "the event loop never waits; lost lines are counted"),
    "P16": Row("starts and stops of one session race", "the last command holds; one session, one owner"),
}

# what this code base cannot meet, and why
ELSEWHERE: dict[str, str] = {"P09": "there are no orders yet"}
