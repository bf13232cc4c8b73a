"""Completion of command lines: commands, flags, settings and their values, in bash, zsh and fish.

A shell calls the program with `CIFAR10_COMPLETE` set to its name and the line up to the cursor as the only argument.
The program prints one candidate a line, each for the whole last word. Nothing but the files of `conf/` and the names in
`models/` is read, because people wait for it.
"""

import os
import shlex
from collections.abc import Iterable, Sequence
from typing import get_args

from cifar10.cli.flags import Command, Commands, Flag, flags_of, takes_names, takes_overrides
from cifar10.config.conf_folder import groups, options, settings, values_of
from cifar10.config.corruption_kinds import GROUPS, KINDS

VARIABLE = "CIFAR10_COMPLETE"
"""Environment variable that asks for candidates instead of a run."""

_FLAG_OPTIONS = {"engine": "engine", "formats": "export", "engines": "engine"}
"""Flag -> the group of `conf/` that holds its values."""
_OPTIONAL_GROUPS = {"infer": ("grouping",), "promote": ("promotion",), "sweep": ("sweep",)}
"""Command -> groups that it alone takes."""
_PATHS = ("root", "sources", "cache", "weights", "models_dir")
"""Settings whose values are paths, which the shell completes."""
_LISTS = ("--formats", "--engines", "--corruptions")
"""Flags whose values are lists with commas."""
_CHECKPOINTS = ("checkpoint_name", "name", "resume", "study")
"""Flags whose values are names of runs."""


def candidates(commands: Commands, line: str) -> list[str]:
    """Return what the last word of a command line may be completed to; nothing where the shell knows files itself.

    Args:
        commands: By name.
        line: Up to the cursor, with the program's own words, such as `python commands.py train mod`.
    """
    words = _words(line)
    typed, last = words[_own_words(words) : -1], words[-1]
    if not typed:
        return _starting(last, [*(f"{name} " for name in commands), "--help ", "--version "])
    command = commands.get(typed[0])
    if command is None:
        return []
    if last.startswith("-") and "=" not in last:
        return _starting(last, [*_flag_words(command, typed), "--help "])
    key, equals, value = last.partition("=")
    flag = flags_of(command).get(typed[-1].removeprefix("--")) if typed[-1].startswith("--") else None
    if not equals and flag is not None and not flag.is_switch:
        return _starting(last, _flag_values(flag))
    if not equals:
        return _starting(last, _argument_words(typed[0], command))
    known = _flag_values_of(command, key) if key.startswith("--") else _setting_values(typed[0], key)
    *before, part = value.split(",")
    listed = "".join(f"{each}," for each in before)
    end = "" if typed[0] == "sweep" or before or key in _LISTS else " "
    return [f"{key}={listed}{found.rstrip()}{end}" for found in _starting(part, known)]


def _words(line: str) -> list[str]:
    """Return the words of a line as a shell splits it; the last one may be empty, or in quotes that are still open."""
    for closing in ("", "'", '"'):
        try:
            words = shlex.split(f"{line}{closing}")
        except ValueError:
            continue
        return [*words, ""] if not words or (line[-1:].isspace() and not closing) else words
    return line.split(" ")


def _own_words(words: Sequence[str]) -> int:
    """Return how many words call the program: up to its script."""
    return next((place + 1 for place, word in enumerate(words) if word.endswith("commands.py")), 1)


def _starting(start: str, known: Iterable[str]) -> list[str]:
    return sorted(word for word in dict.fromkeys(known) if word.startswith(start))


def _flag_words(command: Command, typed: Sequence[str]) -> list[str]:
    given = {word.partition("=")[0] for word in typed}
    flags = [flag for name, flag in flags_of(command).items() if f"--{name}" not in given]
    return [f"--{flag.name}{' ' if flag.is_switch else '='}" for flag in flags]


def _flag_values_of(command: Command, word: str) -> list[str]:
    flag = flags_of(command).get(word.removeprefix("--"))
    return [] if flag is None else _flag_values(flag)


def _flag_values(flag: Flag) -> list[str]:
    if flag.is_switch:
        return ["true ", "false "]
    if choices := get_args(flag.hint):
        return [f"{choice} " for choice in choices]
    if flag.name in _FLAG_OPTIONS:
        return [*options(_FLAG_OPTIONS[flag.name]), "all"] if flag.name != "engine" else options("engine")
    if flag.name == "corruptions":
        return ["all", *GROUPS, *KINDS]
    if flag.name == "device":
        return ["auto ", "cpu ", "cuda "]
    return _run_names() if flag.name in _CHECKPOINTS else []


def _argument_words(name: str, command: Command) -> list[str]:
    """Return settings, names of runs, or flags that may be given without their name."""
    if takes_names(command):
        return _run_names()
    words = []
    if takes_overrides(command):
        words += [f"{group}=" for group in (*groups(), *_OPTIONAL_GROUPS.get(name, ()))]
        words += [f"{key}=" for key in settings()]
    first = next(iter(flags_of(command).values()), None)
    if first is not None and first.name in ("checkpoint_name", "name"):
        words += _run_names()
    return words


def _setting_values(name: str, key: str) -> list[str]:
    """Return options of a group, or values that a setting has in the files."""
    key = key.lstrip("+~")
    if key in (*groups(), *_OPTIONAL_GROUPS.get(name, ())):
        return options(key)
    group, _, setting = key.partition(".")
    if (setting or group) in _PATHS:
        return []
    found = values_of(group, setting) if setting else []
    if any(isinstance(value, bool) for value in found):
        return ["true", "false"]
    plain = [value for value in found if isinstance(value, str | int | float) or value is None]
    return ["null" if value is None else str(value) for value in plain]


def _run_names() -> list[str]:
    """Return the names of the runs in `models/`, and best and last."""
    try:
        folders = [entry.name for entry in os.scandir("models") if entry.is_dir() and not entry.name.startswith(".")]
    except OSError:
        folders = []
    return [f"{name} " for name in ("best", "last", *folders)]


SCRIPTS = {
    "bash": r"""
# For this session: source <(python commands.py completion bash)
# For all: python commands.py completion bash >> ~/.bashrc
_cifar10_complete() {
  local line=${COMP_LINE:0:COMP_POINT} script= word
  for word in "${COMP_WORDS[@]:1:3}"; do
    case $word in *commands.py) script=$word; break ;; esac
  done
  COMPREPLY=()
  [ -n "$script" ] && [ "$script" != "${COMP_WORDS[COMP_CWORD]}" ] || return 0
  local IFS=$'\n' last=${line##* }
  COMPREPLY=($(CIFAR10_COMPLETE=bash "${COMP_WORDS[0]}" "$script" "$line" 2>/dev/null))
  case $COMP_WORDBREAKS in
    *=*) case $last in *=*) COMPREPLY=("${COMPREPLY[@]#"${last%"${last##*=}"}"}") ;; esac ;;
  esac
  [ ${#COMPREPLY[@]} -eq 0 ] || compopt -o nospace
}
complete -o bashdefault -o default -F _cifar10_complete python python3
""",
    "zsh": r"""
# For this session: source <(python commands.py completion zsh)
# For all: python commands.py completion zsh >> ~/.zshrc, behind the line with compinit
_cifar10_complete() {
  local script=${words[(r)*commands.py]}
  if [[ -z $script || ${words[CURRENT]} == $script ]]; then
    autoload -Uz _python && _python "$@"
    return
  fi
  local -a found
  found=("${(@f)$(CIFAR10_COMPLETE=zsh ${words[1]} $script "${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)}")
  found=(${found:#})
  if (( $#found )); then
    compadd -Q -S '' -a found
  else
    compset -P '*='
    _files
  fi
}
compdef _cifar10_complete python python3
""",
    "fish": r"""
# For this session: python commands.py completion fish | source
# For all: python commands.py completion fish > ~/.config/fish/completions/python.fish
function __cifar10_complete
    set -l words (commandline -opc)
    set -l script (string match -- '*commands.py' $words)[1]
    set -l line (string join ' ' -- $words (commandline -ct))
    CIFAR10_COMPLETE=fish $words[1] $script $line 2>/dev/null | string trim --right
end
for program in python python3
    complete -c $program -n "string match -q -- '*commands.py' (commandline -opc)" -a '(__cifar10_complete)'
end
""",
}
"""Shell -> what `completion` prints."""
