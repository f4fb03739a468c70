"""One file a command. Each imports click at the top and everything heavier when it runs, so that ``--help`` stays fast."""
