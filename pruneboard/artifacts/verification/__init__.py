"""Is a record what its run made?

walk          every record below some folders, level by level, to a verdict; torch only where there are weights
rules         what must hold between the numbers of one record
consistency   a record against those rules, its hash and its log
recount       zeros of the weights, against record and masks
rebuild       the network of the record, and its frozen weights drawn anew
reevaluate    scores, measured anew
verdicts      what was found, and the file that carries it to a leaderboard
"""
