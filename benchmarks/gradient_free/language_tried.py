"""The other setting of each method of ``language.py``, on seed 0: ``python language_tried.py WORK --seeds 0``."""

from frame import main
from language import FORWARDS, TRIED, prepare, task, test

if __name__ == "__main__":
    main("language_tried", task, test, FORWARDS, TRIED, prepare=prepare)
