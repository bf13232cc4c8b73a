"""Open the web page *Classify*: the same as `python commands.py app`.

python cnn_app.py
python cnn_app.py --checkpoint_name=first --port=8600
"""

import sys

from cifar10.cli.command_line import main
from commands import COMMANDS

if __name__ == "__main__":
    sys.exit(main(COMMANDS, description="", words=["app", *sys.argv[1:]]))
