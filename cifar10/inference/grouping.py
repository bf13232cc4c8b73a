"""Groups of classes: the probability of a group is the sum over its classes. Needs no torch.

Shapes: B images, K classes, G groups, including the rest if it has a name.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from cifar10.config import conf_folder
from cifar10.config.schema import Section
from cifar10.config.validation import problems_of, validate
from cifar10.data.class_names import few
from cifar10.errors import UsageError, first_line
from cifar10.files import read_text
from cifar10.inference.prediction import GroupResult
from cifar10.suggest import did_you_mean

UNSURE = "unsure"
"""The group of an image whose most probable group is below the threshold."""

_RANGE = re.compile(r"(\d+)-(\d+)")

GroupName = Annotated[str, Field(pattern=r"^\w[\w -]{0,60}$")]


class Grouping(Section):
    """Which classes belong together, as in a file of `conf/grouping/`."""

    groups: Annotated[dict[GroupName, Annotated[list[int | str], Field(min_length=1)]], Field(min_length=1)]
    """Name -> classes: ids, ranges of ids such as 281-285, which includes both, or names."""
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Least probability of a group that is named."""
    rest: GroupName | None = "neither"
    """Name of the probability that no group has. None: it is not reported."""
    expects: dict[Annotated[int, Field(ge=0)], str] = Field(default_factory=dict)
    """Id -> name of classes that the network must have, so that ids of another network are not mistaken for them."""

    @model_validator(mode="after")
    def _names_differ(self) -> "Grouping":
        names = [*self.groups, *([self.rest] if self.rest else []), UNSURE]
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise ValueError(f"the name {repeated[0]} has another meaning; choose a different one")
        return self

    def bind(self, class_names: Sequence[str]) -> "ClassGroups":
        """Return the groups for a network with these classes.

        Raises:
            UsageError: The network does not have them, or a class is in two groups.
        """
        for class_id, name in self.expects.items():
            if class_id >= len(class_names) or class_names[class_id] != name:
                found = class_names[class_id] if class_id < len(class_names) else f"one of {few(class_names)}"
                raise UsageError(f"grouping: it is for networks whose class {class_id} is {name}, not {found}")
        ids = {
            name: [i for entry in entries for i in _ids(entry, class_names)] for name, entries in self.groups.items()
        }
        counts = Counter(class_id for members in ids.values() for class_id in members)
        repeated = [class_names[class_id] for class_id, count in counts.items() if count > 1]
        if repeated:
            raise UsageError(f"grouping: {few(repeated)} would be counted twice; each class may occur once")
        return ClassGroups({name: tuple(members) for name, members in ids.items()}, self.threshold, self.rest)


@dataclass(frozen=True)
class ClassGroups:
    """Groups of the classes of one network."""

    members: dict[str, tuple[int, ...]]
    """Group -> class ids. No id occurs twice."""
    threshold: float
    rest: str | None

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of `probabilities`."""
        return (*self.members, *([self.rest] if self.rest else []))

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Every group that an image may be said to be of."""
        return (*self.names, UNSURE)

    def probabilities(self, probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probability of each group, (B, G), from that of each class, (B, K); rows of both sum to 1.

        Without a name for the rest, rows sum to 1 only if the groups hold every class.
        """
        exact = probabilities.astype(np.float64)
        columns = [exact[:, list(ids)].sum(axis=1) for ids in self.members.values()]
        if self.rest:
            columns.append(np.clip(1 - np.sum(columns, axis=0), 0, 1))
        return np.stack(columns, axis=1)

    def totals_line(self, totals: Mapping[str, int]) -> str:
        """Return a line with the number of images of each group."""
        return f"totals: {', '.join(f'{name} {totals.get(name, 0):,}' for name in self.outcomes)}"

    def results(self, probabilities: NDArray[np.float32]) -> list[GroupResult]:
        """Return the groups of each image, for the probability of each class, (B, K)."""
        return [self._result(row) for row in self.probabilities(probabilities).tolist()]

    def _result(self, row: Sequence[float]) -> GroupResult:
        best = max(range(len(row)), key=row.__getitem__)
        name = self.names[best] if row[best] >= self.threshold else UNSURE
        return GroupResult(name, dict(zip(self.names, row, strict=True)))


def read_grouping(name: str, threshold: str | None = None) -> Grouping:
    """Read a file of `conf/grouping/`, or any YAML file by its path.

    Args:
        name: Of the file without .yaml, or its path.
        threshold: In place of the file's.

    Raises:
        UsageError: It does not exist or is not valid.
    """
    file = conf_folder.option_file("grouping", name, "grouping")
    number = None if threshold is None else _number(threshold)
    try:
        values = yaml.load(read_text(file), _Loader)  # a safe loader
        if not isinstance(values, dict):
            raise ValueError("it must be a mapping with the key groups")
        if number is not None:
            values["threshold"] = number
        return validate(Grouping, values)
    except OSError as error:
        raise UsageError(f"grouping: {file} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        problems = "; ".join(map(str, problems_of(error, values, list(Grouping.model_fields))))
        raise UsageError(f"grouping: {file}: {problems}") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UsageError(f"grouping: {file}{line}: {error.problem}") from None
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"grouping: {file}: {first_line(error)}") from None


class _Loader(yaml.SafeLoader):
    """Refuses what a person writes by mistake, a key twice, and what only a file that is to do harm needs: aliases."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=self.get_mark())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for position, (name, (key, _)) in enumerate(zip(names, node.value, strict=False)):
            if name in names[:position]:
                raise yaml.MarkedYAMLError(problem=f"{name} is there twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"grouping.threshold={text} is not a number from 0 to 1, such as 0.8") from None


def _ids(entry: int | str, class_names: Sequence[str]) -> Sequence[int]:
    """Return the class ids that an entry of a group means."""
    if isinstance(entry, str) and entry in class_names:
        return [class_names.index(entry)]
    span = _RANGE.fullmatch(entry) if isinstance(entry, str) else None
    if span is None and isinstance(entry, str):
        advice = did_you_mean(entry, class_names) or f"; its classes: {few(class_names)}"
        raise UsageError(f"grouping: the network has no class {entry}{advice}")
    first, last = (int(span[1]), int(span[2])) if span else (int(entry), int(entry))
    if not 0 <= first <= last < len(class_names):
        raise UsageError(f"grouping: {entry} is not in the ids of the network's classes, 0 to {len(class_names) - 1}")
    return range(first, last + 1)
