#!/usr/bin/env python3
"""Prints what TensorBoard and TensorFlow read from the event files of a folder.

    venv/bin/python test/data/check_events.py FOLDER

First each event as TensorFlow's iterator gives it, then each tag as TensorBoard shows it.
"""

import glob
import os
import sys

os.environ["CUDA_VISIBLE_DEVICES"] = ""
import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator


def main(folder):
    for path in sorted(glob.glob(os.path.join(folder, "*tfevents*"))):
        print(os.path.basename(path))
        for event in tf.compat.v1.train.summary_iterator(path):
            print("  step", event.step, event.WhichOneof("what"),
                  event.file_version or
                  (event.session_log.status if event.HasField("session_log") else
                   [(value.tag, value.simple_value) for value in event.summary.value]))
    accumulator = event_accumulator.EventAccumulator(folder)
    accumulator.Reload()
    for tag in accumulator.Tags()["scalars"]:
        print(tag, [(scalar.step, scalar.value) for scalar in accumulator.Scalars(tag)])


if __name__ == "__main__":
    main(sys.argv[1])
