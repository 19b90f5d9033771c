"""Blinded expert review: two answers to the same prompt, and what clinicians say of them without knowing whose they are.

create.py       answers of two sides -> a plan, pairs in random order, and the key apart
answering.py    answers to prompts of one's own
plan.py         what is public of a review, and its key
ratings.py      what raters said, checked
sheets.py       a CSV file for each rater, there and back
queues.py       MLflow's review queues, there and back
agreement.py    Cohen's kappa and Krippendorff's alpha
figures.py      ratings and key -> win rate, harm rate, shares
report.py       all of it in a terminal, on a page, in a file; opens the key
approval.py     whether an artifact is approved, and what `review_status` says of it ever after
record.py       the decision as tags of the run

    <run>/review/<name>/review_plan.json    questions, raters, rules, hashes of pairs and key
    <run>/review/<name>/pairs.jsonl         prompt, answer A, answer B
    <run>/review/<name>/sheets/             what raters get
    <run>/review/<name>/ratings.jsonl       what they said
    <run>/review/<name>.key.json            which answer is whose; copied into the folder when it is opened
    <run>/review/<name>/unblinded.json      when that was
    <run>/review/<name>/review.json, .html  the report
    <run>/review/decisions.json             what was decided, the last one counts
"""
