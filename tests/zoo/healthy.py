"""What breaks nothing."""

from . import Guesses, Labels, Sums, healthy

for _base in (Sums, Labels, Guesses):
    healthy(_base)
