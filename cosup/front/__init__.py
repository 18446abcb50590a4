"""The front door in Python: run an experiment, and use what it made.

`import cosup` has its functions: `cosup.run`, `cosup.plan`, `cosup.validate`, `cosup.load_run`.
"""
