"""All experiments of the fault bench, in the order of the table of results."""

from tests.faults.experiment import Experiment
from tests.faults.reported_situations import REPORTED_SITUATIONS

EXPERIMENTS: list[Experiment] = [
    REPORTED_SITUATIONS,
]
