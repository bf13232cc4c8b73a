"""Settings that somebody might type, by table and at random: a configuration, or a line for each fault, and quickly."""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cifar10.config.compose import ConfigError, load_config
from cifar10.config.schema import Config

MOST_SECONDS = 2.0  # of the processor
LONGEST = 700  # characters of a line


def told(*words: str) -> list[str]:
    """Return what is wrong with `words`, nothing if they make a configuration; both within two seconds."""
    began = time.process_time()
    try:
        assert isinstance(load_config(["data_loading=shapes", *words]), Config)
        lines: list[str] = []
    except ConfigError as error:
        lines = error.problems
        assert lines
    assert time.process_time() - began < MOST_SECONDS
    for line in lines:
        assert line.isprintable(), line
        assert 0 < len(line) <= LONGEST
        assert "Traceback" not in line
    return lines


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    load_config(["data_loading=shapes"])


WRONG = {
    # values without bounds
    "seed=" + "9" * 5000: "has a number of 300 digits or more",
    "seed=-" + "9" * 400: "has a number of 300 digits or more",
    "optimizer.lr=1." + "3" * 4000: "has a number of 300 digits or more",
    "training.epochs=" + "1_" * 400: "has a number of 300 digits or more",
    "seed=" + "9" * 299: "must be less than 2147483648",
    "seed=" + "[" * 200 + "]" * 200: "nested too deeply: at most 20 brackets",
    "seed=" + "{a:" * 200 + "1" + "}" * 200: "nested too deeply",
    "models_dir=" + "${a" * 30 + "}" * 30: "nested too deeply",
    "seed=" + "str(" * 5000 + "1" + ")" * 5000: "is too long, at most 20,000",
    "models_dir=" + "x" * 120_000: "of 120,011 characters is too long",
    "x" * 30_000: "of 30,000 characters is too long",
    "x" * 19_000 + "=1": "there is no such setting",
    "x." * 9_000 + "x=1": "nested too deeply",
    "~" + "x" * 19_000: "there is no such value to leave out",
    "data_loading.classes=[" + ",".join(f"c{i}" for i in range(20_000)) + "]": "put it into a file of conf/",
    "training.batch_size=1000000000000": "training.batch_size: must be less than or equal to 10000000",
    "evaluation.batch_size=1000000000000": "evaluation.batch_size: must be less than or equal to",
    "training.epochs=1000000000000": "training.epochs: must be less than or equal to 40000",
    "training.devices=1000000": "training.devices: must be less than or equal to 1024",
    "data_loading.image_size=1000000000000000000": "data_loading.image_size: must be less than or equal to 256",
    "augmentation.crop_padding=99999999": "augmentation.crop_padding: must be less than or equal to 1024",
    "augmentation.mixup=1e308": "augmentation.mixup: must be less than or equal to 1000",
    "optimizer.lr=1e400": "optimizer.lr: must be a finite number",
    # leaving out
    "~model.nothing": "model.nothing: there is no such value to leave out",
    "~model.widht": "there is no such value to leave out; did you mean model.widths?",
    "~model.depth=3": "model.depth: is 2, not 3; to leave it out: '~model.depth'",
    "~model.depth.x": "model.depth.x: there is no such value to leave out",
    "~training.resizing.0": "there is no such value to leave out; did you mean training.resizing?",
    "~model": "model: cannot be left out; choose one of",
    "~model=speed": "model: cannot be left out",
    "~training": "training: cannot be left out",
    "model=null": "model: cannot be left out",
    "~": "~ is not an override",
    "~~seed": "~~seed is not an override",
    "~seed": "seed: is missing",
    "~hydra": "Hydra only composes here",
    # interpolations
    "seed=${seed}": "seed: cannot be set to ${seed}: Recursive interpolation detected",
    "models_dir=${models_dir}/x": "models_dir: cannot be set to ${models_dir}/x: Recursive",
    "training.epochs=${training}": "training.epochs: cannot be set to ${training}: Interpolation to parent node",
    "seed=${training}": "seed: must be a whole number",
    "seed=${nothing.at.all}": "Interpolation key 'nothing.at.all' not found",
    "run_name=${oc.env:NO_SUCH_VARIABLE_1}": "Environment variable 'NO_SUCH_VARIABLE_1' not found",
    "run_name=${oc.env:}": "run_name: cannot be set to ${oc.env:}",
    "models_dir=${oc.decode:'[1,2'}": "models_dir: cannot be set to ${oc.decode:'[1,2'}",
    "models_dir=${nope:1}": "Unsupported interpolation type nope",
    "models_dir=${": "models_dir: Hydra reads ${ only in quotes",
    "models_dir=${hydra:run.dir}": "models_dir: cannot be set to ${hydra:run.dir}",
    "model=${oc.env:HOME}": "model: there is no ${oc.env:HOME} among",
    "seed=???": "seed: cannot be set to ???: it is a placeholder; set a value",
    "models_dir=???": "models_dir: cannot be set to ???: it is a placeholder",
    "training.resizing=[???]": "training.resizing.0: cannot be set to ???: it is a placeholder",
    # functions and sweeps
    "seed=glob(*)": "seed: several values are given, and a run has one",
    "model=glob(*)": "model: several are given",
    "seed=choice(1,2)": "several values are given",
    "seed=range(1,5)": "several values are given",
    "seed=interval(0,1)": "several values are given",
    "seed=sort(3,1)": "several values are given",
    "seed=shuffle([1,2])": "seed: must be a whole number",
    "seed=tag(a,1)": "only in quotes",
    "seed=int(abc)": "only in quotes",
    "seed=unknown(1)": "only in quotes",
    # keys
    "model@net=speed": "leave out @",
    "model@a:b=speed": "model@a:b cannot be a key",
    "@=1": "@ cannot be a key",
    "+=1": "cannot be a key",
    "model..depth=1": "model..depth cannot be a key",
    ".seed=1": ".seed cannot be a key",
    "seed.=1": "seed. cannot be a key",
    "model.widths[0]=32": "cannot be a key",
    "1.2=3": "there is no such setting",
    "seed.0=1": "seed: must be a whole number",
    "model.widths.7=32": "model.widths.7: cannot be set to 32",
    "model.widths.x=32": "model.widths.x: cannot be set to 32",
    "кот=1": "кот cannot be a key",
    # values of the wrong kind
    "training.resizing={a: b}": "training.resizing: must be a list",
    "model.widths={a: b}": "model.widths",
    "training.resizing=[[[]]]": "training.resizing.0: must be a mapping",
    "seed={null: 1}": "seed: cannot be set to",
    "training={epochs: 3}": "a value in it is set as training.KEY=VALUE",
    "seed=0x10": "seed: must be a whole number",
    "seed=1e3": "seed: must be a whole number, not 1000.0",
    "seed=1 2": "seed: must be a whole number, not 1 2",
    "seed=\u0663": "only in quotes: 'seed=\"\u0663\"'",
    "seed=1\n2": "has a character that Hydra cannot read, \\n; leave it out",
    "seed=\x1b[31m": "has a character that Hydra cannot read, \\x1b",
    "run_name=\u202ex": "has a character that Hydra cannot read, \\u202e",
    "tracking.uri=foo": "tracking.uri: foo is a folder, and MLflow keeps no runs in folders since 3.14",
    "tracking.uri=sqlite://mlflow.db": "tracking.uri: sqlite://mlflow.db names no file",
    "tracking.uri=": "tracking.uri: is empty; it must be sqlite:///FILE",
    "tracking.artifacts=": "tracking.artifacts: must have at least 1 character",
    "models_dir=": "models_dir: must have at least 1 character",
    # names of runs
    "run_name=best": "run_name: cannot be best, which has a meaning of its own",
    "run_name=LAST": "run_name: cannot be LAST",
    "run_name=auto": "run_name: cannot be auto",
    "run_name=" + "0123456789abcdef" * 2: "run_name: cannot be 32 hexadecimal digits",
    "run_name=first.ckpt": "run_name: cannot end with .ckpt",
    "run_name=first.": "run_name: cannot end with a dot",
    "run_name=..": "run_name: must be a plain folder name",
    "run_name=.hidden": "run_name: must be a plain folder name",
    "run_name='first '": "run_name: must be a plain folder name",
    "run_name=models:/x": "run_name: must be a plain folder name",
    'run_name="' + "ж" * 61 + '"': "run_name: must have at most 120 bytes in UTF-8, not 122",
    "run_name=" + "x" * 121: "run_name: must have at most 120 characters",
}


@pytest.mark.slow
@pytest.mark.parametrize("word", WRONG, ids=lambda word: ascii(word[:40]))
def test_an_odd_setting_is_told_in_one_line(word: str) -> None:
    [line] = told(word)
    assert WRONG[word] in line


RIGHT = [
    'run_name="' + "ж" * 60 + '"',
    "run_name=CON",
    "run_name=best-of-all",
    "run_name=2024-01.a_b+c",
    "~model.depth",
    "~model.depth=2",
    "~experiment",
    "experiment=null",
    "experiment=[]",
    "experiment=[demo,fast]",
    "+seed=1",
    "++seed=1",
    "seed=1 ",
    "seed=1_000",
    "seed=int(3.5)",
    "seed=${oc.decode:'5'}",
    r"models_dir=\${x}",
    "models_dir='a${seed}'",
    "models_dir=${now:%Y}",
    "model.widths.0=32",
    "training.resizing.0.until=0.4",
    "training.gradient_clip=null",
    "tracking.uri=sqlite:////tmp/m.db",
    "tracking.uri=https://host:1/path",
]


@pytest.mark.slow
@pytest.mark.parametrize("word", RIGHT, ids=lambda word: ascii(word[:40]))
def test_a_setting_that_only_looks_odd_is_taken(word: str) -> None:
    assert told(word) == []


def test_a_null_can_be_left_out_like_any_other_value() -> None:
    assert told("~training.gradient_clip") == ["training.gradient_clip: is missing"]


def test_two_that_stand_for_each_other_are_both_told() -> None:
    assert len(told("seed=${run_name}", "run_name=${seed}")) == 2


@pytest.mark.slow
@pytest.mark.parametrize("word", ["~x{}", "x{}=1", "}}", "run_name=é{}"])
def test_of_hundreds_of_mistakes_twenty_are_told(word: str) -> None:
    lines = told(*(word.format(number) for number in range(400)))
    assert len(lines) == 21
    assert lines[-1].endswith(" more like these")


def test_hundreds_of_settings_are_taken_and_thousands_refused() -> None:
    assert told(*(f"seed={number}" for number in range(400))) == []
    [line] = told(*(f"seed={number}" for number in range(2000)))
    assert "2,001 settings of 16,909 characters in all are too many" in line


PIECES = [
    *(
        "seed",
        "model",
        "model.widths",
        "training.epochs",
        "run_name",
        "models_dir",
        "experiment",
        "hydra",
        "a",
        "é",
        "0",
    ),
    *("=", "==", "+", "++", "~", "@", ".", "/", ":", ",", " ", "'", '"', "\\", "[", "]", "{", "}", "(", ")", "$", "${"),
    *("${seed}", "${oc.env:HOME}", "${oc.env:", "???", "null", "true", "1", "-1", "1e5", "nan", "inf", "x", "~/x", "#"),
    *("glob(*)", "choice(", "range(1,3)", "tag(", "int(", "_target_", "\t", "\n", "\x00", "\ud800", "\u202e", "€"),
]
anything = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    st.tuples(
        st.sampled_from(["seed", "model", "model.widths", "training.resizing", "models_dir", "data_loading.seed"]),
        st.lists(st.sampled_from(PIECES), max_size=6).map("".join),
    ).map("=".join),
    st.text(max_size=20),
    st.text(max_size=20).map("run_name={}".format),
)


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(anything, min_size=1, max_size=4))
def test_whatever_is_typed_makes_a_configuration_or_a_line_for_each_fault(words: list[str]) -> None:
    told(*words)


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(anything, min_size=1, max_size=4))
def test_whatever_else_is_typed_does_so_too(words: list[str]) -> None:
    told(*words)
