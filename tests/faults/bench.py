"""All experiments of the fault bench, in the order of the table of results."""

from tests.faults.absent_store import ABSENT_STORE
from tests.faults.agreeing_engines import AGREEING_ENGINES
from tests.faults.broken_downloads import BROKEN_DOWNLOADS
from tests.faults.changed_model import CHANGED_MODEL
from tests.faults.damaged_images import DECOMPRESSION_BOMBS, MUTATED_IMAGES
from tests.faults.disk_faults import SLOW_AND_UNWRITABLE_DISKS
from tests.faults.experiment import Experiment
from tests.faults.failing_training import FAILING_TRAINING
from tests.faults.full_disks import FULL_DISKS
from tests.faults.fuzzed_requests import FUZZED_REQUESTS
from tests.faults.hostile_images import HOSTILE_FOLDER, SPECIAL_FILES
from tests.faults.hostile_uploads import HOSTILE_UPLOADS
from tests.faults.killed_saving import KILLED_WHILE_SAVING
from tests.faults.killed_training import KILLED_PROCESS_OF_TWO, KILLED_TRAINING
from tests.faults.malformed_checkpoints import MALFORMED_CHECKPOINTS
from tests.faults.newest_checkpoints import NEWEST_CHECKPOINT_CORRUPT
from tests.faults.overloaded_service import ENDINGS, HALF_OPEN_SOCKETS, LARGE_BODIES, OVERLOAD, SOAK
from tests.faults.poisoned_files import POISONED_FILES
from tests.faults.random_command_lines import RANDOM_COMMAND_LINES
from tests.faults.repeated_training import REPEATED_TRAINING
from tests.faults.reported_situations import REPORTED_SITUATIONS
from tests.faults.runs_at_once import RUNS_AT_ONCE
from tests.faults.stopped_training import STOPPED_TRAINING
from tests.faults.supply_chain import TAMPERED_PACKAGES
from tests.faults.written_at_once import WRITTEN_AT_ONCE
from tests.faults.wrong_command_lines import WRONG_COMMAND_LINES

EXPERIMENTS: list[Experiment] = [
    KILLED_TRAINING,
    KILLED_PROCESS_OF_TWO,
    KILLED_WHILE_SAVING,
    SLOW_AND_UNWRITABLE_DISKS,
    FULL_DISKS,
    STOPPED_TRAINING,
    FAILING_TRAINING,
    MALFORMED_CHECKPOINTS,
    NEWEST_CHECKPOINT_CORRUPT,
    POISONED_FILES,
    BROKEN_DOWNLOADS,
    WRITTEN_AT_ONCE,
    HOSTILE_FOLDER,
    MUTATED_IMAGES,
    DECOMPRESSION_BOMBS,
    SPECIAL_FILES,
    AGREEING_ENGINES,
    ABSENT_STORE,
    RUNS_AT_ONCE,
    FUZZED_REQUESTS,
    LARGE_BODIES,
    HALF_OPEN_SOCKETS,
    OVERLOAD,
    SOAK,
    ENDINGS,
    CHANGED_MODEL,
    HOSTILE_UPLOADS,
    WRONG_COMMAND_LINES,
    RANDOM_COMMAND_LINES,
    REPEATED_TRAINING,
    REPORTED_SITUATIONS,
    TAMPERED_PACKAGES,
]
