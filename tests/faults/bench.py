"""All experiments of the fault bench, in the order of the table of results."""

from tests.faults.damaged_images import DECOMPRESSION_BOMBS, MUTATED_IMAGES
from tests.faults.disk_faults import FULL_DISKS, SLOW_AND_UNWRITABLE_DISKS
from tests.faults.experiment import Experiment
from tests.faults.failing_training import FAILING_TRAINING
from tests.faults.hostile_images import HOSTILE_FOLDER, SPECIAL_FILES
from tests.faults.killed_saving import KILLED_WHILE_SAVING
from tests.faults.killed_training import KILLED_PROCESS_OF_TWO, KILLED_TRAINING
from tests.faults.reported_situations import REPORTED_SITUATIONS
from tests.faults.stopped_training import STOPPED_TRAINING

EXPERIMENTS: list[Experiment] = [
    KILLED_TRAINING,
    KILLED_PROCESS_OF_TWO,
    KILLED_WHILE_SAVING,
    SLOW_AND_UNWRITABLE_DISKS,
    FULL_DISKS,
    STOPPED_TRAINING,
    FAILING_TRAINING,
    HOSTILE_FOLDER,
    MUTATED_IMAGES,
    DECOMPRESSION_BOMBS,
    SPECIAL_FILES,
    REPORTED_SITUATIONS,
]
