"""A carrier to dial at: SIPp as the far end, where the dialled number decides what happens.

`numbers` is the table of what the last two digits do, `scenario` turns it into SIPp's XML, `carrier` starts and stops
the process, `witness` reads the log it writes. The witness knows only what the carrier saw, so it can contradict us.
Nothing here rings anybody: the numbers are of the fictional range 555-01XX and the sockets are on loopback by default.
"""
