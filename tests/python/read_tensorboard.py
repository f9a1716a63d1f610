"""Prints the scalars of a folder of TensorBoard events as JSON: {tag: [[step, value], ...]}.

Used by tests/io/tensorboard_test.cpp. Exit code 77: the `tensorboard` package is not installed.
"""
import json
import sys

try:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
except ImportError:
    sys.exit(77)

accumulator = EventAccumulator(sys.argv[1])
accumulator.Reload()
scalars = {tag: [[event.step, event.value] for event in accumulator.Scalars(tag)]
           for tag in accumulator.Tags()["scalars"]}
json.dump(scalars, sys.stdout)
