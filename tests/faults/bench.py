"""All experiments of the fault bench, in the order of the table of results."""

from tests.faults.experiment import Experiment

EXPERIMENTS: list[Experiment] = []
