"""The words of a name."""

from shared.words import begin as begin
from shared.words import words as words
