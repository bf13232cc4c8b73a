"""From the words of a command line to one command and its arguments, or to what is wrong with them."""
