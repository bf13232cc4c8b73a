"""Check the arguments of a command before Fire parses them: known flags, each given once and with a value.

Fire guesses types, drops arguments after `--`, treats `-` as a separator and reports unused arguments only after the
command has run. Here each word becomes an override or one `--flag=value`, which Fire can parse in one way only.
"""

import os
import re
import shlex
from collections.abc import Sequence

from cifar10.cli.flags import FALSE, TRUE, Commands, Flag, flags_of, shortened, takes_names, takes_overrides
from cifar10.config.advice import PROGRAM
from cifar10.config.changeable import NETWORK_SETTINGS
from cifar10.config.conf_folder import groups, options, settings
from cifar10.errors import UsageError
from cifar10.suggest import nearest

_LONGEST_WORD = 4096  # characters, as for a path; overrides have their own limit
_PHOTO, _IMAGES, _CHECKPOINT = "photo", "test_dir", "checkpoint_name"
"""The first of these flags that a command has may be given without its name next to overrides."""
_HYDRA_FLAGS = ("m", "multirun", "cfg", "config-name", "config-path", "config-dir", "cn", "cp", "cd", "info", "run")
_DASHES = "-\u2012\u2013\u2014\u2212"  # word processors turn two hyphens into one of the long ones


def canonical(name: str, words: Sequence[str], commands: Commands) -> list[str]:
    """Return `words` as overrides followed by one `--flag=value` for each flag that is given.

    Raises:
        UsageError: A flag is unknown, is given twice or has no value, or a word is left over or missing.
    """
    return _Reader(name, words, commands).read()


class _Reader:
    """Reads the words of one command from left to right."""

    def __init__(self, name: str, words: Sequence[str], commands: Commands) -> None:
        self.name = name
        self.commands = commands
        self.flags = flags_of(commands[name])
        self.takes_overrides = takes_overrides(commands[name])
        self.takes_names = takes_names(commands[name])
        self.takes_settings = self.takes_overrides and _IMAGES not in self.flags
        """Whether it takes all settings; beside images, whose names may have any form, it takes those of a network."""
        known = (_PHOTO, _IMAGES, _CHECKPOINT)
        self.bare = next((flag for flag in known if flag in self.flags and self.takes_overrides), None)
        self.waiting = list(words)
        self.overrides: list[str] = []
        self.values: dict[str, str] = {}

    def read(self) -> list[str]:
        flags_may_follow = True
        while self.waiting:
            word = self.waiting.pop(0)
            if len(word) > _LONGEST_WORD and (word.startswith("-") or not self.takes_settings):
                raise UsageError(f"{shortened(word)}: a word of {len(word):,} characters means nothing here")
            key, equals, value = word.partition("=")
            is_setting = equals and not os.path.lexists(word)
            is_file = self.bare == _CHECKPOINT and word.endswith(".ckpt") and key != "weights"
            is_bare = is_file or not self._is_override(word)
            if word == "--" and flags_may_follow:
                flags_may_follow = False
            elif flags_may_follow and word.startswith(tuple(_DASHES)):
                self._read_flag(word)
            elif self.bare and self.bare not in self.values and is_bare:
                self._keep(self.flags[self.bare], word)
            elif is_setting and (flag := self._find(key)[0]):
                raise UsageError(f"{word}: did you mean {shlex.quote(f'--{flag.name}={value}')}?")
            elif self.takes_settings or (self.takes_overrides and self._is_override(word)):
                self._read_override(word)
            else:
                self._read_positional(word)
        required = [flag.name for flag in self.flags.values() if flag.required]
        for missing in required:
            if missing not in self.values:
                line = shlex.join(f"--{name}={self.values.get(name, '...')}" for name in required)
                raise UsageError(f"{self.name} needs {missing.upper()}: {PROGRAM} {self.name} {line}")
        return self.overrides + [f"--{name}={value}" for name, value in self.values.items()]

    def _is_override(self, word: str) -> bool:
        """Return whether `word` sets a value, and is not the name of a file or folder."""
        if "=" not in word or os.path.lexists(word):
            return False
        return self.takes_settings or re.split("[.=]", word.lstrip("+~"))[0] in (*groups(), *NETWORK_SETTINGS)

    def _read_flag(self, word: str) -> None:
        if word == "-":
            raise UsageError("a lone - means nothing here")
        is_long = word.startswith("--")
        written, equals, value = (word[2:] if is_long else word.lstrip(_DASHES)).partition("=")
        if self.takes_settings and written in _HYDRA_FLAGS:
            raise UsageError(
                f"{word.partition('=')[0]}: Hydra's own flags are not known here, one line is one run; "
                f"to see its settings: {PROGRAM} config"
            )
        if not is_long:
            alike = nearest(written, self.flags)
            raise UsageError(f"{word}: a flag begins with two hyphens{f'; did you mean --{alike}?' if alike else ''}")
        flag, negated = self._find(written)
        if flag is None:
            raise UsageError(self._about_unknown_flag(written, value))
        if negated and equals:
            raise UsageError(f"{word}: write --{flag.name}=true or --{flag.name}=false")
        if flag.is_switch and not equals:
            value = "false" if negated else "true"
            if self.waiting and self.waiting[0].lower() in TRUE + FALSE:
                raise UsageError(f"--{flag.name} {self.waiting[0]}: write --{flag.name}={self.waiting[0]}")
        elif not equals:
            value = self._next_value(flag)
        self._keep(flag, value)

    def _find(self, written: str) -> tuple[Flag | None, bool]:
        """Return the flag called `written`, with hyphens or underscores, and whether the prefix `no` negates it."""
        name = written.replace("-", "_")
        if name in self.flags:
            return self.flags[name], False
        positive = self.flags.get(re.sub(r"^no_?", "", name))
        return (positive, True) if positive is not None and positive.is_switch else (None, False)

    def _next_value(self, flag: Flag) -> str:
        following = self.waiting[0] if self.waiting else None
        if following is None:
            raise UsageError(f"--{flag.name} needs a value: --{flag.name}={flag.placeholder}")
        if following.startswith("=") and not os.path.lexists(following):
            raise UsageError(f"--{flag.name} {following}: write it without spaces, --{flag.name}={flag.placeholder}")
        if following.startswith("-") and not following[1:].isdecimal():
            raise UsageError(
                f"--{flag.name} needs a value, but {following} follows; "
                f"a value that begins with a dash is written {shlex.quote(f'--{flag.name}={following}')}"
            )
        return self.waiting.pop(0)

    def _keep(self, flag: Flag, value: str) -> None:
        if flag.name in self.values:
            raise UsageError(
                f"--{flag.name} is given twice: {self.values[flag.name]} and {value}{self._glob_advice(value)}"
            )
        self.values[flag.name] = value

    def _read_override(self, word: str) -> None:
        if word.startswith("-"):
            raise UsageError(f"{word}: flags stand before the --")
        if ("=" in word and not word.startswith("=")) or word.startswith("~"):
            return self.overrides.append(word)
        if word.startswith("=") or (self.overrides and self.overrides[-1].endswith("=")):
            raise UsageError(f"{word}: write KEY=VALUE without spaces, as in training.epochs=5")
        if word in groups():
            raise UsageError(f"{word}: write {word}=NAME, with NAME one of {', '.join(options(word))}")
        advice = "settings are changed as in model=resnet18 training.epochs=5"
        value = "".join(self.waiting[:2] if self.waiting[:1] == ["="] else self.waiting[:1])
        if word in settings() and value and not value.startswith("-") and "=" not in value.lstrip("="):
            advice = f"without spaces: {_setting_word(word, value.lstrip('='))}"
        raise UsageError(f"{shortened(word)} is not KEY=VALUE; {advice}")

    def _read_positional(self, word: str) -> None:
        if self.takes_names:
            if word.startswith("-"):
                raise UsageError(f"{word}: a name that begins with a dash is written ./{word}")
            return self.overrides.append(word)
        if "=" in word and not os.path.lexists(word) and re.split("[.=]", word)[0] in groups():
            raise UsageError(f"{word}: {self.name} takes no settings; they come from the checkpoint")
        for flag in self.flags.values():
            if flag.positional and flag.name not in self.values:
                return self._keep(flag, word)
        raise UsageError(f"{word!r} is left over{self._glob_advice(word)}")

    def _glob_advice(self, word: str) -> str:
        """Return how to quote a name or glob that the shell may have split into several words."""
        before = next((value for value in self.values.values() if os.path.lexists(f"{value} {word}")), None)
        if before is not None:
            return f"; a name with spaces needs quotes: {shlex.quote(f'{before} {word}')}"
        return "; to give a glob, put it in quotes, as in '*.png'" if os.path.lexists(word) else ""

    def _about_unknown_flag(self, written: str, value: str) -> str:
        """Return the message for a flag that the command does not have, with the nearest one."""
        name, refusal = written.replace("-", "_"), f"{self.name} has no flag --{written}"
        if not (self.takes_settings and name in (setting.rpartition(".")[2] for setting in settings())):
            owners = [other for other, command in self.commands.items() if name in flags_of(command)]
            if owners:
                listed = ", ".join(owners[:-1]) + " and " * (len(owners) > 1) + owners[-1]
                return f"--{written} belongs to {listed}, not to {self.name}"
            if (alike := nearest(name, self.flags)) is not None:
                return f"{refusal}; did you mean --{alike}?"
            if not self.takes_settings:
                return f"{refusal}; its flags: {', '.join(f'--{flag}' for flag in self.flags) or 'none'}"
        setting = nearest(name, [*groups(), *settings()])
        if setting is None:
            return f"{refusal}; settings are changed as in training.epochs=5"
        if not value and self.waiting and not self.waiting[0].startswith("-") and "=" not in self.waiting[0]:
            value = self.waiting[0]
        return f"{refusal}; did you mean {_setting_word(setting, value or 'VALUE')}?"


def _setting_word(key: str, value: str) -> str:
    """Return `key=value` quoted for Hydra and for a shell."""
    line = f"{key}={value}"
    if not re.fullmatch(r"[\w.=-]+", line, re.ASCII):
        from cifar10.config.overrides import readable

        line = readable(line)
    return shlex.quote(line)
