"""Clock, tasks, ticker and shutdown: the only home of the event loop's raw tools."""
