"""Train an image classifier, evaluate it, and classify images with it: the commands are in cifar10/commands/."""

import os
import sys

from cifar10.cli.command_line import main
from cifar10.cli.completion import VARIABLE, candidates
from cifar10.commands.analysis import compare, evaluate, reproduce
from cifar10.commands.data import completion, config, data, demo, doctor, explore
from cifar10.commands.export import benchmark, export, promote, sync
from cifar10.commands.inference import batch, infer, similar, verify
from cifar10.commands.serving import app, feedback, serve
from cifar10.commands.training import compare_pooling, sweep, train

COMMANDS = {
    command.__name__: command
    for command in (
        *(train, sweep, compare_pooling, infer, batch, verify, similar, evaluate, compare, reproduce),
        *(export, benchmark, promote, serve, app, feedback, explore, sync, data, config, doctor, completion, demo),
    )
}

if __name__ == "__main__":
    if VARIABLE in os.environ:
        print("\n".join(candidates(COMMANDS, " ".join(sys.argv[1:]))))
    else:
        sys.exit(main(COMMANDS, description="Train an image classifier, evaluate it, and classify images with it."))
