"""The names that are read from source files are those that the packages know."""

import subprocess
import sys
from typing import Annotated

import pytest
import torchvision
from pydantic import TypeAdapter, ValidationError

from cifar10.classifier_names import ClassifierOf, classifier_names


def test_the_names_of_torchvision_are_its_classifiers() -> None:
    assert list(classifier_names("torchvision")) == torchvision.models.list_models(module=torchvision.models)


def test_the_names_of_timm_are_its_networks() -> None:
    timm = pytest.importorskip("timm")
    assert list(classifier_names("timm")) == sorted(timm.list_models())


def test_reading_them_imports_neither_package() -> None:
    code = (
        "import sys; from cifar10.classifier_names import classifier_names as names; assert names('torchvision'); "
        "names('timm'); sys.exit(any(name in sys.modules for name in ('torch', 'torchvision', 'timm')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_name_of_no_classifier_is_refused_and_a_missing_package_says_how_to_get_it() -> None:
    assert TypeAdapter(Annotated[str, ClassifierOf("torchvision")]).validate_python("resnet152") == "resnet152"
    with pytest.raises(ValidationError, match="torchvision has no classifier resnet15"):
        TypeAdapter(Annotated[str, ClassifierOf("torchvision")]).validate_python("resnet15")
    with pytest.raises(ValidationError, match="python -m pip install no_such_package"):
        TypeAdapter(Annotated[str, ClassifierOf("no_such_package")]).validate_python("resnet152")
