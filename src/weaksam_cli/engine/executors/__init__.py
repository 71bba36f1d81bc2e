"""Executors: who makes the shards of a step. A module each, chosen by `--executor`, and nothing else knows of it.

A module is an executor when it binds `Options`, a settings model, and `executor(options, workers)`, which returns an
`Executor`; other distributions add theirs by the entry-point group `weaksam.executors`. Whoever makes a shard, its bytes are
the same, and what is on the disk is done: that contract is all that executors share.
"""
