"""What several runs say when they are held beside each other: which is best, by how much, and how sure that is.

runs.py         run folders -> runs and their axes
statistics.py   runs -> ranked candidates, intervals, effects, fronts, winner
intervals.py    the arithmetic of the intervals
pictures.py     PNGs
page.py         one page of HTML
report.py       all of it, for scripts and for a sweep at its end
winner.py       the winner as an experiment of `conf/`
"""
