"""The command line: thin shells over `scheduler`, one module a group of commands.

Exit status: 0 done; 1 one line on stderr, `error: field: what is wrong and what would be right`; 2 a
command that cannot be understood; 130 Ctrl-C. A traceback only with TRUNKLINE_DEBUG=1.
"""
