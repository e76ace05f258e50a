"""Everything that touches Lightning's internals: replay, isolation, snapshots, cadence, reporting."""
