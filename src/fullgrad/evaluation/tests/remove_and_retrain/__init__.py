"""Remove and retrain (ROAR): how well a network can learn from what a map's removals leave.

Hooker, Erhan, Kindermans & Kim 2019; Srinivas & Fleuret 2019, section 5.2.
"""
